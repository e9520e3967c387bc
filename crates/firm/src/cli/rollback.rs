//! `firm rollback`: says what it changes, asks, then runs an earlier release again.

use api::{Deployed, ReleaseView, Rollback};
use base::{Name, ReleaseNo};
use http::Method;
use serde::Serialize;

use super::Cx;
use super::about::{AppArg, StageArg, release_no};
use super::deployed;
use super::difference::{Difference, described, differences};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::{Out, Tone};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  firm rollback
  firm rollback --app shop --to r3 --yes
  firm rollback --stage redesign

Code, files, configuration and variables become what they were. Stored data and secrets stay as they are.")]
pub(super) struct Args {
    #[command(flatten)]
    about: AppArg,
    #[command(flatten)]
    stage: StageArg,
    /// The release to run [default: the one before the running one]
    #[arg(long, value_name = "rN", value_parser = release_no)]
    to: Option<ReleaseNo>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// What was done and what it changed.
#[derive(Serialize)]
struct RolledBack {
    #[serde(flatten)]
    deployed: Deployed,
    from: ReleaseNo,
    changes: Vec<Difference>,
}

pub(super) async fn run(cx: &Cx, args: &Args) -> Outcome {
    let app = args.about.name("firm rollback")?;
    let stage = &args.stage.stage;
    let session = cx.session().await?;
    let releases: Vec<ReleaseView> =
        session.get(&args.about.path(&session, "firm rollback", "/releases").await?).await?;
    let (from, to) = chosen(&releases, &app, stage, args.to)?;
    let changes = differences(from, to);
    if !cx.out.is_json() {
        announce(&cx.out, &app, stage, from, to, &changes)?;
    }
    cx.out.confirm(&format!("Run {} on {stage} of {app}?", to.release), args.yes)?;
    // What was shown is what is asked for: a push meanwhile makes the cloud refuse.
    let body = Rollback { to: Some(to.release), running: Some(from.release) };
    let path = args.about.path(&session, "firm rollback", &format!("/stages/{stage}/rollback")).await?;
    let deployed: Deployed = session.send(Method::POST, &path, &body).await?;
    let done = RolledBack { deployed, from: from.release, changes };
    cx.out.answer(&done, |out| deployed::show(out, &done.deployed, &format!(" again, in the place of {}", done.from)))
}

/// What runs, and what shall.
fn chosen<'a>(
    releases: &'a [ReleaseView],
    app: &Name,
    stage: &Name,
    to: Option<ReleaseNo>,
) -> Outcome<(&'a ReleaseView, &'a ReleaseView)> {
    let missing = |said: String| {
        Failure::new(Exit::NotFound, said)
            .help(format!("see what there is with: firm releases --app {app} --stage {stage}"))
    };
    let here = || releases.iter().filter(|release| release.stage == *stage);
    let from = here()
        .find(|release| release.running)
        .ok_or_else(|| missing(format!("nothing runs on stage {stage} of {app}")))?;
    let to = match to {
        Some(no) => here()
            .find(|release| release.release == no)
            .ok_or_else(|| missing(format!("{no} is no release of stage {stage} of {app}")))?,
        None => here()
            .filter(|release| release.release < from.release)
            .max_by_key(|release| release.release)
            .ok_or_else(|| missing(format!("there is no release before {} on stage {stage} of {app}", from.release)))?,
    };
    if to.release == from.release {
        return Err(Failure::new(Exit::Refused, format!("{} runs on stage {stage} of {app} already", to.release)));
    }
    Ok((from, to))
}

fn announce(
    out: &Out,
    app: &Name,
    stage: &Name,
    from: &ReleaseView,
    to: &ReleaseView,
    changes: &[Difference],
) -> Outcome {
    out.line(&format!("{app}, stage {stage}: {} → {}", described(from), described(to)))?;
    for change in changes {
        let tone = match (&change.from, &change.to) {
            (Some(_), None) => Tone::Bad,
            (None, Some(_)) => Tone::Good,
            _ => Tone::Odd,
        };
        out.line(&format!("  {}", out.paint(tone, &out.foreign(&change.line()))))?;
    }
    if changes.is_empty() {
        out.line("  the two are alike")?;
    }
    out.line("  Stored data and secrets stay as they are.")
}

#[cfg(test)]
mod tests {
    use base::{Digest, Timestamp};

    use super::*;

    fn release(no: u32, stage: &str, running: bool) -> ReleaseView {
        ReleaseView {
            release: ReleaseNo(no),
            stage: stage.parse().expect("a name"),
            running,
            at: Timestamp(0),
            by: "ci".into(),
            origin: state::Origin::Push,
            content: Digest::of(b""),
            source: None,
            manifest: state::Manifest::default(),
        }
    }

    #[test]
    fn a_rollback_stays_on_its_stage() {
        let releases =
            [release(5, "beta", true), release(4, "live", true), release(3, "beta", false), release(2, "live", false)];
        let (app, live) = ("shop".parse().expect("a name"), "live".parse().expect("a name"));
        let pick = |to: Option<u32>| {
            chosen(&releases, &app, &live, to.map(ReleaseNo))
                .map(|(from, to)| (from.release.0, to.release.0))
                .map_err(|failure| failure.exit)
        };
        assert_eq!(pick(None), Ok((4, 2)));
        assert_eq!(pick(Some(2)), Ok((4, 2)));
        assert_eq!(pick(Some(3)), Err(Exit::NotFound));
        assert_eq!(pick(Some(4)), Err(Exit::Refused));
    }

    #[test]
    fn nothing_before_the_first_and_nothing_where_nothing_runs() {
        let (app, live) = ("shop".parse().expect("a name"), "live".parse().expect("a name"));
        assert!(chosen(&[release(1, "live", true)], &app, &live, None).is_err());
        assert!(chosen(&[], &app, &live, None).is_err());
    }
}
