//! The command line's reference, written from its definition, so that `docs/cli.md` can't say anything else.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::{definition, exit};

/// Markdown of every command, flag and exit code.
pub fn reference() -> String {
    let mut root = definition();
    root.build();
    let mut text = String::from(
        "# The command line\n\n\
         <!-- Written by `make docs` from the definition in crates/firm/src/cli.rs. -->\n\n",
    );
    let _ = writeln!(text, "{}\n", root.get_long_about().or(root.get_about()).cloned().unwrap_or_default());
    text.push_str("## Everywhere\n\n");
    for argument in root.get_arguments().filter(|argument| argument.is_global_set()) {
        argument_line(&mut text, argument);
    }
    text.push_str("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n");
    for exit in exit::Exit::ALL {
        let _ = writeln!(text, "| {} | {} |", exit.code(), exit.meaning());
    }
    let everywhere: Vec<_> = root.get_arguments().map(|argument| argument.get_id().clone()).collect();
    for command in root.get_subcommands() {
        section(&mut text, command, 2, &everywhere);
    }
    text
}

fn section(text: &mut String, command: &Command, depth: usize, everywhere: &[clap::Id]) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let _ = writeln!(text, "\n{} `{name}`\n", "#".repeat(depth));
    if let Some(about) = command.get_long_about().or(command.get_about()) {
        let _ = writeln!(text, "{about}.\n");
    }
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(text, "```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim());
    let own = |argument: &&Arg| {
        !everywhere.contains(argument.get_id()) && !argument.is_hide_set() && argument.get_id() != "help"
    };
    for argument in command.get_arguments().filter(own) {
        argument_line(text, argument);
    }
    if let Some(after) = command.get_after_help() {
        notes(text, &after.to_string());
    }
    for inner in command.get_subcommands() {
        section(text, inner, depth + 1, everywhere);
    }
}

/// Examples as code, and what follows them as prose.
fn notes(text: &mut String, after: &str) {
    let (examples, rest) = after.split_once("\n\n").unwrap_or((after, ""));
    let lines: Vec<&str> =
        examples.trim_start_matches("Examples:").lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let _ = writeln!(text, "\n```sh\n{}\n```", lines.join("\n"));
    if !rest.is_empty() {
        let _ = writeln!(text, "\n{}", rest.trim());
    }
}

fn argument_line(text: &mut String, argument: &Arg) {
    let value =
        argument.get_value_names().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let takes_value = argument.get_action().takes_values();
    let mut spelled = match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => format!("<{}>", value.clone().unwrap_or_default()),
    };
    if let (false, true, Some(value)) = (argument.is_positional(), takes_value, value) {
        let _ = write!(spelled, " <{value}>");
    }
    let mut said = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| takes_value && !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if !choices.is_empty() {
        let _ = write!(said, ": {}", choices.join(", "));
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes_value && !defaults.is_empty() {
        let _ = write!(said, " [default: {}]", defaults.join(" "));
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(said, " [env: {}]", variable.to_string_lossy());
    }
    let _ = writeln!(text, "- `{spelled}`: {said}");
}
