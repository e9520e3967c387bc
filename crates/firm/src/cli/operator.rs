//! `firm operator`: the key by which boxes know this user.

use std::path::PathBuf;
use std::time::Duration;

use base::limits::SEAL_TIME_MAX;
use base::{BoxId, Name, Span, Timestamp};
use clap::Subcommand;
use segment::Seal;
use segment::identity::write_private;
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::segment::Operator;
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm operator\n  firm operator seal --out seal.json --valid 30d && firm box --dir /srv/box --seal seal.json"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the key by which boxes know you (what `firm operator` alone does)
    #[command(after_help = "Examples:\n  firm operator show --json")]
    Show,
    /// Make a seal: boxes that are started with it obey you alone, and prove to be yours
    #[command(
        after_help = "Examples:\n  firm operator seal --out seal.json\n  firm operator seal --out seal.json --valid 7d\n\nThe file is secret: whoever has it can make boxes that look like yours until it ends."
    )]
    Seal {
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long a box can prove with it to be yours; boxes that are firm by then stay so
        #[arg(long, default_value = "90d")]
        valid: Span,
    },
}

#[derive(Serialize)]
struct Told {
    id: BoxId,
    name: Name,
    key: PathBuf,
}

#[derive(Serialize)]
struct Sealed {
    seal: PathBuf,
    operator: BoxId,
    until: Timestamp,
}

pub(super) fn run(cx: &Cx, args: Args) -> Outcome {
    let operator = Operator::open()?;
    let id = operator.identity.id();
    match args.action {
        None | Some(Action::Show) => {
            let told = Told { id, name: id.name(), key: operator.path };
            cx.out.answer(&told, |out| {
                out.line(&format!("{}  {id}", out.paint(Tone::Strong, told.name.as_str())))?;
                out.line(&format!("its key is {}: keep a copy where you keep such things", told.key.display()))
            })
        }
        Some(Action::Seal { out: path, valid }) => {
            if valid.0 < Duration::from_secs(1) || valid.0 > SEAL_TIME_MAX {
                return Err(Failure::usage(format!("a seal that is good for {valid} is of no use"))
                    .help(format!("write 1s to {}", Span(SEAL_TIME_MAX))));
            }
            let until = when::now().plus(valid.0);
            let seal = Seal::make(&operator.identity, until).and_then(|seal| seal.to_text());
            let text = seal.map_err(|error| Failure::of(Exit::Refused, &error))?;
            if path.exists() {
                return Err(Failure::new(Exit::Refused, format!("`{}` is there already", path.display())).help(
                    "a seal that boxes were started with shouldn't be lost: choose another name, or move it away",
                ));
            }
            write_private(&path, text.as_bytes()).map_err(|error| {
                Failure::new(Exit::Refused, format!("`{}` can't be written: {error}", path.display()))
            })?;
            let sealed = Sealed { seal: path, operator: id, until };
            cx.out.answer(&sealed, |out| {
                out.line(&format!("{} {} is good until {until}", out.paint(Tone::Good, "✓"), sealed.seal.display()))?;
                out.line(&format!("Start boxes with it: firm box --dir DIR --seal {}", sealed.seal.display()))
            })
        }
    }
}
