//! `firm logs`: an app's log, as it was and as it comes.

use api::LogLine;
use base::limits::CLIENT_ANSWER_TIME_MAX;
use base::{Name, Timestamp};
use tokio::sync::Notify;

use super::about::AppArg;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::{Out, Tone};
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  firm logs
  firm logs shop -f --stage redesign
  firm logs --stream access
  firm logs --request 5f0c2a91b3d4e6f7
  firm logs -n 1000 --json | jq -r '.[].text'

Times are UTC. With --json it is one array; with --json -f one object a line, since there is no end to close an array at.")]
pub(super) struct Args {
    /// The app, like --app
    #[arg(value_name = "APP", conflicts_with = "app")]
    of: Option<Name>,
    #[command(flatten)]
    about: AppArg,
    /// Stay, and show what comes
    #[arg(long, short)]
    follow: bool,
    /// So many of the newest lines
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    lines: u32,
    /// Only this stage's
    #[arg(long, value_name = "NAME")]
    stage: Option<Name>,
    /// Only this request's: what its answer carried in x-request-id
    #[arg(long, value_name = "ID", value_parser = request_id)]
    request: Option<String>,
    /// Only what came this way; `access` is a line a request, where firm.toml has `access_log = true`
    #[arg(long, value_name = "STREAM", value_parser = ["stdout", "stderr", "fault", "access"])]
    stream: Option<String>,
}

fn request_id(text: &str) -> Result<String, String> {
    let is_one =
        !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_one { Ok(text.to_owned()) } else { Err("a request id is what an answer carries in x-request-id".to_owned()) }
}

pub(super) async fn run(cx: &Cx, args: &Args) -> Outcome {
    let about = args.of.clone().map_or_else(|| args.about.clone(), |app| AppArg { app: Some(app) });
    let app = about.name("firm logs")?;
    let session = cx.session().await?;
    let path = about.path(&session, "firm logs", &query(args)).await?;
    if args.follow {
        return follow(cx, &session.client, &path).await;
    }
    let mut lines: Vec<LogLine> = Vec::new();
    tokio::time::timeout(CLIENT_ANSWER_TIME_MAX, session.client.lines(&path, |line| lines.push(line))).await.map_err(
        |_| {
            Failure::new(Exit::Unreachable, "the cloud took too long to send the log")
                .help("ask for fewer lines: -n 100")
        },
    )??;
    cx.out.answer(&lines, |out| {
        if lines.is_empty() {
            out.note(&nothing(args, &app));
        }
        let now = when::now();
        lines.iter().try_for_each(|line| show(out, line, now))
    })
}

/// Why no line is shown, as far as the question tells.
fn nothing(args: &Args, app: &Name) -> String {
    let whose = args.stage.as_ref().map_or_else(|| app.to_string(), |stage| format!("{app} on stage {stage}"));
    let why = match (args.lines, &args.request, args.stream.as_deref()) {
        (0, ..) => "-n 0 asks for none of the lines that are there. It is for who stays, to see only what comes: firm logs -n 0 -f".to_owned(),
        (_, Some(request), stream) => {
            let by = stream.map(|stream| format!(" by {stream}")).unwrap_or_default();
            format!(
                "the log of {whose} has no line{by} of a request {request}. Either no answer of {app} carried this id in x-request-id, or the request wrote nothing, or its lines were so old that newer ones took their place."
            )
        }
        (_, None, Some("access")) => format!(
            "no request of {whose} has left a line yet. They come a second after their requests, and only where firm.toml asks for them: `access_log = true`."
        ),
        (_, None, Some(stream)) => format!("no line of {whose} came by {stream}."),
        (_, None, None) => format!(
            "what {whose} writes to stdout and stderr, and its faults, would stand here. For a line of each request write `access_log = true` in firm.toml and push."
        ),
    };
    format!("Nothing to show: {why}")
}

/// Shows lines until the cloud ends them or nobody reads them any more.
async fn follow(cx: &Cx, client: &api::Client, path: &str) -> Outcome {
    let stop = Notify::new();
    let mut stopped = None;
    let lines = client.lines(path, |line: LogLine| {
        if stopped.is_none() {
            let shown = if cx.out.is_json() { cx.out.json(&line) } else { show(&cx.out, &line, when::now()) };
            if let Err(failure) = shown {
                stopped = Some(failure);
                stop.notify_one();
            }
        }
    });
    let ended = tokio::select! {
        ended = lines => ended,
        () = stop.notified() => Ok(()),
    };
    match stopped {
        Some(failure) => Err(failure),
        None => Ok(ended?),
    }
}

fn query(args: &Args) -> String {
    let mut query = format!("/logs?tail={}", args.lines);
    let mut add = |name: &str, value: &str| {
        query.push('&');
        query.push_str(name);
        query.push('=');
        query.push_str(value);
    };
    if let Some(stage) = &args.stage {
        add("stage", stage.as_str());
    }
    if let Some(request) = &args.request {
        add("request", request);
    }
    if let Some(stream) = &args.stream {
        add("stream", stream);
    }
    if args.follow {
        add("follow", "true");
    }
    query
}

fn show(out: &Out, line: &LogLine, now: Timestamp) -> Outcome {
    let tone = match line.stream.as_str() {
        "fault" => Tone::Bad,
        "stderr" | "notice" => Tone::Odd,
        "access" => Tone::Quiet,
        _ => Tone::Plain,
    };
    let origin =
        format!("{} {} {} {} {:7}", when::clock(line.at, now), line.stage, line.release, line.request, line.stream);
    out.line(&format!(
        "{} {}",
        out.paint(Tone::Quiet, &out.foreign(&origin)),
        out.paint(tone, &out.foreign(&line.text))
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn said(line: &str) -> String {
        let words = std::iter::once("logs").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).expect("it is one of `firm logs`");
        nothing(&line.args, &"shop".parse().expect("a name"))
    }

    #[test]
    fn what_isn_t_the_case_is_not_advised() {
        for line in
            ["-n 0", "-n 0 --request 00ab", "--request 00ab", "--request 00ab --stream access", "--stream fault"]
        {
            assert!(!said(line).contains("access_log"), "{line}: {}", said(line));
        }
        assert!(said("--request 00ab").contains("no line of a request 00ab"), "{}", said("--request 00ab"));
        assert!(said("--request 00ab --stream stderr").contains("no line by stderr of a request 00ab"));
        assert!(said("-n 0").contains("asks for none"), "{}", said("-n 0"));
        for line in ["", "--stream access", "--stage beta"] {
            assert!(said(line).contains("`access_log = true`"), "{line}: {}", said(line));
        }
        assert!(said("--stage beta").contains("shop on stage beta"), "{}", said("--stage beta"));
    }
}
