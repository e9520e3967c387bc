//! One stretch of address space: a guard, 4 GiB that a memory may grow to, and a guard.

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use base::limits::{MEMORY_GIVE_BACK_BYTES, MEMORY_KEEP_RESIDENT_BYTES};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};

use super::Content;
use super::dirty::Pagemap;

/// What a memory of 32 bits can address: compiled code looks at no bound within.
pub(super) const RESERVED_BYTES: usize = 4 << 30;
/// What its offsets can reach beyond, as wasmtime has it by default.
pub(super) const GUARD_BYTES: usize = 32 << 20;
const WHOLE_BYTES: usize = GUARD_BYTES + RESERVED_BYTES + GUARD_BYTES;
/// A page of WebAssembly, and no less than one of any machine.
pub(super) const ALIGNED_BYTES: u64 = crate::compile::PAGE_BYTES;

const OPEN: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A part of a file, to be read.
pub(super) struct Mapped {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: it is only ever read, and whoever has it may unmap it.
#[expect(unsafe_code, reason = "a pointer isn't sent by itself")]
unsafe impl Send for Mapped {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a pointer isn't shared by itself")]
unsafe impl Sync for Mapped {}

impl Mapped {
    pub(super) fn new(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses a place where nothing is.
        #[expect(unsafe_code, reason = "a file is mapped in no other way")]
        let at = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, offset)? };
        Ok(Self { at: NonNull::new(at.cast()).expect("the kernel doesn't map the first page"), length })
    }

    fn at(&self, offset: usize) -> *const u8 {
        debug_assert!(offset < self.length);
        self.at.as_ptr().wrapping_add(offset)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing refers to it any more. If it can't be unmapped it stays.
        #[expect(unsafe_code, reason = "as above")]
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.length) };
    }
}

pub(super) struct Slot {
    /// Of the guard in front.
    whole: NonNull<u8>,
    content: Option<Arc<Content>>,
    /// Bytes from the start that can be read and written.
    open: usize,
    /// The kernel refused to open or close a part, and may have done some of it.
    torn: bool,
}

// SAFETY: the stretch belongs to whoever has the slot.
#[expect(unsafe_code, reason = "a pointer isn't sent by itself")]
unsafe impl Send for Slot {}
// SAFETY: nothing is done to the stretch by a shared reference.
#[expect(unsafe_code, reason = "a pointer isn't shared by itself")]
unsafe impl Sync for Slot {}

impl Slot {
    pub(super) fn new() -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses a place where nothing is.
        #[expect(unsafe_code, reason = "address space is had in no other way")]
        let whole = unsafe { mmap_anonymous(ptr::null_mut(), WHOLE_BYTES, ProtFlags::empty(), flags)? };
        let whole = NonNull::new(whole.cast()).expect("the kernel doesn't map the first page");
        Ok(Self { whole, content: None, open: 0, torn: false })
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.at(0)
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= RESERVED_BYTES);
        // SAFETY: it lies in the stretch or at its end.
        #[expect(unsafe_code, reason = "a place in the stretch is its start and an offset")]
        unsafe {
            self.whole.as_ptr().add(GUARD_BYTES + offset)
        }
    }

    /// Does it hold this content?
    pub(super) fn has(&self, content: Option<&Arc<Content>>) -> bool {
        match (&self.content, content) {
            (Some(held), Some(content)) => Arc::ptr_eq(held, content),
            (held, content) => held.is_none() && content.is_none(),
        }
    }

    /// Makes it a memory of `minimum` bytes, which holds `content` where that is, and zeros elsewhere. It was put back
    /// before, or is new.
    pub(super) fn prepare(&mut self, content: Option<&Arc<Content>>, minimum: usize) -> io::Result<()> {
        if !self.has(content) {
            if let Some(held) = self.content.take() {
                self.close(0)?;
                // SAFETY: nothing but this slot refers to the place; it was mapped before, and is mapped again at once.
                #[expect(unsafe_code, reason = "what is mapped in a place is replaced in no other way")]
                unsafe {
                    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
                    mmap_anonymous(self.at(held.start).cast(), held.length, ProtFlags::empty(), flags)?;
                }
            }
            if let Some(content) = content {
                if content.start + content.length > minimum {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                // It may be larger by now than what it gets.
                self.close(content.start)?;
                // SAFETY: as above. The file is as long as the content, and stays as it is (`Contents::of`).
                #[expect(unsafe_code, reason = "as above")]
                unsafe {
                    let (length, flags) = (content.length, MapFlags::PRIVATE | MapFlags::FIXED);
                    mmap(self.at(content.start).cast(), length, OPEN, flags, &*content.file, content.offset)?;
                }
                self.content = Some(Arc::clone(content));
            }
        }
        if self.open > minimum {
            self.close(minimum)?;
        }
        self.grow(minimum)
    }

    /// Opens what there isn't yet of so many bytes.
    pub(super) fn grow(&mut self, size: usize) -> io::Result<()> {
        if size > RESERVED_BYTES {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if size > self.open {
            self.protect(self.open, size, MprotectFlags::READ | MprotectFlags::WRITE)?;
            self.open = size;
        }
        Ok(())
    }

    /// Closes what is beyond so many bytes.
    fn close(&mut self, size: usize) -> io::Result<()> {
        if size < self.open {
            self.protect(size, self.open, MprotectFlags::empty())?;
            self.open = size;
        }
        Ok(())
    }

    fn protect(&mut self, from: usize, to: usize, protection: MprotectFlags) -> io::Result<()> {
        // SAFETY: it lies in the stretch, and nobody but the instance that this slot belongs to refers to it: what is
        // opened was closed before, and what is closed no instance has any more.
        #[expect(unsafe_code, reason = "protection is changed in no other way")]
        let done = unsafe { mprotect(self.at(from).cast(), to - from, protection) };
        self.torn |= done.is_err();
        Ok(done?)
    }

    /// Makes it what it was before its instance had it: `minimum` bytes, of zeros and of its content.
    pub(super) fn put_back(&mut self, minimum: usize, pagemap: Option<&Pagemap>) -> io::Result<()> {
        if self.torn {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.open > minimum {
            self.give(minimum, self.open)?;
            self.close(minimum)?;
        }
        let Some(pagemap) = pagemap else { return self.give(0, self.open) };
        let (mut from, mut kept) = (0, 0);
        while from < self.open {
            if kept >= MEMORY_KEEP_RESIDENT_BYTES {
                return self.give(from, self.open);
            }
            let found = pagemap.written(self.at(from), self.open - from, MEMORY_KEEP_RESIDENT_BYTES - kept)?;
            for piece in found.pieces() {
                let at = from + piece.start;
                self.restore(at, piece.len());
                kept += piece.len();
            }
            from += found.looked_at();
        }
        Ok(())
    }

    /// Writes what a part held at first. It is open.
    fn restore(&mut self, from: usize, length: usize) {
        let end = from + length;
        assert!(end <= self.open, "a page beyond the memory was written to");
        let (start, stop) = match &self.content {
            Some(content) => (content.start.clamp(from, end), (content.start + content.length).clamp(from, end)),
            None => (end, end),
        };
        // SAFETY: all of it lies in the part, which is open and which nobody else refers to; what is read lies in the
        // content, which isn't written to.
        #[expect(unsafe_code, reason = "it is memory that only a pointer refers to")]
        unsafe {
            self.at(from).write_bytes(0, start - from);
            if let Some(content) = self.content.as_ref().filter(|_| start < stop) {
                let first = content.mapped.at(content.mapped_at + (start - content.start));
                self.at(start).copy_from_nonoverlapping(first, stop - start);
            }
            self.at(stop).write_bytes(0, end - stop);
        }
    }

    /// Gives a part back to the kernel, and with it what was written there. A piece at a time: while it takes pages back, the
    /// kernel keeps others of this process from changing what is mapped.
    fn give(&self, from: usize, to: usize) -> io::Result<()> {
        for piece in (from..to).step_by(MEMORY_GIVE_BACK_BYTES) {
            let length = MEMORY_GIVE_BACK_BYTES.min(to - piece);
            // SAFETY: it lies in the stretch, and nobody refers to it any more.
            #[expect(unsafe_code, reason = "memory is given back in no other way")]
            unsafe {
                madvise(self.at(piece).cast(), length, Advice::LinuxDontNeed)?;
            }
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // What holds much goes in pieces; if that can't be, the rest goes at once.
        let _ = self.give(0, self.open);
        // SAFETY: it was mapped with this length, and nothing refers to it any more. If it can't be unmapped it stays.
        #[expect(unsafe_code, reason = "address space is given back in no other way")]
        let _ = unsafe { munmap(self.whole.as_ptr().cast(), WHOLE_BYTES) };
    }
}
