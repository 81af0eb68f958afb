//! Page cache that copies read directly. Owns [`RegisteredBytes`].
#![allow(unsafe_code, reason = "locks pages of a mapping for the driver")]

use std::ops::Deref;

use tz_io::SharedBytes;

use super::context::Primary;
use super::{CudaDevice, driver, stream};
use crate::error::DeviceError;

/// Bytes of a mapped file whose pages are locked, so that the device reads them without a copy on the CPU. Locking
/// costs about as much as reading; whether it pays is for a measurement to say.
#[derive(Debug)]
pub struct RegisteredBytes {
    bytes: SharedBytes,
    primary: Primary,
}

impl CudaDevice {
    /// Locks the pages under `bytes`, whole pages, so bytes of neighbours are locked too; two locks of one page are
    /// refused.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where the device cannot read memory that the process may not write,
    /// [`DeviceError::Driver`] where the driver or the file system does not allow it.
    pub fn register(&self, bytes: SharedBytes) -> Result<RegisteredBytes, DeviceError> {
        let bound = self.primary.bind()?;
        if !driver::reads_read_only_memory(&bound)? {
            return Err(DeviceError::Unsupported {
                device: bound.id(),
                what: "locking memory that is only read",
            });
        }
        // SAFETY: the mapping lives as long as `SharedBytes`, which the result owns.
        unsafe { driver::register(&bound, &bytes) }?;
        Ok(RegisteredBytes { bytes, primary: self.primary })
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
        stream::finish_all();
        if let Ok(bound) = self.primary.bind() {
            // SAFETY: registered by `register`, and no copy reads it any more.
            let _ = unsafe { driver::unregister(&bound, &self.bytes) };
        }
    }
}
