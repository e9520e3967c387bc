//! `firm releases`: the ledger of what ran, newest first.

use std::collections::BTreeSet;

use api::ReleaseView;
use base::{Name, ReleaseNo};
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
    let known: BTreeSet<ReleaseNo> = releases.iter().map(|release| release.release).collect();
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
                whence(&release.origin, &known),
                or_dash(release.source.as_ref()),
                release.content.short(),
            ]);
        }
        table.show(out, &format!("{app} has no releases yet. Make one: firm push --app {app}"))
    })
}

/// The same, and whether what it came from is still there: it goes with its stage, or when it is forgotten.
fn whence(from: &Origin, known: &BTreeSet<ReleaseNo>) -> String {
    let gone = match from {
        Origin::Env(from) | Origin::Promote(from) => !known.contains(from),
        Origin::Push => false,
    };
    format!("{}{}", origin(from), if gone { " (gone)" } else { "" })
}

/// How it came to be, in few words.
pub(super) fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Push => "push".to_owned(),
        Origin::Env(from) => format!("env of {from}"),
        Origin::Promote(from) => format!("promoted {from}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_when_what_it_came_from_is_gone() {
        let known = BTreeSet::from([ReleaseNo(3), ReleaseNo(5)]);
        assert_eq!(whence(&Origin::Promote(ReleaseNo(3)), &known), "promoted r3");
        assert_eq!(whence(&Origin::Promote(ReleaseNo(4)), &known), "promoted r4 (gone)");
        assert_eq!(whence(&Origin::Push, &known), "push");
    }
}
