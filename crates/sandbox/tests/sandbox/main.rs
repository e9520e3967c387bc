//! Drives the sandbox through its public face, with components written down in `guests`.
//!
//! No test harness of the standard kind: started as `compile`, `escape` or `whoami` this binary is a compile
//! process, well or badly behaved.

#![expect(clippy::print_stdout, reason = "a test runner tells how it went")]

mod compiling;
mod confinement;
mod guests;
mod reusing;
mod running;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("compile") => return sandbox::compile_process(),
        Some("escape") => return confinement::escape(),
        Some("whoami") => return confinement::whoami(),
        _ => {}
    }
    let wanted = |name: &str| {
        let mut filters = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    let mut failed = Vec::new();
    let tests = running::TESTS.iter().chain(compiling::TESTS).chain(reusing::TESTS).chain(confinement::TESTS);
    for (name, test) in tests.filter(|(name, _)| wanted(name)) {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}
