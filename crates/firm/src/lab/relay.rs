//! `firm lab relay`: the process that slow cables lead through. It holds frames up for a while, and loses some.
//!
//! Each cable has two ends, TAP interfaces of the switch's namespace, where this process runs. It is told all cables in a
//! line of JSON on its standard input, and answers each with `done` or what went wrong. It ends with its input.
//!
//! A frame's time is up when its delay has passed, so frames of one sender keep their order. What can't be held any more
//! is lost, as in any real queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use base::limits::LAB_FRAMES_HELD_MAX;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_tun::Tun;

use super::address::{Addresses, Port};
use super::detour::{Cable, Cables, Wire};

/// The largest frame that an interface hands over: its MTU of 1,500 and the Ethernet head, with a VLAN's four bytes.
const FRAME_BYTES_MAX: usize = 1_518;

/// Runs until its standard input ends.
pub fn run() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, mut lines) = mpsc::channel(1);
    // Ends with the input, or with the program.
    std::thread::spawn(move || {
        io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line))
    });
    runtime.block_on(async {
        let mut open = BTreeMap::new();
        while let Some(line) = lines.recv().await {
            let answer = match serde_json::from_str(&line) {
                Ok(cables) => change(&mut open, cables).err(),
                Err(error) => Some(format!("the keeper said what this relay doesn't understand: {error}")),
            };
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{}", answer.as_deref().unwrap_or("done"))?;
            stdout.flush()?;
        }
        Ok(())
    })
}

/// A cable that leads through here, until it is dropped.
struct Through {
    cable: watch::Sender<Cable>,
    pumps: [AbortHandle; 2],
}

impl Drop for Through {
    fn drop(&mut self) {
        self.pumps.iter().for_each(AbortHandle::abort);
    }
}

fn change(open: &mut BTreeMap<Port, Through>, cables: Cables) -> Result<(), String> {
    open.retain(|port, _| cables.contains_key(port));
    for (port, cable) in cables {
        if let Some(through) = open.get(&port) {
            through.cable.send_replace(cable);
        } else {
            let (inner, outer) = (tap(&format!("x-{port}"))?, tap(&format!("y-{port}"))?);
            let (sender, receiver) = watch::channel(cable);
            let (other, towards) = (receiver.clone(), move |cable: &Cable, frame: &[u8]| towards(cable, frame));
            let pumps = [
                tokio::spawn(pump(Arc::clone(&outer), Arc::clone(&inner), receiver, towards)).abort_handle(),
                tokio::spawn(pump(inner, outer, other, |cable, _| cable.away)).abort_handle(),
            ];
            open.insert(port, Through { cable: sender, pumps });
        }
    }
    Ok(())
}

fn tap(name: &str) -> Result<Arc<Tun>, String> {
    let made = Tun::builder().name(name).tap().build();
    let mut queues = made.map_err(|error| {
        format!(
            "/dev/net/tun gives no interface: {error}  help: the kernel needs CONFIG_TUN, and without root the file must be open to all: chmod 666 /dev/net/tun"
        )
    })?;
    queues.pop().map(Arc::new).ok_or_else(|| "/dev/net/tun gives no interface".to_owned())
}

/// How slow a frame to the port is.
fn towards(cable: &Cable, frame: &[u8]) -> Option<Wire> {
    let fits = |from: &Option<Addresses>| from.as_ref().is_none_or(|from| is_from(frame, from));
    cable.towards.iter().find(|(from, _)| fits(from)).map(|(_, wire)| *wire)
}

/// Did this interface send it, on the same segment or behind the router?
fn is_from(frame: &[u8], from: &Addresses) -> bool {
    // Ethernet II: destination, source, type. The source stands at byte 12 of IPv4's head, at 8 of IPv6's.
    let part = |at: usize, length: usize| frame.get(at..at + length);
    part(6, 6) == Some(&from.mac.0)
        || match part(12, 2) {
            Some([0x08, 0x00]) => part(14 + 12, 4) == Some(&from.v4.octets()),
            Some([0x86, 0xdd]) => part(14 + 8, 16) == Some(&from.v6.octets()),
            _ => false,
        }
}

/// A frame that waits: when it may go, how many came before it, and itself.
type Held = Reverse<(Instant, u64, Vec<u8>)>;

/// Carries frames one way, each after its time, until it is aborted.
async fn pump(
    from: Arc<Tun>,
    to: Arc<Tun>,
    cable: watch::Receiver<Cable>,
    wire: impl Fn(&Cable, &[u8]) -> Option<Wire> + Send,
) {
    let (mut held, mut count): (BinaryHeap<Held>, u64) = (BinaryHeap::new(), 0);
    let chance = RandomState::new();
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        let next = held.peek().map(|Reverse((due, ..))| *due);
        tokio::select! {
            received = from.recv(&mut buffer) => {
                // The interface was taken away, and the cable with it.
                let Ok(length) = received else { return };
                let frame = &buffer[..length];
                let wire = wire(&cable.borrow(), frame).unwrap_or(Wire { delay_ms: 0, loss_percent: 0.0 });
                count += 1;
                if held.len() < LAB_FRAMES_HELD_MAX && !is_lost(&chance, count, wire.loss_percent) {
                    let due = Instant::now() + Duration::from_millis(wire.delay_ms.into());
                    held.push(Reverse((due, count, frame.to_vec())));
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        let now = Instant::now();
        while held.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, frame))) = held.pop() {
                // What the other end can't take is lost.
                let _ = to.send(&frame).await;
            }
        }
    }
}

/// A new throw for each frame: a keyed hash of how many there were.
fn is_lost(chance: &RandomState, count: u64, loss_percent: f64) -> bool {
    let throw = u32::try_from(chance.hash_one(count) >> 32).expect("the upper half of 64 bits");
    f64::from(throw) < loss_percent / 100.0 * f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::address::{Net, Segment};
    use super::*;

    #[test]
    fn who_sent_a_frame_is_told_on_either_side_of_the_router() {
        let from = Addresses::of(Net::FIRST, Segment::A, Port::Box(3));
        let mut frame = vec![0xff; 60];
        assert!(!is_from(&frame, &from));
        frame[6..12].copy_from_slice(&from.mac.0);
        assert!(is_from(&frame, &from), "on its own segment, whatever it is");
        for (kind, at, address) in
            [([0x08, 0x00], 26, from.v4.octets().to_vec()), ([0x86, 0xdd], 22, from.v6.octets().to_vec())]
        {
            let mut frame = vec![0xff; 60];
            frame[12..14].copy_from_slice(&kind);
            assert!(!is_from(&frame, &from));
            frame[at..at + address.len()].copy_from_slice(&address);
            assert!(is_from(&frame, &from));
        }
        assert!(!is_from(&[], &from) && !is_from(&[0xff; 13], &from), "a stump is nobody's");
    }

    #[test]
    fn about_as_many_are_lost_as_asked() {
        let chance = RandomState::new();
        let lost = |percent| (0..100_000).filter(|count| is_lost(&chance, *count, percent)).count();
        assert_eq!(lost(0.0), 0);
        // Six standard deviations of a binomial: √(100,000 × 0.1 × 0.9) × 6 = 569.
        assert!((9_400..10_600).contains(&lost(10.0)), "{}", lost(10.0));
        assert!(lost(100.0) > 99_990);
    }
}
