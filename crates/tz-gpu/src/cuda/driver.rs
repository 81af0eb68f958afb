//! The driver's calls, checked. The only file that names `cust::sys` functions; everything above it is sound to call.
//!
//! Calls that work on a device take a [`Bound`], the proof that it is current. Functions that take addresses are
//! `unsafe` here and wrapped by the owners of those addresses in the other files of this folder.
#![allow(unsafe_code, reason = "C functions of the CUDA driver")]

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use cust::context::{Context, CurrentContext};
use cust::device::Device;
use cust::error::CudaError;
use cust::sys::{self, CUdevice_attribute, CUresult, CUstreamCaptureMode};
use cust::{CudaApiVersion, CudaFlags};

use super::CudaInfo;
use super::context::Bound;
use crate::device::{DeviceId, MemoryInfo};
use crate::error::DeviceError;

/// The driver's code for too little memory of either kind.
pub(super) const OUT_OF_MEMORY: i32 = CUresult::CUDA_ERROR_OUT_OF_MEMORY as i32;
/// What every call gives in a child of fork whose parent had started the driver.
const NOT_INITIALIZED: i32 = CUresult::CUDA_ERROR_NOT_INITIALIZED as i32;
/// Length of a page of the hosts that CUDA runs on; with longer ones, registering says so.
const PAGE: usize = 4096;
/// `CU_STREAM_NON_BLOCKING`: the stream neither waits for the legacy default stream nor holds it up.
const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// A context as the driver names it.
pub(super) type RawContext = sys::CUcontext;
/// Whether a thread's calls may end other threads' captures; `None` where the driver does not say.
pub(super) type CaptureMode = Option<CUstreamCaptureMode>;

/// Loads and starts the driver.
pub(super) fn start(id: DeviceId) -> Result<(), DeviceError> {
    driver()?;
    cust::init(CudaFlags::empty()).map_err(|error| match error {
        CudaError::NoDevice => DeviceError::NoDevice { device: id, count: 0 },
        // A driver says so only where it was started before a fork, by whatever part of the program.
        CudaError::NotInitialized => DeviceError::Forked,
        other => {
            let code = i32::try_from(other as u32).unwrap_or(i32::MAX);
            let (code, name) = named(tz_cuda_shim::last_code().unwrap_or(code));
            DeviceError::NoDriver { why: format!("cuInit: {name} ({code})") }
        }
    })
}

/// Retains the device's primary context, which becomes current.
pub(super) fn retain(ordinal: u32, id: DeviceId) -> Result<Context, DeviceError> {
    let count = Device::num_devices().map_err(failed(id, "cuDeviceGetCount"))?;
    if ordinal >= count {
        return Err(DeviceError::NoDevice { device: id, count });
    }
    let device = Device::get_device(ordinal).map_err(failed(id, "cuDeviceGet"))?;
    Context::new(device).map_err(failed(id, "cuDevicePrimaryCtxRetain"))
}

pub(super) fn info() -> Result<CudaInfo, DeviceError> {
    let id = DeviceId::Cuda(0);
    start(id)?;
    let driver = driver()?;
    let version = CudaApiVersion::get().map_err(failed(id, "cuDriverGetVersion"))?;
    let part = |number: i32| u32::try_from(number).unwrap_or(0);
    let count = Device::num_devices().map_err(failed(id, "cuDeviceGetCount"))?;
    let describe = |ordinal| {
        let device = Device::get_device(ordinal)?;
        Ok((device.name()?, device.total_memory()? as u64))
    };
    let devices = (0..count).map(describe).collect::<Result<_, _>>();
    Ok(CudaInfo {
        library: driver.name().to_owned(),
        version: (part(version.major()), part(version.minor())),
        missing_symbols: driver.missing_symbols(),
        devices: devices.map_err(failed(id, "cuDeviceGetName"))?,
    })
}

fn driver() -> Result<&'static tz_cuda_shim::Driver, DeviceError> {
    tz_cuda_shim::driver().map_err(|error| DeviceError::NoDriver { why: error.to_string() })
}

/// What is current on this thread: null where nothing is.
pub(super) fn current(id: DeviceId) -> Result<RawContext, DeviceError> {
    let mut context = ptr::null_mut();
    // SAFETY: the pointer leads to a live pointer of the right type.
    check(id, "cuCtxGetCurrent", unsafe { sys::cuCtxGetCurrent(&raw mut context) })?;
    Ok(context)
}

pub(super) fn make_current(id: DeviceId, context: &Context) -> Result<(), DeviceError> {
    CurrentContext::set_current(context).map_err(failed(id, "cuCtxSetCurrent"))
}

/// Lets this thread's calls pass while other threads capture; gives the mode that the thread had.
pub(super) fn relax_capture() -> CaptureMode {
    exchange_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
}

/// Undoes [`relax_capture`], and makes current what was before, if that was another context. One that has ended
/// meanwhile is refused by the driver.
pub(super) fn restore(context: Option<RawContext>, capture: CaptureMode) {
    if let Some(context) = context {
        // SAFETY: the driver gave this handle and checks it; null leaves the thread without a context.
        let _ = unsafe { sys::cuCtxSetCurrent(context) };
    }
    capture.and_then(exchange_capture);
}

fn exchange_capture(mode: CUstreamCaptureMode) -> CaptureMode {
    let mut mode = mode;
    // SAFETY: the pointer leads to a live mode, which the driver replaces by another one.
    let result = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    (result == CUresult::CUDA_SUCCESS).then_some(mode)
}

/// Waits for everything on the current device, whoever started it.
pub(super) fn synchronize_all(bound: &Bound) -> Result<(), DeviceError> {
    CurrentContext::synchronize().map_err(failed(bound.id(), "cuCtxSynchronize"))
}

pub(super) fn memory_info(bound: &Bound) -> Result<MemoryInfo, DeviceError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: both pointers lead to live integers of the right type.
    let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
    check(bound.id(), "cuMemGetInfo", result)?;
    Ok(MemoryInfo { free: free as u64, total: total as u64 })
}

/// Allocates device memory; `len` is not zero.
pub(super) fn allocate(bound: &Bound, len: usize) -> Result<u64, DeviceError> {
    let mut address = 0;
    // SAFETY: the pointer leads to a live integer of the right type.
    let result = unsafe { sys::cuMemAlloc_v2(&raw mut address, len) };
    check(bound.id(), "cuMemAlloc", result)?;
    Ok(address)
}

/// # Safety
/// `address` comes from [`allocate`] and is not used any more.
pub(super) unsafe fn free(bound: &Bound, address: u64) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check(bound.id(), "cuMemFree", unsafe { sys::cuMemFree_v2(address) })
}

/// Allocates page-locked memory that the CPU reads at full speed: never write-combined. `len` is not zero.
pub(super) fn pin(bound: &Bound, len: usize) -> Result<NonNull<u8>, DeviceError> {
    let mut start: *mut c_void = ptr::null_mut();
    // SAFETY: the pointer leads to a live pointer of the right type.
    let result = unsafe { sys::cuMemAllocHost_v2(&raw mut start, len) };
    check(bound.id(), "cuMemAllocHost", result)?;
    NonNull::new(start.cast()).ok_or_else(|| DeviceError::Driver {
        device: bound.id(),
        call: "cuMemAllocHost",
        code: 0,
        name: "success without memory".to_owned(),
    })
}

/// # Safety
/// `start` comes from [`pin`] and is not used any more, neither by the CPU nor by a copy.
pub(super) unsafe fn unpin(bound: &Bound, start: NonNull<u8>) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check(bound.id(), "cuMemFreeHost", unsafe { sys::cuMemFreeHost(start.as_ptr().cast()) })
}

/// Whether copies may read memory that was registered as only read.
pub(super) fn reads_read_only_memory(bound: &Bound) -> Result<bool, DeviceError> {
    let asked = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED;
    let (mut device, mut answer) = (0, 0);
    // SAFETY: the pointer leads to a live device number.
    check(bound.id(), "cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&raw mut device) })?;
    // SAFETY: the pointer leads to a live integer of the right type.
    let result = unsafe { sys::cuDeviceGetAttribute(&raw mut answer, asked, device) };
    check(bound.id(), "cuDeviceGetAttribute", result)?;
    Ok(answer != 0)
}

/// Locks the pages of `memory`, which is only read, so that copies read them directly.
///
/// # Safety
/// The memory stays mapped until [`unregister`].
pub(super) unsafe fn register(bound: &Bound, memory: &[u8]) -> Result<(), DeviceError> {
    let (start, len) = pages(memory);
    let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_READ_ONLY;
    // SAFETY: pages that hold bytes of a slice are mapped as a whole; the flag says that the device only reads them.
    let result = unsafe { sys::cuMemHostRegister_v2(start, len, flags) };
    check(bound.id(), "cuMemHostRegister", result)
}

/// Locks pages of our own, so that copies read them directly, on any device.
///
/// # Safety
/// `len` bytes, whole pages, stay mapped at `start` until [`unlock`].
pub(super) unsafe fn lock(
    bound: &Bound,
    start: NonNull<u8>,
    len: usize,
) -> Result<(), DeviceError> {
    let flags = sys::CU_MEMHOSTREGISTER_PORTABLE;
    // SAFETY: the caller's promise.
    let result = unsafe { sys::cuMemHostRegister_v2(start.as_ptr().cast(), len, flags) };
    check(bound.id(), "cuMemHostRegister", result)
}

/// # Safety
/// `start` was given to [`lock`], and no copy reads the pages any more.
pub(super) unsafe fn unlock(bound: &Bound, start: NonNull<u8>) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    let result = unsafe { sys::cuMemHostUnregister(start.as_ptr().cast()) };
    check(bound.id(), "cuMemHostUnregister", result)
}

/// # Safety
/// `memory` was registered and no copy reads it any more.
pub(super) unsafe fn unregister(bound: &Bound, memory: &[u8]) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    let result = unsafe { sys::cuMemHostUnregister(pages(memory).0) };
    check(bound.id(), "cuMemHostUnregister", result)
}

/// Start and length of the pages that hold `memory`.
fn pages(memory: &[u8]) -> (*mut c_void, usize) {
    let before = memory.as_ptr().addr() % PAGE;
    let start = memory.as_ptr().wrapping_sub(before);
    (start.cast_mut().cast(), (before + memory.len()).next_multiple_of(PAGE))
}

/// A stream of the driver. Whoever drops it has destroyed it.
#[derive(Debug)]
pub(super) struct RawStream(sys::CUstream);

// SAFETY: the handle is a name for the driver, whose functions on streams may be called from any thread.
unsafe impl Send for RawStream {}
// SAFETY: as above.
unsafe impl Sync for RawStream {}

impl RawStream {
    /// `cust` leaves out the flag that keeps a stream apart from the legacy stream, on which others compute.
    pub(super) fn new(bound: &Bound) -> Result<Self, DeviceError> {
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer leads to a live pointer of the right type.
        let result = unsafe { sys::cuStreamCreateWithPriority(&raw mut stream, NON_BLOCKING, 0) };
        check(bound.id(), "cuStreamCreate", result)?;
        Ok(Self(stream))
    }

    /// Starts a copy. Where `source` is not page-locked, the driver reads it before it returns.
    ///
    /// # Safety
    /// As many bytes as `source` has are allocated at `address`. `source` stays mapped until the copy is done.
    pub(super) unsafe fn copy_to_device(
        &self,
        bound: &Bound,
        source: &[u8],
        address: u64,
    ) -> Result<(), DeviceError> {
        let (start, len) = (source.as_ptr().cast(), source.len());
        // SAFETY: the caller's promise; the stream is alive.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(address, start, len, self.0) };
        check(bound.id(), "cuMemcpyHtoDAsync", result)
    }

    /// # Safety
    /// `len` bytes are allocated at `address`.
    pub(super) unsafe fn fill_zero(
        &self,
        bound: &Bound,
        address: u64,
        len: usize,
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise; the stream is alive.
        let result = unsafe { sys::cuMemsetD8Async(address, 0, len, self.0) };
        check(bound.id(), "cuMemsetD8Async", result)
    }

    pub(super) fn synchronize(&self, bound: &Bound) -> Result<(), DeviceError> {
        // SAFETY: the stream is alive.
        check(bound.id(), "cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.0) })
    }

    /// Destroys the stream, once. What is on it still runs to its end.
    pub(super) fn destroy(&mut self, bound: &Bound) -> Result<(), DeviceError> {
        let stream = std::mem::replace(&mut self.0, ptr::null_mut());
        // SAFETY: made in `new`, and the handle is given up.
        check(bound.id(), "cuStreamDestroy", unsafe { sys::cuStreamDestroy_v2(stream) })
    }
}

/// An event of the driver. Whoever drops it has destroyed it.
#[derive(Debug)]
pub(super) struct RawEvent(sys::CUevent);

// SAFETY: as for streams.
unsafe impl Send for RawEvent {}
// SAFETY: as for streams.
unsafe impl Sync for RawEvent {}

impl RawEvent {
    pub(super) fn new(bound: &Bound) -> Result<Self, DeviceError> {
        let mut event = ptr::null_mut();
        // SAFETY: the pointer leads to a live pointer of the right type.
        let result = unsafe { sys::cuEventCreate(&raw mut event, DISABLE_TIMING) };
        check(bound.id(), "cuEventCreate", result)?;
        Ok(Self(event))
    }

    pub(super) fn record(&self, bound: &Bound, stream: &RawStream) -> Result<(), DeviceError> {
        // SAFETY: both are alive.
        check(bound.id(), "cuEventRecord", unsafe { sys::cuEventRecord(self.0, stream.0) })
    }

    pub(super) fn query(&self, bound: &Bound) -> Result<bool, DeviceError> {
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(self.0) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check(bound.id(), "cuEventQuery", result).map(|()| true),
        }
    }

    /// Destroys the event, once.
    pub(super) fn destroy(&mut self, bound: &Bound) -> Result<(), DeviceError> {
        let event = std::mem::replace(&mut self.0, ptr::null_mut());
        // SAFETY: made in `new`, and the handle is given up.
        check(bound.id(), "cuEventDestroy", unsafe { sys::cuEventDestroy_v2(event) })
    }
}

/// Copies and waits.
///
/// # Safety
/// As many bytes as `destination` has are allocated at `address`.
pub(super) unsafe fn copy_to_host(
    bound: &Bound,
    address: u64,
    destination: &mut [u8],
) -> Result<(), DeviceError> {
    let (start, len) = (destination.as_mut_ptr().cast(), destination.len());
    // SAFETY: the caller's promise; the call returns when the destination is written.
    let result = unsafe { sys::cuMemcpyDtoH_v2(start, address, len) };
    check(bound.id(), "cuMemcpyDtoH", result)
}

fn check(id: DeviceId, call: &'static str, result: CUresult) -> Result<(), DeviceError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        refused => Err(refusal(id, call, refused as i32)),
    }
}

/// The same for calls that `cust` has checked.
fn failed(id: DeviceId, call: &'static str) -> impl Fn(CudaError) -> DeviceError {
    move |error| refusal(id, call, i32::try_from(error as u32).unwrap_or(i32::MAX))
}

/// `code` may be the one that stands for all codes the bindings do not know; the driver's own is asked for.
fn refusal(device: DeviceId, call: &'static str, code: i32) -> DeviceError {
    let code = tz_cuda_shim::last_code().unwrap_or(code);
    if code == NOT_INITIALIZED {
        return DeviceError::Forked;
    }
    let (code, name) = named(code);
    DeviceError::Driver { device, call, code, name }
}

fn named(code: i32) -> (i32, String) {
    let name = tz_cuda_shim::driver().ok().and_then(|driver| driver.code_name(code));
    (code, name.unwrap_or_else(|| "a code without a name".to_owned()))
}
