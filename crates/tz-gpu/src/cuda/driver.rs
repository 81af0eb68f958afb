//! The driver's calls, checked. The only file that names `cust::sys` functions; everything above it is sound to call.
//!
//! Functions that take addresses are `unsafe` here and wrapped by the owners of those addresses in the files beside.
#![allow(unsafe_code, reason = "C functions of the CUDA driver")]

use std::ffi::c_void;
use std::ptr::NonNull;

use cust::context::{Context, CurrentContext};
use cust::device::Device;
use cust::error::CudaError;
use cust::stream::Stream;
use cust::sys::{self, CUresult};
use cust::{CudaApiVersion, CudaFlags};

use super::CudaInfo;
use crate::device::{DeviceId, MemoryInfo};
use crate::error::DeviceError;

/// The driver's code for too little memory of either kind.
pub(super) const OUT_OF_MEMORY: i32 = CUresult::CUDA_ERROR_OUT_OF_MEMORY as i32;

/// Loads and starts the driver and gives the device's primary context.
pub(super) fn open(ordinal: u32, id: DeviceId) -> Result<Context, DeviceError> {
    start(id)?;
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

fn start(id: DeviceId) -> Result<(), DeviceError> {
    driver()?;
    cust::init(CudaFlags::empty()).map_err(|error| match error {
        CudaError::NoDevice => DeviceError::NoDevice { device: id, count: 0 },
        other => {
            let code = i32::try_from(other as u32).unwrap_or(i32::MAX);
            let (code, name) = named(tz_cuda_shim::last_code().unwrap_or(code));
            DeviceError::NoDriver { why: format!("cuInit: {name} ({code})") }
        }
    })
}

pub(super) fn bind(context: &Context, id: DeviceId) -> Result<(), DeviceError> {
    CurrentContext::set_current(context).map_err(failed(id, "cuCtxSetCurrent"))
}

/// Waits for everything on the current device.
pub(super) fn synchronize_all(id: DeviceId) -> Result<(), DeviceError> {
    CurrentContext::synchronize().map_err(failed(id, "cuCtxSynchronize"))
}

pub(super) fn memory_info(id: DeviceId) -> Result<MemoryInfo, DeviceError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: both pointers lead to live integers of the right type.
    let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
    check(id, "cuMemGetInfo", result)?;
    Ok(MemoryInfo { free: free as u64, total: total as u64 })
}

/// Allocates device memory; `len` is not zero.
pub(super) fn allocate(id: DeviceId, len: usize) -> Result<u64, DeviceError> {
    let mut address = 0;
    // SAFETY: the pointer leads to a live integer of the right type.
    let result = unsafe { sys::cuMemAlloc_v2(&raw mut address, len) };
    check(id, "cuMemAlloc", result)?;
    Ok(address)
}

/// # Safety
/// `address` comes from [`allocate`] and is not used any more.
pub(super) unsafe fn free(id: DeviceId, address: u64) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check(id, "cuMemFree", unsafe { sys::cuMemFree_v2(address) })
}

/// Allocates page-locked memory that the CPU reads at full speed: never write-combined. `len` is not zero.
pub(super) fn pin(id: DeviceId, len: usize) -> Result<NonNull<u8>, DeviceError> {
    let mut start: *mut c_void = std::ptr::null_mut();
    // SAFETY: the pointer leads to a live pointer of the right type.
    let result = unsafe { sys::cuMemAllocHost_v2(&raw mut start, len) };
    check(id, "cuMemAllocHost", result)?;
    NonNull::new(start.cast()).ok_or_else(|| DeviceError::Driver {
        device: id,
        call: "cuMemAllocHost",
        code: 0,
        name: "success without memory".to_owned(),
    })
}

/// # Safety
/// `start` comes from [`pin`] and is not used any more, neither by the CPU nor by a copy.
pub(super) unsafe fn unpin(id: DeviceId, start: NonNull<u8>) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check(id, "cuMemFreeHost", unsafe { sys::cuMemFreeHost(start.as_ptr().cast()) })
}

/// Locks the pages of `memory`, which is only read, so that copies read them directly.
///
/// # Safety
/// The memory stays mapped until [`unregister`].
pub(super) unsafe fn register(id: DeviceId, memory: &[u8]) -> Result<(), DeviceError> {
    let start = memory.as_ptr().cast_mut().cast();
    let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_READ_ONLY;
    // SAFETY: the range is that of a slice; the flag says that the device only reads it.
    let result = unsafe { sys::cuMemHostRegister_v2(start, memory.len(), flags) };
    check(id, "cuMemHostRegister", result)
}

/// # Safety
/// `memory` was registered and no copy reads it any more.
pub(super) unsafe fn unregister(id: DeviceId, memory: &[u8]) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    let result = unsafe { sys::cuMemHostUnregister(memory.as_ptr().cast_mut().cast()) };
    check(id, "cuMemHostUnregister", result)
}

/// Starts a copy. Where `source` is not page-locked, the driver reads it before it returns.
///
/// # Safety
/// As many bytes as `source` has are allocated at `address`. `source` stays mapped until the copy is done.
pub(super) unsafe fn copy_to_device(
    id: DeviceId,
    stream: &Stream,
    source: &[u8],
    address: u64,
) -> Result<(), DeviceError> {
    let (start, len) = (source.as_ptr().cast(), source.len());
    // SAFETY: the caller's promise; the stream is alive, being borrowed.
    let result = unsafe { sys::cuMemcpyHtoDAsync_v2(address, start, len, stream.as_inner()) };
    check(id, "cuMemcpyHtoDAsync", result)
}

/// # Safety
/// `len` bytes are allocated at `address`.
pub(super) unsafe fn fill_zero(
    id: DeviceId,
    stream: &Stream,
    address: u64,
    len: usize,
) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise; the stream is alive, being borrowed.
    let result = unsafe { sys::cuMemsetD8Async(address, 0, len, stream.as_inner()) };
    check(id, "cuMemsetD8Async", result)
}

/// Copies and waits.
///
/// # Safety
/// As many bytes as `destination` has are allocated at `address`.
pub(super) unsafe fn copy_to_host(
    id: DeviceId,
    address: u64,
    destination: &mut [u8],
) -> Result<(), DeviceError> {
    let (start, len) = (destination.as_mut_ptr().cast(), destination.len());
    // SAFETY: the caller's promise; the call returns when the destination is written.
    let result = unsafe { sys::cuMemcpyDtoH_v2(start, address, len) };
    check(id, "cuMemcpyDtoH", result)
}

fn check(id: DeviceId, call: &'static str, result: CUresult) -> Result<(), DeviceError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        refused => Err(refusal(id, call, refused as i32)),
    }
}

/// The same for calls that `cust` has checked.
pub(super) fn failed(id: DeviceId, call: &'static str) -> impl Fn(CudaError) -> DeviceError {
    move |error| refusal(id, call, i32::try_from(error as u32).unwrap_or(i32::MAX))
}

/// `code` may be the one that stands for all codes the bindings do not know; the driver's own is asked for.
fn refusal(device: DeviceId, call: &'static str, code: i32) -> DeviceError {
    let code = tz_cuda_shim::last_code().unwrap_or(code);
    let (code, name) = named(code);
    DeviceError::Driver { device, call, code, name }
}

fn named(code: i32) -> (i32, String) {
    let name = tz_cuda_shim::driver().ok().and_then(|driver| driver.code_name(code));
    (code, name.unwrap_or_else(|| "a code without a name".to_owned()))
}
