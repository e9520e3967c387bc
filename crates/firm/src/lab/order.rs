//! What a lab's keeper can be told, and what it answers: one line of JSON each way on the socket in the lab's folder.
//!
//! Only whoever may enter the folder can connect, which is the user who made it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base::limits::{LAB_ANSWER_BYTES_MAX, LAB_ANSWER_TIME_MAX};
use base::{BoxId, Name};
use serde::{Deserialize, Serialize};

use super::address::{Port, Segment};
use super::files::Folder;
use super::{LabError, Slow};

/// Everything that a keeper does for others. Places are written as people write them: `b1`, a box's name, `host`,
/// `segment-a`, or several with commas.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub enum Order {
    Status,
    /// Ends boxes as a power cut does.
    Kill {
        boxes: Vec<String>,
    },
    /// Starts boxes that don't run, and waits until they listen.
    Start {
        boxes: Vec<String>,
    },
    /// Drops every frame from one to the other, and back unless `one_way`.
    Cut {
        from: String,
        to: String,
        one_way: bool,
    },
    /// Ends what is cut and slow: between two, around one, or everywhere.
    Heal {
        one: Option<String>,
        other: Option<String>,
    },
    /// Holds frames up, and loses some: between two, or all of one's.
    Slow {
        one: String,
        other: Option<String>,
        delay_ms: u32,
        loss_percent: f64,
    },
    /// Takes an interface down and up again.
    Flap {
        at: String,
        down_ms: u32,
    },
    /// Adds a box.
    Add {
        segment: Segment,
    },
    /// Adds a box with a copy of another's disk, its key with it.
    Clone {
        of: String,
    },
    /// Ends the lab.
    Down {
        keep: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Done(Box<Status>),
    /// What went wrong, and after `  help: ` what to do.
    Refused(String),
}

/// A lab as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub dir: PathBuf,
    /// Does it lie inside a namespace of the user's, so that only `firm lab exec host` sees its network?
    pub rootless: bool,
    /// The machine's own address on segment a.
    pub host: Ipv4Addr,
    pub segments: Vec<SegmentStatus>,
    pub boxes: Vec<BoxStatus>,
    pub cuts: Vec<Cut>,
    pub slow: Vec<Slow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SegmentStatus {
    pub segment: Segment,
    pub v4: String,
    pub v6: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BoxStatus {
    #[serde(rename = "box")]
    pub port: Port,
    /// Its key and its name, once it has said them.
    pub id: Option<BoxId>,
    pub name: Option<Name>,
    pub segment: Segment,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// How it ended, where it doesn't.
    pub ended: Option<String>,
    /// The box whose disk it was given.
    pub clone_of: Option<Port>,
    pub namespace: String,
    pub log: PathBuf,
}

/// Who doesn't hear whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub from: Port,
    pub to: Port,
}

/// Gives an order to the keeper of a folder's lab.
pub fn give(folder: &Folder, order: &Order) -> Result<Status, LabError> {
    let (_open, path) = folder.socket()?;
    let mut stream = UnixStream::connect(path).map_err(LabError::Silent)?;
    stream.set_read_timeout(Some(LAB_ANSWER_TIME_MAX)).map_err(LabError::Silent)?;
    let mut line = serde_json::to_string(order).expect("an order is plain data");
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(LabError::Silent)?;
    let mut said = String::new();
    BufReader::new(stream.take(LAB_ANSWER_BYTES_MAX)).read_line(&mut said).map_err(LabError::Silent)?;
    match serde_json::from_str(&said) {
        Ok(Answer::Done(status)) => Ok(*status),
        Ok(Answer::Refused(said)) => Err(LabError::Refused(said)),
        Err(error) => Err(LabError::Answer(error.to_string())),
    }
}
