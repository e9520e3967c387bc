//! `firm status`: does the cloud serve, who are its boxes, and what isn't as it should be?

use api::{BoxView, CloudView, RecordPart, Status};
use base::{Name, Role};
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::{Cx, cloud, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm status\n  until firm status > /dev/null 2>&1; do sleep 1; done\n\nExits with 0 only when the cloud serves."
)]
pub(super) struct Args {}

#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    status: Status,
    /// Its boxes, where it is made of such and an operator asks.
    cloud: Option<CloudView>,
    /// None where the environment says which cloud.
    context: Option<Name>,
    address: String,
}

pub(super) async fn run(cx: &Cx) -> Outcome {
    let session = cx.session().await?;
    let status: Status = session.get("/v1/status").await?;
    // A member of a tenant may not see the boxes.
    let cloud = match cloud::view(&session).await {
        Ok(view) => view,
        Err(failure) if failure.exit == Exit::NotAllowed => None,
        Err(failure) => return Err(failure),
    };
    let seen = Seen { status, cloud, context: session.chosen.clone(), address: session.client.address().await };
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
        if let Some(view) = &seen.cloud {
            for role in Role::ALL {
                out.line(&format!("  {:<12} {}", role.as_str(), tier(view, role)))?;
            }
        }
        let of_boxes = seen.cloud.as_ref().map(cloud::concerns).unwrap_or_default();
        for concern in concerns.iter().filter(|concern| !of_boxes.iter().any(|other| other.ends_with(*concern))) {
            out.line(&format!("  {} {}", out.paint(Tone::Odd, "!"), out.foreign(concern)))?;
        }
        for concern in &of_boxes {
            out.line(&format!("  {} {}", out.paint(Tone::Odd, "!"), out.foreign(concern)))?;
        }
        Ok(())
    })?;
    if seen.status.serving { Ok(()) } else { Err(Failure::new(Exit::Refused, "the cloud doesn't serve")) }
}

/// One tier in a line: its boxes, and of those that keep the record who leads.
fn tier(view: &CloudView, role: Role) -> String {
    let boxes: Vec<&BoxView> = view.boxes.iter().filter(|it| it.roles.has(role)).collect();
    if boxes.is_empty() {
        return "nobody".to_owned();
    }
    let one = |it: &&BoxView| {
        let mut marks = Vec::new();
        let state = cloud::state(it);
        if state != "firm" {
            marks.push(state);
        }
        if role == Role::Persistence {
            marks.extend(match it.record {
                RecordPart::Leads => Some("leads"),
                RecordPart::StandsBy if it.joined.is_some() => Some("stands by"),
                _ => None,
            });
        }
        if marks.is_empty() { it.name.to_string() } else { format!("{} ({})", it.name, marks.join(", ")) }
    };
    // A screen has so much room; `firm boxes` lists all.
    let mut shown: Vec<String> = boxes.iter().take(NAMES_SHOWN_MAX).map(one).collect();
    if boxes.len() > NAMES_SHOWN_MAX {
        shown.push(format!("and {} more", boxes.len() - NAMES_SHOWN_MAX));
    }
    shown.join(", ")
}

/// Boxes of a tier that are named on the screen.
const NAMES_SHOWN_MAX: usize = 12;

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
