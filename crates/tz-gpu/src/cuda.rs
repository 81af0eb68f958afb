//! A CUDA device through `cust`. Owns [`CudaDevice`]; raw calls are in the folder beside it.
//!
//! A device is its primary context, which PyTorch and everything else on CUDA's runtime uses too, so addresses mean the
//! same to all of them. It is retained once and never released. Every call makes it current on the calling thread and
//! restores what was current before.

mod context;
mod driver;
mod host_pages;
mod memory;
mod register;
mod stream;

use std::fmt;

use context::Primary;

use crate::device::{Device, DeviceId, DeviceMemory as _, MemoryInfo, check_range};
use crate::error::{DeviceError, MemoryKind};

pub use memory::{CudaMemory, CudaPinned};
pub use register::RegisteredBytes;
pub use stream::{CudaEvent, CudaStream};

/// What the driver says of itself and of its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaInfo {
    /// The driver library.
    pub library: String,
    /// Version of CUDA that the driver is made for, as major and minor.
    pub version: (u32, u32),
    /// Functions that `cust` may call and this driver lacks. Few are needed here; the suite says which are missed.
    pub missing_symbols: Vec<&'static str>,
    /// Name and bytes of memory of every device.
    pub devices: Vec<(String, u64)>,
}

impl CudaInfo {
    /// Asks the driver.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`].
    pub fn read() -> Result<Self, DeviceError> {
        driver::info()
    }
}

/// A CUDA device.
#[derive(Clone)]
pub struct CudaDevice {
    primary: Primary,
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CudaDevice").field(&self.primary.id()).finish()
    }
}

impl CudaDevice {
    /// Opens the device of this ordinal. The first time takes as long as CUDA needs to start on it.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`] where CUDA cannot start, [`DeviceError::NoDevice`] where there is no such device,
    /// [`DeviceError::Forked`] in a child of a process that had started CUDA.
    pub fn open(ordinal: u32) -> Result<Self, DeviceError> {
        Ok(Self { primary: Primary::open(ordinal)? })
    }
}

/// The same refusal, in words about memory if that is what lacks.
fn refused(
    device: DeviceId,
    memory: MemoryKind,
    needed: u64,
    free: impl FnOnce() -> Option<u64>,
) -> impl FnOnce(DeviceError) -> DeviceError {
    move |error| match error {
        DeviceError::Driver { code: driver::OUT_OF_MEMORY, .. } => {
            DeviceError::OutOfMemory { device, memory, needed, free: free() }
        }
        other => other,
    }
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Pinned = CudaPinned;
    type Stream = CudaStream;
    type Event = CudaEvent;

    fn id(&self) -> DeviceId {
        self.primary.id()
    }

    fn keep_current(&self) -> Result<(), DeviceError> {
        self.primary.keep()
    }

    fn memory_info(&self) -> Result<MemoryInfo, DeviceError> {
        driver::memory_info(&self.primary.bind()?)
    }

    fn allocate(&self, len: u64) -> Result<CudaMemory, DeviceError> {
        let free = || self.memory_info().ok().map(|info| info.free);
        let allocated = CudaMemory::new(self.primary, len);
        allocated.map_err(refused(self.id(), MemoryKind::Device, len, free))
    }

    fn pin_buffers(&self, len: usize, count: usize) -> Result<Vec<CudaPinned>, DeviceError> {
        let needed = len.saturating_mul(count) as u64;
        let pinned = CudaPinned::cut(self.primary, len, count);
        pinned.map_err(refused(self.id(), MemoryKind::Pinned, needed, || None))
    }

    fn stream(&self) -> Result<CudaStream, DeviceError> {
        CudaStream::new(self.primary)
    }

    fn event(&self) -> Result<CudaEvent, DeviceError> {
        CudaEvent::new(self.primary)
    }

    fn copy_to_device(
        &self,
        stream: &CudaStream,
        source: &[u8],
        memory: &CudaMemory,
        offset: u64,
    ) -> Result<(), DeviceError> {
        check_range(self.id(), memory, offset, source.len() as u64)?;
        stream.copy_to_device(source, memory.address().wrapping_add(offset))
    }

    fn fill_zero(
        &self,
        stream: &CudaStream,
        memory: &CudaMemory,
        offset: u64,
        len: u64,
    ) -> Result<(), DeviceError> {
        check_range(self.id(), memory, offset, len)?;
        stream.fill_zero(memory.address().wrapping_add(offset), len)
    }

    fn record(&self, stream: &CudaStream, event: &mut CudaEvent) -> Result<(), DeviceError> {
        event.record(stream)
    }

    fn query(&self, event: &CudaEvent) -> Result<bool, DeviceError> {
        event.query()
    }

    fn synchronize(&self, stream: &CudaStream) -> Result<(), DeviceError> {
        stream.synchronize()
    }

    fn copy_to_host(
        &self,
        memory: &CudaMemory,
        offset: u64,
        destination: &mut [u8],
    ) -> Result<(), DeviceError> {
        check_range(self.id(), memory, offset, destination.len() as u64)?;
        memory.read(offset, destination)
    }
}
