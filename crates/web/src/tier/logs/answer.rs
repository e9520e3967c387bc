//! The answering side: readers of this box's logs, for other boxes.
//!
//! Any box of the cloud may ask for any app's lines: it has asked its caller for the right to, as this one would, and a
//! caller's token never crosses a link. So a box that is taken over may read all logs, as it may read all data:
//! docs/security.md says so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use base::limits::{
    LOG_PAGE_BYTES_MAX, LOG_PAST_BYTES_MAX, LOG_POLL_TIME_MAX, LOG_READER_IDLE_MAX, LOG_READERS_MAX,
    LOG_READERS_PER_TENANT_MAX, LOG_READS_AT_ONCE,
};
use base::{BoxId, TenantId, chain};
use bytes::Bytes;
use futures_util::FutureExt as _;
use persist::Line;
use persist::logs::{Followed, Follower};
use state::Record;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Ask, Item, Reply};
use crate::cloud::Cloud;
use crate::tier::{Far, hears, written};

/// Those of other boxes who read here.
pub(crate) struct Readers {
    open: Mutex<Open>,
    /// To read an app's files.
    turns: Semaphore,
    /// KiB of lines that wait to be taken.
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Open {
    next: u64,
    readers: HashMap<u64, Entry>,
}

struct Entry {
    from: BoxId,
    tenant: TenantId,
    used: Instant,
    /// None while it is being asked.
    reader: Option<Reader>,
}

struct Reader {
    past: VecDeque<Line>,
    follower: Option<Follower>,
    /// The page that was given last, and its number.
    page: u64,
    items: Vec<Item>,
    /// For the past.
    room: Option<OwnedSemaphorePermit>,
}

impl Default for Readers {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(LOG_PAST_BYTES_MAX >> 10));
        Self { open: Mutex::default(), turns: Semaphore::new(LOG_READS_AT_ONCE), room }
    }
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of readers that nobody asked for long.
    pub(crate) fn expire(&self) {
        self.lock().readers.retain(|_, entry| entry.reader.is_none() || entry.used.elapsed() < LOG_READER_IDLE_MAX);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().readers.len()
    }

    /// As a restart does.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.lock().readers.clear();
    }

    fn is_full(&self, tenant: TenantId) -> bool {
        self.expire();
        self.lock().is_full(tenant)
    }

    fn keep(&self, from: BoxId, tenant: TenantId, reader: Reader) -> Option<u64> {
        let mut open = self.lock();
        if open.is_full(tenant) {
            return None;
        }
        open.next += 1;
        let number = open.next;
        open.readers.insert(number, Entry { from, tenant, used: Instant::now(), reader: Some(reader) });
        Some(number)
    }

    /// Takes a reader out for as long as it is asked. A box asks for its own alone.
    fn take(&self, from: BoxId, number: u64) -> Result<Taken<'_>, Reply> {
        let mut open = self.lock();
        let entry = open.readers.get_mut(&number).filter(|entry| entry.from == from).ok_or(Reply::Gone)?;
        let reader = entry.reader.take().ok_or(Reply::Busy)?;
        Ok(Taken { readers: self, number, reader: Some(reader) })
    }
}

impl Open {
    fn is_full(&self, tenant: TenantId) -> bool {
        let own = self.readers.values().filter(|entry| entry.tenant == tenant).count();
        self.readers.len() >= LOG_READERS_MAX || own >= LOG_READERS_PER_TENANT_MAX
    }
}

/// A reader that is being asked. It goes back also when the box that asks stops waiting.
struct Taken<'a> {
    readers: &'a Readers,
    number: u64,
    reader: Option<Reader>,
}

impl Taken<'_> {
    fn reader(&mut self) -> &mut Reader {
        self.reader.as_mut().expect("it is here until it goes back")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut open = self.readers.lock();
        let Some(entry) = open.readers.get_mut(&self.number) else { return };
        if self.reader.as_ref().is_some_and(Reader::is_over) {
            open.readers.remove(&self.number);
        } else {
            (entry.used, entry.reader) = (Instant::now(), self.reader.take());
        }
    }
}

impl Reader {
    fn is_over(&self) -> bool {
        self.past.is_empty() && self.follower.is_none()
    }

    fn turn_page(&mut self) {
        let mut bytes = 0;
        self.items.clear();
        while bytes < LOG_PAGE_BYTES_MAX
            && let Some(line) = self.past.pop_front()
        {
            bytes += self.add(Followed::Line(Arc::new(line)));
        }
        if self.past.is_empty() {
            self.room = None;
        }
    }

    /// What comes, when there is no past any more. What was heard is in the page whenever this is dropped.
    async fn listen(&mut self) {
        let mut bytes = 0;
        while bytes < LOG_PAGE_BYTES_MAX
            && let Some(follower) = &mut self.follower
        {
            let heard = if self.items.is_empty() {
                tokio::time::timeout(LOG_POLL_TIME_MAX, follower.next()).await.ok()
            } else {
                follower.next().now_or_never()
            };
            match heard {
                Some(Some(followed)) => bytes += self.add(followed),
                Some(None) => self.follower = None,
                None => return,
            }
        }
    }

    fn add(&mut self, followed: Followed) -> usize {
        let item = match followed {
            Followed::Line(line) => Item::Line(serde_json::to_string(&*line).expect("a line is plain data")),
            Followed::Missed(count) => Item::Missed(count),
        };
        let bytes = match &item {
            Item::Line(text) => text.len(),
            Item::Missed(_) => 0,
        };
        self.items.push(item);
        bytes
    }
}

/// Answers another box's question for a log.
pub(crate) async fn answer(cloud: &Cloud, far: &Far, from: BoxId, body: Bytes) -> Result<Bytes, String> {
    let ask: Ask = postcard::from_bytes(&body).map_err(|error| format!("no question for a log: {error}"))?;
    let reply = match ask {
        Ask::Begin { .. } => begin(cloud, &far.readers, from, ask).await,
        Ask::Next { reader, page } => next(&far.readers, from, reader, page).await,
    };
    written(&reply.unwrap_or_else(|refused| refused))
}

async fn begin(cloud: &Cloud, readers: &Readers, from: BoxId, ask: Ask) -> Result<Reply, Reply> {
    let Ask::Begin { tenant, app, wanted, tail, stay } = ask else { return Err(Reply::Gone) };
    // A log of what there isn't must make nothing here.
    let has = |record: &Record| record.tenant(tenant).is_some_and(|it| it.apps.values().any(|it| it.id == app));
    if !hears(cloud, has).await {
        return Err(Reply::Gone);
    }
    if readers.is_full(tenant) {
        return Err(Reply::Busy);
    }
    let _turn = readers.turns.acquire().await.map_err(|_| Reply::Busy)?;
    let (logs, filter) = (cloud.store.logs.clone(), wanted.into());
    let tail = usize::try_from(tail).unwrap_or(usize::MAX);
    let read = tokio::task::spawn_blocking(move || {
        if stay {
            logs.follow(tenant, app, tail, filter).map(|(past, follower)| (past, Some(follower)))
        } else {
            logs.tail(tenant, app, tail, &filter).map(|past| (past, None))
        }
    });
    let (past, follower) = match read.await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            tracing::error!("a log that another box asks for can't be read: {}", chain(&error));
            return Err(Reply::Failed("its own log says why".to_owned()));
        }
        Err(_) => return Err(Reply::Failed("it is going down".to_owned())),
    };
    let kib = past.iter().map(|line| line.text.len() + size_of::<Line>()).sum::<usize>() >> 10;
    let room = u32::try_from(kib).ok().and_then(|kib| Arc::clone(&readers.room).try_acquire_many_owned(kib).ok());
    let room = room.ok_or(Reply::Busy)?;
    let count = u32::try_from(past.len()).unwrap_or(u32::MAX);
    let mut reader = Reader { past: past.into(), follower, page: 0, items: Vec::new(), room: Some(room) };
    reader.turn_page();
    let items = std::mem::take(&mut reader.items);
    let reader = if reader.is_over() { None } else { Some(readers.keep(from, tenant, reader).ok_or(Reply::Busy)?) };
    Ok(Reply::Begun { reader, past: count, items })
}

async fn next(readers: &Readers, from: BoxId, number: u64, page: u64) -> Result<Reply, Reply> {
    let mut taken = readers.take(from, number)?;
    let reader = taken.reader();
    if page == reader.page + 1 {
        reader.page = page;
        reader.turn_page();
        if reader.past.is_empty() {
            reader.listen().await;
        }
    } else if page != reader.page {
        return Err(Reply::Gone);
    }
    Ok(Reply::Page { items: reader.items.clone(), end: reader.is_over() })
}
