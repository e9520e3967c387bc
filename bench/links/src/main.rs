//! A call over a link of ours against the same call over tonic (gRPC), plain and with TLS, in one run.
//!
//! One process, two threads: who answers has core 0, who calls core 1, each with a single-threaded runtime, as web boxes
//! have. All peers stand from the beginning and are measured by turns; the figures are medians of the rounds. CPU time is
//! that of the whole process, so both ends of a call. Bodies go there and come back, but in bulk: there they are dropped.
//!
//! Figures of one machine are noise; believe the ratios.

mod ours;
mod theirs;

use std::fmt::Write as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// A peer, from the side that calls.
#[derive(Clone)]
pub enum Caller {
    Ours(ours::Caller),
    Theirs(theirs::Caller),
}

impl Caller {
    async fn call(&mut self, kind: Kind, body: Bytes) -> Bytes {
        match self {
            Self::Ours(ours) => ours.call(kind, body).await,
            Self::Theirs(theirs) => theirs.call(body).await,
        }
    }
}

/// What a call is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body comes back.
    Echo,
    /// A large body goes, and next to nothing comes back.
    Bulk,
}

/// Bodies of this size and more are dropped by who answers.
pub const BULK_BYTES_MIN: usize = 1 << 20;

struct Case {
    name: &'static str,
    kind: Kind,
    bytes: usize,
    in_flight: usize,
}

const CASES: [Case; 8] = [
    Case { name: "64 B, 1 in flight", kind: Kind::Echo, bytes: 64, in_flight: 1 },
    Case { name: "64 B, 16 in flight", kind: Kind::Echo, bytes: 64, in_flight: 16 },
    Case { name: "64 B, 64 in flight", kind: Kind::Echo, bytes: 64, in_flight: 64 },
    Case { name: "16 KiB, 1 in flight", kind: Kind::Echo, bytes: 16 << 10, in_flight: 1 },
    Case { name: "16 KiB, 16 in flight", kind: Kind::Echo, bytes: 16 << 10, in_flight: 16 },
    Case { name: "16 KiB, 64 in flight", kind: Kind::Echo, bytes: 16 << 10, in_flight: 64 },
    Case { name: "bulk 1 MiB, 4 in flight", kind: Kind::Bulk, bytes: 1 << 20, in_flight: 4 },
    Case { name: "bulk 4 MiB, 4 in flight", kind: Kind::Bulk, bytes: 4 << 20, in_flight: 4 },
];

/// What one round showed.
#[derive(Clone, Copy, Default)]
struct Round {
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    calls_per_second: f64,
}

fn main() {
    let argument = |name: &str, default: u64| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name);
        arguments.nth(1).map_or(default, |value| value.parse().expect("a number"))
    };
    let rounds = usize::try_from(argument("--rounds", 5)).expect("few");
    let time = Duration::from_millis(argument("--ms", 1000));
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        pin(0);
        runtime().block_on(async {
            let served = (ours::serve().await, theirs::serve(false).await, theirs::serve(true).await);
            tell.send(served).expect("somebody calls");
            std::future::pending::<()>().await;
        });
    });
    let (ours, plain, tls) = told.recv().expect("it serves");
    pin(1);
    runtime().block_on(async {
        let peers = [
            ("link", Caller::Ours(ours::call(ours).await)),
            ("tonic", Caller::Theirs(theirs::call(plain).await)),
            ("tonic + TLS", Caller::Theirs(theirs::call(tls).await)),
        ];
        println!("| case | peer | p50 µs | p99 µs | CPU µs a call | calls/s | MiB/s | CPU: tonic's ÷ ours | p50: tonic's ÷ ours |");
        println!("| --- | --- | --: | --: | --: | --: | --: | --: | --: |");
        for case in &CASES {
            print!("{}", measure(case, &peers, rounds, time).await);
        }
    });
}

async fn measure(case: &Case, peers: &[(&str, Caller)], rounds: usize, time: Duration) -> String {
    let mut all = vec![Vec::new(); peers.len()];
    // The first round of each warms up.
    for round in 0..=rounds {
        // There and back again, so that nobody is always first.
        let order: Vec<usize> = if round % 2 == 0 { (0..peers.len()).collect() } else { (0..peers.len()).rev().collect() };
        for peer in order {
            let seen = one_round(case, &peers[peer].1, time).await;
            if round > 0 {
                all[peer].push(seen);
            }
        }
    }
    let medians: Vec<Round> = all.iter().map(|rounds| medians(rounds)).collect();
    let mut table = String::new();
    for ((name, _), round) in peers.iter().zip(&medians) {
        let mib = round.calls_per_second * case.bytes as f64 / f64::from(1 << 20);
        let Round { p50_us, p99_us, cpu_us, calls_per_second } = round;
        let ratio = |of: fn(&Round) -> f64| of(round) / of(&medians[0]);
        writeln!(
            table,
            "| {} | {name} | {p50_us:.1} | {p99_us:.1} | {cpu_us:.1} | {calls_per_second:.0} | {mib:.0} | {:.2} | {:.2} |",
            case.name,
            ratio(|round| round.cpu_us),
            ratio(|round| round.p50_us)
        )
        .expect("a String takes all");
    }
    table
}

async fn one_round(case: &Case, caller: &Caller, time: Duration) -> Round {
    let body = Bytes::from(vec![0x5a; case.bytes]);
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..case.in_flight {
        let (mut caller, body, kind) = (caller.clone(), body.clone(), case.kind);
        tasks.spawn(async move {
            let mut took = Vec::with_capacity(1 << 16);
            loop {
                let start = Instant::now();
                let answer = caller.call(kind, body.clone()).await;
                let end = Instant::now();
                assert!(kind == Kind::Bulk || answer.len() == body.len());
                took.push(u32::try_from((end - start).as_nanos()).unwrap_or(u32::MAX));
                if end - began >= time {
                    return took;
                }
            }
        });
    }
    let mut took: Vec<u32> = tasks.join_all().await.concat();
    let (wall, cpu) = (began.elapsed(), cpu_time() - cpu);
    took.sort_unstable();
    let at = |part: f64| f64::from(took[((took.len() - 1) as f64 * part) as usize]) / 1000.0;
    let calls = took.len() as f64;
    Round {
        p50_us: at(0.5),
        p99_us: at(0.99),
        cpu_us: cpu.as_secs_f64() * 1e6 / calls,
        calls_per_second: calls / wall.as_secs_f64(),
    }
}

fn medians(rounds: &[Round]) -> Round {
    let median = |of: fn(&Round) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Round {
        p50_us: median(|round| round.p50_us),
        p99_us: median(|round| round.p99_us),
        cpu_us: median(|round| round.cpu_us),
        calls_per_second: median(|round| round.calls_per_second),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("the core is there");
}

/// CPU time of the process, all threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().expect("positive"), time.tv_nsec.try_into().expect("below a second"))
}
