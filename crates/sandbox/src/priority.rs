//! How a thread beside the cores shares the machine with them.

use std::io;
use std::mem::size_of;
use std::time::Duration;

/// The shortest slice that the kernel grants (`sched_attr(2)`, `sched_runtime`; since Linux 6.12).
const SLICE: Duration = Duration::from_micros(100);
/// A seventieth of what the others get.
const NICE_MAX: i32 = 19;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// It does a few microseconds' work and must do it now. Where a core's thread computes, one of equal rights waits for its
    /// slice to end, 3 ms and more, and a short slice of its own helps it only sometimes: so it is a real-time thread where
    /// that is granted, as it is to root.
    Prompt,
    /// It has as much as the others, a little at a time.
    Fair,
    /// It has a little now and then while others want the core, and all of it when nobody does.
    Background,
}

impl Priority {
    /// For the thread that calls this. Where it is refused, all that it does is done, only later.
    pub(crate) fn take(self) {
        if self == Self::Prompt && set(libc::SCHED_FIFO, 0, 1).is_ok() {
            return;
        }
        let nice = if self == Self::Background { NICE_MAX } else { 0 };
        let _ = set(libc::SCHED_OTHER, nice, 0);
    }
}

/// `nice` is for the threads that share, `rank` for those that don't.
fn set(policy: libc::c_int, nice: i32, rank: u32) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).expect("some fifty bytes"),
        sched_policy: u32::try_from(policy).expect("policies are small numbers"),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: rank,
        sched_runtime: u64::try_from(SLICE.as_nanos()).expect("100,000"),
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of `attributes`, which lives until the call returns, and writes none. Thread 0 is
    // the calling one.
    #[expect(unsafe_code, reason = "no library wraps this call")]
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of this thread's stat that follow its name, which may hold spaces (`proc_pid_stat(5)`).
    fn stat() -> Vec<String> {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("each thread has one");
        stat.rsplit(") ").next().expect("it has a name").split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_thread_gets_what_it_asks_for() {
        for (priority, nice) in [(Priority::Fair, "0"), (Priority::Background, "19")] {
            let told = std::thread::spawn(move || {
                priority.take();
                stat()
            });
            assert_eq!(told.join().expect("it doesn't panic")[16], nice, "{priority:?}");
        }
    }

    #[test]
    fn a_prompt_one_goes_before_the_others_where_it_may() {
        let told = std::thread::spawn(|| {
            let granted = set(libc::SCHED_FIFO, 0, 1).is_ok();
            Priority::Prompt.take();
            (granted, stat())
        });
        let (granted, stat) = told.join().expect("it doesn't panic");
        let (rank, policy) = (&stat[37], &stat[38]);
        assert_eq!((rank.as_str(), policy.as_str()), if granted { ("1", "1") } else { ("0", "0") });
    }
}
