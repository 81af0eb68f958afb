//! Page cache that copies read directly. Owns [`RegisteredBytes`].
#![allow(unsafe_code, reason = "locks pages of a mapping for the driver")]

use std::ops::Deref;

use tz_io::SharedBytes;

use super::{CudaDevice, driver};
use crate::device::Device as _;
use crate::error::DeviceError;

/// Bytes of a mapped file whose pages are locked, so that the device reads them without a copy on the CPU. Locking
/// costs about as much as reading; whether it pays is for a measurement to say.
#[derive(Debug)]
pub struct RegisteredBytes {
    bytes: SharedBytes,
    device: CudaDevice,
}

impl CudaDevice {
    /// Locks the pages under `bytes`.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] where the driver or the file system does not allow it.
    pub fn register(&self, bytes: SharedBytes) -> Result<RegisteredBytes, DeviceError> {
        self.bind()?;
        // SAFETY: the mapping lives as long as `SharedBytes`, which the result owns.
        unsafe { driver::register(self.id(), &bytes) }?;
        Ok(RegisteredBytes { bytes, device: self.clone() })
    }
}

impl Deref for RegisteredBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for RegisteredBytes {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            let _ = driver::synchronize_all(self.device.id());
            // SAFETY: registered by `register`, and the device was just waited for.
            let _ = unsafe { driver::unregister(self.device.id(), &self.bytes) };
        }
    }
}
