//! How a thread beside the cores shares the machine with them.

use std::io;
use std::mem::size_of;
use std::time::Duration;

/// The shortest slice that the kernel grants (`sched_setattr(2)`; since Linux 6.12).
const SLICE: Duration = Duration::from_micros(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// It does little at a time and must do it now: where a core's thread computes, one of equal rights may have to wait for
    /// 3 ms and more.
    Prompt,
    /// It runs when nobody else wants to.
    Idle,
}

impl Priority {
    /// For the thread that calls this. Where it is refused, all that it does is done, only later.
    pub(crate) fn take(self) {
        let _ = self.set();
    }

    fn set(self) -> io::Result<()> {
        let (policy, slice) = match self {
            Self::Prompt => (libc::SCHED_OTHER, SLICE),
            Self::Idle => (libc::SCHED_IDLE, Duration::ZERO),
        };
        let attributes = libc::sched_attr {
            size: u32::try_from(size_of::<libc::sched_attr>()).expect("some fifty bytes"),
            sched_policy: u32::try_from(policy).expect("policies are small numbers"),
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: u64::try_from(slice.as_nanos()).expect("100,000"),
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: the kernel reads `size` bytes of `attributes`, which lives until the call returns, and writes none. Thread
        // 0 is the calling one.
        #[expect(unsafe_code, reason = "no library wraps this call")]
        let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_what_it_asks_for() {
        for priority in [Priority::Prompt, Priority::Idle] {
            let policy = std::thread::spawn(move || {
                priority.set().expect("it needs no privilege");
                std::fs::read_to_string("/proc/thread-self/sched").ok()
            });
            let Some(told) = policy.join().expect("it doesn't panic") else { continue };
            let policy = told.lines().find_map(|line| line.strip_prefix("policy")?.split(':').nth(1));
            let wanted = if priority == Priority::Idle { "5" } else { "0" };
            assert_eq!(policy.map(str::trim), Some(wanted), "{priority:?}");
        }
    }
}
