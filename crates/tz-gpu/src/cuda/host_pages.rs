//! Pages of host memory for the driver to lock. Owns [`HostPages`].
//!
//! The driver's own allocation of page-locked memory brings pages in one by one, on one thread: 95 ms for 256 MiB on a
//! machine with an H200, where huge pages that eight threads brought in took 12 ms, and locking them 7.
#![allow(unsafe_code, reason = "maps anonymous memory")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Length of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// Every page is brought in by one access, however long pages are.
const PAGE: usize = 4 << 10;
/// Threads that bring pages in: more gained nothing.
const MAX_THREADS: usize = 8;
/// Least memory for another thread.
const PER_THREAD: usize = 8 << 20;

/// Anonymous memory, zeroed and present, unmapped when dropped.
#[derive(Debug)]
pub(super) struct HostPages {
    mapping: NonNull<u8>,
    mapped: usize,
    /// Where the memory begins: on a huge page.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for HostPages {}
// SAFETY: `&HostPages` gives addresses only.
unsafe impl Sync for HostPages {}

impl HostPages {
    /// Maps `len` bytes, rounded up to whole pages; `None` where the system does not give them.
    pub(super) fn map(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(PAGE)?;
        let mapped = len.checked_add(HUGE_PAGE)?;
        let (read_write, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let mapping = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped, read_write, private) };
        let mapping = NonNull::new(mapping.ok()?.cast::<u8>())?;
        let to_huge = mapping.addr().get().next_multiple_of(HUGE_PAGE) - mapping.addr().get();
        // SAFETY: less than a huge page, by which the mapping is longer than `len`.
        let start = unsafe { mapping.add(to_huge) };
        let pages = Self { mapping, mapped, start, len };
        // SAFETY: `len` bytes from `start` on are mapped. Where there are no huge pages, others do.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        pages.bring_in();
        Some(pages)
    }

    /// Where the memory begins.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How much there is: whole pages.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Writes a zero to every page.
    fn bring_in(&self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (self.len / PER_THREAD).clamp(1, MAX_THREADS.min(cores));
        let share = self.len.div_ceil(threads).next_multiple_of(HUGE_PAGE);
        // SAFETY: `len` mapped bytes that nothing else refers to yet; atomics have the layout of bytes, and zeros are
        // valid ones.
        let bytes: &[AtomicU8] =
            unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) };
        let touch = |part: &[AtomicU8]| {
            for byte in part.iter().step_by(PAGE) {
                byte.store(0, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let mut parts = bytes.chunks(share);
            let own = parts.next();
            for part in parts {
                let named = std::thread::Builder::new().name("tz-pages".to_owned());
                if named.spawn_scoped(scope, move || touch(part)).is_err() {
                    // A process that may start no more threads does it by itself.
                    touch(part);
                }
            }
            own.map(touch);
        });
    }
}

impl Drop for HostPages {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, unmapped only here.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole_zeroed_and_on_huge_pages() {
        for len in [1, PAGE, PAGE + 1, HUGE_PAGE, (40 << 20) + 5] {
            let pages = HostPages::map(len).unwrap();
            assert_eq!(pages.len(), len.next_multiple_of(PAGE));
            assert_eq!(pages.start().addr().get() % HUGE_PAGE, 0);
            // SAFETY: as many bytes are mapped, and nothing else refers to them.
            let bytes = unsafe { std::slice::from_raw_parts(pages.start().as_ptr(), pages.len()) };
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
        assert!(HostPages::map(usize::MAX).is_none());
    }
}
