//! `firm schema`: what may stand in `firm.toml`, for editors.

use state::Manifest;

use super::Cx;
use super::exit::Exit;
use super::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm schema > firm.schema.json\n\nThen write as the first line of firm.toml: #:schema ./firm.schema.json"
)]
pub(super) struct Args {}

pub(super) fn run(cx: &Cx) -> Outcome {
    let schema = Manifest::schema();
    cx.out.answer(&schema, |out| {
        let unwritable = |error| Failure::new(Exit::Refused, format!("the schema can't be written as JSON: {error}"));
        out.line(&serde_json::to_string_pretty(&schema).map_err(unwritable)?)
    })
}
