//! What can go wrong, by what the caller can do about it. Owns [`DeviceError`] and [`GpuError`].

use thiserror::Error;
use tz_io::IoError;

use crate::device::DeviceId;

/// Why a device refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no driver, or it cannot start.
    #[error("no CUDA driver: {why}")]
    NoDriver {
        /// The dynamic linker's or the driver's own words.
        why: String,
    },
    /// CUDA was started before this process was forked off, and works in the parent only.
    #[error("CUDA was started in the parent process and does not work in a child made by fork")]
    Forked,
    /// The device lacks a feature.
    #[error("{device} does not support {what}")]
    Unsupported {
        /// Which device.
        device: DeviceId,
        /// What was asked for.
        what: &'static str,
    },
    /// The machine has no such device.
    #[error("no device {device}: the driver lists {count}")]
    NoDevice {
        /// What was asked for.
        device: DeviceId,
        /// How many devices there are.
        count: u32,
    },
    /// The memory is not there.
    #[error("{device}: {needed} bytes of {memory} are more than it has{}", FreeBytes(*.free))]
    OutOfMemory {
        /// Which device.
        device: DeviceId,
        /// Whose memory: that of the device, or pinned memory of the host.
        memory: MemoryKind,
        /// Bytes asked for.
        needed: u64,
        /// Bytes that were free, where the device says.
        free: Option<u64>,
    },
    /// A copy would leave its allocation: a fault of the caller.
    #[error("{device}: {len} bytes at {offset} do not fit in an allocation of {allocation}")]
    OutOfRange {
        /// Which device.
        device: DeviceId,
        /// Where the copy begins in the allocation.
        offset: u64,
        /// Length of the copy.
        len: u64,
        /// Length of the allocation.
        allocation: u64,
    },
    /// The driver refused a call. The cause may be work that was started earlier: devices report late.
    #[error("{device}: {call}: {name} ({code}), possibly caused by earlier work on the device")]
    Driver {
        /// Which device.
        device: DeviceId,
        /// The call that reported it.
        call: &'static str,
        /// The driver's number for it.
        code: i32,
        /// The driver's name for it.
        name: String,
    },
}

impl DeviceError {
    /// What a user can try.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoDriver { .. } => {
                "install NVIDIA's driver (nvidia-smi shows whether it works; in a container, pass the GPU in), or load \
                 to the CPU with --device cpu"
            }
            Self::Forked => {
                "start the process with spawn instead of fork (in Python: \
                 multiprocessing.set_start_method(\"spawn\")), or load in the parent"
            }
            Self::Unsupported { .. } => "read the file instead of mapping it",
            Self::NoDevice { .. } => "choose a device that nvidia-smi lists, from cuda:0 on",
            Self::OutOfMemory { memory: MemoryKind::Device, .. } => {
                "end what else uses the device (nvidia-smi lists it), give back what PyTorch keeps \
                 (torch.cuda.empty_cache()), load fewer tensors or cast them (--dtype)"
            }
            Self::OutOfMemory { memory: MemoryKind::Pinned, .. } => {
                "lower --memory-limit, or leave the process more memory (a container has a limit of its own)"
            }
            Self::OutOfRange { .. } => "report this as a fault of tz",
            Self::Driver { .. } => {
                "look in the kernel log for the driver's own account (dmesg, lines with Xid)"
            }
        }
    }
}

/// Which memory ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Memory of the device.
    Device,
    /// Page-locked memory of the host.
    Pinned,
}

impl std::fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Device => "device memory",
            Self::Pinned => "pinned host memory",
        })
    }
}

/// Writes how much was free, if that is known.
struct FreeBytes(Option<u64>);

impl std::fmt::Display for FreeBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(free) => write!(f, ", {free} were free"),
            None => Ok(()),
        }
    }
}

/// Why tensors could not be loaded onto a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The file could not be read, is malformed or corrupt.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A cast was asked for that there is no code for.
    #[error("tensors cannot be cast to {dtype}")]
    UnsupportedCast {
        /// Name of the dtype.
        dtype: &'static str,
    },
    /// The memory limit does not leave room for one staging buffer.
    #[error("staging through {limit} bytes is not possible, {needed} are needed")]
    RingTooSmall {
        /// Bytes that may be used.
        limit: u64,
        /// Bytes that would do.
        needed: u64,
    },
    /// The selected tensors are larger than any memory.
    #[error("{location}: the selected tensors are too large to place")]
    TooLarge {
        /// File or URI.
        location: String,
    },
}
