//! The system calls that std lacks: huge-page memory, free and reserved space, the page cache, children and their
//! memory. All `unsafe` of xtask is here; everything in it is safe to call.
#![allow(unsafe_code, reason = "mmap, madvise, statvfs and fallocate have no safe wrapper in std")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

mod cache;
mod child;

pub(crate) use cache::drop_cached;
pub(crate) use child::{Finished, run_measured};

/// The size and alignment of a huge page on x86-64 and on aarch64 with 4 KiB base pages.
const HUGE_PAGE: usize = 2 << 20;

/// Fresh, untouched anonymous memory, aligned for huge pages.
#[derive(Debug)]
pub(crate) struct FreshMemory {
    mapping: *mut libc::c_void,
    mapped_len: usize,
    start: usize,
    len: usize,
}

impl FreshMemory {
    /// Maps `len` bytes and asks for huge pages.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let mapped_len = len
            .checked_add(HUGE_PAGE)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches
        // no memory that this process already has.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = mapping.align_offset(HUGE_PAGE);
        let memory = Self { mapping, mapped_len, start, len };
        // SAFETY: the range is the whole mapping made above; the advice changes no contents. A kernel without huge
        // pages refuses it, and its memory is as good.
        let _ = unsafe { libc::madvise(mapping, mapped_len, libc::MADV_HUGEPAGE) };
        Ok(memory)
    }

    /// The usable bytes; they start on a huge-page boundary.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `start` is less than HUGE_PAGE, the surplus that was mapped.
        let first = unsafe { self.mapping.cast::<u8>().add(self.start) };
        // SAFETY: `start + len` lies within the mapping, which is readable, writable, zeroed by
        // the kernel and borrowed exclusively through `self`.
        unsafe { std::slice::from_raw_parts_mut(first, self.len) }
    }
}

impl Drop for FreshMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no slice of it outlives `self`.
        unsafe { libc::munmap(self.mapping, self.mapped_len) };
    }
}

/// Bytes that this user may still write to the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is NUL-terminated and outlives the call; `stat` is a live local of the type
    // that statvfs fills.
    let failed = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs succeeded and filled it; all-zero was a valid value before, too.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Gives a new file its length, and its blocks where that helps: a file system in memory would clear every page.
pub(crate) fn reserve(file: &File, len: u64) -> io::Result<()> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open, and `stat` is a live local of the type that fstatfs fills.
    let failed = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    // SAFETY: all-zero is a valid value, whether fstatfs filled it or not.
    let in_memory = failed == 0 && unsafe { stat.assume_init() }.f_type == libc::TMPFS_MAGIC;
    let signed = libc::off_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: the call takes a descriptor and numbers, no memory of ours.
    if in_memory || unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, signed) } != 0 {
        return file.set_len(len);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_memory_is_aligned_zeroed_and_writable() {
        let mut memory = FreshMemory::new(3 * HUGE_PAGE + 5).unwrap();
        let bytes = memory.as_mut_slice();
        assert_eq!(bytes.len(), 3 * HUGE_PAGE + 5);
        assert_eq!(bytes.as_ptr().align_offset(HUGE_PAGE), 0);
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
    }

    #[test]
    fn free_space_is_known_where_there_is_a_folder() {
        assert!(free_bytes(Path::new("/")).is_ok());
        assert!(free_bytes(Path::new("/no/such/folder")).is_err());
    }
}
