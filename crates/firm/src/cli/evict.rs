//! `firm evict`: a lost box is out of its cloud, for good.

use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::{Cx, cloud};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm evict amber-otter\n  firm evict amber-otter --lose-data --yes\n\nFor a box that is lost: it burned, or somebody carried it away. Its key never comes back into this cloud. The machine may:\nwhen it hears that it is out it wipes itself, and is blank with a new key and a new name. A box that works goes with\n`firm reset`."
)]
pub(super) struct Args {
    /// The box's name, as `firm status` shows it
    #[arg(value_name = "BOX")]
    name: String,
    /// Even when it holds databases, which are lost
    #[arg(long)]
    lose_data: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Told {
    evicted: String,
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    let session = cx.session().await?;
    let view = cloud::view(&session)
        .await?
        .ok_or_else(|| Failure::usage("this cloud isn't made of boxes: it is `firm up` on one machine"))?;
    let it = cloud::called(&view, &args.name).ok_or_else(|| {
        let names: Vec<_> = view.boxes.iter().map(|it| it.name.to_string()).collect();
        Failure::new(Exit::NotFound, format!("cloud {} has no box {}", view.name, args.name))
            .help(format!("there are: {}", names.join(", ")))
    })?;
    let held = match it.databases {
        0 => String::new(),
        held => format!(", which holds {held} databases,"),
    };
    cx.out.confirm(&format!("Put {} ({}){held} out of cloud {} for good?", it.name, it.roles, view.name), args.yes)?;
    cloud::remove(cx, &session, &view, it, true, args.lose_data).await?;
    cx.out.answer(&Told { evicted: it.name.to_string() }, |out| {
        out.line(&format!("{} {} is out of cloud {}, for good", out.paint(Tone::Good, "✓"), it.name, view.name))
    })
}
