//! `firm releases`: the ledger of what ran, newest first.

use api::ReleaseView;
use base::Name;
use state::Origin;

use super::about::AppArg;
use super::failure::Outcome;
use super::table::{Table, or_dash};
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm releases\n  firm releases --app shop --stage live --json | jq -r '.[0].release'"
)]
pub(super) struct Args {
    #[command(flatten)]
    about: AppArg,
    /// Only this stage's
    #[arg(long, value_name = "NAME")]
    stage: Option<Name>,
}

pub(super) async fn run(cx: &Cx, args: &Args) -> Outcome {
    let app = args.about.name("firm releases")?;
    let session = cx.session().await?;
    let path = args.about.path(&session, "firm releases", "/releases").await?;
    let mut releases: Vec<ReleaseView> = session.get(&path).await?;
    releases.retain(|release| args.stage.as_ref().is_none_or(|stage| release.stage == *stage));
    cx.out.answer(&releases, |out| {
        let now = when::now();
        let mut table = Table::new(&["RELEASE", "STAGE", "", "MADE", "BY", "HOW", "SOURCE", "CONTENT"]);
        for release in &releases {
            table.row([
                release.release.to_string(),
                release.stage.to_string(),
                if release.running { "runs" } else { "" }.to_owned(),
                when::ago(release.at, now),
                release.by.clone(),
                origin(&release.origin),
                or_dash(release.source.as_ref()),
                release.content.short(),
            ]);
        }
        table.show(out, &format!("{app} has no releases yet. Make one: firm push --app {app}"))
    })
}

/// How it came to be, in few words.
pub(super) fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Push => "push".to_owned(),
        Origin::Env(from) => format!("env of {from}"),
        Origin::Promote(from) => format!("promoted {from}"),
    }
}
