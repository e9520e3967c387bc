//! `firm stages`: where an app runs.

use api::{Done, Share, Shared, StageView};
use base::limits::SHARE_TIME_MAX;
use base::{Name, Span, UnitError};
use clap::Subcommand;
use http::Method;

use super::about::AppArg;
use super::failure::Outcome;
use super::out::{Out, Tone};
use super::table::{Table, or_dash};
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm stages\n  firm stages share redesign --expires 2h\n  firm stages delete redesign --app shop"
)]
pub(super) struct Args {
    #[command(flatten)]
    about: AppArg,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (what `firm stages` alone does)
    #[command(after_help = "Examples:\n  firm stages list --app shop")]
    List,
    /// Delete a stage, its releases and its data
    #[command(after_help = "Examples:\n  firm stages delete redesign\n  firm stages delete redesign --app shop --yes")]
    Delete {
        /// The stage
        #[arg(value_name = "STAGE")]
        name: Name,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Make a link that opens a private stage for a while
    #[command(after_help = "Examples:\n  firm stages share redesign\n  firm stages share redesign --expires 7d")]
    Share {
        /// The stage
        #[arg(value_name = "STAGE")]
        name: Name,
        /// How long it opens, as in 2h or 7d [default: 1d]
        #[arg(long, value_name = "SPAN", value_parser = life)]
        expires: Option<Span>,
    },
}

pub(super) async fn run(cx: &Cx, args: &Args) -> Outcome {
    let app = args.about.name("firm stages")?;
    match &args.action {
        None | Some(Action::List) => list(cx, args, &app).await,
        Some(Action::Delete { name, yes }) => delete(cx, args, &app, name, *yes).await,
        Some(Action::Share { name, expires }) => share(cx, args, name, *expires).await,
    }
}

/// How long a link opens a stage, which the cloud counts in seconds.
fn life(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: UnitError| error.to_string())?;
    let fault = match span.0.as_secs() {
        0 => "it would end at once",
        seconds if seconds > SHARE_TIME_MAX.as_secs() => "it would last too long",
        _ => return Ok(span),
    };
    Err(format!("{fault}: write 1s to {}, as in 2h or 7d", Span(SHARE_TIME_MAX)))
}

async fn list(cx: &Cx, args: &Args, app: &Name) -> Outcome {
    let session = cx.session().await?;
    let stages: Vec<StageView> = session.get(&args.about.path(&session, "firm stages", "/stages").await?).await?;
    cx.out.answer(&stages, |out| {
        let now = when::now();
        let mut table = Table::new(&["STAGE", "RUNS", "SINCE", "SEEN BY", "URL"]);
        for stage in &stages {
            table.row([
                stage.stage.to_string(),
                or_dash(stage.running),
                or_dash(stage.history.last().map(|change| when::ago(change.at, now))),
                if stage.public { "everybody" } else { "members" }.to_owned(),
                stage.url.clone(),
            ]);
        }
        table.show(out, &format!("{app} has no stages yet. Make one: firm push --app {app}"))
    })
}

async fn delete(cx: &Cx, args: &Args, app: &Name, stage: &Name, yes: bool) -> Outcome {
    cx.out.confirm(&format!("Delete stage {stage} of {app}, its releases and its data, for good?"), yes)?;
    let session = cx.session().await?;
    let path = args.about.path(&session, "firm stages", &format!("/stages/{stage}")).await?;
    let done: Done = session.delete(&path).await?;
    cx.out.answer(&done, |out| out.line(&format!("{} stage {stage} of {app} is deleted", out.paint(Tone::Good, "✓"))))
}

async fn share(cx: &Cx, args: &Args, stage: &Name, expires: Option<Span>) -> Outcome {
    let session = cx.session().await?;
    let path = args.about.path(&session, "firm stages", &format!("/stages/{stage}/shares")).await?;
    let body = Share { expires_in: expires.map(|span| span.0.as_secs()) };
    let shared: Shared = session.send(Method::POST, &path, &body).await?;
    cx.out.answer(&shared, |out: &Out| {
        out.line(&shared.url)?;
        out.note(&format!(
            "Whoever has this link sees stage {stage}. It ends {}.",
            when::until(Some(shared.expires), when::now())
        ));
        Ok(())
    })
}
