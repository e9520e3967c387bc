//! What a thread has allocated, net: by it the host tells whose work its memory goes into.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use mimalloc::MiMalloc;

/// An allocator that counts. A program that runs guests makes it its own:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: sandbox::Counting = sandbox::Counting;
/// ```
///
/// Without it what the host keeps for guests isn't told apart by tenant (`crate::pressure`). Behind it is mimalloc, which
/// gives back to the kernel what is free, whoever freed it: with glibc's the node kept 500 MB after an attack, and
/// was still short of memory when all that had taken it was gone.
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

// SAFETY: each call goes to mimalloc as it came, which keeps the contract; the counting neither allocates nor
// unwinds.
#[expect(unsafe_code, reason = "an allocator can be had in no other way; all it does is forward and count")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promises are those that mimalloc asks for.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        take(layout.size());
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(layout.size());
        add(size);
        // SAFETY: as above.
        unsafe { MiMalloc.realloc(at, layout, size) }
    }
}
