//! What a thread has allocated, net: by it the host tells whose work its memory goes into.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::CStr;
use std::ptr::null_mut;

use tikv_jemallocator::Jemalloc;

/// jemalloc's name for the purge of all arenas (`MALLCTL_ARENAS_ALL` is 4096).
const PURGE_ALL: &CStr = c"arena.4096.purge";

/// jemalloc, which counts. A program that runs guests makes it its own:
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

/// Gives what is free back to the kernel, and says whether that was done. The allocator keeps it for seconds by itself:
/// after a flood the node would be short of memory when all that had taken it was gone. It takes milliseconds.
pub(crate) fn give_back() -> bool {
    // SAFETY: the name ends with a zero byte, and this call wants nothing read or written. It takes the allocator's own locks.
    #[expect(unsafe_code, reason = "jemalloc's bindings wrap the calls that read or write a value alone")]
    let failed = unsafe { tikv_jemalloc_sys::mallctl(PURGE_ALL.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
    failed == 0
}

// SAFETY: each call goes to jemalloc as it came, which keeps the contract; the counting neither allocates nor
// unwinds.
#[expect(unsafe_code, reason = "an allocator can be had in no other way; all it does is forward and count")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promises are those that jemalloc asks for.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { Jemalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        take(layout.size());
        // SAFETY: as above.
        unsafe { Jemalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(layout.size());
        add(size);
        // SAFETY: as above.
        unsafe { Jemalloc.realloc(at, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn jemalloc_knows_the_name_of_the_purge() {
        assert!(super::give_back());
    }
}
