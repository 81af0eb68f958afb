//! Large host memory: huge-page arenas that several readers fill at once, and read-only views of files.
//!
//! The only file of this crate with `unsafe` code. An [`Arena`] hands out [`ArenaSlice`]s that never overlap,
//! because it only moves forward; [`Arena::freeze`] gives read access only once every slice is gone.
#![allow(
    unsafe_code,
    reason = "anonymous mappings and file mappings have no safe interface in std"
)]

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Size of a huge page on the machines this runs on; mappings of at least this size ask for them.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// The smallest page of any machine that this runs on.
const SMALLEST_PAGE: usize = 4 << 10;

/// Owns an anonymous private mapping of zeros.
#[derive(Debug)]
struct Mapping {
    /// First byte handed out, aligned to [`HUGE_PAGE`] where the mapping is that large.
    start: NonNull<u8>,
    len: usize,
    mapped: NonNull<u8>,
    mapped_len: usize,
}

// SAFETY: the mapping is plain memory; access to it is governed by the types below.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing reaches the memory through `&Mapping` but the types below.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let slack = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let mapped_len = len.max(1).checked_add(slack).ok_or(io::ErrorKind::OutOfMemory)?;
        let (prot, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapped =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), mapped_len, prot, flags) }?;
        let mapped = NonNull::new(mapped.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = if slack == 0 { 0 } else { mapped.align_offset(HUGE_PAGE) };
        // SAFETY: `skip` is below `HUGE_PAGE`, which the mapping has to spare.
        let start = unsafe { mapped.add(skip) };
        let mapping = Self { start, len, mapped, mapped_len };
        if slack > 0 {
            // Advice only: where the kernel has no huge pages to give, small ones serve.
            // SAFETY: the range lies in the mapping made above.
            let _ =
                unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`; every slice of it keeps an `Arc` of this value.
        let unmapped = unsafe { rustix::mm::munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping");
    }
}

/// Zeroed memory that is handed out front to back, slice by slice.
#[derive(Debug)]
pub(crate) struct Arena {
    mapping: Arc<Mapping>,
    next: usize,
}

impl Arena {
    /// Reserves `len` bytes of address space; memory is taken as it is touched.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        Ok(Self { mapping: Arc::new(Mapping::new(len)?), next: 0 })
    }

    /// The next `len` bytes, or `None` past the end.
    pub(crate) fn take(&mut self, len: usize) -> Option<ArenaSlice> {
        let end = self.next.checked_add(len).filter(|&end| end <= self.mapping.len)?;
        // SAFETY: `next` is within the mapping.
        let start = unsafe { self.mapping.start.add(self.next) };
        self.next = end;
        Some(ArenaSlice { start, len, _mapping: Arc::clone(&self.mapping) })
    }

    /// Read access to everything; `None` while a slice is still out.
    pub(crate) fn freeze(self) -> Option<SharedBytes> {
        let len = self.mapping.len;
        let mapping = Arc::try_unwrap(self.mapping).ok()?;
        Some(SharedBytes { memory: Arc::new(Memory::Owned(mapping)), start: 0, len })
    }
}

/// A part of an arena that nothing else refers to.
#[derive(Debug)]
pub(crate) struct ArenaSlice {
    start: NonNull<u8>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: the slice is the only way to its bytes, so it may move between threads like a `Box<[u8]>`.
unsafe impl Send for ArenaSlice {}
// SAFETY: `&ArenaSlice` gives `&[u8]` only.
unsafe impl Sync for ArenaSlice {}

impl Deref for ArenaSlice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: in the mapping by `Arena::take`; not aliased because ranges never overlap; outlived by the `Arc`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for ArenaSlice {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[derive(Debug)]
enum Memory {
    Owned(Mapping),
    File(memmap2::Mmap),
}

/// Immutable bytes that several owners share: filled memory or a view of a file.
#[derive(Debug, Clone)]
pub struct SharedBytes {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

impl SharedBytes {
    /// Maps a whole file read-only. The bytes are the file's: whoever truncates or rewrites it while it is mapped
    /// changes them or faults the process, which is why writers of this crate replace files by rename only.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the view is read-only; that nobody truncates the file is stated as the caller's duty.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        let len = map.len();
        Ok(Self { memory: Arc::new(Memory::File(map)), start: 0, len })
    }

    /// Brings in every page of a mapped file, as touching each would, but in one call to the kernel, and with an error
    /// where touching a page that cannot be read would end the process. Owned bytes are there already.
    ///
    /// # Errors
    /// Where the kernel cannot read a page: the disk failed, or the file was truncated.
    pub fn prefault(&self) -> io::Result<()> {
        let Memory::File(map) = &*self.memory else { return Ok(()) };
        if self.len == 0 {
            return Ok(());
        }
        match map.advise_range(memmap2::Advice::PopulateRead, self.start, self.len) {
            // Linux before 5.14 does not know the advice.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.iter().step_by(SMALLEST_PAGE).for_each(|byte| {
                    std::hint::black_box(byte);
                });
                Ok(())
            }
            done => done,
        }
    }

    /// A part of these bytes that shares their memory; `None` past the end.
    pub(crate) fn part(&self, start: usize, len: usize) -> Option<Self> {
        start.checked_add(len).filter(|&end| end <= self.len)?;
        Some(Self { memory: Arc::clone(&self.memory), start: self.start + start, len })
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.memory {
            Memory::File(map) => map.get(self.start..self.start + self.len).unwrap_or_default(),
            Memory::Owned(mapping) => {
                // SAFETY: `part` keeps the range within the mapping.
                let start = unsafe { mapping.start.add(self.start) };
                // SAFETY: the range is mapped and no longer written: `freeze` saw the last slice go.
                unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) }
            }
        }
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn slices_are_disjoint_and_frozen_bytes_hold_what_was_written() {
        for len in [1, 4096, HUGE_PAGE, HUGE_PAGE * 2 + 1] {
            let mut arena = Arena::new(len).unwrap();
            let mut slices = Vec::new();
            let mut left = len;
            while left > 0 {
                let step = left.min(len / 3 + 1);
                slices.push(arena.take(step).unwrap());
                left -= step;
            }
            assert!(arena.take(1).is_none(), "past the end");
            std::thread::scope(|scope| {
                for (i, slice) in slices.iter_mut().enumerate() {
                    scope.spawn(move || slice.fill(u8::try_from(i + 1).unwrap()));
                }
            });
            drop(slices);
            let bytes = arena.freeze().expect("no slice is out");
            assert!(bytes.is_sorted() && bytes.first() == Some(&1) && !bytes.contains(&0));
            assert!(bytes.part(1, len).is_none());
        }
    }

    #[test]
    fn every_part_of_a_mapped_file_can_be_brought_in_and_a_lost_page_is_an_error() {
        // The largest page of any machine that this runs on: aarch64 has kernels with it.
        const LARGEST_PAGE: usize = 64 << 10;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 5 * LARGEST_PAGE]).unwrap();
        let bytes = SharedBytes::map(&file).unwrap();
        for (start, len) in
            [(0, 5 * LARGEST_PAGE), (100, 5000), (4096, 1), (LARGEST_PAGE, 1), (9, 0)]
        {
            bytes.part(start, len).unwrap().prefault().unwrap();
        }
        file.set_len(LARGEST_PAGE as u64).unwrap();
        assert!(bytes.part(0, LARGEST_PAGE).unwrap().prefault().is_ok());
        assert!(bytes.prefault().is_err());
    }

    #[test]
    fn an_arena_with_a_slice_out_cannot_be_read() {
        let mut arena = Arena::new(8).unwrap();
        let _slice = arena.take(4);
        assert!(arena.freeze().is_none());
    }
}
