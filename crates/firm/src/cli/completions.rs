//! `firm completions`: a script that teaches a shell the commands and flags.

use clap_complete::Shell;
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{Cx, definition};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  firm completions bash > ~/.local/share/bash-completion/completions/firm
  firm completions zsh > ~/.zfunc/_firm
  firm completions fish > ~/.config/fish/completions/firm.fish")]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

pub(super) fn run(cx: &Cx, args: &Args) -> Outcome {
    // Into memory first: the generator panics where a pipe closes early.
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "firm", &mut bytes);
    let script = String::from_utf8(bytes).map_err(|_| Failure::new(Exit::Refused, "the completions are not text"))?;
    let script = Script { shell: args.shell.to_string(), script };
    cx.out.answer(&script, |out| out.line(script.script.trim_end()))
}
