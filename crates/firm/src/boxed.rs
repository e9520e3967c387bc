//! `firm box`: one box, blank or firm, in the foreground.
//!
//! It says G'day, opens its door to those who knock, and does what [`firming`] says comes next. When it is firm it runs
//! its cloud's node in this process. A reset ends in this program executing itself anew, so that nothing of the old node
//! is left: no thread, no open file, no key in memory.

mod console;
mod disk;
mod doors;
mod hardware;
mod node;
mod others;
mod papers;
mod porter;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::limits::{BOX_ORDERS_WAITING_MAX, DRAIN_TIME_DEFAULT, GOODBYE_TIME_MAX, KNOCK_PORT, RETRY_WAIT_MIN};
use base::{BoxId, Timestamp};
use firming::{Firming, Happened, NotTaken, Order, Standing, Step};
use segment::{Door, Gday, Identity, Seal};
use tokio::sync::{mpsc, oneshot};

use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::out::Out;
use crate::process::{self, Stop};
use crate::up::port;
use console::Console;
use disk::{Disk, DiskError};
use node::{BoxNode, Ports};
use papers::Papers;
use porter::{BoxPorter, Shared};

/// Options of `firm box`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm box --dir /srv/box\n  firm box --dir /srv/box --seal seal.json   # obeys the operator who made the seal, and nobody else\n  firm box --dir /srv/box --port 8443 --http-port 8080\n\nThen, anywhere on its segment:\n  firm boxes\n  firm firm solo NAME"
)]
pub(crate) struct BoxArgs {
    /// Where the box keeps everything
    #[arg(long, env = "FIRM_BOX_DIR")]
    dir: PathBuf,
    /// What its operator baked in: made by `firm operator seal`
    #[arg(long, value_name = "FILE")]
    seal: Option<PathBuf>,
    /// Port for those who knock; the next one is for the links of its cloud
    #[arg(long, default_value_t = KNOCK_PORT, value_parser = port)]
    knock_port: u16,
    /// Port for TLS, once the box is firm: apps and the API
    #[arg(long, default_value_t = 443, value_parser = port)]
    port: u16,
    /// Port for plain HTTP, once the box is firm
    #[arg(long, default_value_t = 80, value_parser = port)]
    http_port: u16,
    /// Address to listen on; :: for every one
    #[arg(long, default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    listen: IpAddr,
    /// Say nothing to the segment: the box is found by its address alone (`firm boxes --at`)
    #[arg(long)]
    no_gday: bool,
    /// Requests in flight get so long when the box is told to stop or to be something else
    #[arg(long, default_value_t = base::Span(DRAIN_TIME_DEFAULT))]
    drain: base::Span,
}

/// An order that came in, and whom to tell that it is on the disk.
struct Brought {
    order: Order,
    signer: BoxId,
    taken: oneshot::Sender<Result<(), NotTaken>>,
}

/// How a life ended.
enum End {
    /// It was told to stop.
    Stopped,
    /// It is something else from now on.
    Anew,
}

/// Runs until told to stop.
pub(crate) fn run(args: &BoxArgs, out: &Out) -> Outcome {
    process::log_to_standard_error();
    process::raise_descriptor_limit();
    // As it is called now: after an upgrade in place a new program is there, and this one has no path any more.
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::Refused, &error))?;
    let end = runtime.block_on(Life::begin(args, out)?.live());
    runtime.shutdown_timeout(Duration::from_secs(1));
    match end? {
        End::Stopped => Ok(()),
        End::Anew => Err(anew(&program)),
    }
}

/// The program again, with the same words. Returns only when that fails.
fn anew(program: &Path) -> Failure {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let mut error = std::process::Command::new(program).args(&words).exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        // It was taken away; what runs is still there.
        error = std::process::Command::new("/proc/self/exe").args(&words).exec();
    }
    Failure::new(Exit::Refused, format!("{} can't be executed anew: {error}", program.display()))
        .help("start the box again: it goes on where it was")
}

/// From a start to the next.
struct Life<'a> {
    args: &'a BoxArgs,
    console: Console,
    disk: Arc<Disk>,
    identity: Identity,
    seal: Option<Seal>,
    shared: Arc<Shared>,
    machine: Firming,
    /// Who waits for what was last decided to be on the disk.
    waiting: Vec<oneshot::Sender<Result<(), NotTaken>>>,
    node: Option<BoxNode>,
    wiping: Option<Wiping>,
    clock: Clock,
}

/// A deletion that is under way. There is one at a time, and whoever stops waiting for it finds it again: two would run side
/// by side, and the first could outlive what it was begun for.
type Wiping = tokio::task::JoinHandle<Result<(), DiskError>>;

/// Wall time that never jumps: where it began, and what has passed since.
struct Clock {
    began: Timestamp,
    since: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { began: SystemTime::now().into(), since: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        self.began.plus(self.since.elapsed())
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::of(Exit::Refused, error)
}

impl<'a> Life<'a> {
    fn begin(args: &'a BoxArgs, out: &Out) -> Outcome<Self> {
        let disk = Disk::open(&args.dir).map_err(|error| failed(&error))?;
        let identity = disk.identity().map_err(|error| failed(&error))?;
        let standing = disk.standing().map_err(|error| failed(&error))?;
        let seal = args.seal.as_deref().map(read_seal).transpose()?;
        let clock = Clock::start();
        let about = porter::about(identity.id(), hardware::look(), clock.now());
        let shared = Arc::new(Shared::new(about, seal.as_ref().map(Seal::operator), standing.clone()));
        Ok(Self {
            args,
            console: Console::new(out.clone(), identity.id()),
            disk: Arc::new(disk),
            machine: Firming::restart(identity.id(), standing),
            identity,
            seal,
            shared,
            waiting: Vec::new(),
            node: None,
            wiping: None,
            clock,
        })
    }

    async fn live(mut self) -> Outcome<End> {
        let mut stop = Stop::new()?;
        let (bring, mut brought) = mpsc::channel(BOX_ORDERS_WAITING_MAX);
        let porter = BoxPorter::new(Arc::clone(&self.shared), bring, self.console.clone());
        let address = SocketAddr::new(self.args.listen, self.args.knock_port);
        let door = Door::open(address, self.identity.clone(), self.seal.clone(), porter);
        let door = door.await.map_err(|error| {
            if error.is_taken() {
                failed(&error).help("is another box running here? Choose another port with --knock-port")
            } else {
                failed(&error)
            }
        })?;
        let gday =
            if self.args.no_gday { None } else { Some(Arc::new(Gday::start().map_err(|error| failed(&error))?)) };
        let serving = tokio::spawn(door.serve());
        self.console.begin(self.args.knock_port);
        let mut heard = gday.as_ref().map(|gday| gday.changes());
        let ports = self.ports();
        let end = loop {
            self.tell(gday.as_deref());
            let step = self.machine.next();
            tokio::select! {
                biased;
                () = stop.asked() => break Ok(End::Stopped),
                Some(brought) = brought.recv() => self.brought(brought),
                () = change(heard.as_mut()) => {
                    if let Some(gday) = &gday {
                        self.console.heard(gday);
                    }
                }
                done = take(&step, &self.disk, &self.identity, ports, &mut self.node, &mut self.wiping, &self.clock) => match done {
                    Done::Happened(Happened::Died(why)) => {
                        tracing::error!("the node is no more: {why}");
                        self.machine.happened(Happened::Died(why), self.clock.now());
                        self.tell(gday.as_deref());
                        tokio::time::sleep(RETRY_WAIT_MIN).await;
                        break Ok(End::Anew);
                    }
                    Done::Happened(Happened::NotWritten(why)) => {
                        self.machine.happened(Happened::NotWritten(why.clone()), self.clock.now());
                        for taken in self.waiting.drain(..) {
                            let _ = taken.send(Err(NotTaken::Unwritten(why.clone())));
                        }
                    }
                    Done::Happened(what) => {
                        let wrote = matches!(step, Step::Write(_));
                        self.machine.happened(what, self.clock.now());
                        if wrote {
                            self.answer_for_what_is_written();
                        }
                        if matches!(step, Step::Stop) {
                            break Ok(End::Anew);
                        }
                        // Another key is another box: it begins with it.
                        if matches!(step, Step::Write(Standing::Blank)) && !self.keeps_its_key() {
                            break Ok(End::Anew);
                        }
                    }
                    Done::Run(membership) => match self.start(&membership, gday.clone()).await {
                        Ok(node) => {
                            self.node = Some(node);
                            self.machine.runs();
                        }
                        Err(NotStarted::Evicted) => self.machine.happened(Happened::Evicted, self.clock.now()),
                        Err(NotStarted::Failed(failure)) => {
                            let why = failure.text("").unwrap_or_default().trim_start_matches(": ").to_owned();
                            tracing::error!("the node doesn't start: {why}");
                            self.machine.happened(Happened::Failed(why), self.clock.now());
                        }
                    },
                },
            }
        };
        // Whoever was just told that the order is on the disk gets to hear it before the door is closed.
        tokio::task::yield_now().await;
        self.tell(gday.as_deref());
        let mut end = end;
        if let Some(node) = self.node.take() {
            // Whoever knocks meanwhile is told how the box stands.
            self.shared.set_cloud(None);
            tokio::select! {
                () = node.stop(self.args.drain.0) => {}
                () = stop.asked() => {
                    let said = "stopped without waiting for requests in flight";
                    end = end.and(Err(Failure::new(Exit::Interrupted, said)));
                }
            }
        }
        // First goodbye, then silence: nobody knocks at a door that is closed.
        drop(gday);
        serving.abort();
        end
    }

    fn keeps_its_key(&self) -> bool {
        self.disk.identity().is_ok_and(|identity| identity.id() == self.identity.id())
    }

    /// Tells the segment, the door and the console what the box is now.
    fn tell(&self, gday: Option<&Gday>) {
        self.shared.set_standing(self.machine.standing(), self.machine.why());
        let about = self.shared.about();
        self.console.standing(&about);
        let Some(gday) = gday else { return };
        let said = segment::Announcement {
            id: about.id,
            standing: about.standing,
            cloud: about.cloud.zip(about.cloud_name),
            roles: about.roles,
            hardware: about.hardware,
            port: self.args.knock_port,
        };
        if let Err(error) = gday.say(said) {
            tracing::warn!(error = base::chain(&error), "the segment can't be told");
        }
    }

    fn brought(&mut self, brought: Brought) {
        // Looked at once more: another order may have been taken since the door did.
        let seal = self.seal.as_ref().map(Seal::operator);
        if let Err(refused) = self.machine.ahead().obeys(seal, brought.signer) {
            let _ = brought.taken.send(Err(refused));
            return;
        }
        let before = self.machine.next();
        match self.machine.order(brought.order, self.clock.now()) {
            // It came a second time: it was written the first, or is about to be.
            Ok(()) if self.machine.next() == before => match before {
                Step::Write(_) => self.waiting.push(brought.taken),
                _ => drop(brought.taken.send(Ok(()))),
            },
            // Another order's answer was for what is no longer going to be written.
            Ok(()) => {
                for earlier in self.waiting.drain(..) {
                    let _ = earlier.send(Err(NotTaken::Overtaken));
                }
                self.waiting.push(brought.taken);
            }
            Err(refused) => {
                let _ = brought.taken.send(Err(refused));
            }
        }
    }

    fn answer_for_what_is_written(&mut self) {
        for taken in self.waiting.drain(..) {
            // Whoever went away sees it on the next visit.
            let _ = taken.send(Ok(()));
        }
    }

    fn ports(&self) -> Ports {
        let BoxArgs { listen, port: tls, http_port: plain, knock_port: knock, .. } = *self.args;
        Ports { listen, tls, plain, knock }
    }

    async fn start(&self, membership: &firming::Membership, gday: Option<Arc<Gday>>) -> Result<BoxNode, NotStarted> {
        let setup = self.disk.setup().map_err(|error| failed(&error))?;
        let (dir, ports) = (self.disk.node(), self.ports());
        let papers = self.papers(membership, &setup).await?;
        let identity = &self.identity;
        let beginning = node::Beginning { dir, identity, membership, setup: &setup, papers, ports, gday };
        let node = BoxNode::start(beginning).await?;
        let (cloud, others, dir) = (node.cloud(), node.others(), self.disk.node());
        self.shared.set_cloud(Some(porter::Access { cloud, others, setup, node: dir, port: ports.tls }));
        tracing::info!(cloud = %membership.name, roles = %membership.roles, "the node runs");
        Ok(node)
    }

    /// The box's papers, with a certificate that is valid: one that was off for long asks for another first.
    async fn papers(&self, membership: &firming::Membership, setup: &disk::Setup) -> Result<Papers, NotStarted> {
        let node = self.disk.node();
        let (me, now) = (self.identity.id(), self.clock.now());
        let papers = match Papers::read(&node).map_err(|error| failed(&error))? {
            Some(papers) if !node::needs_papers(&papers) => return Ok(papers),
            Some(mut papers) => {
                if let Some(authority) = papers.authority().map_err(|error| failed(&error))? {
                    let issued = authority.issue(me, &membership.roles, now);
                    papers.certificate = issued.map_err(|error| failed(&error))?;
                    papers
                } else {
                    self.ask_for_papers(membership, &papers).await?
                }
            }
            // Firmed by a build whose clouds were of one box.
            None if setup.founder => {
                Papers::found(membership.cloud, me, &membership.roles, now).map_err(|error| failed(&error))?
            }
            None => {
                let said = "the box's papers are gone: reset it, and firm it anew";
                return Err(Failure::new(Exit::Refused, said.to_owned()).into());
            }
        };
        papers.write(&node).map_err(|error| failed(&error))?;
        Ok(papers)
    }

    async fn ask_for_papers(&self, membership: &firming::Membership, old: &Papers) -> Result<Papers, NotStarted> {
        let doors = doors::doors_of(&old.first);
        match doors::ask_in(&self.identity, &doors, &membership.order, self.ports()).await {
            doors::Asked::Welcome(welcome) => {
                let (me, now) = (self.identity.id(), self.clock.now());
                let checked = welcome.check(membership.cloud, me, &membership.roles, now);
                checked.map_err(|error| failed(&error))?;
                Ok(welcome.papers().map_err(|error| failed(&error))?)
            }
            doors::Asked::Evicted => Err(NotStarted::Evicted),
            doors::Asked::Refused(why) | doors::Asked::Failed(why) => {
                Err(Failure::new(Exit::Refused, format!("the box's certificate is over, and: {why}")).into())
            }
        }
    }
}

/// Why a node isn't there.
enum NotStarted {
    /// Its cloud has put the box out.
    Evicted,
    Failed(Failure),
}

impl From<Failure> for NotStarted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Waits until something else is heard on the segment.
async fn change(heard: Option<&mut tokio::sync::watch::Receiver<u64>>) {
    if let Some(heard) = heard
        && heard.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

enum Done {
    Happened(Happened),
    /// Start the node: it takes the whole box to do that.
    Run(firming::Membership),
}

/// Takes a step. Whatever becomes of it can be begun again: the one who waits may be called away by an order.
async fn take(
    step: &Step,
    disk: &Arc<Disk>,
    identity: &Identity,
    ports: Ports,
    node: &mut Option<BoxNode>,
    wiping: &mut Option<Wiping>,
    clock: &Clock,
) -> Done {
    match step {
        Step::Write(standing) => match disk.write_standing(standing) {
            Ok(()) => Done::Happened(Happened::Written),
            Err(error) => {
                let why = base::chain(&error);
                tracing::error!("the box's standing can't be written: {why}");
                Done::Happened(Happened::NotWritten(why))
            }
        },
        Step::Leave(membership) => {
            // Without papers it was a cloud by itself, or never got as far.
            if let Ok(Some(papers)) = Papers::read(&disk.node()) {
                doors::say_goodbye(identity, &papers, &membership.order, GOODBYE_TIME_MAX).await;
            }
            Done::Happened(Happened::Left)
        }
        Step::Wipe { key } => {
            // One that was begun for an earlier order ends first.
            if let Some(earlier) = wiping {
                let _ = earlier.await;
                *wiping = None;
            }
            let (disk, key) = (Arc::clone(disk), *key);
            let wiped = wiping.insert(tokio::task::spawn_blocking(move || disk.wipe(key))).await;
            *wiping = None;
            match wiped {
                Ok(Ok(())) => Done::Happened(Happened::Wiped),
                Ok(Err(error)) => Done::Happened(Happened::Failed(base::chain(&error))),
                Err(error) => Done::Happened(Happened::Failed(error.to_string())),
            }
        }
        Step::Enter(task) => Done::Happened(doors::enter(disk, identity, task, ports).await),
        Step::Run(membership) => Done::Run(membership.clone()),
        Step::Stop => {
            // The node is drained when the life ends, which follows at once.
            Done::Happened(Happened::Stopped)
        }
        Step::Wait { until, .. } => {
            tokio::time::sleep(until.since(clock.now())).await;
            Done::Happened(Happened::Tick)
        }
        Step::Listen => match node {
            Some(node) => {
                let evicted = node.evicted();
                tokio::select! {
                    why = node.died() => Done::Happened(Happened::Died(why)),
                    () = evicted => Done::Happened(Happened::Evicted),
                }
            }
            None => std::future::pending().await,
        },
    }
}

fn read_seal(path: &Path) -> Outcome<Seal> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Refused, format!("the seal {} can't be read: {error}", path.display())))?;
    Seal::from_text(&text).map_err(|error| Failure::of(Exit::Refused, &error))
}
