//! Streams and events. Owns [`CudaStream`] and [`CudaEvent`].
#![allow(unsafe_code, reason = "copies to addresses that their callers have checked")]

use cust::event::{Event, EventFlags, EventStatus};
use cust::stream::{Stream, StreamFlags};

use super::{CudaDevice, driver};
use crate::device::Device as _;
use crate::error::DeviceError;

/// A stream of a CUDA device.
#[derive(Debug)]
pub struct CudaStream {
    stream: Stream,
    device: CudaDevice,
}

impl CudaStream {
    pub(super) fn new(device: CudaDevice) -> Result<Self, DeviceError> {
        device.bind()?;
        // `cust` drops the flag that would keep the stream apart from the default stream of others in this process.
        let stream = Stream::new(StreamFlags::NON_BLOCKING, None);
        let stream = stream.map_err(driver::failed(device.id(), "cuStreamCreate"))?;
        Ok(Self { stream, device })
    }

    /// Copies to `address`, where the caller has checked that the source fits.
    pub(super) fn copy_to_device(&self, source: &[u8], address: u64) -> Result<(), DeviceError> {
        if source.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: `Device::copy_to_device` checks the range against its allocation before it comes here. Page-locked
        // sources are `CudaPinned` or `RegisteredBytes`, which wait for the device before they let go of their
        // memory; of any other source the driver has taken a copy when it returns.
        unsafe { driver::copy_to_device(self.device.id(), &self.stream, source, address) }
    }

    /// Fills at `address`, where the caller has checked that the length fits.
    pub(super) fn fill_zero(&self, address: u64, len: u64) -> Result<(), DeviceError> {
        if len == 0 {
            return Ok(());
        }
        self.device.bind()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        // SAFETY: `Device::fill_zero` checks the range against its allocation before it comes here.
        unsafe { driver::fill_zero(self.device.id(), &self.stream, address, len) }
    }

    pub(super) fn record(&self) -> Result<CudaEvent, DeviceError> {
        self.device.bind()?;
        let id = self.device.id();
        let event = Event::new(EventFlags::DISABLE_TIMING);
        let event = event.map_err(driver::failed(id, "cuEventCreate"))?;
        event.record(&self.stream).map_err(driver::failed(id, "cuEventRecord"))?;
        Ok(CudaEvent { event, device: self.device.clone() })
    }

    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        self.device.bind()?;
        let done = self.stream.synchronize();
        done.map_err(driver::failed(self.device.id(), "cuStreamSynchronize"))
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        // The stream itself is destroyed next, by `cust`, in the context that is current then.
        let _ = self.device.bind();
    }
}

/// An event of a CUDA device.
#[derive(Debug)]
pub struct CudaEvent {
    event: Event,
    device: CudaDevice,
}

impl CudaEvent {
    pub(super) fn query(&self) -> Result<bool, DeviceError> {
        self.device.bind()?;
        let status = self.event.query();
        let status = status.map_err(driver::failed(self.device.id(), "cuEventQuery"))?;
        Ok(status == EventStatus::Ready)
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        // As for streams.
        let _ = self.device.bind();
    }
}
