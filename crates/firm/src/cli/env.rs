//! `firm env`: a stage's variables. A change is a release of its own, so that a rollback takes it back.

use std::collections::BTreeMap;

use api::{Env, EnvChange, EnvChanged};
use base::Name;
use clap::Subcommand;
use http::Method;

use super::Cx;
use super::about::{AppArg, StageArg};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::table::Table;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  firm env
  firm env set GREETING=\"G'day\" LEVEL=debug
  firm env unset LEVEL --stage redesign

Not for secrets: variables are shown to every member. Those use: firm secret set NAME")]
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
    /// List them (what `firm env` alone does)
    #[command(after_help = "Examples:\n  firm env list --stage redesign")]
    List,
    /// Set variables; they win over those of firm.toml
    #[command(after_help = "Examples:\n  firm env set LEVEL=debug GREETING=\"G'day\"")]
    Set {
        /// What to set
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = assignment)]
        variables: Vec<(String, String)>,
    },
    /// Take variables away that were set; those of firm.toml show again
    #[command(after_help = "Examples:\n  firm env unset LEVEL")]
    Unset {
        /// What to take away
        #[arg(required = true, value_name = "NAME", value_parser = variable)]
        names: Vec<String>,
    },
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((variable(name)?, value.to_owned()))
}

/// The name of a variable or secret, checked here too because it becomes a part of a path.
pub(super) fn variable(text: &str) -> Result<String, String> {
    let is_one = !text.is_empty()
        && !text.starts_with(|ch: char| ch.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_one { Ok(text.to_owned()) } else { Err("use letters, digits and `_`, with no digit in front".to_owned()) }
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    let app = args.about.name("firm env")?;
    let stage = &args.stage.stage;
    let mut changes = BTreeMap::new();
    match args.action {
        None | Some(Action::List) => {}
        Some(Action::Set { variables }) => {
            for (name, value) in variables {
                if changes.insert(name.clone(), Some(value)).is_some() {
                    return Err(Failure::usage(format!("{name} is set twice")).help("set each variable once"));
                }
            }
        }
        Some(Action::Unset { names }) => changes.extend(names.into_iter().map(|name| (name, None))),
    }
    let session = cx.session().await?;
    let path = args.about.path(&session, "firm env", &format!("/stages/{stage}/env")).await?;
    if changes.values().any(Option::is_none) {
        held(&session.get(&path).await?, changes.keys(), &app, stage)?;
    }
    if changes.is_empty() {
        let env: Env = session.get(&path).await?;
        return list(cx, &env, &format!("stage {stage} of {app} has no variables"));
    }
    let made: EnvChanged = session.send(Method::PATCH, &path, &EnvChange { changes }).await?;
    cx.out.answer(&made, |out| {
        let done = out.paint(Tone::Good, "✓");
        match made.release {
            Some(release) => {
                out.line(&format!("{done} {app} runs {release} on {stage}: the same content with these variables"))
            }
            None => out.line(&format!("{done} kept for the first push to stage {stage} of {app}")),
        }
    })
}

/// What isn't set can't be taken away: the name is likely another.
fn held<'a>(env: &Env, mut names: impl Iterator<Item = &'a String>, app: &Name, stage: &Name) -> Outcome {
    let Some(name) = names.find(|name| !env.set.contains_key(*name)) else { return Ok(()) };
    let said = if env.manifest.contains_key(name) {
        format!("{name} isn't set with `firm env` on stage {stage} of {app}: firm.toml has it")
    } else {
        format!("{name} isn't set on stage {stage} of {app}")
    };
    Err(Failure::new(Exit::NotFound, said).help(format!("see what is: firm env --app {app} --stage {stage}")))
}

fn list(cx: &Cx, env: &Env, empty: &str) -> Outcome {
    cx.out.answer(env, |out| {
        let mut table = Table::new(&["NAME", "VALUE", "FROM"]);
        let set = env.set.iter().map(|variable| (variable, "firm env"));
        let written = env
            .manifest
            .iter()
            .filter(|(name, _)| !env.set.contains_key(*name))
            .map(|variable| (variable, "firm.toml"));
        let all: BTreeMap<_, _> = set.chain(written).map(|((name, value), from)| (name, (value, from))).collect();
        for (name, (value, from)) in all {
            table.row([name.clone(), value.escape_debug().to_string(), from.to_owned()]);
        }
        table.show(out, empty)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_anything_and_a_name_may_not() {
        assert_eq!(assignment("A=b=c d"), Ok(("A".into(), "b=c d".into())));
        assert_eq!(assignment("A="), Ok(("A".into(), String::new())));
        for wrong in ["A", "=b", "A B=c", "1A=b", "a/b=c"] {
            assert!(assignment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_isn_t_set_is_not_found() {
        let one = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let env = Env { set: one("SET"), manifest: one("WRITTEN") };
        let (app, stage): (Name, Name) = ("shop".parse().expect("a name"), "live".parse().expect("a name"));
        let exit = |name: &str| held(&env, [name.to_owned()].iter(), &app, &stage).map_err(|failure| failure.exit);
        assert_eq!(exit("SET").ok(), Some(()));
        for name in ["WRITTEN", "NOWHERE"] {
            // As `firm secret delete` and every other command end where what they name isn't there.
            assert_eq!(exit(name), Err(Exit::NotFound), "{name}");
        }
    }
}
