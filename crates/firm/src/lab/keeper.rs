//! The process that keeps a lab: it makes the network, starts the boxes, takes orders, and takes all away at its end.
//!
//! Orders are obeyed one after the other. Ctrl-C and SIGTERM end it from wherever it is; so does the end of the lab by an
//! order. The boxes are its children and the kernel kills them when it dies, however it dies; what a crash leaves of the
//! network, the next `firm lab up` or `firm lab down` in the folder takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base::limits::{
    KNOCK_PORT, LAB_BOXES_MAX, LAB_DELAY_TIME_MAX, LAB_END_TIME_MAX, LAB_ORDER_BYTES_MAX, LAB_ORDER_TIME_MAX,
    LAB_ORDERS_MAX, LAB_START_TIME_MAX,
};
use rustix::process::Signal as ProcessSignal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::address::{Addresses, Net, Port, Segment, networks};
use super::detour::{self, Relay};
use super::files::Folder;
use super::order::{Answer, BoxStatus, Cut, Order, SegmentStatus, Status};
use super::process::Process;
use super::program::{self, not_started};
use super::{BoxProgram, Lab, LabBox, LabError, Slow, network, rootless, rules};
use crate::process::Stop;

/// How often is looked whether a box listens.
const LISTEN_PAUSE: Duration = Duration::from_millis(10);
/// The last lines of a box's log that are told when it doesn't start.
const SAID_LINES: usize = 5;

/// What a lab begins as.
#[derive(Clone, Debug)]
pub struct Settings {
    pub folder: Folder,
    /// None: as many as were kept, or three.
    pub boxes: Option<u8>,
    /// None: as many as were kept, or one.
    pub segments: Option<u8>,
    pub rootless: bool,
    /// Goes on with the disks that were kept before, and keeps them at its end.
    pub keep: bool,
    pub program: BoxProgram,
}

/// What a keeper tells whoever started it.
#[derive(Debug)]
pub enum Told<'a> {
    Up(&'a Status),
    /// What a crashed lab had left there was taken away.
    Cleared,
    /// A box ended, and nobody had asked for it.
    Ended {
        number: u8,
        how: &'a str,
    },
    /// Slow cables are as fast as any again.
    RelayEnded,
}

/// Keeps a lab until it is told to end it. Nothing of it is left on return, but for the disks that were to be kept.
pub fn run(settings: Settings, tell: &mut dyn FnMut(Told<'_>)) -> Result<(), LabError> {
    let folder = settings.folder.clone();
    let Some(_lock) = folder.lock()? else { return Err(LabError::Up { path: folder.path().to_owned() }) };
    let lab = begin(&settings, tell)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LabError::Signals)?;
    runtime.block_on(async {
        let ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let mut stop = Stop::on(&ends).map_err(LabError::Signals)?;
        let mut keeper = Keeper { folder, lab, program: settings.program, children: BTreeMap::new(), relay: None };
        let begun = tokio::select! {
            begun = keeper.begin() => begun,
            () = stop.asked() => Err(LabError::Interrupted),
        };
        let outcome = match begun {
            Ok(listener) => {
                tell(Told::Up(&keeper.status()));
                keeper.serve(listener, &mut stop, tell).await
            }
            Err(error) => Err(error),
        };
        let (end, outcome) = match outcome {
            Ok(end) => (end, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let keep = settings.keep || end.as_ref().is_some_and(|end| end.keep);
        let ended = keeper.end(keep);
        if let Some(end) = end {
            end.told(&ended).await;
        }
        outcome.and(ended.map(drop))
    })
}

/// Takes away what is left of a lab without a keeper.
pub fn clear(folder: &Folder, lab: &Lab, keep: bool) -> Result<(), LabError> {
    // What lay inside a namespace of the user's went with the keeper.
    if !lab.rootless {
        network::unmake(lab, None)?;
    }
    wipe(folder, lab, keep)
}

fn wipe(folder: &Folder, lab: &Lab, keep: bool) -> Result<(), LabError> {
    if !keep {
        folder.wipe_boxes(lab.boxes.keys().copied())?;
        return folder.wipe_keeper();
    }
    let mut kept = lab.clone();
    (kept.keeper, kept.net) = (None, None);
    kept.cuts.clear();
    kept.slow.clear();
    for one in kept.boxes.values_mut() {
        (one.process, one.ended) = (None, None);
    }
    folder.wipe_socket()?;
    folder.write(&kept)
}

/// Decides what the lab is, and writes it down before anything is made.
fn begin(settings: &Settings, tell: &mut dyn FnMut(Told<'_>)) -> Result<Lab, LabError> {
    let folder = &settings.folder;
    let mut left = folder.read()?;
    if let Some(lab) = left.as_ref().filter(|lab| lab.keeper.is_some()) {
        clear(folder, lab, settings.keep)?;
        tell(Told::Cleared);
        left = folder.read()?;
    } else if left.is_none() && folder.holds_other_things()? {
        return Err(LabError::NotEmpty { path: folder.path().to_owned() });
    }
    let (segments, boxes) = match left {
        Some(_) if !settings.keep => return Err(LabError::Kept { path: folder.path().to_owned() }),
        Some(_) if settings.boxes.is_some() || settings.segments.is_some() => {
            let why = "the lab that was kept has its own; take it away first: firm lab down";
            return Err(LabError::Senseless { what: "--boxes or --segments".into(), why });
        }
        Some(kept) => (kept.segments, kept.boxes),
        None => layout(settings.boxes.unwrap_or(3), settings.segments.unwrap_or(1)),
    };
    let lab = Lab {
        id: folder.id(),
        net: None,
        rootless: settings.rootless,
        keeper: Process::this(),
        segments,
        boxes,
        cuts: BTreeSet::new(),
        slow: Vec::new(),
    };
    folder.write(&lab)?;
    Ok(lab)
}

/// The first half of the boxes on segment a, the others on b.
fn layout(boxes: u8, segments: u8) -> (Vec<Segment>, BTreeMap<u8, LabBox>) {
    let segments = &Segment::ALL[..usize::from(segments.clamp(1, 2))];
    let on_a = if segments.len() == 1 { boxes } else { boxes.div_ceil(2) };
    let place = |number: u8| LabBox {
        segment: if number <= on_a { Segment::A } else { Segment::B },
        clone_of: None,
        process: None,
        ended: None,
    };
    (segments.to_vec(), (1..=boxes).map(|number| (number, place(number))).collect())
}

/// An order, and who waits for the answer.
struct Asked {
    order: Order,
    answer: oneshot::Sender<Answer>,
}

/// Who asked for the lab's end, and how.
struct End {
    keep: bool,
    answer: oneshot::Sender<Answer>,
    /// Those that the answers are on their way to.
    talks: JoinSet<()>,
}

impl End {
    async fn told(mut self, ended: &Result<Status, LabError>) {
        let answer = match ended {
            Ok(status) => Answer::Done(Box::new(status.clone())),
            Err(error) => Answer::Refused(error.told()),
        };
        // Who left meanwhile needs no answer.
        let _ = self.answer.send(answer);
        let _ = timeout(LAB_ORDER_TIME_MAX, async { while self.talks.join_next().await.is_some() {} }).await;
    }
}

struct Keeper {
    folder: Folder,
    lab: Lab,
    program: BoxProgram,
    children: BTreeMap<u8, Child>,
    relay: Option<Relay>,
}

impl Keeper {
    fn net(&self) -> Net {
        self.lab.net.unwrap_or(Net::FIRST)
    }

    /// Makes the network and starts all boxes. Gives where orders come in.
    async fn begin(&mut self) -> Result<UnixListener, LabError> {
        if self.lab.rootless {
            rootless::prepare()?;
        }
        network::make(&mut self.lab)?;
        let numbers: Vec<u8> = self.lab.boxes.keys().copied().collect();
        network::add(&self.lab, self.net(), &numbers)?;
        self.start(&numbers).await?;
        self.folder.wipe_socket()?;
        let (_open, path) = self.folder.socket()?;
        UnixListener::bind(&path).map_err(|source| LabError::File { path, doing: "listened on", source })
    }

    /// Takes orders until the lab is to end. None where a signal said so.
    async fn serve(
        &mut self,
        listener: UnixListener,
        stop: &mut Stop,
        tell: &mut dyn FnMut(Told<'_>),
    ) -> Result<Option<End>, LabError> {
        let mut children = signal(SignalKind::child()).map_err(LabError::Signals)?;
        let (sender, mut orders) = mpsc::channel::<Asked>(LAB_ORDERS_MAX);
        let mut talks = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.asked() => return Ok(None),
                _ = children.recv() => self.look(tell)?,
                Some(_) = talks.join_next() => {}
                Ok((stream, _)) = listener.accept(), if talks.len() < LAB_ORDERS_MAX => {
                    talks.spawn(talk(stream, sender.clone()));
                }
                Some(Asked { order, answer }) = orders.recv() => {
                    self.look(tell)?;
                    if let Order::Down { keep } = order {
                        return Ok(Some(End { keep, answer, talks }));
                    }
                    let obeyed = tokio::select! {
                        obeyed = self.obey(order) => obeyed,
                        () = stop.asked() => return Ok(None),
                    };
                    // Also what went wrong may have changed something.
                    self.folder.write(&self.lab)?;
                    let said = match obeyed {
                        Ok(()) => Answer::Done(Box::new(self.status())),
                        Err(error) => Answer::Refused(error.told()),
                    };
                    // Who left meanwhile needs no answer.
                    let _ = answer.send(said);
                }
            }
        }
    }

    /// Ends the boxes and takes the network away. Gives what the lab was.
    fn end(&mut self, keep: bool) -> Result<Status, LabError> {
        self.relay = None;
        let status = self.status();
        // A disk that is thrown away needs no orderly end.
        network::unmake(&self.lab, keep.then_some(LAB_END_TIME_MAX))?;
        wipe(&self.folder, &self.lab, keep)?;
        Ok(status)
    }

    async fn obey(&mut self, order: Order) -> Result<(), LabError> {
        match order {
            // The end is the loop's own business, and every answer is the status.
            Order::Status | Order::Down { .. } => Ok(()),
            Order::Kill { boxes } => self.kill(&boxes).await,
            Order::Start { boxes } => {
                let numbers = self.boxes(&boxes)?;
                match numbers.iter().find(|number| self.children.contains_key(number)) {
                    Some(runs) => Err(LabError::Runs(*runs)),
                    None => self.start(&numbers).await,
                }
            }
            Order::Cut { from, to, one_way } => self.cut(&from, &to, one_way),
            Order::Heal { one, other } => self.heal(one.as_deref(), other.as_deref()).await,
            Order::Slow { one, other, delay_ms, loss_percent } => {
                self.slow(&one, other.as_deref(), delay_ms, loss_percent).await
            }
            Order::Flap { at, down_ms } => {
                let number = self.one_box(&at)?;
                network::down(&self.lab, number)?;
                sleep(Duration::from_millis(down_ms.into())).await;
                network::up(&self.lab, self.net(), number)
            }
            Order::Add { segment } => {
                let number = self.add(segment, None)?;
                self.start(&[number]).await
            }
            Order::Clone { of } => self.clone_box(&of).await,
        }
    }

    // ---- boxes ----

    /// Starts boxes whose namespaces are there, and waits until they listen.
    async fn start(&mut self, numbers: &[u8]) -> Result<(), LabError> {
        for number in numbers {
            self.spawn(*number)?;
        }
        self.folder.write(&self.lab)?;
        let deadline = Instant::now() + LAB_START_TIME_MAX;
        let mut deaf = numbers.to_vec();
        loop {
            for number in &deaf {
                self.has_not_ended(*number)?;
            }
            deaf.retain(|number| !self.listens(*number));
            let Some(number) = deaf.first() else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(LabError::Deaf { number: *number, port: KNOCK_PORT, time: LAB_START_TIME_MAX });
            }
            sleep(LISTEN_PAUSE).await;
        }
    }

    fn spawn(&mut self, number: u8) -> Result<(), LabError> {
        let disk = self.folder.disk(number);
        fs::create_dir_all(&disk).map_err(|source| LabError::File { path: disk.clone(), doing: "made", source })?;
        // The kernel ends it when this thread ends. What follows takes the place of `setpriv`, so the child's number is
        // the box's own.
        let mut command = Command::from(program::command("setpriv", &["--pdeathsig", "KILL"]));
        command.args(program::inside(&self.lab, &Port::Box(number).to_string())).arg(&self.program.path);
        command.args(["box", "--dir"]).arg(&disk).args(&self.program.args);
        for name in ["DIR", "CONTEXT", "TENANT", "ADDRESS", "TOKEN", "AUTHORITY", "BOX_DIR", "LAB_DIR", "LAB_INSIDE"] {
            command.env_remove(format!("FIRM_{name}"));
        }
        command
            .stdin(Stdio::null())
            .stdout(append(&self.folder.console(number))?)
            .stderr(append(&self.folder.log(number))?);
        // Its own group, so that Ctrl-C on the keeper's terminal is the keeper's alone.
        command.process_group(0);
        let failed = |error| LabError::Start { number, source: not_started("setpriv", error) };
        let child = command.spawn().map_err(failed)?;
        if let Some(one) = self.lab.boxes.get_mut(&number) {
            (one.process, one.ended) = (child.id().and_then(Process::of), None);
        }
        self.children.insert(number, child);
        Ok(())
    }

    fn listens(&self, number: u8) -> bool {
        let process = self.lab.boxes.get(&number).and_then(|one| one.process);
        let namespace = self.lab.namespace(&Port::Box(number).to_string());
        // Before it is inside, it would see what the machine itself listens on.
        process.is_some_and(|process| process.is_inside(&namespace) && process.listens(KNOCK_PORT))
    }

    fn has_not_ended(&mut self, number: u8) -> Result<(), LabError> {
        let Some(how) = self.ended(number) else { return Ok(()) };
        let log = fs::read_to_string(self.folder.log(number)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(SAID_LINES)..].join("\n    ");
        let said = if last.is_empty() { String::new() } else { format!(". It said:\n    {last}") };
        Err(LabError::Ended {
            number,
            how,
            said,
            help: format!("all that it said: {}", self.folder.log(number).display()),
        })
    }

    /// Has a box's process ended by itself, and how?
    fn ended(&mut self, number: u8) -> Option<String> {
        let status = self.children.get_mut(&number)?.try_wait().ok()??;
        let how = how(status);
        self.children.remove(&number);
        if let Some(one) = self.lab.boxes.get_mut(&number) {
            (one.process, one.ended) = (None, Some(how.clone()));
        }
        Some(how)
    }

    /// Sees who has ended that nobody had asked to.
    fn look(&mut self, tell: &mut dyn FnMut(Told<'_>)) -> Result<(), LabError> {
        let numbers: Vec<u8> = self.children.keys().copied().collect();
        for number in numbers {
            if let Some(how) = self.ended(number) {
                tell(Told::Ended { number, how: &how });
                self.folder.write(&self.lab)?;
            }
        }
        if self.relay.as_mut().is_some_and(Relay::has_ended)
            && let Some(relay) = self.relay.take()
        {
            tell(Told::RelayEnded);
            relay.give_up(&self.lab)?;
            self.lab.slow.clear();
            self.folder.write(&self.lab)?;
        }
        Ok(())
    }

    /// Everything that runs in a box ends at once, as when its power is cut.
    async fn kill(&mut self, places: &[String]) -> Result<(), LabError> {
        let numbers = self.boxes(places)?;
        if let Some(down) = numbers.iter().find(|number| !self.children.contains_key(number)) {
            return Err(LabError::DoesntRun(*down));
        }
        for number in numbers {
            let namespace = self.lab.namespace(&Port::Box(number).to_string());
            if let Some(process) = self.lab.boxes.get(&number).and_then(|one| one.process).and_then(Process::find) {
                process.send(ProcessSignal::KILL);
            }
            network::kill(&[namespace])?;
            if let Some(mut child) = self.children.remove(&number) {
                // It was killed, and is this process's child.
                let _ = child.wait().await;
            }
            if let Some(one) = self.lab.boxes.get_mut(&number) {
                (one.process, one.ended) = (None, Some("killed".to_owned()));
            }
        }
        Ok(())
    }

    /// Makes a place for one more box.
    fn add(&mut self, segment: Segment, clone_of: Option<u8>) -> Result<u8, LabError> {
        if !self.lab.segments.contains(&segment) {
            return Err(LabError::NoSegment(segment));
        }
        let highest = self.lab.boxes.keys().next_back().copied().unwrap_or(0);
        let number = highest + 1;
        if number > LAB_BOXES_MAX {
            return Err(LabError::TooMany(LAB_BOXES_MAX));
        }
        self.lab.boxes.insert(number, LabBox { segment, clone_of, process: None, ended: None });
        // Written down before anything of it is made.
        self.folder.write(&self.lab)?;
        network::add(&self.lab, self.net(), &[number])?;
        Ok(number)
    }

    async fn clone_box(&mut self, of: &str) -> Result<(), LabError> {
        let of = self.one_box(of)?;
        let segment = self.lab.segment_of(Port::Box(of));
        let number = self.add(segment, Some(of))?;
        // Nothing changes while it is copied, so that the copy is what a power cut would leave.
        let process = self.lab.boxes.get(&of).and_then(|one| one.process).and_then(Process::find);
        let signal = |signal| process.iter().for_each(|process| process.send(signal));
        signal(ProcessSignal::STOP);
        let (from, to) = (self.folder.disk(of), self.folder.disk(number));
        let words = ["--archive", "--reflink=auto", "--", &from.to_string_lossy(), &to.to_string_lossy()];
        let copied = program::run("cp", &words, "");
        signal(ProcessSignal::CONT);
        copied.map_err(|source| LabError::Clone { of, source })?;
        self.start(&[number]).await
    }

    // ---- cables ----

    fn cut(&mut self, from: &str, to: &str, one_way: bool) -> Result<(), LabError> {
        let (from, to) = (self.ports(from)?, self.ports(to)?);
        let before = self.lab.cuts.clone();
        for (one, other) in pairs(&from, &to) {
            self.lab.cuts.insert((one, other));
            if !one_way {
                self.lab.cuts.insert((other, one));
            }
        }
        if pairs(&from, &to).next().is_none() {
            return Err(LabError::Itself(from[0]));
        }
        self.rule(before)
    }

    /// Lets the rules be as the state says, or the state as it was.
    fn rule(&mut self, before: BTreeSet<(Port, Port)>) -> Result<(), LabError> {
        let ruled = rules::apply(&self.lab, self.net());
        if ruled.is_err() {
            self.lab.cuts = before;
        }
        ruled
    }

    async fn heal(&mut self, one: Option<&str>, other: Option<&str>) -> Result<(), LabError> {
        let one = one.map(|one| self.ports(one)).transpose()?;
        let other = other.map(|other| self.ports(other)).transpose()?;
        let is_meant = |from: Option<Port>, to: Option<Port>| {
            let is_in = |ports: &Option<Vec<Port>>, port: Option<Port>| {
                ports.as_ref().is_none_or(|ports| port.is_some_and(|port| ports.contains(&port)))
            };
            is_in(&one, from) && is_in(&other, to) || is_in(&one, to) && is_in(&other, from)
        };
        let before = self.lab.cuts.clone();
        self.lab.cuts.retain(|(from, to)| !is_meant(Some(*from), Some(*to)));
        if self.lab.cuts != before {
            self.rule(before)?;
        }
        let slow = self.lab.slow.iter().filter(|slow| !is_meant(slow.from, slow.to)).cloned().collect();
        self.relay(slow).await
    }

    async fn slow(&mut self, one: &str, other: Option<&str>, delay_ms: u32, loss_percent: f64) -> Result<(), LabError> {
        let what = || format!("a delay of {delay_ms} ms and a loss of {loss_percent} %");
        if u128::from(delay_ms) > LAB_DELAY_TIME_MAX.as_millis() || !(0.0..=100.0).contains(&loss_percent) {
            return Err(LabError::Senseless { what: what(), why: "10 s and 100 % are the most" });
        }
        if delay_ms == 0 && loss_percent == 0.0 {
            return Err(LabError::Senseless { what: what(), why: "it is as fast as any: firm lab heal" });
        }
        let one = self.ports(one)?;
        let ways: Vec<(Option<Port>, Option<Port>)> = match other {
            None => one.iter().flat_map(|port| [(Some(*port), None), (None, Some(*port))]).collect(),
            Some(other) => {
                let other = self.ports(other)?;
                if pairs(&one, &other).next().is_none() {
                    return Err(LabError::Itself(one[0]));
                }
                pairs(&one, &other).flat_map(|(from, to)| [(Some(from), Some(to)), (Some(to), Some(from))]).collect()
            }
        };
        let mut slow = self.lab.slow.clone();
        slow.retain(|slow| !ways.contains(&(slow.from, slow.to)));
        slow.extend(ways.into_iter().map(|(from, to)| Slow { from, to, delay_ms, loss_percent }));
        self.relay(slow).await
    }

    /// Lets the cables be as slow as said.
    async fn relay(&mut self, slow: Vec<Slow>) -> Result<(), LabError> {
        if slow == self.lab.slow {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.lab.slow, slow);
        let cables = detour::wanted(&self.lab, self.net());
        let mut relay = match self.relay.take() {
            Some(relay) => relay,
            None => Relay::start(&self.lab).inspect_err(|_| self.lab.slow.clone_from(&before))?,
        };
        let changed = relay.change(&self.lab, cables).await;
        if changed.is_err() {
            self.lab.slow = before;
        }
        // One without cables has nothing to do, and ends as it is dropped.
        if !self.lab.slow.is_empty() {
            self.relay = Some(relay);
        }
        changed
    }

    // ---- places ----

    /// What people call a place: `b1`, a box's name, `host`, `segment-a`, or several with commas.
    fn ports(&self, places: &str) -> Result<Vec<Port>, LabError> {
        let ports = places.split(',').map(|place| self.place(place)).collect::<Result<Vec<_>, _>>()?;
        Ok(ports.concat())
    }

    fn place(&self, place: &str) -> Result<Vec<Port>, LabError> {
        if let Some(segment) = Segment::ALL.into_iter().find(|segment| segment.bridge() == place) {
            if !self.lab.segments.contains(&segment) {
                return Err(LabError::NoSegment(segment));
            }
            return Ok(self.lab.ports().filter(|(_, on)| *on == segment).map(|(port, _)| port).collect());
        }
        if let Ok(port) = place.parse::<Port>() {
            let known = self.lab.ports().any(|(known, _)| known == port);
            return if known { Ok(vec![port]) } else { Err(self.unknown(place)) };
        }
        let is_called = |number: &u8| {
            let id = self.folder.identity(*number);
            id.is_some_and(|id| {
                id.name().as_str() == place || id.long_name().as_str() == place || id.to_string() == place
            })
        };
        let called: Vec<Port> = self.lab.boxes.keys().copied().filter(is_called).map(Port::Box).collect();
        match called.len() {
            0 => Err(self.unknown(place)),
            1 => Ok(called),
            _ => {
                let all = called.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
                Err(LabError::Ambiguous { name: place.to_owned(), all })
            }
        }
    }

    fn unknown(&self, place: &str) -> LabError {
        let last = self.lab.boxes.keys().next_back().copied().unwrap_or(1);
        let help = format!("write b1 to b{last}, a box's name, host, segment-a, or several of them with commas");
        LabError::Unknown { what: format!("`{place}` in this lab"), help }
    }

    /// The boxes among several places, and nothing else.
    fn boxes(&self, places: &[String]) -> Result<Vec<u8>, LabError> {
        let mut numbers = BTreeSet::new();
        for place in places {
            for port in self.ports(place)? {
                match port {
                    Port::Box(number) => drop(numbers.insert(number)),
                    // It lies on segment a, and isn't meant when that is named.
                    Port::Host if place.contains("segment-") => {}
                    Port::Host => return Err(self.unknown("a box called host")),
                }
            }
        }
        Ok(numbers.into_iter().collect())
    }

    fn one_box(&self, place: &str) -> Result<u8, LabError> {
        match self.boxes(&[place.to_owned()])?[..] {
            [number] => Ok(number),
            _ => Err(LabError::Senseless { what: format!("`{place}`"), why: "one box is wanted" }),
        }
    }

    // ---- telling ----

    fn status(&self) -> Status {
        let net = self.net();
        let one = |(number, one): (&u8, &LabBox)| {
            let port = Port::Box(*number);
            let id = self.folder.identity(*number);
            let Addresses { v4, v6, .. } = Addresses::of(net, one.segment, port);
            BoxStatus {
                port,
                id,
                name: id.map(|id| id.name()),
                segment: one.segment,
                v4,
                v6,
                pid: one.process.map(|process| process.pid),
                ended: one.ended.clone(),
                clone_of: one.clone_of.map(Port::Box),
                namespace: self.lab.namespace(&port.to_string()),
                log: self.folder.log(*number),
            }
        };
        let segment = |segment: &Segment| {
            let (v4, v6) = networks(net, *segment);
            SegmentStatus { segment: *segment, v4, v6 }
        };
        Status {
            dir: self.folder.path().to_owned(),
            rootless: self.lab.rootless,
            host: Addresses::of(net, Segment::A, Port::Host).v4,
            segments: self.lab.segments.iter().map(segment).collect(),
            boxes: self.lab.boxes.iter().map(one).collect(),
            cuts: self.lab.cuts.iter().map(|(from, to)| Cut { from: *from, to: *to }).collect(),
            slow: self.lab.slow.clone(),
        }
    }
}

/// Every two that are different.
fn pairs<'a>(one: &'a [Port], other: &'a [Port]) -> impl Iterator<Item = (Port, Port)> + 'a {
    let with = |from: &'a Port| other.iter().filter(move |to| *to != from).map(|to| (*from, *to));
    one.iter().flat_map(with)
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn append(path: &Path) -> Result<File, LabError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|source| LabError::File { path: path.to_owned(), doing: "opened", source })
}

/// Reads one order, and writes its answer.
async fn talk(stream: UnixStream, orders: mpsc::Sender<Asked>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LAB_ORDER_BYTES_MAX));
    let answer = match timeout(LAB_ORDER_TIME_MAX, reader.read_line(&mut line)).await {
        Err(_) | Ok(Err(_) | Ok(0)) => return,
        Ok(Ok(_)) => match serde_json::from_str(&line) {
            Ok(order) => {
                let (answer, answered) = oneshot::channel();
                // The keeper ends: the connection's end says so.
                let Ok(()) = orders.send(Asked { order, answer }).await else { return };
                let Ok(answer) = answered.await else { return };
                answer
            }
            Err(error) => Answer::Refused(format!("the keeper doesn't understand this order: {error}")),
        },
    };
    let mut said = serde_json::to_string(&answer).expect("an answer is plain data");
    said.push('\n');
    // Who left meanwhile needs no answer.
    let _ = timeout(LAB_ORDER_TIME_MAX, writer.write_all(said.as_bytes())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_spread_over_the_segments() {
        let spread = |boxes, segments| {
            let (_, boxes) = layout(boxes, segments);
            boxes.values().map(|one| one.segment.to_string()).collect::<String>()
        };
        assert_eq!(spread(6, 2), "aaabbb");
        assert_eq!(spread(5, 2), "aaabb");
        assert_eq!(spread(3, 1), "aaa");
        assert_eq!(spread(LAB_BOXES_MAX, 2).len(), usize::from(LAB_BOXES_MAX));
    }

    #[test]
    fn nobody_is_paired_with_itself() {
        let ports = [Port::Host, Port::Box(1), Port::Box(2)];
        let told: Vec<String> = pairs(&ports, &ports[1..]).map(|(one, other)| format!("{one}-{other}")).collect();
        assert_eq!(told, ["host-b1", "host-b2", "b1-b2", "b2-b1"]);
    }
}
