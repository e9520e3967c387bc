//! A process that is told from every other, also after its number was given to a new one: by when it started.
//!
//! Signals go through a descriptor of the process (`pidfd_open`, Linux 5.3), taken before its start is compared: between
//! the look and the signal there is no moment in which the number could come to mean somebody else.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process by its number and its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks since the machine started: the 22nd field of `/proc/PID/stat` (proc(5)).
    pub started: u64,
}

/// A process that was found, and that a signal can be sent to.
#[derive(Debug)]
pub struct Found {
    pub process: Process,
    handle: OwnedFd,
}

/// What `/proc/PID/stat` says: the state's letter and the start.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    // Of the fields that follow the third, the 22nd is the 19th.
    Some((state, fields.nth(18)?.parse().ok()?))
}

impl Process {
    /// The process that has this number now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|(_, started)| Self { pid, started })
    }

    #[must_use]
    pub fn this() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Does it run? One that has ended and that its parent hasn't asked about doesn't.
    #[must_use]
    pub fn runs(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    /// Takes hold of it, if it is still there.
    #[must_use]
    pub fn find(self) -> Option<Found> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        self.runs().then_some(Found { process: self, handle })
    }

    /// Is it inside this network namespace, as `ip netns` keeps them?
    #[must_use]
    pub fn is_inside(self, namespace: &str) -> bool {
        let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let own = inode(Path::new(&format!("/proc/{}/ns/net", self.pid)));
        own.is_some() && own == inode(&Path::new("/run/netns").join(namespace))
    }

    /// Does anybody in this process's network namespace listen on this TCP port, on whatever address?
    #[must_use]
    pub fn listens(self, port: u16) -> bool {
        let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)));
        tables.into_iter().flatten().any(|table| is_listening(&table, port))
    }
}

impl Found {
    /// Sends a signal. That it has ended meanwhile is no failure.
    pub fn send(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// Waits for its end, so long at the most. Has it ended?
    #[must_use]
    pub fn ends_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            // A signal may end the wait early.
            match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], timeout.as_ref()) {
                Ok(1..) => return true,
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }
}

/// `/proc/net/tcp`: local address and port, the remote ones, the state, in hexadecimal; 0A listens.
fn is_listening(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next();
        local.is_some_and(|local| local.ends_with(&end)) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_process_with_the_same_number_is_told() {
        let this = Process::this().expect("it runs");
        assert!(this.runs() && this.find().is_some());
        let earlier = Process { started: this.started - 1, ..this };
        assert!(!earlier.runs() && earlier.find().is_none());
    }

    #[test]
    fn a_process_that_nobody_asked_about_has_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat is there");
        let process = Process::of(child.id()).expect("it runs");
        let found = process.find().expect("it runs");
        assert!(!found.ends_within(Duration::ZERO), "it waits for its input");
        found.send(Signal::KILL);
        assert!(found.ends_within(Duration::from_secs(20)), "it was killed");
        assert!(!process.runs(), "it has ended, though its parent doesn't know");
        child.wait().expect("it is a child of this process");
        found.send(Signal::KILL);
    }

    #[test]
    fn a_listening_socket_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let this = Process::this().expect("it runs");
        let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        assert!(this.listens(port));
        assert!(!this.listens(client.local_addr().expect("it is connected").port()), "it is connected");
    }

    #[test]
    fn only_what_listens_counts() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            \x20  0: 0100007F:1E3E 00000000:0000 0A 00000000:00000000\n\
            \x20  1: 0100007F:1E3F 0100007F:0050 01 00000000:00000000\n";
        assert!(is_listening(table, 7742));
        assert!(!is_listening(table, 7743), "it is connected");
        assert!(!is_listening(table, 80), "it is the other side's");
    }
}
