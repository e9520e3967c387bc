//! `firm apps`: what a tenant runs.

use api::{AppView, Done};
use base::{Domain, Name};
use clap::Subcommand;

use super::failure::Outcome;
use super::out::Tone;
use super::table::{Table, or_dash};
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  firm apps\n  firm apps --json | jq -r '.[].url'\n  firm apps delete shop")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (what `firm apps` alone does)
    #[command(after_help = "Examples:\n  firm apps list --tenant acme")]
    List,
    /// Delete an app, its releases, stages and data
    #[command(after_help = "Examples:\n  firm apps delete shop\n  firm apps delete shop --yes")]
    Delete {
        /// The app
        #[arg(value_name = "APP")]
        name: Name,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    match args.action {
        None | Some(Action::List) => list(cx).await,
        Some(Action::Delete { name, yes }) => {
            cx.out.confirm(&format!("Delete app {name}, with all its stages, releases and data, for good?"), yes)?;
            let session = cx.session().await?;
            let done: Done = session.delete(&session.of_tenant(&format!("/apps/{name}")).await?).await?;
            cx.out.answer(&done, |out| out.line(&format!("{} app {name} is deleted", out.paint(Tone::Good, "✓"))))
        }
    }
}

async fn list(cx: &Cx) -> Outcome {
    let session = cx.session().await?;
    let tenant = session.tenant().await?;
    let apps: Vec<AppView> = session.get(&format!("/v1/tenants/{tenant}/apps")).await?;
    cx.out.answer(&apps, |out| {
        let now = when::now();
        let mut table = Table::new(&["APP", "LIVE", "STAGES", "CREATED", "URL"]);
        for app in &apps {
            table.row([
                app.app.to_string(),
                or_dash(app.running),
                app.stages.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                when::ago(app.created, now),
                app.domains.first().map_or_else(|| app.url.clone(), |domain| with_domain(&app.url, domain)),
            ]);
        }
        table.show(out, &format!("Tenant {tenant} has no apps yet. Start one: firm new NAME --template static"))
    })
}

/// Both addresses. The cloud listens for a domain where it listens for its own names.
fn with_domain(url: &str, domain: &Domain) -> String {
    let authority = url.trim_start_matches("https://").split('/').next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((_, port)) => format!("{url} (https://{domain}:{port}/)"),
        None => format!("{url} (https://{domain}/)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_shown_with_the_port_that_answers_it() {
        let domain = "shop.example".parse().expect("a domain");
        for (url, wanted) in [
            ("https://shop.acme.localhost:8443/", "https://shop.acme.localhost:8443/ (https://shop.example:8443/)"),
            ("https://shop.acme.localhost/", "https://shop.acme.localhost/ (https://shop.example/)"),
        ] {
            assert_eq!(with_domain(url, &domain), wanted);
        }
    }
}
