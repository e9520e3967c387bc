//! What every long-lived process of ours needs from the system: a log, descriptors, its share of memory, signals.

use std::future::poll_fn;
use std::io::IsTerminal as _;
use std::task::Poll;

use base::limits::{NODE_MEMORY_BYTES, PROCESS_MEMORY_PERCENT_MAX};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, Outcome};

pub(crate) fn log_to_standard_error() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // HTTP/2's library warns of each visitor who misbehaves, and multicast DNS's of each odd packet: as many lines as
    // they like. Consensus tells of its every step; what an operator needs of it `firm status` shows.
    let said = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("h2", LevelFilter::ERROR)
        .with_target("mdns_sd", LevelFilter::OFF)
        .with_target("openraft", LevelFilter::ERROR);
    tracing_subscriber::registry().with(lines).with(said).init();
}

/// The process that compiles components: this program again.
pub(crate) fn compiler() -> Outcome<sandbox::Compiler> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::of(Exit::Refused, &error).help("the compile process is this program again: it must be readable")
    })?;
    Ok(sandbox::Compiler { program, args: vec!["compile".into()] })
}

/// Connections, databases and logs each hold a descriptor, and many systems begin with 1,024 a process. Where it
/// can't be raised, the node serves within it: connections wait in the kernel's queue.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("no more than {:?} descriptors can be had: {error}", limit.current);
    }
}

/// Guests' memory, and half as much again and room for what the host keeps for them and for the node itself; but not so
/// much that the machine has none left.
pub(crate) fn process_memory(guests: u64, machine: u64) -> u64 {
    (guests + guests / 2).saturating_add(NODE_MEMORY_BYTES).min(machine / 100 * PROCESS_MEMORY_PERCENT_MAX)
}

/// What this process may have: the machine's memory, or less where a control group says so.
pub(crate) fn machine_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = u64::from(machine.mem_unit).saturating_mul(machine.totalram);
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|max| max.trim().parse().ok());
    machine.min(group.unwrap_or(u64::MAX))
}

/// Signals that ask a process to end.
pub(crate) struct Stop(Vec<Signal>);

impl Stop {
    /// SIGTERM and SIGINT.
    pub(crate) fn new() -> Outcome<Self> {
        Self::on(&[SignalKind::terminate(), SignalKind::interrupt()])
            .map_err(|error| Failure::of(Exit::Refused, &error))
    }

    pub(crate) fn on(kinds: &[SignalKind]) -> std::io::Result<Self> {
        kinds.iter().map(|kind| signal(*kind)).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) async fn asked(&mut self) {
        let signals = &mut self.0;
        poll_fn(|cx| {
            let asked = signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
            if asked { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
