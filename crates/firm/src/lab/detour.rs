//! Slow cables, the keeper's side: which cables lead through the relay, and how its answers become wiring.
//!
//! A slow port is taken off its segment's bridge and put on one of its own, with one end of the relay (`x-b1`); the
//! relay's other end (`y-b1`) takes its place on the segment. What is cut stays cut, since those rules look at the
//! box's own port.
//!
//! ```text
//!  b1 ── d-b1 ── x-b1 ═ relay ═ y-b1 ── segment-a
//! ```
//!
//! Not `tc netem`, which would do it in the kernel: many kernels are built without it, it would need a tree of classes
//! for one pair of boxes, and a cable that is slow has no speed to lose.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Stdio;

use base::limits::{LAB_ANSWER_BYTES_MAX, LAB_RELAY_TIME_MAX};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::address::{Addresses, Net, Port};
use super::network::{SWITCH, bridge_lines, plug};
use super::program::{self, not_started};
use super::{Lab, LabError, Slow};

/// How slow one direction is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wire {
    pub delay_ms: u32,
    pub loss_percent: f64,
}

/// What the relay does to a port's cable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cable {
    /// To the port: from whom, or from everybody. The first that fits counts.
    pub towards: Vec<(Option<Addresses>, Wire)>,
    /// From the port.
    pub away: Option<Wire>,
}

/// The cables that lead through the relay.
pub type Cables = BTreeMap<Port, Cable>;

/// Which cables the lab's state asks for.
#[must_use]
pub fn wanted(lab: &Lab, net: Net) -> Cables {
    let mut cables = Cables::new();
    for Slow { from, to, delay_ms, loss_percent } in &lab.slow {
        let wire = Wire { delay_ms: *delay_ms, loss_percent: *loss_percent };
        // What a port hears late is held up at its own cable, what all hear late of one at the cable of that one.
        let Some(at) = to.or(*from) else { continue };
        let cable = cables.entry(at).or_insert(Cable { towards: Vec::new(), away: None });
        match (from, to) {
            (Some(from), Some(_)) => {
                let source = Addresses::of(net, lab.segment_of(*from), *from);
                cable.towards.insert(0, (Some(source), wire));
            }
            (None, _) => cable.towards.push((None, wire)),
            (Some(_), None) => cable.away = Some(wire),
        }
    }
    cables
}

/// The relay, and what it was last told.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    cables: Cables,
}

impl Relay {
    /// Starts one that has no cables.
    pub fn start(lab: &Lab) -> Result<Self, LabError> {
        let failed = |error: std::io::Error| LabError::Relay(not_started("setpriv", error).to_string());
        let firm = std::env::current_exe().map_err(failed)?;
        let mut command = Command::from(program::command("setpriv", &["--pdeathsig", "KILL"]));
        command.args(program::inside(lab, SWITCH)).arg(firm).args(["lab", "relay"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let orders = child.stdin.take().expect("it was piped");
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        Ok(Self { child, orders, answers, cables: Cables::new() })
    }

    /// Has it ended by itself?
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets the cables be as wanted. Those that aren't slow any more are plugged in straight before it lets go of them.
    pub async fn change(&mut self, lab: &Lab, cables: Cables) -> Result<(), LabError> {
        let mut straight = String::new();
        for port in self.cables.keys().filter(|port| !cables.contains_key(port)) {
            straight += &unplugged(lab, *port);
        }
        program::ip_in(lab, SWITCH, &straight).map_err(LabError::Network)?;
        let added: Vec<Port> = cables.keys().filter(|port| !self.cables.contains_key(port)).copied().collect();
        self.cables.retain(|port, _| cables.contains_key(port));
        self.tell(&cables).await?;
        for port in added {
            program::ip_in(lab, SWITCH, &plugged(lab, port)).map_err(|source| LabError::Detour { port, source })?;
            self.cables.insert(port, cables[&port].clone());
        }
        self.cables = cables;
        Ok(())
    }

    /// Takes all cables off one that has ended.
    pub fn give_up(&self, lab: &Lab) -> Result<(), LabError> {
        let straight: String = self.cables.keys().map(|port| unplugged(lab, *port)).collect();
        program::ip_in(lab, SWITCH, &straight).map_err(LabError::Network)
    }

    /// One line there, one back.
    async fn tell(&mut self, cables: &Cables) -> Result<(), LabError> {
        let mut line = serde_json::to_string(cables).expect("cables are plain data");
        line.push('\n');
        let mut said = String::new();
        let talk = async {
            self.orders.write_all(line.as_bytes()).await?;
            (&mut self.answers).take(LAB_ANSWER_BYTES_MAX).read_line(&mut said).await
        };
        match tokio::time::timeout(LAB_RELAY_TIME_MAX, talk).await {
            Ok(Ok(_)) if said == "done\n" => Ok(()),
            Ok(Ok(0)) => Err(LabError::Relay("the relay ended without a word".into())),
            Ok(Ok(_)) => Err(LabError::Relay(said.trim_end().replace("  help: ", "\n  help: "))),
            Ok(Err(error)) => Err(LabError::Relay(format!("the relay is gone: {error}"))),
            Err(_) => Err(LabError::Relay(format!("the relay took more than {LAB_RELAY_TIME_MAX:?} to answer"))),
        }
    }
}

fn plugged(lab: &Lab, port: Port) -> String {
    let own = format!("d-{port}");
    let mut lines = bridge_lines(&own);
    lines += &plug(&format!("x-{port}"), &own);
    lines += &plug(&format!("y-{port}"), &lab.segment_of(port).bridge());
    let _ = writeln!(lines, "link set {port} master {own}");
    lines
}

fn unplugged(lab: &Lab, port: Port) -> String {
    format!("link set {port} master {}\nlink delete d-{port}\n", lab.segment_of(port).bridge())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::LabBox;
    use crate::lab::address::Segment;

    fn slow(from: Option<Port>, to: Option<Port>, delay_ms: u32) -> Slow {
        Slow { from, to, delay_ms, loss_percent: 0.0 }
    }

    #[test]
    fn a_pair_comes_before_everybody() {
        let (one, two) = (Port::Box(1), Port::Box(2));
        let one_box = LabBox { segment: Segment::A, clone_of: None, process: None, ended: None };
        let lab = Lab {
            id: "0a1b2c".into(),
            net: Some(Net::FIRST),
            rootless: false,
            keeper: None,
            segments: vec![Segment::A],
            boxes: BTreeMap::from([(1, one_box.clone()), (2, one_box)]),
            cuts: BTreeSet::new(),
            slow: vec![slow(None, Some(one), 10), slow(Some(one), None, 20), slow(Some(two), Some(one), 30)],
        };
        let cables = wanted(&lab, Net::FIRST);
        assert_eq!(
            cables.keys().copied().collect::<Vec<_>>(),
            [one],
            "what b2 hears is only delayed where b1 sends it"
        );
        let cable = &cables[&one];
        let delays: Vec<_> = cable.towards.iter().map(|(from, wire)| (from.is_some(), wire.delay_ms)).collect();
        assert_eq!(delays, [(true, 30), (false, 10)]);
        assert_eq!(cable.away.map(|wire| wire.delay_ms), Some(20));
    }
}
