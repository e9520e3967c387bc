//! The one binary. What it can do is in [`firm::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    firm::cli::main()
}
