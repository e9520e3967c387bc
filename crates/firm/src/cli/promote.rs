//! `firm promote`: what ran privately runs for everybody.

use api::{Deployed, Promote};
use base::{Name, ReleaseNo};
use http::Method;

use super::Cx;
use super::about::{AppArg, release_no};
use super::deployed;
use super::failure::Outcome;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  firm promote redesign
  firm promote redesign --to beta --release r7

The release runs on the other stage with that stage's own variables, secrets and data.")]
pub(super) struct Args {
    #[command(flatten)]
    about: AppArg,
    #[command(flatten)]
    from: From,
    /// The stage to run it on
    #[arg(long, value_name = "STAGE", default_value = "live")]
    to: Name,
    /// Refuse when the stage runs another release than this by now
    #[arg(long, value_name = "rN", value_parser = release_no)]
    release: Option<ReleaseNo>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct From {
    /// The stage whose release to promote
    #[arg(value_name = "STAGE")]
    from: Option<Name>,
    /// The same, spelled as a flag
    #[arg(long, value_name = "STAGE")]
    stage: Option<Name>,
}

pub(super) async fn run(cx: &Cx, args: &Args) -> Outcome {
    let from = args.from.from.as_ref().or(args.from.stage.as_ref()).expect("clap requires one of the two");
    args.about.name("firm promote")?;
    let session = cx.session().await?;
    let path = args.about.path(&session, "firm promote", &format!("/stages/{from}/promote")).await?;
    let body = Promote { to: Some(args.to.clone()), release: args.release };
    let deployed: Deployed = session.send(Method::POST, &path, &body).await?;
    cx.out.answer(&deployed, |out| deployed::show(out, &deployed, &format!(", promoted from {from}")))
}
