//! Device memory and page-locked host memory, freed when dropped. Owns [`CudaMemory`] and [`CudaPinned`].
#![allow(unsafe_code, reason = "memory that a driver allocates")]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::context::{Bound, Primary};
use super::host_pages::HostPages;
use super::{driver, stream};
use crate::device::DeviceMemory;
use crate::error::DeviceError;

/// Memory of a CUDA device.
#[derive(Debug)]
pub struct CudaMemory {
    primary: Primary,
    address: u64,
    len: u64,
}

impl CudaMemory {
    pub(super) fn new(primary: Primary, len: u64) -> Result<Self, DeviceError> {
        let bound = primary.bind()?;
        // The driver gives no memory of no length.
        let address = match usize::try_from(len).unwrap_or(usize::MAX) {
            0 => 0,
            len => driver::allocate(&bound, len)?,
        };
        Ok(Self { primary, address, len })
    }

    /// Copies from `offset` on, which the caller has checked to be within.
    pub(super) fn read(&self, offset: u64, destination: &mut [u8]) -> Result<(), DeviceError> {
        if destination.is_empty() {
            return Ok(());
        }
        let bound = self.primary.bind()?;
        let address = self.address.wrapping_add(offset);
        // SAFETY: `Device::copy_to_host` checks the range against this allocation before it comes here.
        unsafe { driver::copy_to_host(&bound, address, destination) }
    }
}

impl DeviceMemory for CudaMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.len > 0
            && let Ok(bound) = self.primary.bind()
        {
            // SAFETY: allocated in `new`, freed only here; the driver waits for copies that still write it. Where it
            // refuses, the context is lost and its memory with it.
            let _ = unsafe { driver::free(&bound, self.address) };
        }
    }
}

/// One piece of page-locked host memory, which buffers share.
#[derive(Debug)]
struct Slab {
    primary: Primary,
    start: NonNull<u8>,
    /// Pages of our own that the driver locked; without them the memory is the driver's.
    own: Option<HostPages>,
}

// SAFETY: the allocation belongs to this value, which only frees it; page-locking does not tie it to a thread.
unsafe impl Send for Slab {}
// SAFETY: `&Slab` gives access to nothing.
unsafe impl Sync for Slab {}

impl Slab {
    /// Locks pages of our own; where the system gives none, or the driver does not take them, it allocates some.
    fn pin(primary: Primary, bound: &Bound, len: usize) -> Result<Self, DeviceError> {
        if let Some(own) = HostPages::map(len) {
            // SAFETY: the pages stay mapped until they are unlocked, because the slab owns them.
            if unsafe { driver::lock(bound, own.start(), own.len()) }.is_ok() {
                return Ok(Self { primary, start: own.start(), own: Some(own) });
            }
        }
        Ok(Self { primary, start: driver::pin(bound, len)?, own: None })
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // Copies are done by now if the engine did its work; where it could not, this keeps them from reading memory
        // that is given back.
        stream::finish_all();
        if let Ok(bound) = self.primary.bind() {
            let _ = match &self.own {
                // SAFETY: locked in `pin`, unlocked only here; no copy reads it, as just ensured.
                Some(_) => unsafe { driver::unlock(&bound, self.start) },
                // SAFETY: as above, for memory of the driver.
                None => unsafe { driver::unpin(&bound, self.start) },
            };
        }
    }
}

/// Page-locked host memory: plain, not write-combined, because it is hashed and decrypted where it is.
#[derive(Debug)]
pub struct CudaPinned {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the allocation; none for no bytes.
    _slab: Option<Arc<Slab>>,
}

// SAFETY: the bytes belong to this value alone, like those of a `Box<[u8]>`: buffers of a slab do not overlap.
unsafe impl Send for CudaPinned {}
// SAFETY: `&CudaPinned` gives `&[u8]` only.
unsafe impl Sync for CudaPinned {}

impl CudaPinned {
    /// `count` buffers of `len` bytes, cut from one allocation.
    pub(super) fn cut(
        primary: Primary,
        len: usize,
        count: usize,
    ) -> Result<Vec<Self>, DeviceError> {
        let bound = primary.bind()?;
        // More than there is: the driver says so.
        let total = len.checked_mul(count).unwrap_or(isize::MAX.unsigned_abs());
        if total == 0 {
            let empty = || Self { start: NonNull::dangling(), len: 0, _slab: None };
            return Ok((0..count).map(|_| empty()).collect());
        }
        let slab = Arc::new(Slab::pin(primary, &bound, total)?);
        let cut = |i: usize| {
            // SAFETY: `count` times `len` bytes are allocated, and `i` is less than `count`.
            let start = unsafe { slab.start.add(i * len) };
            Self { start, len, _slab: Some(Arc::clone(&slab)) }
        };
        Ok((0..count).map(cut).collect())
    }
}

impl Deref for CudaPinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes that the driver mapped, for this value alone; as with `mmap`, whatever is there are
        // bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for CudaPinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access unique on the CPU. The device at most reads it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
