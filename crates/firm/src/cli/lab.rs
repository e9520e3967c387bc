//! `firm lab`: the command line of the practice segment that [`crate::lab`] makes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use base::Span;
use base::limits::{LAB_ANSWER_BYTES_MAX, LAB_BOXES_MAX, LAB_END_TIME_MAX};
use clap::Subcommand;
use rustix::process::geteuid;

use super::Cx;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::{Out, Tone};
use super::table::{Table, or_dash};
use crate::lab::address::{Port, Segment};
use crate::lab::files::Folder;
use crate::lab::keeper::{self, Settings, Told};
use crate::lab::order::{self, Answer, BoxStatus, Order, Status};
use crate::lab::process::Process;
use crate::lab::{BoxProgram, Lab, LabError, Slow, find, relay, rootless};

/// How often a log is looked at for more.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm lab up --boxes 6 --segments 2\n  firm lab cut b1 b2\n  firm lab kill b3\n  firm lab down\n\nPlaces are b1, b2 and so on, a box's own name, `host` for this machine, `segment-a`, or several with commas."
)]
pub(super) struct Args {
    /// The lab's folder [default: firmament-lab in the user's data directory]
    #[arg(long, global = true, value_name = "DIR", env = "FIRM_LAB_DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a lab and keep it until Ctrl-C
    #[command(
        after_help = "Examples:\n  firm lab up\n  firm lab up --boxes 6 --segments 2 --detach\n  firm lab up --dir /tmp/lab --seal operator.seal --keep\n\nWith root, this machine gets a port on segment a, so that `firm boxes` sees the lab. Without root, the whole lab lies\ninside a namespace of yours: `firm lab exec host -- firm boxes`."
    )]
    Up(UpArgs),
    /// Take a lab away, also what a crash has left of one
    #[command(after_help = "Examples:\n  firm lab down\n  firm lab down --keep")]
    Down {
        /// Keep the boxes' disks and logs, for `firm lab up --keep`
        #[arg(long)]
        keep: bool,
    },
    /// Show boxes, addresses, and what is cut or slow
    #[command(after_help = "Examples:\n  firm lab status\n  firm lab status --json")]
    Status,
    /// End boxes as a power cut does
    #[command(after_help = "Examples:\n  firm lab kill b3\n  firm lab kill segment-b")]
    Kill {
        /// The boxes
        #[arg(value_name = "BOX", required = true)]
        boxes: Vec<String>,
    },
    /// Start boxes that were killed or have ended, with the disks that they had
    #[command(after_help = "Examples:\n  firm lab start b3\n  firm lab start b1 b2")]
    Start {
        /// The boxes
        #[arg(value_name = "BOX", required = true)]
        boxes: Vec<String>,
    },
    /// Drop every frame between two places
    #[command(
        after_help = "Examples:\n  firm lab cut b1 b2\n  firm lab cut b1,b2 b3,b4,b5\n  firm lab cut segment-a segment-b\n  firm lab cut b1 b2 --one-way\n\nIt holds between the boxes that there are: one that is added later hears everybody."
    )]
    Cut {
        /// Who isn't heard
        #[arg(value_name = "A")]
        from: String,
        /// Who doesn't hear
        #[arg(value_name = "B")]
        to: String,
        /// What B sends still comes to A
        #[arg(long)]
        one_way: bool,
    },
    /// End what is cut and slow: between two places, around one, or everywhere
    #[command(after_help = "Examples:\n  firm lab heal\n  firm lab heal b1\n  firm lab heal b1 b2")]
    Heal {
        /// One place
        #[arg(value_name = "A")]
        one: Option<String>,
        /// The other
        #[arg(value_name = "B")]
        other: Option<String>,
    },
    /// Hold up every frame between two places, or all of one's
    #[command(
        after_help = "Examples:\n  firm lab slow b1 --delay 50ms\n  firm lab slow b1 b2 --delay 50ms --loss 1%\n  firm lab slow segment-a segment-b --delay 20ms\n\nEach direction is held up, so that an answer comes after twice the delay."
    )]
    Slow {
        /// One place
        #[arg(value_name = "A")]
        one: String,
        /// The other [default: everybody]
        #[arg(value_name = "B")]
        other: Option<String>,
        /// How long each frame is held up, as in 50ms
        #[arg(long, value_name = "SPAN", default_value_t = Span(Duration::ZERO))]
        delay: Span,
        /// How many frames are lost, as in 1%
        #[arg(long, value_name = "SHARE", value_parser = percent, default_value = "0%")]
        loss: f64,
    },
    /// Take a box's interface down and up again
    #[command(after_help = "Examples:\n  firm lab flap b1\n  firm lab flap b1 --down 5s")]
    Flap {
        /// The box
        #[arg(value_name = "BOX")]
        at: String,
        /// How long it is down
        #[arg(long, value_name = "SPAN", default_value_t = Span(Duration::from_secs(1)))]
        down: Span,
    },
    /// Add a box
    #[command(after_help = "Examples:\n  firm lab add\n  firm lab add --segment b")]
    Add {
        /// Where
        #[arg(long, value_name = "SEGMENT", default_value = "a")]
        segment: Segment,
    },
    /// Add a box with a copy of another's disk, and so with its key
    #[command(after_help = "Examples:\n  firm lab clone b1")]
    Clone {
        /// The box
        #[arg(value_name = "BOX")]
        of: String,
    },
    /// Run a command in a box's network
    #[command(after_help = "Examples:\n  firm lab exec b1 -- ping -c 1 10.77.1.2\n  firm lab exec host -- firm status")]
    Exec {
        /// The box, or host
        #[arg(value_name = "BOX")]
        at: String,
        /// The command
        #[arg(value_name = "COMMAND", required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Show what a box has said
    #[command(after_help = "Examples:\n  firm lab log b1\n  firm lab log b1 -f\n  firm lab log b1 --console")]
    Log {
        /// The box
        #[arg(value_name = "BOX")]
        at: String,
        /// Stay, and show what comes
        #[arg(long, short)]
        follow: bool,
        /// What it shows on its console, in place of its log
        #[arg(long)]
        console: bool,
    },
    /// The process that slow cables lead through: started by the lab's keeper, never by people
    #[command(hide = true)]
    Relay,
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct UpArgs {
    /// How many boxes [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(LAB_BOXES_MAX)))]
    boxes: Option<u8>,
    /// How many segments: with two, the second half of the boxes is on segment b, behind a router [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    segments: Option<u8>,
    /// The operator's seal, which all boxes are started with
    #[arg(long, value_name = "FILE")]
    seal: Option<PathBuf>,
    /// Leave it running, and return once it is up
    #[arg(long)]
    detach: bool,
    /// Go on with the disks that were kept before, and keep them at the end
    #[arg(long)]
    keep: bool,
    /// Touch nothing of this machine's network, also as root
    #[arg(long)]
    rootless: bool,
    /// Another build of firm for the boxes [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// For the keeper of a detached lab: its words are for who started it
    #[arg(long, hide = true)]
    as_keeper: bool,
    /// What else each box is started with, as `firm box` takes it
    #[arg(value_name = "ARGUMENT", last = true)]
    args: Vec<String>,
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let exit = match error {
            LabError::Interrupted => Exit::Interrupted,
            LabError::Senseless { .. } | LabError::Itself(_) => Exit::Usage,
            _ => Exit::Refused,
        };
        Self::new(exit, error.told())
    }
}

/// `1%`, `0.5%`, or a bare number of percent.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "a share of frames is written as 1% or 0.5%, up to 100%".to_owned())
}

pub(super) fn run(cx: &Cx, args: &Args) -> Outcome {
    let dir = || dir(args);
    let order = match &args.action {
        Action::Relay => return Ok(relay::run()?),
        Action::Up(up) => return bring_up(cx, &dir()?, up),
        Action::Down { keep } => return down(cx, &Folder::open(&dir()?)?, *keep),
        Action::Exec { at, command } => return Err(exec(&Folder::open(&dir()?)?, at, command)),
        Action::Log { at, follow, console } => return log(cx, &Folder::open(&dir()?)?, at, *follow, *console),
        Action::Status => Order::Status,
        Action::Kill { boxes } => Order::Kill { boxes: boxes.clone() },
        Action::Start { boxes } => Order::Start { boxes: boxes.clone() },
        Action::Cut { from, to, one_way } => Order::Cut { from: from.clone(), to: to.clone(), one_way: *one_way },
        Action::Heal { one, other } => Order::Heal { one: one.clone(), other: other.clone() },
        Action::Slow { one, other, delay, loss } => {
            let delay_ms = milliseconds(*delay);
            Order::Slow { one: one.clone(), other: other.clone(), delay_ms, loss_percent: *loss }
        }
        Action::Flap { at, down } => Order::Flap { at: at.clone(), down_ms: milliseconds(*down) },
        Action::Add { segment } => Order::Add { segment: *segment },
        Action::Clone { of } => Order::Clone { of: of.clone() },
    };
    let status = give(&Folder::open(&dir()?)?, &order)?;
    cx.out.answer(&status, |out| show(out, &status))
}

/// The keeper refuses what is too much.
fn milliseconds(span: Span) -> u32 {
    u32::try_from(span.0.as_millis()).unwrap_or(u32::MAX)
}

/// The folder that was asked for, or the user's own for data (XDG Base Directory Specification).
fn dir(args: &Args) -> Outcome<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = || set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let dir = args.dir.clone().or_else(|| data().map(|data| data.join("firmament-lab"))).ok_or_else(|| {
        Failure::usage("there is no home directory to keep the lab in").help("say where: firm lab up --dir DIR")
    })?;
    std::path::absolute(&dir).map_err(|error| Failure::of(Exit::Refused, &error))
}

/// Gives an order to the keeper that is there.
fn give(folder: &Folder, order: &Order) -> Result<Status, LabError> {
    keeper(folder, &find(folder)?)?;
    order::give(folder, order)
}

fn keeper(folder: &Folder, lab: &Lab) -> Result<Process, LabError> {
    let path = folder.path().to_owned();
    let Some(process) = lab.keeper else { return Err(LabError::Kept { path }) };
    if process.runs() { Ok(process) } else { Err(LabError::Crashed { path }) }
}

// ---- up and down ----

fn bring_up(cx: &Cx, dir: &Path, args: &UpArgs) -> Outcome {
    let settings = settings(dir, args)?;
    if args.detach {
        let status = detached(cx, &settings.folder)?;
        return cx.out.answer(&status, |out| show(out, &status));
    }
    if settings.rootless && !rootless::is_inside() {
        return keeper_failed(cx, args, rootless::enter(settings.folder.path()));
    }
    let out = cx.out.clone();
    let as_keeper = args.as_keeper;
    let mut tell = |told: Told<'_>| {
        let said = match told {
            Told::Up(status) if as_keeper => out.json(&Answer::Done(Box::new(status.clone()))),
            Told::Up(status) => out.answer(status, |out| {
                show(out, status)?;
                out.note("Ctrl-C ends the lab.");
                Ok(())
            }),
            Told::Cleared => {
                out.note("What an earlier lab had left here when it crashed was taken away.");
                Ok(())
            }
            Told::Ended { number, how } => {
                out.warn(&format!("b{number} ended by itself: {how}. See why: firm lab log b{number}"));
                Ok(())
            }
            Told::RelayEnded => {
                out.warn("the relay of slow cables ended by itself: no cable is slow any more");
                Ok(())
            }
        };
        // The lab is up, whether or not anybody reads it.
        drop(said);
    };
    match keeper::run(settings, &mut tell) {
        Ok(()) => Ok(()),
        Err(error) => keeper_failed(cx, args, error),
    }
}

/// Who started a detached keeper reads what went wrong as it reads answers.
fn keeper_failed(cx: &Cx, args: &UpArgs, error: LabError) -> Outcome {
    if args.as_keeper {
        cx.out.json(&Answer::Refused(error.told()))?;
    }
    Err(error.into())
}

fn settings(dir: &Path, args: &UpArgs) -> Outcome<Settings> {
    let absolute = |path: &Path| {
        let found = path.canonicalize();
        found.map_err(|error| Failure::new(Exit::Usage, format!("{} can't be read: {error}", path.display())))
    };
    let path = match &args.program {
        Some(program) => absolute(program)?,
        None => std::env::current_exe().map_err(|error| Failure::of(Exit::Refused, &error))?,
    };
    let mut words = Vec::new();
    if let Some(seal) = &args.seal {
        words.extend(["--seal".to_owned(), absolute(seal)?.to_string_lossy().into_owned()]);
    }
    words.extend_from_slice(&args.args);
    Ok(Settings {
        folder: Folder::make(dir)?,
        boxes: args.boxes,
        segments: args.segments,
        rootless: args.rootless || rootless::is_inside() || !geteuid().is_root(),
        keep: args.keep,
        program: BoxProgram { path, args: words },
    })
}

/// Starts the keeper as a process of its own, and waits until it says that the lab is up.
fn detached(cx: &Cx, folder: &Folder) -> Outcome<Status> {
    let firm = std::env::current_exe().map_err(|error| Failure::of(Exit::Refused, &error))?;
    // The lab that is there goes on writing to its log.
    if folder.lock()?.is_none() {
        return Err(LabError::Up { path: folder.path().to_owned() }.into());
    }
    let log = File::create(folder.keeper_log())?;
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    let end = given.iter().position(|word| word == "--").unwrap_or(given.len());
    let (own, of_boxes) = given.split_at(end);
    let mut command = Command::new(firm);
    command.args(own.iter().filter(|word| *word != "--detach" && *word != "--json"));
    command.arg("--as-keeper").args(of_boxes);
    // Its own group: what ends this command, or its terminal, doesn't end the lab.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
    let mut child = command.spawn().map_err(|error| Failure::of(Exit::Refused, &error))?;
    let stdout = child.stdout.take().expect("it was piped");
    let mut said = String::new();
    BufReader::new(stdout.take(LAB_ANSWER_BYTES_MAX)).read_line(&mut said)?;
    match serde_json::from_str(&said) {
        Ok(Answer::Done(status)) => {
            cx.out.note("The lab stays up. End it: firm lab down");
            Ok(*status)
        }
        Ok(Answer::Refused(said)) => {
            // It has said why, and is about to end.
            let _ = child.wait();
            Err(LabError::Refused(said).into())
        }
        Err(_) => {
            let log = fs::read_to_string(folder.keeper_log()).unwrap_or_default();
            let last = log.lines().last().unwrap_or("it said nothing").to_owned();
            Err(LabError::KeeperEnded(last, folder.keeper_log()).into())
        }
    }
}

fn down(cx: &Cx, folder: &Folder, keep: bool) -> Outcome {
    let lab = find(folder)?;
    match lab.keeper.and_then(Process::find) {
        Some(process) => {
            order::give(folder, &Order::Down { keep })?;
            // It has taken all away before it answered; only itself is left.
            let _ = process.ends_within(LAB_END_TIME_MAX);
        }
        None => keeper::clear(folder, &lab, keep)?,
    }
    let count = lab.boxes.len();
    let done = serde_json::json!({ "down": true, "boxes": count, "kept": keep });
    cx.out.answer(&done, |out| {
        let disks = if keep { "; the disks are kept" } else { " with their disks" };
        let boxes = if count == 1 { "its box".to_owned() } else { format!("its {count} boxes") };
        out.line(&format!("{} the lab is down: {boxes}{disks}", out.paint(Tone::Good, "✓")))
    })
}

// ---- inside a box ----

/// The box of a lab that is up, by what people call it.
fn one(folder: &Folder, at: &str) -> Outcome<(Lab, BoxStatus)> {
    let lab = find(folder)?;
    let status = give(folder, &Order::Status)?;
    let is_it = |one: &&BoxStatus| {
        one.port.to_string() == at
            || one.name.as_ref().is_some_and(|name| name.as_str() == at)
            || one.id.is_some_and(|id| id.long_name().as_str() == at || id.to_string() == at)
    };
    let mut found = status.boxes.iter().filter(is_it);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok((lab, one.clone())),
        (Some(one), Some(other)) => {
            let all = format!("{} and {}", one.port, other.port);
            Err(LabError::Ambiguous { name: at.to_owned(), all }.into())
        }
        (None, _) => {
            let help = "see them all: firm lab status".to_owned();
            Err(LabError::Unknown { what: format!("box `{at}` in this lab"), help }.into())
        }
    }
}

/// Becomes the command. Returns only when that can't be.
fn exec(folder: &Folder, at: &str, words: &[OsString]) -> Failure {
    let mut command = match inside(folder, at, words) {
        Ok(command) => command,
        Err(failure) => return failure,
    };
    let error = command.exec();
    LabError::Exec(words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default(), error).into()
}

fn inside(folder: &Folder, at: &str, words: &[OsString]) -> Outcome<Command> {
    let (lab, namespace) = if at == Port::Host.to_string() {
        (find(folder)?, None)
    } else {
        let (lab, one) = one(folder, at)?;
        (lab, Some(one.namespace))
    };
    let keeper = keeper(folder, &lab)?;
    let (program, args) = words.split_first().ok_or_else(|| Failure::usage("a command is wanted after --"))?;
    Ok(rootless::command(&lab, keeper, namespace.as_deref(), program, args))
}

/// What a box has said, also after it or the whole lab has ended with its disks kept.
fn log(cx: &Cx, folder: &Folder, at: &str, follow: bool, console: bool) -> Outcome {
    let number = match at.parse() {
        Ok(Port::Box(number)) if find(folder)?.boxes.contains_key(&number) => number,
        _ => match one(folder, at)?.1.port {
            Port::Box(number) => number,
            Port::Host => return Err(Failure::usage("this machine has no log in the lab")),
        },
    };
    let path = if console { folder.console(number) } else { folder.log(number) };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::Refused, format!("b{number} has said nothing yet"))
                .help(format!("start it: firm lab start b{number}")));
        }
        Err(error) => return Err(Failure::of(Exit::Refused, &error)),
    };
    let mut line = Vec::new();
    let mut reader = BufReader::new(&mut file);
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line)? {
            0 if !follow => return Ok(()),
            // Where the lab is taken away, so is the file.
            0 if !path.exists() => return Ok(()),
            0 => thread::sleep(FOLLOW_PAUSE),
            // A line that is still being written is read again as a whole.
            read if follow && line.last() != Some(&b'\n') => {
                reader.seek(SeekFrom::Current(-i64::try_from(read).expect("a line's length")))?;
                thread::sleep(FOLLOW_PAUSE);
            }
            _ => {
                let text = String::from_utf8_lossy(&line);
                cx.out.line(&cx.out.foreign(text.trim_end_matches('\n')))?;
            }
        }
    }
}

// ---- telling ----

fn show(out: &Out, status: &Status) -> Outcome {
    let mut table = Table::new(&["BOX", "NAME", "SEGMENT", "ADDRESS", "STATE", "PID"]);
    for one in &status.boxes {
        let state = match (&one.pid, &one.ended) {
            (Some(_), _) => "running".to_owned(),
            (None, Some(how)) => how.clone(),
            (None, None) => "not started".to_owned(),
        };
        let number = match one.clone_of {
            Some(of) => format!("{} (clone of {of})", one.port),
            None => one.port.to_string(),
        };
        table.row([
            number,
            or_dash(one.name.as_ref()),
            one.segment.to_string(),
            one.v4.to_string(),
            state,
            or_dash(one.pid),
        ]);
    }
    table.show(out, "The lab has no boxes.")?;
    for (from, to) in unheard(status) {
        out.line(&format!("{} {from} isn't heard by {to}", out.paint(Tone::Odd, "cut")))?;
    }
    for Slow { from, to, delay_ms, loss_percent } in &status.slow {
        let from = from.map_or_else(|| "everybody".to_owned(), |port| port.to_string());
        let to = to.map_or_else(|| "everybody".to_owned(), |port| port.to_string());
        let loss = if *loss_percent > 0.0 { format!(", {loss_percent}% lost") } else { String::new() };
        out.line(&format!("{} {from} to {to}: {delay_ms} ms{loss}", out.paint(Tone::Odd, "slow")))?;
    }
    Ok(())
}

/// Who isn't heard, and by whom.
fn unheard(status: &Status) -> BTreeMap<Port, String> {
    let mut unheard: BTreeMap<Port, String> = BTreeMap::new();
    for cut in &status.cuts {
        let by = unheard.entry(cut.from).or_default();
        let between = if by.is_empty() { "" } else { ", " };
        *by = format!("{by}{between}{}", cut.to);
    }
    unheard
}
