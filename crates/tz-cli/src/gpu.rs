//! Devices other than the CPU: opening them, loading onto them, and what they say of themselves. Owns [`Gpu`].

use std::time::{Duration, Instant};

use tz_format::Element;
use tz_gpu::{Device as _, DeviceError, GpuLoader, GpuOptions, LoadStats};
use tz_io::Location;

use crate::error::Failure;
use crate::job::{Job, Session};
use crate::report::{DeviceFacts, DeviceStalls};
use crate::source::Source;

#[cfg(feature = "cuda")]
pub(crate) type Cuda = tz_gpu::CudaDevice;
/// Stands in for the type of a device that cannot be opened.
#[cfg(not(feature = "cuda"))]
pub(crate) type Cuda = tz_gpu::SimDevice;

/// An open device.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: Cuda,
    name: Option<String>,
    /// Bytes of its memory that nobody used when it was opened.
    free: Option<u64>,
    /// How long starting the driver and opening the device took.
    pub(crate) opening: Duration,
}

/// A device with its ring of pinned memory under way, and an open source.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) gpu: Gpu,
    pub(crate) loader: GpuLoader<Cuda>,
    pub(crate) source: Source,
}

impl Gpu {
    pub(crate) fn open(ordinal: u32) -> Result<Self, Failure> {
        let start = Instant::now();
        let (device, name) = open(ordinal)?;
        let free = device.memory_info().ok().map(|info| info.free);
        Ok(Self { device, name, free, opening: start.elapsed() })
    }

    /// Starts the device and pins the ring while the front of the source is being read.
    pub(crate) fn open_beside(
        ordinal: u32,
        text: &str,
        session: &Session,
        job: &Job,
        dtype: Option<Element>,
    ) -> Result<Opened, Failure> {
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| {
                let gpu = Self::open(ordinal)?;
                let loader = gpu.loader(text, job, dtype)?;
                Ok::<_, Failure>((gpu, loader))
            });
            let source = Source::open(text, &job.selection, session);
            let opened = opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (gpu, loader) = opened?;
            Ok(Opened { gpu, loader, source: source? })
        })
    }

    /// A loader whose buffers suit the source, within the memory limit.
    pub(crate) fn loader(
        &self,
        text: &str,
        job: &Job,
        dtype: Option<Element>,
    ) -> Result<GpuLoader<Cuda>, Failure> {
        let mut options = match Location::parse(text) {
            // What is wrong with it, opening it says.
            Ok(Location::File(_) | Location::Stdio) | Err(_) => GpuOptions::local(),
            Ok(_) => GpuOptions::object_storage(),
        };
        options.memory_limit = job.read.memory_limit;
        options.dtype = dtype;
        Ok(GpuLoader::new(self.device.clone(), options)?)
    }

    /// What a load took; to be asked while its tensors are there.
    pub(crate) fn facts(&self, stats: &LoadStats) -> DeviceFacts {
        let copy = &stats.copy;
        let free = self.device.memory_info().ok().map(|info| info.free);
        let taken = self.free.zip(free).map(|(before, now)| before.saturating_sub(now));
        DeviceFacts {
            device_name: self.name.clone(),
            device_bytes: copy.device_bytes,
            peak_device_bytes: taken.unwrap_or(0).max(copy.device_bytes),
            pinned_bytes: copy.pinned_bytes,
            copies: copy.copies,
            stalls: DeviceStalls {
                pinning: copy.stalls.pinning.as_secs_f64(),
                copies: copy.stalls.copies.as_secs_f64(),
                readers: copy.stalls.readers.as_secs_f64(),
            },
        }
    }
}

#[cfg(feature = "cuda")]
fn open(ordinal: u32) -> Result<(Cuda, Option<String>), DeviceError> {
    let device = Cuda::open(ordinal)?;
    let devices = tz_gpu::CudaInfo::read()?.devices;
    let name = usize::try_from(ordinal).ok().and_then(|at| devices.into_iter().nth(at));
    Ok((device, name.map(|(name, _)| name)))
}

#[cfg(not(feature = "cuda"))]
fn open(_: u32) -> Result<(Cuda, Option<String>), DeviceError> {
    Err(DeviceError::NoDriver {
        why: "this program was built without the feature `cuda`".to_owned(),
    })
}
