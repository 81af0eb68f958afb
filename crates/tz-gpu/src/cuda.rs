//! A CUDA device through `cust`. Owns [`CudaDevice`]; raw calls are in the folder beside it.
//!
//! A device is its primary context, which PyTorch and everything else on CUDA's runtime uses too, so addresses mean the
//! same to all of them. Every call makes that context current on the calling thread and leaves it so.

mod driver;
mod memory;
mod register;
mod stream;

use std::fmt;
use std::sync::Arc;

use cust::context::Context;

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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: DeviceId,
    context: Context,
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CudaDevice").field(&self.shared.id).finish()
    }
}

impl CudaDevice {
    /// Opens the device of this ordinal.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`] where CUDA cannot start, [`DeviceError::NoDevice`] where there is no such device.
    pub fn open(ordinal: u32) -> Result<Self, DeviceError> {
        let id = DeviceId::Cuda(ordinal);
        let context = driver::open(ordinal, id)?;
        Ok(Self { shared: Arc::new(Shared { id, context }) })
    }

    /// Makes the device current on this thread.
    fn bind(&self) -> Result<(), DeviceError> {
        driver::bind(&self.shared.context, self.shared.id)
    }
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Pinned = CudaPinned;
    type Stream = CudaStream;
    type Event = CudaEvent;

    fn id(&self) -> DeviceId {
        self.shared.id
    }

    fn memory_info(&self) -> Result<MemoryInfo, DeviceError> {
        self.bind()?;
        driver::memory_info(self.shared.id)
    }

    fn allocate(&self, len: u64) -> Result<CudaMemory, DeviceError> {
        CudaMemory::new(self.clone(), len).map_err(|error| match error {
            DeviceError::Driver { code: driver::OUT_OF_MEMORY, .. } => DeviceError::OutOfMemory {
                device: self.id(),
                memory: MemoryKind::Device,
                needed: len,
                free: self.memory_info().ok().map(|info| info.free),
            },
            other => other,
        })
    }

    fn pin(&self, len: usize) -> Result<CudaPinned, DeviceError> {
        CudaPinned::new(self.clone(), len).map_err(|error| match error {
            DeviceError::Driver { code: driver::OUT_OF_MEMORY, .. } => DeviceError::OutOfMemory {
                device: self.id(),
                memory: MemoryKind::Pinned,
                needed: len as u64,
                free: None,
            },
            other => other,
        })
    }

    fn stream(&self) -> Result<CudaStream, DeviceError> {
        CudaStream::new(self.clone())
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

    fn record(&self, stream: &CudaStream) -> Result<CudaEvent, DeviceError> {
        stream.record()
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
