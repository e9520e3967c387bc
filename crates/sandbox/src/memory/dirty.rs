//! Which pages of a memory were written to: `PAGEMAP_SCAN` (`ioctl_pagemap_scan(2)`, Linux 6.7).

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;

// linux/fs.h
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// Pieces that one call tells of.
const PIECES: usize = 64;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// This process's pages.
pub(super) struct Pagemap(File);

/// What a look found.
pub(super) struct Found {
    start: u64,
    walk_end: u64,
    regions: [MaybeUninit<Region>; PIECES],
    count: usize,
}

impl Pagemap {
    /// `None` where the kernel can't tell, or doesn't find a page that is written to here.
    pub(super) fn open() -> Option<Self> {
        let pagemap = Self(File::open("/proc/self/pagemap").ok()?);
        let page = rustix::param::page_size();
        let mut written = vec![1_u8; 2 * page];
        let start = written.as_mut_ptr().map_addr(|at| at.next_multiple_of(page));
        let found = pagemap.written(start, page, page).ok()?;
        let mut pieces = found.pieces();
        (pieces.next() == Some(0..page) && pieces.next().is_none()).then_some(pagemap)
    }

    /// Looks from `start` for pages that were written to: for so many bytes, or until it has found about `most` or as much
    /// as it can tell of.
    ///
    /// A page of a file or of zeros that was only read isn't one.
    pub(super) fn written(&self, start: *mut u8, length: usize, most: usize) -> io::Result<Found> {
        let start = start.addr() as u64;
        let mut found = Found { start, walk_end: start, regions: [MaybeUninit::uninit(); PIECES], count: 0 };
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            start,
            end: start + length as u64,
            vec: found.regions.as_mut_ptr().addr() as u64,
            vec_len: PIECES as u64,
            max_pages: most.div_ceil(rustix::param::page_size()) as u64,
            category_inverted: PAGE_IS_PFNZERO | PAGE_IS_FILE,
            category_mask: PAGE_IS_PFNZERO | PAGE_IS_FILE,
            // One that the kernel has swapped out, or moves elsewhere just now, isn't there and was written to all the same.
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..Scan::default()
        };
        // SAFETY: the argument is what this call takes, and lives as long as it takes; it writes `walk_end`, and to
        // `regions` as many as there is room for.
        #[expect(unsafe_code, reason = "no library wraps this call")]
        let count = unsafe {
            // The address was told as a number.
            found.regions.as_mut_ptr().expose_provenance();
            libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan)
        };
        found.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        found.walk_end = scan.walk_end;
        if found.count > PIECES
            || !(start..=scan.end).contains(&scan.walk_end)
            || (length > 0 && found.looked_at() == 0)
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(found)
    }
}

impl Found {
    /// Bytes that were looked at.
    pub(super) fn looked_at(&self) -> usize {
        usize::try_from(self.walk_end - self.start).expect("it is part of the address space")
    }

    /// Counted from where the look began.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        self.regions[..self.count].iter().map(|region| {
            // SAFETY: the kernel wrote the first `count`.
            #[expect(unsafe_code, reason = "it is the kernel that writes them")]
            let Region { start, end, .. } = unsafe { region.assume_init() };
            let from_start =
                |at: u64| usize::try_from(at.saturating_sub(self.start)).expect("part of the address space");
            from_start(start)..from_start(end)
        })
    }
}
