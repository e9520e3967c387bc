//! `firm schema`: what may stand in `firm.toml` and `cloud.toml`, for editors.

use state::Manifest;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{Cx, apply};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm schema > firm.schema.json\n  firm schema --cloud > cloud.schema.json\n\nThen write as the first line of firm.toml: #:schema ./firm.schema.json"
)]
pub(super) struct Args {
    /// Of cloud.toml, which `firm apply` takes
    #[arg(long)]
    cloud: bool,
}

pub(super) fn run(cx: &Cx, args: &Args) -> Outcome {
    let schema = if args.cloud { apply::schema() } else { Manifest::schema() };
    cx.out.answer(&schema, |out| {
        let unwritable = |error| Failure::new(Exit::Refused, format!("the schema can't be written as JSON: {error}"));
        out.line(&serde_json::to_string_pretty(&schema).map_err(unwritable)?)
    })
}
