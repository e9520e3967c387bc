//! `firm open`: an app's address, in the browser or printed.

use std::process::{Command, Stdio};

use api::{AppView, StageView};
use serde::Serialize;

use super::Cx;
use super::about::{AppArg, StageArg};
use super::deployed;
use super::exit::Exit;
use super::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  firm open\n  firm open --stage redesign\n  curl -k \"$(firm open --print)\"")]
pub(super) struct Args {
    #[command(flatten)]
    about: AppArg,
    #[command(flatten)]
    stage: StageArg,
    /// Only print the address
    #[arg(long, short)]
    print: bool,
}

#[derive(Serialize)]
struct Opened {
    url: String,
    public: bool,
}

pub(super) async fn run(cx: &Cx, args: &Args) -> Outcome {
    let app = args.about.name("firm open")?;
    let stage = &args.stage.stage;
    let session = cx.session().await?;
    let opened = if stage.as_str() == "live" {
        let view: AppView = session.get(&args.about.path(&session, "firm open", "").await?).await?;
        Opened { url: view.url, public: true }
    } else {
        let stages: Vec<StageView> = session.get(&args.about.path(&session, "firm open", "/stages").await?).await?;
        let found = stages.into_iter().find(|view| view.stage == *stage).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{app} has no stage {stage}"))
                .help(format!("see what there is with: firm stages --app {app}"))
        })?;
        Opened { url: found.url, public: found.public }
    };
    cx.out.answer(&opened, |out| {
        out.line(&opened.url)?;
        if !opened.public {
            out.note(&format!("Only members see it. For a link that opens it: {}", deployed::share(&app, stage)));
        }
        if out.is_interactive() && !args.print {
            browse(&opened.url);
        }
        Ok(())
    })
}

/// Hands the address to the desktop. Where there is none, the printed address has to do.
fn browse(url: &str) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    if url.starts_with("https://") || url.starts_with("http://") {
        // Not waited for: a browser may stay for as long as it likes.
        let _ = Command::new(opener).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
}
