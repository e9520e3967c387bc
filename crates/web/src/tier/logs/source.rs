//! Where lines come from: this box, or one of the others.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use base::limits::{LOG_BEGIN_TIME_MAX, LOG_LOOK, LOG_NEXT_TIME_MAX, LOG_TAIL_LINES_MAX};
use base::{BoxId, Timestamp};
use futures_util::stream::{self, StreamExt as _};
use persist::Line;
use persist::logs::ReadError;

use super::{Ask, Asked, Reply, Told, others};
use crate::cloud::Cloud;
use crate::tier::{CallError, Far, Method};

/// What one box says.
pub(super) type Lines = Pin<Box<dyn stream::Stream<Item = Told>>>;

/// One box's log: first the lines of the past, then what comes.
pub(super) struct Source {
    /// Lines of the past that weren't taken yet.
    pub(super) left: usize,
    /// The next of them, once it was looked at.
    pub(super) head: Option<Line>,
    /// The box couldn't be asked.
    pub(super) notice: Option<Told>,
    pub(super) lines: Lines,
}

/// The log of this box.
pub(super) async fn here(cloud: &Cloud, asked: &Asked) -> Result<Source, ReadError> {
    let (logs, Asked { tenant, app, filter, tail, stay, .. }) = (cloud.store.logs.clone(), asked.clone());
    let read = tokio::task::spawn_blocking(move || {
        if stay {
            logs.follow(tenant, app, tail, filter).map(|(past, follower)| (past, Some(follower)))
        } else {
            logs.tail(tenant, app, tail, &filter).map(|past| (past, None))
        }
    });
    let (past, follower) = read.await.map_err(|_| ReadError::Closed)??;
    let left = past.len();
    let live = stream::unfold(follower, |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Some(followed) => Some((followed.into(), Some(follower))),
            None => Some((Told::End, None)),
        }
    });
    let lines = Box::pin(stream::iter(past).map(Told::Line).chain(live));
    Ok(Source { left, head: None, notice: None, lines })
}

/// The log of another box: its newest lines, or those from a moment on. It is asked again and again by who stays.
pub(super) async fn there(cloud: &Arc<Cloud>, id: BoxId, asked: &Asked, since: Option<Timestamp>) -> Source {
    let mut there = There {
        cloud: Arc::clone(cloud),
        id,
        asked: asked.clone(),
        ready: VecDeque::new(),
        since,
        reader: None,
        failures: 0,
        told: false,
        ended: false,
    };
    let (left, notice) = match there.begin().await {
        // Lines from a moment on are no past of their own: they came while others were listened to.
        Ok(past) => (if since.is_none() { past } else { 0 }, None),
        Err(error) => {
            there.ended = !asked.stay;
            (0, Some(there.failed(&error)))
        }
    };
    let lines = Box::pin(stream::unfold(there, |mut there| async move { Some((there.next().await?, there)) }));
    Source { left, head: None, notice, lines }
}

/// Why another box gives no lines.
#[derive(Debug, thiserror::Error)]
enum ThereError {
    #[error("this cloud isn't made of boxes")]
    Alone,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("it hasn't heard of the app yet")]
    Gone,
    #[error("too many read its logs")]
    Busy,
    #[error("it can't read its log: {0}")]
    Failed(String),
    #[error("it answers another question than it was asked")]
    Confused,
}

struct There {
    cloud: Arc<Cloud>,
    id: BoxId,
    asked: Asked,
    ready: VecDeque<Told>,
    /// What was before this isn't asked for again.
    since: Option<Timestamp>,
    /// The reader on the other box, and the page that it gave last.
    reader: Option<(u64, u64)>,
    /// Questions that failed since the last that didn't.
    failures: u32,
    /// It was told that the box doesn't answer.
    told: bool,
    ended: bool,
}

impl There {
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                if let Told::Line(line) = &told {
                    // Lines of a moment come together, but for one who is cut off in the midst of it.
                    self.since = Some(Timestamp(line.at.0 + 1));
                }
                return Some(told);
            }
            if self.ended || !self.is_wanted() {
                return None;
            }
            if self.failures > 0 {
                tokio::time::sleep(LOG_LOOK).await;
            }
            let asked = match self.reader {
                Some((reader, page)) => self.page(reader, page + 1).await,
                None => self.begin().await.map(drop),
            };
            match asked {
                Ok(()) => self.answers(),
                Err(error) if !self.asked.stay => {
                    self.ended = true;
                    return Some(self.failed(&error));
                }
                Err(error) => {
                    self.failures += 1;
                    // One that is lost on the way is asked again, and nothing is missing.
                    if self.failures > 1 && !self.told {
                        return Some(self.failed(&error));
                    }
                }
            }
        }
    }

    fn answers(&mut self) {
        self.failures = 0;
        if std::mem::take(&mut self.told) {
            let text = format!("box {} answers again; what it still has of the time between follows", self.name());
            self.ready.push_front(Told::Notice(text));
        }
    }

    fn failed(&mut self, error: &ThereError) -> Told {
        (self.told, self.failures) = (true, self.failures.max(1));
        let until = if self.asked.stay { " until it does" } else { "" };
        Told::Notice(format!("box {} gives no lines, so they are missing here{until}: {error}", self.name()))
    }

    fn name(&self) -> String {
        let known = self.cloud.far.as_ref().and_then(|far| far.known.load_full());
        let named = known.and_then(|boxes| boxes.boxes.get(&self.id).map(|it| it.name.to_string()));
        named.unwrap_or_else(|| self.id.long_name().to_string())
    }

    /// Is there the app still, and the box one that runs apps?
    fn is_wanted(&self) -> bool {
        let record = self.cloud.record();
        let app = record.app(self.asked.tenant, self.asked.app_name.as_str());
        app.is_some_and(|app| app.id == self.asked.app) && others(&self.cloud).contains(&self.id)
    }

    fn far(&self) -> Result<&Far, ThereError> {
        self.cloud.far.as_ref().ok_or(ThereError::Alone)
    }

    /// Opens a reader on the other box, and gives how many lines of the past it begins with.
    async fn begin(&mut self) -> Result<usize, ThereError> {
        let Asked { tenant, app, filter, tail, stay, .. } = &self.asked;
        let tail = if self.since.is_some() { LOG_TAIL_LINES_MAX } else { *tail };
        let mut wanted = super::Wanted::from(filter);
        wanted.since = wanted.since.max(self.since);
        let tail = u32::try_from(tail).unwrap_or(u32::MAX);
        let ask = Ask::Begin { tenant: *tenant, app: *app, wanted, tail, stay: *stay };
        match self.far()?.call(self.id, Method::Logs, &ask, LOG_BEGIN_TIME_MAX).await? {
            Reply::Begun { reader, past, items } => {
                self.reader = reader.map(|reader| (reader, 0));
                self.ended = reader.is_none();
                self.ready.extend(items.into_iter().map(Told::from));
                Ok(usize::try_from(past).unwrap_or(usize::MAX))
            }
            Reply::Gone => Err(ThereError::Gone),
            Reply::Busy => Err(ThereError::Busy),
            Reply::Failed(why) => Err(ThereError::Failed(why)),
            Reply::Page { .. } => Err(ThereError::Confused),
        }
    }

    async fn page(&mut self, reader: u64, page: u64) -> Result<(), ThereError> {
        match self.far()?.call(self.id, Method::Logs, &Ask::Next { reader, page }, LOG_NEXT_TIME_MAX).await? {
            Reply::Page { items, end } => {
                self.ready.extend(items.into_iter().map(Told::from));
                self.reader = Some((reader, page)).filter(|_| !end);
                // Who stays asks anew, unless the app is gone: the box may only be going down.
                self.ended = end && !self.asked.stay;
                Ok(())
            }
            Reply::Gone => {
                self.reader = None;
                if self.asked.stay { Ok(()) } else { Err(ThereError::Gone) }
            }
            Reply::Busy => Err(ThereError::Busy),
            Reply::Failed(why) => Err(ThereError::Failed(why)),
            Reply::Begun { .. } => Err(ThereError::Confused),
        }
    }
}
