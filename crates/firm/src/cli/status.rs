//! `firm status`: does the cloud serve, and what isn't as it should be?

use api::Status;
use base::Name;
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm status\n  until firm status > /dev/null 2>&1; do sleep 1; done\n\nExits with 0 only when the cloud serves."
)]
pub(super) struct Args {}

#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    status: Status,
    /// None where the environment says which cloud.
    context: Option<Name>,
    address: String,
}

pub(super) async fn run(cx: &Cx) -> Outcome {
    let session = cx.session().await?;
    let status: Status = session.get("/v1/status").await?;
    let seen = Seen { status, context: session.chosen.clone(), address: session.client.context().address.clone() };
    cx.out.answer(&seen, |out| {
        let Status { serving, version, draining, since, record_index, tenants, apps, concerns } = &seen.status;
        let state = match (serving, draining) {
            (true, false) => out.paint(Tone::Good, "serving"),
            (true, true) => out.paint(Tone::Odd, "serving, and draining"),
            (false, true) => out.paint(Tone::Odd, "draining"),
            (false, false) => out.paint(Tone::Bad, "not serving"),
        };
        let cloud = seen.context.as_ref().map_or_else(|| "the cloud".to_owned(), |name| format!("cloud {name}"));
        out.line(&format!("{cloud} at {}: {state}", seen.address))?;
        out.line(&format!("  version {version}, up for {}", when::span(when::now().since(*since))))?;
        out.line(&format!("  {}, {}, record at {record_index}", counted(*tenants, "tenant"), counted(*apps, "app")))?;
        for concern in concerns {
            out.line(&format!("  {} {}", out.paint(Tone::Odd, "!"), out.foreign(concern)))?;
        }
        Ok(())
    })?;
    if seen.status.serving { Ok(()) } else { Err(Failure::new(Exit::Refused, "the cloud doesn't serve")) }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
