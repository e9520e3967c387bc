//! `firm lab`: a practice segment on one machine, for developers and for the tests.
//!
//! Each box is a process of the real binary in a network namespace of its own, with one cable to the bridge that is
//! its segment. The bridges lie in a namespace too (`switch`), so that what cuts and slows cables touches nothing
//! of the machine's own network; a router joins the segments. With root the machine itself has a port on segment a.
//! Without root all of this lies inside one namespace of the user's ([`rootless`]).
//!
//! One process keeps a lab ([`keeper`]): it starts the boxes, which die with it, and takes orders over a socket in
//! the lab's folder. What must be found again after a crash is in that folder's `lab.json` and in the names of the
//! namespaces, which begin with an id made of the folder's path; so several labs can be up at once.
//!
//! It refuses to touch a folder that holds anything else, and a process that isn't the one it started.

pub mod address;
pub mod detour;
pub mod files;
pub mod keeper;
pub mod network;
pub mod order;
pub mod process;
pub mod program;
pub mod relay;
pub mod rootless;
pub mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use address::{Net, Port, Segment};
use files::Folder;
use process::Process;
use program::ProgramError;

/// What the keeper writes down, and what anybody needs who comes to a lab from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lab {
    /// Six hexadecimal digits, made of the folder's path: all that the lab makes in the machine is named by it.
    pub id: String,
    /// None before the keeper has found one that is free.
    pub net: Option<Net>,
    /// Does it lie inside a namespace of the user's?
    pub rootless: bool,
    /// None of a lab that is down and whose disks were kept.
    pub keeper: Option<Process>,
    pub segments: Vec<Segment>,
    pub boxes: BTreeMap<u8, LabBox>,
    /// Who sends, and who doesn't hear it.
    pub cuts: BTreeSet<(Port, Port)>,
    pub slow: Vec<Slow>,
}

/// A box of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabBox {
    pub segment: Segment,
    /// The box whose disk it was given.
    pub clone_of: Option<u8>,
    /// None while it doesn't run.
    pub process: Option<Process>,
    /// How it ended, where it isn't meant to run.
    pub ended: Option<String>,
}

/// A cable, or one direction between two ports, that is slow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slow {
    /// Who sends: None for everybody.
    pub from: Option<Port>,
    /// Who hears it late: None for everybody.
    pub to: Option<Port>,
    pub delay_ms: u32,
    /// Of a hundred frames, so many are lost.
    pub loss_percent: f64,
}

/// How the boxes of a lab are started.
#[derive(Clone, Debug)]
pub struct BoxProgram {
    /// `firm`: called with `box --dir DIR` and the arguments below.
    pub path: PathBuf,
    pub args: Vec<String>,
}

impl Lab {
    /// The name of one of its network namespaces.
    #[must_use]
    pub fn namespace(&self, of: &str) -> String {
        format!("{}{of}", self.prefix())
    }

    /// What the names of its namespaces begin with, and no others.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("lab-{}-", self.id)
    }

    /// The machine's own port on segment a. Interfaces' names have 15 bytes at the most.
    #[must_use]
    pub fn host_interface(&self) -> String {
        format!("lab-{}", self.id)
    }

    /// All that hangs on a segment's bridge, but for the router.
    pub fn ports(&self) -> impl Iterator<Item = (Port, Segment)> + '_ {
        let boxes = self.boxes.iter().map(|(number, one)| (Port::Box(*number), one.segment));
        std::iter::once((Port::Host, Segment::A)).chain(boxes)
    }

    pub(crate) fn segment_of(&self, port: Port) -> Segment {
        match port {
            Port::Host => Segment::A,
            Port::Box(number) => self.boxes.get(&number).map_or(Segment::A, |one| one.segment),
        }
    }
}

/// Why a lab didn't do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("{path} can't be {doing}", path = path.display())]
    File {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a lab's state, or another version's: {source}\n  help: if no lab is up there, remove it", path = path.display())]
    State { path: PathBuf, source: serde_json::Error },
    #[error("{path} holds other things, and a lab wants a folder of its own\n  help: name one that is empty or not there yet: firm lab up --dir DIR", path = path.display())]
    NotEmpty { path: PathBuf },
    #[error("there is no lab in {path}\n  help: firm lab up --boxes 3, or name its folder with --dir", path = path.display())]
    None { path: PathBuf },
    #[error("the lab in {path} is not up: its keeper is gone\n  help: take away what is left of it with `firm lab down`", path = path.display())]
    Crashed { path: PathBuf },
    #[error("a lab is up in {path} already\n  help: look at it with `firm lab status`, end it with `firm lab down`, or give a second one its own --dir", path = path.display())]
    Up { path: PathBuf },
    #[error("the disks of an earlier lab are kept in {path}\n  help: go on with them: firm lab up --keep, or take them away: firm lab down", path = path.display())]
    Kept { path: PathBuf },
    #[error("the lab was ended before it was up")]
    Interrupted,
    #[error("the lab's keeper doesn't answer: {0}\n  help: firm lab down")]
    Silent(#[source] std::io::Error),
    #[error(
        "the lab's keeper said what this `firm` doesn't understand: {0}\n  help: is another version's lab up? firm lab down"
    )]
    Answer(String),
    #[error("{0}")]
    Refused(String),
    #[error("no lab of this machine may begin: another has held the lock for more than {0:?}")]
    Lock(Duration),
    #[error(
        "51 labs are up on this machine, 10.77 to 10.127, and there is no room for one more\n  help: end one: firm lab down"
    )]
    NetsTaken,
    #[error("the list of this machine's addresses can't be read: {0}")]
    Addresses(String),
    #[error("the lab's network can't be made")]
    Network(#[source] ProgramError),
    #[error("what is cut can't be changed")]
    Rules(#[source] ProgramError),
    #[error("the cable of {port} can't be slowed")]
    Detour {
        port: Port,
        #[source]
        source: ProgramError,
    },
    #[error("no cable can be slowed: {0}")]
    Relay(String),
    #[error("the disk of b{of} can't be copied")]
    Clone {
        of: u8,
        #[source]
        source: ProgramError,
    },
    #[error("b{number} can't be started")]
    Start {
        number: u8,
        #[source]
        source: ProgramError,
    },
    #[error("b{number} ended before it listened ({how}){said}\n  help: {help}")]
    Ended { number: u8, how: String, said: String, help: String },
    #[error("b{number} didn't listen on port {port} within {time:?}\n  help: see what it says: firm lab log b{number}")]
    Deaf { number: u8, port: u16, time: Duration },
    #[error("{0} of the lab's processes don't end, though they were killed: {1}")]
    Undying(usize, String),
    #[error("this user can't make network namespaces: {said}\n  help: {help}")]
    NoNamespaces { said: String, help: String },
    #[error("without root a lab hides /run, and {path} lies in it\n  help: name another folder with --dir", path = path.display())]
    InRun { path: PathBuf },
    #[error("there is no {what}\n  help: {help}")]
    Unknown { what: String, help: String },
    #[error("`{name}` is the name of {all}: they were given the same key\n  help: say which you mean by its number")]
    Ambiguous { name: String, all: String },
    #[error("{0} can't be cut from itself")]
    Itself(Port),
    #[error("{what} makes no sense: {why}")]
    Senseless { what: String, why: &'static str },
    #[error("b{0} runs already")]
    Runs(u8),
    #[error("b{0} doesn't run\n  help: firm lab start b{0}")]
    DoesntRun(u8),
    #[error("a lab has {0} boxes at the most: that is how many addresses a segment has")]
    TooMany(u8),
    #[error("there is no segment {0} in this lab\n  help: begin with two: firm lab up --segments 2")]
    NoSegment(Segment),
    #[error("the keeper can't watch for signals: {0}")]
    Signals(#[source] std::io::Error),
    #[error("the keeper ended before the lab was up: {0}\n  help: what it said is in {1}")]
    KeeperEnded(String, PathBuf),
    #[error("`{0}` can't be run: {1}")]
    Exec(String, #[source] std::io::Error),
}

impl LabError {
    /// In one sentence, its causes in it and its help at the end, as a [`LabError::Refused`] takes it again.
    #[must_use]
    pub fn told(&self) -> String {
        let line = self.to_string();
        let (mut said, mut help) = split(&line);
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let line = error.to_string();
            let (inner, inner_help) = split(&line);
            // Some messages quote their cause already.
            if !said.contains(&inner) {
                said = format!("{said}: {inner}");
            }
            help = help.or(inner_help);
            cause = error.source();
        }
        help.map_or_else(|| said.clone(), |help| format!("{said}\n  help: {help}"))
    }
}

fn split(line: &str) -> (String, Option<String>) {
    match line.split_once("\n  help: ") {
        Some((said, help)) => (said.to_owned(), Some(help.to_owned())),
        None => (line.to_owned(), None),
    }
}

/// The lab in a folder, as it was last written down.
pub fn find(folder: &Folder) -> Result<Lab, LabError> {
    folder.read()?.ok_or_else(|| LabError::None { path: folder.path().to_owned() })
}
