//! A lab without root: the keeper runs itself again inside a user, network and mount namespace of its own.
//!
//! There it may do what root may, to nothing but what is in there. `/run` is hidden by an empty one, where `ip netns` keeps
//! its names. All of it ends with the keeper. Needs a kernel that lets users make namespaces (`user_namespaces(7)`).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::process::Process;
use super::program::{self, not_started};
use super::{Lab, LabError};

/// Set in the environment of a keeper that is inside.
const INSIDE: &str = "FIRM_LAB_INSIDE";
const UNSHARE: [&str; 5] = ["--user", "--map-root-user", "--net", "--mount", "--"];

#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again inside, in the place of this process. Returns only when that can't be.
pub fn enter(dir: &Path) -> LabError {
    if dir.starts_with("/run") || dir.starts_with("/var/run") {
        return LabError::InRun { path: dir.to_owned() };
    }
    // `unshare` says what it may not do; the trial keeps its words apart from the lab's.
    if let Err(error) = program::run("unshare", &[&UNSHARE[..], &["true"]].concat(), "") {
        return refused(&error.to_string());
    }
    let firm = match std::env::current_exe() {
        Ok(firm) => firm,
        Err(error) => return LabError::Exec("firm".into(), error),
    };
    let mut command = program::command("unshare", &UNSHARE);
    command.arg(firm).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    let error = command.exec();
    LabError::Network(not_started("unshare", error))
}

/// Why the kernel may have said no, as far as its settings tell.
fn refused(said: &str) -> LabError {
    let set = |name: &str, value: &str| fs::read_to_string(name).is_ok_and(|text| text.trim() == value);
    let help = if set("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor keeps them for some programs. Let all make them with `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run the lab as root"
    } else if set("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "let users make them with `sysctl kernel.unprivileged_userns_clone=1`, or run the lab as root"
    } else if set("/proc/sys/user/max_user_namespaces", "0") {
        "let users make them with `sysctl user.max_user_namespaces=10000`, or run the lab as root"
    } else {
        "run the lab as root. In a container that needs CAP_SYS_ADMIN and CAP_NET_ADMIN, as `--privileged` gives them"
    };
    LabError::NoNamespaces { said: said.to_owned(), help: help.to_owned() }
}

/// What must be so inside before the lab is made: a place for `ip netns` to keep its names.
pub fn prepare() -> Result<(), LabError> {
    program::run("mount", &["-t", "tmpfs", "tmpfs", "/run"], "").map(drop).map_err(LabError::Network)
}

/// A command that runs `program` in one of a lab's namespaces, or at the machine's own port.
#[must_use]
pub fn command(
    lab: &Lab,
    keeper: Process,
    namespace: Option<&str>,
    program: &OsStr,
    args: &[impl AsRef<OsStr>],
) -> Command {
    let mut words: Vec<String> = Vec::new();
    if lab.rootless {
        let pid = keeper.pid.to_string();
        words.extend(
            ["nsenter", "--target", &pid, "--user", "--net", "--mount", "--preserve-credentials"].map(str::to_owned),
        );
        if let Ok(here) = std::env::current_dir() {
            words.push(format!("--wd={}", here.display()));
        }
        words.push("--".into());
    }
    if let Some(namespace) = namespace {
        words.extend(["ip", "netns", "exec", namespace].map(str::to_owned));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((first, rest)) = words.split_first() else {
        let mut command = Command::new(program);
        command.args(args);
        return command;
    };
    let mut command = program::command(first, rest);
    command.arg(program).args(args);
    command
}
