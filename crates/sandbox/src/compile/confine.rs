//! What the compile process takes from itself before it reads a byte.
//!
//! Landlock takes the file system and, where the kernel knows how, the network; it is best effort, for it
//! depends on the kernel. Seccomp does not: without it nothing is compiled. Its list names what a compiler
//! needs (memory, threads, its two pipes); anything else fails with `EPERM`.

use std::collections::BTreeMap;

use base::limits::{COMPILE_MEMORY_MAX, COMPILE_TIME_MAX};
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Why the process won't go on.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("a limit can't be set")]
    Limit(#[source] rustix::io::Errno),
    #[error("privileges can't be given up")]
    Privileges(#[source] rustix::io::Errno),
    #[error("Landlock failed")]
    Landlock(#[source] landlock::RulesetError),
    #[error("the list of system calls is wrong")]
    List(#[source] seccompiler::BackendError),
    #[error("the list of system calls can't be put in force")]
    Seccomp(#[source] seccompiler::Error),
}

/// Descriptors: stdin, stdout, stderr, and what the dynamic loader or an arbitrary crate holds for a moment.
const FILES_MAX: u64 = 16;

/// Confines this process for good, as [`crate::compile_process`] does before anything else.
pub fn confine() -> Result<(), ConfineError> {
    limit().map_err(ConfineError::Limit)?;
    renounce().map_err(ConfineError::Privileges)?;
    deny_files().map_err(ConfineError::Landlock)?;
    deny_system_calls()
}

fn limit() -> rustix::io::Result<()> {
    // All cores together may use the time that one wall clock gives each of four.
    let cpu = COMPILE_TIME_MAX.as_secs() * 4;
    for (resource, most) in [
        (Resource::As, COMPILE_MEMORY_MAX),
        (Resource::Cpu, cpu),
        (Resource::Fsize, 0),
        (Resource::Nofile, FILES_MAX),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ] {
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

fn renounce() -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

fn deny_files() -> Result<(), landlock::RulesetError> {
    let newest = ABI::V6;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(())
}

fn deny_system_calls() -> Result<(), ConfineError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(ConfineError::List)?;
    let program = |filter: SeccompFilter| BpfProgram::try_from(filter).map_err(ConfineError::List);
    // The flags of clone3 lie in memory, where a filter can't see them. "No such call" makes libc use clone.
    let no_clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, vec![])]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        arch,
    );
    let needed =
        SeccompFilter::new(allowed()?, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow, arch);
    for filter in [no_clone3, needed] {
        let filter = program(filter.map_err(ConfineError::List)?)?;
        seccompiler::apply_filter_all_threads(&filter).map_err(ConfineError::Seccomp)?;
    }
    Ok(())
}

/// The system calls of a compiler.
fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, ConfineError> {
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = [
        // memory
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        // its pipes
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_poll,
        // threads
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_membarrier,
        // Looked at by the second filter only: the first has refused it already.
        libc::SYS_clone3,
        // time and chance
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_getrandom,
        // signals of its own, and the end
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .map(|call| (call, vec![]))
    .into();
    // A thread, never a process.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    allowed.insert(libc::SYS_clone, vec![only(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // The name of a thread, nothing else.
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    allowed.insert(libc::SYS_prctl, vec![only(0, SeccompCmpOp::Eq, name)?]);
    // An abort signals this very process; no other is known by a number it could learn.
    let own = u64::from(std::process::id());
    allowed.insert(libc::SYS_tgkill, vec![only(0, SeccompCmpOp::Eq, own)?]);
    Ok(allowed)
}

/// The call is allowed if its argument `index` compares so with `value`.
fn only(index: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, ConfineError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, how, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(ConfineError::List)
}
