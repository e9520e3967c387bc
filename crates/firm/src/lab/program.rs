//! The system's own programs that a lab is made with, and what to install where one is missing.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use super::Lab;

/// A program that one couldn't be run with, or that failed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error(
        "the program `{program}` is missing\n  help: it is in the Debian package {package}: apt-get install {package}"
    )]
    Missing { program: String, package: &'static str },
    #[error("`{program}` can't be run")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("`{what}` failed: {said}")]
    Failed { what: String, said: String },
}

/// The Debian package of each program.
const PACKAGES: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("cp", "coreutils"),
    ("sh", "dash"),
    ("true", "coreutils"),
];

/// Turns what the system said into what is missing.
#[must_use]
pub fn not_started(program: &str, source: io::Error) -> ProgramError {
    let package = PACKAGES.iter().find(|(name, _)| *name == program);
    match package {
        Some((_, package)) if source.kind() == io::ErrorKind::NotFound => {
            ProgramError::Missing { program: program.to_owned(), package }
        }
        _ => ProgramError::Start { program: program.to_owned(), source },
    }
}

/// `program` with `args`, and where many systems keep it for root alone.
#[must_use]
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    for dir in ["/usr/sbin", "/sbin"] {
        if !dirs.iter().any(|known| known.as_os_str() == dir) {
            dirs.push(dir.into());
        }
    }
    // It fails for a folder with a colon in its name, which can't have come out of a PATH.
    if let Ok(path) = std::env::join_paths(dirs) {
        command.env("PATH", path);
    }
    command.args(args);
    command
}

/// Runs one to its end, `input` on its standard input. Gives what it wrote.
pub fn run(program: &str, args: &[&str], input: &str) -> Result<String, ProgramError> {
    let output = output(program, args, input)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let what = format!("{program} {}", args.join(" "));
    let said = if said.trim().is_empty() { output.status.to_string() } else { said.trim().replace('\n', "; ") };
    Err(ProgramError::Failed { what, said })
}

fn output(program: &str, args: &[&str], input: &str) -> Result<Output, ProgramError> {
    let not_started = |source| not_started(program, source);
    let mut command = command(program, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(not_started)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that read only a part, or nothing, says why in its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(not_started)
}

/// `ip` over many lines at once: none is taken back when a later one fails.
pub fn ip(lines: &str) -> Result<(), ProgramError> {
    run("ip", &["-batch", "-"], lines).map(drop)
}

/// The same inside one of the lab's namespaces.
pub fn ip_in(lab: &Lab, of: &str, lines: &str) -> Result<(), ProgramError> {
    run("ip", &["-netns", &lab.namespace(of), "-batch", "-"], lines).map(drop)
}

/// The words that run a program inside one of the lab's namespaces, to be put before its own.
#[must_use]
pub fn inside(lab: &Lab, of: &str) -> [String; 4] {
    ["ip".into(), "netns".into(), "exec".into(), lab.namespace(of)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let nothing = io::Error::from(io::ErrorKind::NotFound);
        let said = not_started("nft", nothing).to_string();
        assert!(said.contains("`nft` is missing") && said.contains("apt-get install nftables"), "{said}");
        let forbidden = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(matches!(not_started("nft", forbidden), ProgramError::Start { .. }));
    }

    #[test]
    fn what_a_program_says_is_told() {
        let error = run("sh", &["-c", "read line; echo no $line >&2; exit 3"], "way\n").expect_err("it exits with 3");
        assert!(error.to_string().ends_with("failed: no way"), "{error}");
        assert_eq!(run("sh", &["-c", "cat"], "way\n").ok().as_deref(), Some("way\n"));
    }
}
