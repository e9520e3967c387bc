//! What a thread has allocated, net: by it the host tells whose work its memory goes into.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts. A program that runs guests makes it its own:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: sandbox::Counting = sandbox::Counting;
/// ```
///
/// Without it what the host keeps for guests isn't told apart by tenant (`crate::pressure`).
#[derive(Debug)]
pub struct Counting;

thread_local! {
    // It needs no destructor and no first use, so that the allocator may touch it at any moment of a thread's life.
    static NET: Cell<i64> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated less those that it has freed, whoever had allocated them.
pub(crate) fn here() -> i64 {
    NET.get()
}

fn add(bytes: usize) {
    NET.set(NET.get().wrapping_add_unsigned(bytes as u64));
}

fn take(bytes: usize) {
    NET.set(NET.get().wrapping_sub_unsigned(bytes as u64));
}

/// Gives what is free back to the kernel. glibc keeps it by itself, in an arena a thread: after a flood the node would be
/// short of memory when all that had taken it was gone. It takes milliseconds.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and has no precondition.
    #[expect(unsafe_code, reason = "no library wraps this call")]
    unsafe {
        libc::malloc_trim(0);
    }
}

// SAFETY: each call goes to the system's allocator as it came, which keeps the contract; the counting neither allocates nor
// unwinds.
#[expect(unsafe_code, reason = "an allocator can be had in no other way; all it does is forward and count")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(layout.size());
        add(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}
