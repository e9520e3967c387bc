//! `firm secret`: what an app must know and nobody may read. A value never stands in the command line, where
//! every process of the machine and the shell's history would see it.

use std::io::Read;

use api::{Done, SecretSet, Secrets};
use base::limits::ENV_VALUE_BYTES_MAX;
use clap::Subcommand;
use http::Method;

use super::Cx;
use super::about::{AppArg, StageArg};
use super::env::variable;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::table::Table;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  firm secret
  firm secret set API_KEY
  pass show api-key | firm secret set API_KEY --stdin
  firm secret delete API_KEY --stage redesign")]
pub(super) struct Args {
    #[command(flatten)]
    about: AppArg,
    #[command(flatten)]
    stage: StageArg,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List their names (what `firm secret` alone does)
    #[command(after_help = "Examples:\n  firm secret list --app shop")]
    List,
    /// Set a secret; it is asked for, and not shown
    #[command(
        after_help = "Examples:\n  firm secret set API_KEY\n  firm secret set API_KEY --stdin < key.txt\n\nOne newline at the end of standard input is not part of the secret."
    )]
    Set {
        /// Its name, as firm.toml binds it under [bindings] secrets
        name: String,
        /// Read it from standard input
        #[arg(long)]
        stdin: bool,
    },
    /// Delete a secret
    #[command(after_help = "Examples:\n  firm secret delete API_KEY --yes")]
    Delete {
        /// Its name
        #[arg(value_parser = variable)]
        name: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    let app = args.about.name("firm secret")?;
    let place = format!("stage {} of {app}", args.stage.stage);
    let base = format!("/stages/{}/secrets", args.stage.stage);
    match args.action {
        None | Some(Action::List) => {
            let session = cx.session().await?;
            let secrets: Secrets = session.get(&args.about.path(&session, "firm secret", &base).await?).await?;
            cx.out.answer(&secrets, |out| {
                let mut table = Table::new(&["NAME", "STATE"]);
                for name in &secrets.set {
                    let state =
                        if secrets.unbound.contains(name) { "set, but firm.toml doesn't bind it" } else { "set" };
                    table.row([name.clone(), state.to_owned()]);
                }
                secrets
                    .missing
                    .iter()
                    .for_each(|name| table.row([name.clone(), "missing: firm.toml binds it".to_owned()]));
                table.show(out, &format!("{place} has no secrets"))
            })
        }
        Some(Action::Set { name, stdin }) => {
            // Not by the argument's parser: its error would show the whole word, and so the secret.
            if name.contains('=') {
                return Err(Failure::usage(
                    "a secret's value doesn't belong on the command line, where others can read it",
                )
                .help("give its name alone: firm secret set NAME, or pipe it in: firm secret set NAME --stdin"));
            }
            let name =
                variable(&name).map_err(|said| Failure::usage(format!("`{name}` can't name a secret: {said}")))?;
            let value = if stdin { piped()? } else { cx.out.ask_secret(&format!("{name} (not shown)"))? };
            checked(&name, &value)?;
            let session = cx.session().await?;
            let all = args.about.path(&session, "firm secret", &base).await?;
            let done: Done = session.send(Method::PUT, &format!("{all}/{name}"), &SecretSet { value }).await?;
            cx.out
                .answer(&done, |out| out.line(&format!("{} {name} is set on {place}", out.paint(Tone::Good, "✓"))))?;
            // It is set, whatever comes of this question.
            let secrets = session.get::<Secrets>(&all).await;
            if let Some(warning) = secrets.ok().and_then(|secrets| unbound(&secrets, &name, &place)) {
                cx.out.warn(&warning);
            }
            Ok(())
        }
        Some(Action::Delete { name, yes }) => {
            cx.out.confirm(&format!("Delete secret {name} of {place}? The app loses it at once."), yes)?;
            let session = cx.session().await?;
            let path = args.about.path(&session, "firm secret", &format!("{base}/{name}")).await?;
            let done: Done = session.delete(&path).await?;
            cx.out
                .answer(&done, |out| out.line(&format!("{} {name} of {place} is deleted", out.paint(Tone::Good, "✓"))))
        }
    }
}

/// What is said of a secret that no code gets: `wasi:config` tells an app those alone that its manifest binds.
fn unbound(secrets: &Secrets, name: &str, place: &str) -> Option<String> {
    secrets.unbound.iter().any(|unbound| unbound == name).then(|| {
        format!(
            "no code gets {name} yet: what runs on {place}, if anything does, doesn't bind it\n  help: add it to firm.toml, and push:\n\n    [bindings]\n    secrets = [\"{name}\"]"
        )
    })
}

/// All of standard input, but for the newline that most tools end with.
pub(super) fn piped() -> Outcome<String> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("standard input can't be read as text: {error}"));
    let mut value = String::new();
    // One byte and a newline over the limit are enough to see that it is.
    let bound = ENV_VALUE_BYTES_MAX as u64 + 3;
    std::io::stdin().lock().take(bound).read_to_string(&mut value).map_err(unreadable)?;
    let end = value.strip_suffix("\r\n").or_else(|| value.strip_suffix('\n')).map_or(value.len(), str::len);
    value.truncate(end);
    Ok(value)
}

fn checked(name: &str, value: &str) -> Outcome {
    if value.is_empty() {
        return Err(Failure::usage(format!("{name} would be empty")).help("to take it away: firm secret delete NAME"));
    }
    if value.len() > ENV_VALUE_BYTES_MAX {
        return Err(Failure::usage(format!("{name} has more than {ENV_VALUE_BYTES_MAX} bytes"))
            .help("keep data in a KV bucket"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_secret_that_no_code_gets_is_told() {
        let secrets = Secrets { set: vec!["A".into(), "B".into()], missing: Vec::new(), unbound: vec!["B".into()] };
        assert_eq!(unbound(&secrets, "A", "stage live of shop"), None);
        expect![[r#"
            no code gets B yet: what runs on stage live of shop, if anything does, doesn't bind it
              help: add it to firm.toml, and push:

                [bindings]
                secrets = ["B"]"#]]
        .assert_eq(&unbound(&secrets, "B", "stage live of shop").expect("it isn't bound"));
    }
}
