//! Device memory and page-locked host memory, freed when dropped. Owns [`CudaMemory`] and [`CudaPinned`].
#![allow(unsafe_code, reason = "memory that a driver allocates")]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::{CudaDevice, driver};
use crate::device::{Device as _, DeviceMemory};
use crate::error::DeviceError;

/// Memory of a CUDA device.
#[derive(Debug)]
pub struct CudaMemory {
    device: CudaDevice,
    address: u64,
    len: u64,
}

impl CudaMemory {
    pub(super) fn new(device: CudaDevice, len: u64) -> Result<Self, DeviceError> {
        device.bind()?;
        // The driver gives no memory of no length.
        let address = match usize::try_from(len).unwrap_or(usize::MAX) {
            0 => 0,
            len => driver::allocate(device.id(), len)?,
        };
        Ok(Self { device, address, len })
    }

    /// Copies from `offset` on, which the caller has checked to be within.
    pub(super) fn read(&self, offset: u64, destination: &mut [u8]) -> Result<(), DeviceError> {
        if destination.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        let address = self.address.wrapping_add(offset);
        // SAFETY: `Device::copy_to_host` checks the range against this allocation before it comes here.
        unsafe { driver::copy_to_host(self.device.id(), address, destination) }
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
        if self.len > 0 && self.device.bind().is_ok() {
            // SAFETY: allocated in `new`, freed only here; copies into it are bounded by their engine's drain.
            // Where the driver refuses, the context is lost and its memory with it.
            let _ = unsafe { driver::free(self.device.id(), self.address) };
        }
    }
}

/// Page-locked host memory: plain, not write-combined, because it is hashed and decrypted where it is.
#[derive(Debug)]
pub struct CudaPinned {
    device: CudaDevice,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone, like that of a `Box<[u8]>`; page-locking does not tie it to a thread.
unsafe impl Send for CudaPinned {}
// SAFETY: `&CudaPinned` gives `&[u8]` only.
unsafe impl Sync for CudaPinned {}

impl CudaPinned {
    pub(super) fn new(device: CudaDevice, len: usize) -> Result<Self, DeviceError> {
        device.bind()?;
        let start = match len {
            0 => NonNull::dangling(),
            len => driver::pin(device.id(), len)?,
        };
        Ok(Self { device, start, len })
    }
}

impl Deref for CudaPinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes that the driver mapped for this value; as with `mmap`, whatever is there are bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for CudaPinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access unique on the CPU. The device at most reads it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for CudaPinned {
    fn drop(&mut self) {
        if self.len == 0 || self.device.bind().is_err() {
            return;
        }
        // Copies are done by now if the engine did its work; where it could not, this keeps them from reading memory
        // that is given back. A device that cannot even wait copies nothing any more.
        let _ = driver::synchronize_all(self.device.id());
        // SAFETY: pinned in `new`, freed only here; no copy reads it, as just ensured.
        let _ = unsafe { driver::unpin(self.device.id(), self.start) };
    }
}
