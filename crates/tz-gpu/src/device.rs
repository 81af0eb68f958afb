//! What a device must be able to do. Owns the [`Device`] trait and [`DeviceId`].
//!
//! The trait is as narrow as the copy engine needs, so that another binding can stand in for `cust`. Every
//! implementation passes the suite in `testing`.
//!
//! Whoever starts a copy keeps its source unchanged and alive until an event recorded after it has completed. Nothing
//! worse than wrong bytes on the device may follow where that promise is broken; the engine keeps it by owning the
//! buffer until then.

use std::fmt;
use std::ops::DerefMut;
use std::str::FromStr;

use crate::error::{DeviceError, MemoryKind};

/// Every allocation on a device starts at a multiple of this many bytes, and so does every tensor in an arena: what
/// CUDA guarantees and what its vector loads want.
pub const ALIGNMENT: u64 = 256;

/// A device with memory of its own, copies that run by themselves, and events that tell when they are done.
///
/// Clones refer to the same device. Calls may come from any thread.
pub trait Device: Clone + Send + Sync + fmt::Debug + 'static {
    /// Memory on the device. Freed when dropped, after everything that was copied to it.
    type Memory: DeviceMemory;
    /// Page-locked host memory, readable by the CPU at full speed. Unpinned when dropped with all others of its
    /// allocation.
    type Pinned: DerefMut<Target = [u8]> + Send + Sync + fmt::Debug + 'static;
    /// Copies on one stream happen in order; streams are independent.
    type Stream: Send + Sync + fmt::Debug + 'static;
    /// Completes when everything that was on its stream when it was last recorded has.
    type Event: Send + Sync + fmt::Debug + 'static;

    /// Which device this is.
    fn id(&self) -> DeviceId;

    /// Says that the calling thread is the library's own and ends with its work: what the device makes current there
    /// may stay. On all other threads a device leaves everything as it was.
    ///
    /// # Errors
    /// [`DeviceError`], as of every function here.
    fn keep_current(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// How much memory there is.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn memory_info(&self) -> Result<MemoryInfo, DeviceError>;

    /// Allocates `len` bytes at a multiple of [`ALIGNMENT`], with any contents.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]; the device stays usable.
    fn allocate(&self, len: u64) -> Result<Self::Memory, DeviceError>;

    /// Allocates page-locked host memory for `count` buffers of `len` bytes, with any contents. It is one allocation,
    /// because each may hold up the whole device; it lives as long as the last of its buffers.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]; the device stays usable.
    fn pin_buffers(&self, len: usize, count: usize) -> Result<Vec<Self::Pinned>, DeviceError>;

    /// Allocates a single buffer.
    ///
    /// # Errors
    /// As [`Self::pin_buffers`].
    fn pin(&self, len: usize) -> Result<Self::Pinned, DeviceError> {
        let none = DeviceError::OutOfMemory {
            device: self.id(),
            memory: MemoryKind::Pinned,
            needed: len as u64,
            free: None,
        };
        self.pin_buffers(len, 1)?.pop().ok_or(none)
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn stream(&self) -> Result<Self::Stream, DeviceError>;

    /// Starts copying `source` to `offset` of `memory` and returns.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] where it does not fit. Failures of the copy itself show in a later call.
    fn copy_to_device(
        &self,
        stream: &Self::Stream,
        source: &[u8],
        memory: &Self::Memory,
        offset: u64,
    ) -> Result<(), DeviceError>;

    /// Starts filling `len` bytes at `offset` of `memory` with zeros and returns.
    ///
    /// # Errors
    /// As [`Self::copy_to_device`].
    fn fill_zero(
        &self,
        stream: &Self::Stream,
        memory: &Self::Memory,
        offset: u64,
        len: u64,
    ) -> Result<(), DeviceError>;

    /// Makes an event, to be recorded any number of times.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn event(&self) -> Result<Self::Event, DeviceError>;

    /// Marks the end of what is on the stream now. Whatever the event marked before is forgotten.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn record(&self, stream: &Self::Stream, event: &mut Self::Event) -> Result<(), DeviceError>;

    /// Whether the event has completed. Does not wait.
    ///
    /// # Errors
    /// [`DeviceError`], also for work before the event.
    fn query(&self, event: &Self::Event) -> Result<bool, DeviceError>;

    /// Waits for everything on the stream.
    ///
    /// # Errors
    /// [`DeviceError`], also for work on the stream.
    fn synchronize(&self, stream: &Self::Stream) -> Result<(), DeviceError>;

    /// Copies from `offset` of `memory` into `destination` and waits for it. Sees copies to the device whose event
    /// has completed.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`].
    fn copy_to_host(
        &self,
        memory: &Self::Memory,
        offset: u64,
        destination: &mut [u8],
    ) -> Result<(), DeviceError>;
}

/// Memory on a device.
pub trait DeviceMemory: Send + Sync + fmt::Debug + 'static {
    /// Address in the device's address space. Of no use to the CPU, unless [`DeviceId::Cpu`] is the device.
    fn address(&self) -> u64;

    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Checks that `len` bytes at `offset` lie in `memory`.
pub(crate) fn check_range(
    device: DeviceId,
    memory: &impl DeviceMemory,
    offset: u64,
    len: u64,
) -> Result<(), DeviceError> {
    match offset.checked_add(len) {
        Some(end) if end <= memory.len() => Ok(()),
        _ => Err(DeviceError::OutOfRange { device, offset, len, allocation: memory.len() }),
    }
}

/// Memory of a device, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that nobody uses.
    pub free: u64,
    /// All bytes.
    pub total: u64,
}

/// A device as users name it: `cpu`, `cuda:0`. `cuda` alone is `cuda:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeviceId {
    /// Host memory.
    Cpu,
    /// The CUDA device of this ordinal.
    Cuda(u32),
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain).map(Self::Cuda)
        };
        let device = match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", digits)) => ordinal(digits),
            _ => None,
        };
        device.ok_or_else(|| format!("{text:?} is not a device: cpu, cuda or cuda:N"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_torch_names_them() {
        for (text, expect) in [
            ("cpu", Some(DeviceId::Cpu)),
            ("cuda", Some(DeviceId::Cuda(0))),
            ("cuda:0", Some(DeviceId::Cuda(0))),
            ("cuda:17", Some(DeviceId::Cuda(17))),
            ("cuda:", None),
            ("cuda:+1", None),
            ("cuda:-1", None),
            ("cuda:4294967296", None),
            ("cpu:0", None),
            ("CUDA:0", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expect, "{text:?}");
        }
        assert_eq!(DeviceId::Cuda(3).to_string(), "cuda:3");
    }
}
