//! The guard on memory: what one input may make the decoders take. Owns the counting allocator and [`Bound`].
//!
//! The allocator counts every thread of the process, so whoever holds a bound is alone: [`Bound::hold`] takes a lock.
//! The libraries' own large memory (arenas, mapped files, stacks of threads) does not come from an allocator. It
//! shows in the process's peak of resident memory, which targets that read whole files bound as well.
#![allow(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::resident;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated now, and the most since the last reset.
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static ALONE: Mutex<()> = Mutex::new(());

/// The system's allocator, counted.
struct Counting;

fn took(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
    PEAK.fetch_max(held, Ordering::Relaxed);
}

fn gave(bytes: usize) {
    HELD.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to `System` unchanged; counting allocates nothing and cannot unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's duty is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: the caller's duty is the same, and `ptr` came from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's duty is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new may exist at once.
        took(new_size);
        // SAFETY: the caller's duty is the same, and `ptr` came from `System`.
        let new = unsafe { System.realloc(ptr, layout, new_size) };
        gave(if new.is_null() { new_size } else { layout.size() });
        new
    }
}

/// Most memory that one input may take: `base + per_byte × length of the input`.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Bytes for any input, even an empty one.
    pub base: u64,
    /// Bytes for each byte of input.
    pub per_byte: u64,
    /// Bound the growth of the process's resident memory by [`RESIDENT_SLACK`] more, too.
    pub resident: bool,
}

/// What resident memory may grow by beyond the bound: a sanitizer keeps freed memory and shadows of all memory, and
/// the kernel counts in pages of up to 2 MiB.
pub const RESIDENT_SLACK: u64 = 192 << 20;

impl Bound {
    /// Runs `work` on an input of `len` bytes and gives the most memory that it held.
    ///
    /// # Panics
    /// Where that is more than the bound.
    pub fn hold(&self, len: usize, work: impl FnOnce()) -> u64 {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.base.saturating_add(self.per_byte.saturating_mul(len as u64));
        let before = HELD.load(Ordering::Relaxed);
        let resident = self.resident.then(resident::restart);
        PEAK.store(before, Ordering::Relaxed);
        work();
        let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before) as u64;
        assert!(peak <= most, "{len} bytes of input took {peak} bytes of heap; {most} are allowed");
        if let Some(before) = resident.flatten() {
            let grown = resident::peak().unwrap_or(0).saturating_sub(before);
            let most = most.saturating_add(RESIDENT_SLACK);
            assert!(
                grown <= most,
                "{len} bytes of input made {grown} bytes resident; {most} are allowed"
            );
        }
        peak
    }
}
