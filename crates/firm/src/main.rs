//! The one binary. What it can do is in [`firm::cli`].

use std::process::ExitCode;

/// What it counts tells whose work the node's memory goes into.
#[global_allocator]
static ALLOCATOR: sandbox::Counting = sandbox::Counting;

fn main() -> ExitCode {
    firm::cli::main()
}
