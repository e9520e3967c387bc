//! Guests' memory: stretches of address space that one instance after another has.
//!
//! wasmtime's own pool would do, but for three things that this house needs. It puts back at the most 32 pieces of a
//! memory that was written to and gives the rest back to the kernel, from which the next instance has it page by page: an
//! engine of JavaScript writes to more, and half of its requests' time went there. It gives back a large memory in one
//! call, which keeps others from the address space for tens of milliseconds. And all cores share its locks.
//!
//! Here a core has stretches of its own ([`slot`]). What a memory holds at first is mapped from the file of its compiled
//! component; after its instance is gone the pages that were written to are found ([`dirty`]) and put back, however many
//! pieces they are, up to a bound of bytes; and what is beyond goes back to the kernel a piece at a time. The stacks that
//! guests run on are had from here too ([`stack`]).
//!
//! *Invariant*: a stretch is in one place at a time, with its instance or among those that wait, and whoever has it reads
//! zeros or the first content in every byte that it may touch.

mod dirty;
mod slot;
mod stack;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::limits::{INSTANCES_MAX, MEMORIES_IDLE_PER_CORE_MAX, TENANT_MEMORIES_MAX};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::compile::marked;
use crate::limiter::Share;
use dirty::Pagemap;
use slot::{GUARD_BYTES, RESERVED_BYTES, Slot};
pub(crate) use stack::Stacks;

/// What the memories of a program hold at first, by the number that their marks have.
#[derive(Default)]
pub(crate) struct Contents(Vec<Arc<Content>>);

/// What one memory holds at first.
pub(crate) struct Content {
    file: Arc<File>,
    /// Where it lies in the file, and where in the memory.
    offset: u64,
    start: usize,
    length: usize,
    /// To read what was written over: all contents of the file, as each mapping is one of 65,530, and where this one is.
    mapped: Arc<slot::Mapped>,
    mapped_at: usize,
}

/// Where a content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ContentAt {
    pub(crate) offset: u64,
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

impl Contents {
    /// Maps those of a file, which must stay as it is.
    pub(crate) fn of(file: File, at: &[ContentAt]) -> io::Result<Self> {
        let (Some(first), Some(end)) =
            (at.iter().map(|at| at.offset).min(), at.iter().map(|at| at.offset.saturating_add(at.bytes)).max())
        else {
            return Ok(Self::default());
        };
        let file = Arc::new(file);
        let length = file.metadata()?.len();
        let number = |number: u64| usize::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        if end > length || first >= end || first % slot::ALIGNED_BYTES != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mapped = Arc::new(slot::Mapped::new(&file, first, number(end - first)?)?);
        let content = |at: &ContentAt| {
            let ContentAt { offset, start, bytes } = *at;
            let fits = |end: Option<u64>, max: u64| end.is_some_and(|end| end <= max);
            let whole = [offset, start, bytes].iter().all(|number| number % slot::ALIGNED_BYTES == 0) && bytes > 0;
            if !whole
                || !fits(offset.checked_add(bytes), length)
                || !fits(start.checked_add(bytes), RESERVED_BYTES as u64)
            {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let (start, length, mapped_at) = (number(start)?, number(bytes)?, number(offset - first)?);
            Ok(Arc::new(Content {
                file: Arc::clone(&file),
                offset,
                start,
                length,
                mapped: Arc::clone(&mapped),
                mapped_at,
            }))
        };
        at.iter().map(content).collect::<io::Result<_>>().map(Self)
    }
}

/// Which program's memories are made on this thread just now.
pub(crate) struct Making {
    contents: Arc<Contents>,
    share: Arc<Share>,
    /// There was no stretch left for one of them.
    refused: bool,
}

thread_local! {
    static MAKING: RefCell<Option<Making>> = const { RefCell::new(None) };
    /// Where this thread's stretches wait.
    static HOME: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the next thread.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// So that no two cores have to share one.
fn home() -> usize {
    HOME.get().unwrap_or_else(|| {
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        HOME.set(Some(number));
        number
    })
}

impl Making {
    /// For an instance of the tenant that has this share of the box.
    pub(crate) fn new(contents: &Arc<Contents>, share: &Arc<Share>) -> Self {
        Self { contents: Arc::clone(contents), share: Arc::clone(share), refused: false }
    }

    /// Does what may make memories.
    pub(crate) fn during<R>(self, make: impl FnOnce() -> R) -> (Self, R) {
        let outer = MAKING.replace(Some(self));
        let made = make();
        let making = MAKING.replace(outer).expect("it was put there");
        (making, made)
    }

    pub(crate) fn was_refused(&self) -> bool {
        self.refused
    }
}

/// The stretches of the box.
pub(crate) struct Memories(Arc<Inner>);

struct Inner {
    /// Those that wait, the ones used last at the end.
    idle: Box<[Mutex<Vec<Slot>>]>,
    /// Those that instances have.
    taken: AtomicUsize,
    pagemap: Option<Pagemap>,
}

impl Memories {
    /// For so many cores.
    pub(crate) fn new(cores: usize) -> Self {
        let idle = (0..cores.max(1)).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner { idle, taken: AtomicUsize::new(0), pagemap: Pagemap::open() }))
    }

    /// Gives back what no instance has.
    pub(crate) fn release(&self) {
        for idle in &self.0.idle {
            let gone = std::mem::take(&mut *locked(idle));
            // It takes a while, and a core may want the list.
            drop(gone);
        }
    }
}

fn locked(idle: &Mutex<Vec<Slot>>) -> MutexGuard<'_, Vec<Slot>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no memory.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{INSTANCES_MAX} memories are in use, as many as there may be")]
    Full,
    #[error("{TENANT_MEMORIES_MAX} memories are in use by this tenant, as many as it may have")]
    TenantFull,
    #[error("a memory can't be had from the kernel: {0}")]
    Kernel(#[from] io::Error),
}

/// Counts as in use, on the box and by its tenant, while it lives.
struct Taken {
    pool: Arc<Inner>,
    share: Arc<Share>,
}

impl Taken {
    fn new(pool: &Arc<Inner>, share: &Arc<Share>) -> Result<Self, Refused> {
        let before = pool.taken.fetch_add(1, Ordering::Relaxed);
        let own = share.memories.fetch_add(1, Ordering::Relaxed);
        let taken = Self { pool: Arc::clone(pool), share: Arc::clone(share) };
        if before >= INSTANCES_MAX as usize {
            return Err(Refused::Full);
        }
        // Its instances may have eight each, and others want some.
        if own >= TENANT_MEMORIES_MAX { Err(Refused::TenantFull) } else { Ok(taken) }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.pool.taken.fetch_sub(1, Ordering::Relaxed);
        self.share.memories.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    fn take(
        self: &Arc<Self>,
        share: &Arc<Share>,
        content: Option<&Arc<Content>>,
        minimum: usize,
    ) -> Result<Linear, Refused> {
        let taken = Taken::new(self, share)?;
        let home = home() % self.idle.len();
        // One that had the same content needn't be mapped anew.
        let held = {
            let mut idle = locked(&self.idle[home]);
            match idle.iter().rposition(|slot| slot.has(content)) {
                Some(at) => Some(idle.remove(at)),
                None if idle.len() >= MEMORIES_IDLE_PER_CORE_MAX => Some(idle.remove(0)),
                None => None,
            }
        };
        let mut slot = held.map_or_else(Slot::new, Ok)?;
        slot.prepare(content, minimum)?;
        Ok(Linear { slot: Some(slot), minimum, home, taken })
    }

    fn give_back(&self, home: usize, mut slot: Slot, minimum: usize) {
        // What can't be put back goes to the kernel as a whole.
        if slot.put_back(minimum, self.pagemap.as_ref()).is_err() {
            return;
        }
        let mut idle = locked(&self.idle[home]);
        let oldest = (idle.len() >= MEMORIES_IDLE_PER_CORE_MAX).then(|| idle.remove(0));
        idle.push(slot);
        drop(idle);
        drop(oldest);
    }
}

/// A memory that an instance has.
struct Linear {
    /// There until it is dropped.
    slot: Option<Slot>,
    minimum: usize,
    home: usize,
    taken: Taken,
}

impl Linear {
    fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Linear {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.taken.pool.give_back(self.home, slot, self.minimum);
        }
    }
}

// SAFETY: the memory is what the trait asks for. `as_ptr` is the start of a stretch that is this memory's alone until it
// is dropped, of which the first `byte_size` bytes can be read and written, and those beyond, up to the capacity and the
// guard behind it, can't; growth moves nothing.
#[expect(unsafe_code, reason = "wasmtime asks for memories by this trait")]
unsafe impl LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.slot().open()
    }

    fn byte_capacity(&self) -> usize {
        RESERVED_BYTES
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        let slot = self.slot.as_mut().expect("it is there until it is dropped");
        Ok(slot.grow(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot().start()
    }
}

// SAFETY: each memory has a stretch of its own with the guard that the engine was configured for (checked below), zeros
// in it but for the first content, which is what the segments that were taken out of its module would have made of it
// (`crate::compile::rewrite`).
#[expect(unsafe_code, reason = "wasmtime asks for memories by this trait")]
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _type: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved.is_none_or(|reserved| reserved > RESERVED_BYTES) || guard > GUARD_BYTES || minimum > RESERVED_BYTES
        {
            return Err("a memory is asked for that doesn't fit its stretch".to_owned());
        }
        let number = maximum.and_then(|maximum| marked(maximum as u64));
        MAKING.with_borrow_mut(|making| {
            let making = making.as_mut().ok_or("a memory is asked for, and no instance is being made")?;
            let content = match number {
                Some(number) => Some(making.contents.0.get(number).ok_or("a memory's first content is missing")?),
                None => None,
            };
            match self.0.take(&making.share, content, minimum) {
                Ok(linear) => Ok(Box::new(linear) as Box<dyn LinearMemory>),
                Err(refused) => {
                    making.refused |= matches!(refused, Refused::Full | Refused::TenantFull);
                    Err(refused.to_string())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
