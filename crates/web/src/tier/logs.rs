//! An app's log as the whole cloud has it: the lines of this box and of all web boxes, by their time.
//!
//! Whoever asks, asks each of those boxes, which opens a *reader* for it: the lines of the past, and what comes after them
//! for who stays. A reader gives page by page. A page that got lost is given again, so that no line is missing or comes
//! twice; a box that was away for so long that its reader is gone is asked anew from the last line that it gave.
//!
//! A box that can't be asked is left out, and the reader is told so, once.

mod answer;
mod source;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base::limits::{LOG_BOXES_AT_ONCE, LOG_BOXES_LOOK, LOG_TAIL_LINES_MAX};
use base::{AppId, BoxId, Name, Role, TenantId, Timestamp};
use futures_util::stream::{self, SelectAll, StreamExt as _};
use persist::logs::{Filter, Followed, ReadError};
use persist::{Line, Stream};
use serde::{Deserialize, Serialize};

use super::Far;
use crate::cloud::Cloud;
use source::{Lines, Source};

pub(crate) use answer::{Readers, answer};

/// What is asked of the log.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) tenant: TenantId,
    pub(crate) app: AppId,
    pub(crate) app_name: Name,
    pub(crate) filter: Filter,
    /// So many of the newest lines.
    pub(crate) tail: usize,
    /// And all that come, for as long as somebody listens.
    pub(crate) stay: bool,
}

/// What a reader of a log hears.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Line(Line),
    /// So many lines came faster than they were taken.
    Missed(u64),
    /// About the reading, not about the app.
    Notice(String),
    /// There is nothing more to hear.
    End,
}

impl From<Followed> for Told {
    fn from(followed: Followed) -> Self {
        match followed {
            Followed::Line(line) => Self::Line(Arc::unwrap_or_clone(line)),
            Followed::Missed(count) => Self::Missed(count),
        }
    }
}

/// A question for a log, as it travels.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Begin {
        tenant: TenantId,
        app: AppId,
        wanted: Wanted,
        tail: u32,
        stay: bool,
    },
    /// Pages are numbered from 1. The one that was given last is given again.
    Next {
        reader: u64,
        page: u64,
    },
}

/// Which lines are meant.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    stage: Option<Name>,
    request: Option<String>,
    stream: Option<Stream>,
    since: Option<Timestamp>,
}

impl From<&Filter> for Wanted {
    fn from(filter: &Filter) -> Self {
        let Filter { stage, request, stream, since, release: _ } = filter.clone();
        Self { stage, request, stream, since }
    }
}

impl From<Wanted> for Filter {
    fn from(Wanted { stage, request, stream, since }: Wanted) -> Self {
        Self { stage, request, stream, since, ..Self::default() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// So many lines of the past come first, and here are the first of them. Without a number that is all.
    Begun {
        reader: Option<u64>,
        past: u32,
        items: Vec<Item>,
    },
    Page {
        items: Vec<Item>,
        end: bool,
    },
    /// There is no such reader or app, any more or yet.
    Gone,
    /// Too many read already, or this reader is being asked by somebody.
    Busy,
    Failed(String),
}

/// What a page holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Item {
    /// As it stands in the log's file: that form doesn't change from one build to the next.
    Line(String),
    Missed(u64),
}

impl From<Item> for Told {
    fn from(item: Item) -> Self {
        match item {
            Item::Line(text) => serde_json::from_str(&text)
                .map_or_else(|_| Self::Notice("a box sent a line that can't be read".to_owned()), Self::Line),
            Item::Missed(count) => Self::Missed(count),
        }
    }
}

/// The log, put together.
pub(crate) struct Merged {
    cloud: Arc<Cloud>,
    asked: Asked,
    began: Timestamp,
    /// While lines of the past are put in their order.
    past: Vec<Source>,
    /// So many of them are older than those that were asked for.
    skip: usize,
    /// What is told next, and what is told once the past is.
    ready: VecDeque<Told>,
    late: Vec<Told>,
    live: SelectAll<Lines>,
    /// The other boxes that are listened to, and when they were looked for.
    boxes: BTreeSet<BoxId>,
    looked: Instant,
}

/// Opens an app's log: here, and on all other boxes that run apps.
pub(crate) async fn merged(cloud: Arc<Cloud>, asked: Asked) -> Result<Merged, ReadError> {
    let asked = Asked { tail: asked.tail.min(LOG_TAIL_LINES_MAX), ..asked };
    let began = SystemTime::now().into();
    let mut past = vec![source::here(&cloud, &asked).await?];
    let boxes = others(&cloud);
    let opened = stream::iter(boxes.clone()).map(|id| source::there(&cloud, id, &asked, None));
    past.extend(opened.buffered(LOG_BOXES_AT_ONCE).collect::<Vec<_>>().await);
    let skip = past.iter().map(|source| source.left).sum::<usize>().saturating_sub(asked.tail);
    let late = past.iter_mut().filter_map(|source| source.notice.take()).collect();
    let (ready, live) = (VecDeque::new(), SelectAll::new());
    Ok(Merged { cloud, asked, began, past, skip, ready, late, live, boxes, looked: Instant::now() })
}

/// The other boxes that run apps.
fn others(cloud: &Cloud) -> BTreeSet<BoxId> {
    let Some(Far { tier, known, .. }) = &cloud.far else { return BTreeSet::new() };
    let (known, me) = (known.load(), tier.me());
    let web = known.iter().flat_map(|boxes| boxes.with(Role::Web)).map(|it| it.id);
    web.filter(|id| *id != me).collect()
}

impl Merged {
    /// What comes next. None: that was all.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Some(told);
            }
            if self.past.is_empty() {
                return if self.asked.stay { self.next_live().await } else { None };
            }
            match self.oldest().await {
                Some(_) if self.skip > 0 => self.skip -= 1,
                Some(line) => self.ready.push_back(Told::Line(line)),
                None => {
                    self.ready.extend(self.late.drain(..));
                    self.live.extend(self.past.drain(..).map(|source| source.lines));
                }
            }
        }
    }

    /// The oldest line of the past that was not yet taken.
    async fn oldest(&mut self) -> Option<Line> {
        for source in &mut self.past {
            while source.head.is_none() && source.left > 0 {
                match source.lines.next().await {
                    Some(Told::Line(line)) => {
                        source.head = Some(line);
                        source.left -= 1;
                    }
                    Some(Told::End) | None => source.left = 0,
                    Some(other) => {
                        // Whatever else it says, it doesn't go on with what it had promised.
                        source.left = 0;
                        self.late.push(other);
                    }
                }
            }
        }
        let heads = self.past.iter_mut().filter(|source| source.head.is_some());
        heads.min_by_key(|source| source.head.as_ref().map(|line| line.at))?.head.take()
    }

    async fn next_live(&mut self) -> Option<Told> {
        loop {
            if self.looked.elapsed() >= LOG_BOXES_LOOK {
                self.look().await;
            }
            if let Some(told) = self.ready.pop_front() {
                return Some(told);
            }
            match tokio::time::timeout(LOG_BOXES_LOOK, self.live.next()).await {
                Ok(Some(Told::End) | None) => return None,
                Ok(told) => return told,
                // Time to look for boxes.
                Err(_) => {}
            }
        }
    }

    /// Listens to the boxes that have come since.
    async fn look(&mut self) {
        self.looked = Instant::now();
        let now = others(&self.cloud);
        for id in now.difference(&self.boxes) {
            let source = source::there(&self.cloud, *id, &self.asked, Some(self.began)).await;
            self.ready.extend(source.notice);
            self.live.push(source.lines);
        }
        self.boxes = now;
    }
}

#[cfg(test)]
mod tests;
