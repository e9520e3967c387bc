//! `firm push`: from a folder to a running release.

use std::path::PathBuf;
use std::time::Instant;

use api::ClientError;
use base::Name;
use studio::build::Tools;
use studio::project::Project;
use studio::push::{Order, PushError, push};

use super::Cx;
use super::deployed;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::progress::Progress;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  firm push
  firm push public --app docs
  firm push --stage redesign
  firm push --app shop --json | jq -r .url

A folder with only an index.html needs no firm.toml. What is pushed of a static folder: every file, but for names
that start with a dot (other than .well-known), and firm.toml and node_modules at its top. Symbolic links may not
lead out of it.")]
pub(super) struct Args {
    /// The project: a folder, or a built .wasm component
    #[arg(default_value = ".")]
    path: PathBuf,
    /// What to call the app [default: the name in firm.toml]
    #[arg(long, value_name = "NAME")]
    app: Option<Name>,
    /// The stage to run it on; any but `live` is private
    #[arg(long, value_name = "NAME")]
    stage: Option<Name>,
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    let begun = Instant::now();
    // What is wrong on this side is said before anybody is spoken to.
    let project = Project::find(&args.path)?;
    let app = project.app(args.app.as_ref())?;
    let tools = Tools { cache: cache()? };
    let session = cx.session().await?;
    let tenant = session.tenant().await?;
    let order = Order { project: project.clone(), tenant, app, stage: args.stage, tools };
    let progress = Progress::new(&cx.out);
    let pushed = tokio::select! {
        pushed = push(&session.client, order, progress.told()) => pushed,
        () = interrupted() => {
            progress.end();
            return Err(if progress.is_releasing() {
                Failure::new(Exit::Unknown, "interrupted while the cloud made the release; whether it did is unknown")
                    .help("look with: firm releases")
            } else {
                Failure::new(Exit::Interrupted, "interrupted; nothing was deployed")
            });
        }
    };
    progress.end();
    let deployed = pushed.map_err(|error| refused(error, &project))?;
    let how = format!(", after {:.1} s", begun.elapsed().as_secs_f64());
    cx.out.answer(&deployed, |out| deployed::show(out, &deployed, &how))
}

/// Ends with Ctrl-C; never, where it can't be heard, since the process then ends by itself.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Where build tools are kept for all projects of this user: in `FIRM_CACHE`, or in the user's own cache.
fn cache() -> Outcome<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let cache = set("FIRM_CACHE").or_else(|| own().map(|cache| cache.join("firmament")));
    cache.map(|cache| cache.join("tools")).ok_or_else(|| {
        Failure::new(Exit::Refused, "there is no place for build tools: neither FIRM_CACHE nor HOME is set")
            .help("set one of them")
    })
}

fn refused(error: PushError, project: &Project) -> Failure {
    match error {
        // The cloud's own words say more than that there was no release.
        PushError::Release(ClientError::Refused(problem, status)) => match project.explain(&problem.faults) {
            Some(shown) => Failure::manifest(&shown, Some(problem)),
            None => ClientError::Refused(problem, status).into(),
        },
        PushError::Missing(cause) | PushError::Upload { source: cause, .. }
            if matches!(cause, ClientError::Refused(..)) =>
        {
            cause.into()
        }
        error if error.is_unknown() => {
            let failure = Failure::of(Exit::Unknown, &error);
            if failure.has_help() { failure } else { failure.help("look whether it was made, with: firm releases") }
        }
        PushError::Late(_) => Failure::of(Exit::Unreachable, &error),
        // The connection broke before the release was asked for: that much is known.
        PushError::Missing(_) | PushError::Upload { .. } => Failure::of(Exit::Unreachable, &error)
            .help("nothing was deployed; try again: what was uploaded needn't be again"),
        error => Failure::of(Exit::Refused, &error),
    }
}
