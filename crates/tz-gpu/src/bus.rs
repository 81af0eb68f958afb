//! What a copy from pinned memory takes when there is no file: the measure for every load. Owns [`Bus`].

use std::time::{Duration, Instant};

use crate::device::{Device, DeviceMemory as _};
use crate::error::DeviceError;
use crate::loader::DEFAULT_STREAMS;

/// Length of one copy: long enough that starting it takes no time beside it.
const COPY_BYTES: u64 = 16 << 20;
/// Most pinned memory, and most device memory, that copies go round in: more than a cache of the CPU holds.
const MAX_ROUND_BYTES: u64 = 256 << 20;

/// Pinned memory and device memory of the same size, and streams between them.
#[derive(Debug)]
pub struct Bus<D: Device> {
    device: D,
    sources: Vec<D::Pinned>,
    target: D::Memory,
    streams: Vec<D::Stream>,
}

impl<D: Device> Bus<D> {
    /// Memory for copies of `bytes` bytes in all, 256 MiB on either side at most.
    ///
    /// # Errors
    /// [`DeviceError`] where the device does not give it.
    pub fn new(device: D, bytes: u64) -> Result<Self, DeviceError> {
        let len = bytes.clamp(1, COPY_BYTES);
        let count = bytes.clamp(1, MAX_ROUND_BYTES).div_ceil(len);
        let streams = (0..DEFAULT_STREAMS).map(|_| device.stream()).collect::<Result<_, _>>()?;
        let target = device.allocate(len.saturating_mul(count))?;
        let (len, count) = (len.try_into(), count.try_into());
        let mut sources =
            device.pin_buffers(len.unwrap_or(usize::MAX), count.unwrap_or(usize::MAX))?;
        // Pages that nobody has written may not be there yet.
        sources.iter_mut().for_each(|source| source.fill(1));
        Ok(Self { device, sources, target, streams })
    }

    /// The time to copy `bytes` bytes.
    ///
    /// # Errors
    /// [`DeviceError`] where a copy fails.
    pub fn copy(&self, bytes: u64) -> Result<Duration, DeviceError> {
        let start = Instant::now();
        let mut copied = self.start(bytes);
        // Even after a failure, nothing may read the sources any more once this returns.
        for stream in &self.streams {
            copied = self.device.synchronize(stream).and(copied);
        }
        copied?;
        Ok(start.elapsed())
    }

    fn start(&self, bytes: u64) -> Result<(), DeviceError> {
        let (mut left, mut offset) = (bytes, 0);
        for (source, stream) in self.sources.iter().cycle().zip(self.streams.iter().cycle()) {
            if left == 0 {
                break;
            }
            let len = left.min(source.len() as u64);
            let part = source.get(..usize::try_from(len).unwrap_or(usize::MAX));
            if offset + len > self.target.len() {
                offset = 0;
            }
            self.device.copy_to_device(stream, part.unwrap_or_default(), &self.target, offset)?;
            (left, offset) = (left - len, offset + len);
        }
        Ok(())
    }
}
