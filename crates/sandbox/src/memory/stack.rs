//! The stacks that guests run on, and a guard below each.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::limits::{GUEST_STACKS_MAX, STACKS_IDLE_PER_CORE_MAX};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use wasmtime::{StackCreator, StackMemory};

use super::home;

/// Address space below a stack in which nothing is. A frame is at the most a page without being probed.
const GUARD_BYTES: usize = 64 << 10;

/// The stacks of the box.
pub(crate) struct Stacks(Arc<Inner>);

struct Inner {
    /// Those that wait, the ones used last at the end.
    idle: Box<[Mutex<Vec<Stack>>]>,
    /// Those that there are.
    taken: AtomicUsize,
}

struct Stack {
    /// Of the guard.
    whole: NonNull<u8>,
    /// Bytes of the stack itself.
    length: usize,
}

// SAFETY: the stack belongs to whoever has it.
#[expect(unsafe_code, reason = "a pointer isn't sent by itself")]
unsafe impl Send for Stack {}
// SAFETY: nothing is done to it by a shared reference.
#[expect(unsafe_code, reason = "a pointer isn't shared by itself")]
unsafe impl Sync for Stack {}

impl Stack {
    fn new(length: usize) -> io::Result<Self> {
        let length = length.next_multiple_of(rustix::param::page_size());
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses a place where nothing is; what is opened lies in it.
        #[expect(unsafe_code, reason = "address space is had in no other way")]
        unsafe {
            let whole = mmap_anonymous(ptr::null_mut(), GUARD_BYTES + length, ProtFlags::empty(), flags)?;
            let whole = NonNull::new(whole.cast::<u8>()).expect("the kernel doesn't map the first page");
            let stack = Self { whole, length };
            mprotect(stack.bottom().cast(), length, MprotectFlags::READ | MprotectFlags::WRITE)?;
            Ok(stack)
        }
    }

    fn bottom(&self) -> *mut u8 {
        self.whole.as_ptr().wrapping_add(GUARD_BYTES)
    }

    /// Zeros all of it.
    fn clear(&self) -> io::Result<()> {
        // SAFETY: nobody runs on it.
        #[expect(unsafe_code, reason = "memory is given back in no other way")]
        unsafe {
            madvise(self.bottom().cast(), self.length, Advice::LinuxDontNeed)?;
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody runs on it. If it can't be unmapped it stays.
        #[expect(unsafe_code, reason = "address space is given back in no other way")]
        let _ = unsafe { munmap(self.whole.as_ptr().cast(), GUARD_BYTES + self.length) };
    }
}

/// A stack that a guest has.
struct Lent {
    /// There until it is dropped.
    stack: Option<Stack>,
    home: usize,
    pool: Arc<Inner>,
}

impl Lent {
    fn stack(&self) -> &Stack {
        self.stack.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut idle = locked(&self.pool.idle[self.home]);
        if idle.len() < STACKS_IDLE_PER_CORE_MAX {
            idle.extend(self.stack.take());
        }
        drop(idle);
        self.pool.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked(idle: &Mutex<Vec<Stack>>) -> MutexGuard<'_, Vec<Stack>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stacks {
    /// For so many cores.
    pub(crate) fn new(cores: usize) -> Self {
        let idle = (0..cores.max(1)).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner { idle, taken: AtomicUsize::new(0) }))
    }

    /// Gives back what no guest has.
    pub(crate) fn release(&self) {
        for idle in &self.0.idle {
            let gone = std::mem::take(&mut *locked(idle));
            drop(gone);
        }
    }
}

// SAFETY: each stack is the guest's alone until it is dropped, can be read and written from its bottom to its top, both on
// the edge of a page, and has a guard below it that can't.
#[expect(unsafe_code, reason = "wasmtime asks for stacks by this trait")]
unsafe impl StackMemory for Lent {
    fn top(&self) -> *mut u8 {
        self.stack().bottom().wrapping_add(self.stack().length)
    }

    fn range(&self) -> Range<usize> {
        self.stack().bottom().addr()..self.top().addr()
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.stack().whole.as_ptr()..self.stack().bottom()
    }
}

// SAFETY: see above; a stack that was used holds what its last guest's frames left there unless zeros are asked for, and
// no guest can read a stack.
#[expect(unsafe_code, reason = "wasmtime asks for stacks by this trait")]
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let pool = &self.0;
        let home = home() % pool.idle.len();
        let before = pool.taken.fetch_add(1, Ordering::Relaxed);
        let held = if before < GUEST_STACKS_MAX { locked(&pool.idle[home]).pop() } else { None };
        let had = match held.filter(|stack| stack.length >= size) {
            _ if before >= GUEST_STACKS_MAX => Err(io::Error::from(io::ErrorKind::OutOfMemory)),
            Some(stack) if zeroed => stack.clear().map(|()| stack),
            Some(stack) => Ok(stack),
            None => Stack::new(size),
        };
        match had {
            Ok(stack) => Ok(Box::new(Lent { stack: Some(stack), home, pool: Arc::clone(pool) })),
            Err(error) => {
                pool.taken.fetch_sub(1, Ordering::Relaxed);
                Err(error.into())
            }
        }
    }
}
