//! `firm tenant`: who rents. For operators.

use api::{Done, TenantCreate, TenantView};
use base::Name;
use clap::Subcommand;
use http::Method;

use super::failure::Outcome;
use super::out::Tone;
use super::table::Table;
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm tenant\n  firm tenant add acme\n  firm token create --tenant acme --grant own --label \"first key\""
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
                let mut table = Table::new(&["TENANT", "APPS", "CREATED"]);
                for tenant in &tenants {
                    table.row([tenant.tenant.to_string(), tenant.apps.to_string(), when::ago(tenant.created, now)]);
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
