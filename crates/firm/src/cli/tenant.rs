//! `firm tenant`: who rents. For operators.

use api::{Done, TenantChange, TenantCreate, TenantView};
use base::{Name, Rate};
use clap::Subcommand;
use http::Method;
use state::Ceiling;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::table::{Table, or_dash};
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm tenant\n  firm tenant add acme\n  firm tenant limit acme --rate 500/s\n  firm token create --tenant acme --grant own --label \"first key\""
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (what `firm tenant` alone does)
    #[command(after_help = "Examples:\n  firm tenant list --json")]
    List,
    /// Add a tenant
    #[command(after_help = "Examples:\n  firm tenant add acme")]
    Add {
        /// What it is called
        #[arg(value_name = "TENANT")]
        name: Name,
    },
    /// Show, set or take away what all apps of a tenant together may be asked, whatever their manifests say
    #[command(
        after_help = "Examples:\n  firm tenant limit acme\n  firm tenant limit acme --json | jq .limit\n  firm tenant limit acme --rate 500/s --burst 1000\n  firm tenant limit acme --none\n\nWithout --rate and --none it shows the limit, and changes nothing. Requests over it get 429. It counts for all apps and stages of the tenant together, on each box for itself."
    )]
    Limit {
        /// The tenant
        #[arg(value_name = "TENANT")]
        name: Name,
        /// So many requests in a period, as in 500/s or 100000/d
        #[arg(long)]
        rate: Option<Rate>,
        /// Requests that may come at once after a quiet time [default: the rate's count]
        #[arg(long, requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
        burst: Option<u32>,
        /// Take the limit away
        #[arg(long, conflicts_with = "rate")]
        none: bool,
    },
    /// Delete a tenant and everything that it has
    #[command(after_help = "Examples:\n  firm tenant delete acme")]
    Delete {
        /// The tenant
        #[arg(value_name = "TENANT")]
        name: Name,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    match args.action {
        None | Some(Action::List) => {
            let tenants: Vec<TenantView> = cx.session().await?.get("/v1/tenants").await?;
            cx.out.answer(&tenants, |out| {
                let now = when::now();
                let mut table = Table::new(&["TENANT", "APPS", "LIMIT", "CREATED"]);
                for tenant in &tenants {
                    table.row([
                        tenant.tenant.to_string(),
                        tenant.apps.to_string(),
                        or_dash(tenant.limit.as_ref().map(shown)),
                        when::ago(tenant.created, now),
                    ]);
                }
                table.show(out, "There are no tenants yet. Add one: firm tenant add NAME")
            })
        }
        Some(Action::Add { name }) => {
            let body = TenantCreate { tenant: name.clone() };
            let made: TenantView = cx.session().await?.send(Method::POST, "/v1/tenants", &body).await?;
            cx.out.answer(&made, |out| {
                out.line(&format!("{} tenant {name} is there", out.paint(Tone::Good, "✓")))?;
                out.line(&format!(
                    "A token for its first member: firm token create --tenant {name} --grant own --label WHO"
                ))
            })
        }
        Some(Action::Limit { name, rate: None, burst: _, none: false }) => {
            let tenants: Vec<TenantView> = cx.session().await?.get("/v1/tenants").await?;
            let Some(now) = tenants.into_iter().find(|tenant| tenant.tenant == name) else {
                return Err(Failure::new(Exit::NotFound, format!("there is no tenant `{name}`"))
                    .help("see what there is with: firm tenant list"));
            };
            cx.out.answer(&now, |out| {
                out.line(&together(&now))?;
                out.note(&match now.limit {
                    Some(_) => format!(
                        "Change it: firm tenant limit {name} --rate 500/s --burst 1000, or take it away: firm tenant limit {name} --none"
                    ),
                    None => format!("Set one: firm tenant limit {name} --rate 500/s --burst 1000"),
                });
                Ok(())
            })
        }
        Some(Action::Limit { name, rate, burst, none: _ }) => {
            let change = TenantChange { limit: rate.map(|rate| Ceiling { rate, burst }) };
            let now: TenantView =
                cx.session().await?.send(Method::PATCH, &format!("/v1/tenants/{name}"), &change).await?;
            cx.out.answer(&now, |out| out.line(&format!("{} {}", out.paint(Tone::Good, "✓"), together(&now))))
        }
        Some(Action::Delete { name, yes }) => {
            cx.out.confirm(
                &format!("Delete tenant {name}, with all its apps, data, domains and tokens, for good?"),
                yes,
            )?;
            let done: Done = cx.session().await?.delete(&format!("/v1/tenants/{name}")).await?;
            cx.out.answer(&done, |out| out.line(&format!("{} tenant {name} is deleted", out.paint(Tone::Good, "✓"))))
        }
    }
}

/// What a tenant's apps may be asked together.
fn together(tenant: &TenantView) -> String {
    let name = &tenant.tenant;
    match &tenant.limit {
        Some(limit) => format!("all apps of {name} together take {}", shown(limit)),
        None => format!("{name} has no limit but those of its manifests"),
    }
}

fn shown(limit: &Ceiling) -> String {
    match limit.burst {
        Some(burst) => format!("{}, {burst} at once", limit.rate),
        None => limit.rate.to_string(),
    }
}
