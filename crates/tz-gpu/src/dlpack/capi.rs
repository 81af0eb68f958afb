//! A small C interface: load a file, list its tensors, take each as a DLPack structure. Feature `capi`.
//!
//! It is what a Python process needs to take tensors with nothing but `ctypes`, and how the tests put DLPack before
//! its consumers. The device `cpu` is a simulated one, whose memory is the host's.
#![allow(unsafe_code, reason = "C functions that take and give pointers")]

use std::ffi::{CStr, CString, c_char};

use tz_format::{Dtype, Limits};
use tz_io::{Location, ReadOptions, Selection, TensorFile};

use super::{DLManagedTensor, DLManagedTensorVersioned, ManagedTensor};
use crate::device::{Device, DeviceId};
use crate::loader::{GpuLoader, GpuOptions};
use crate::sim::{SimDevice, SimOptions};
use crate::tensor::{DeviceTensor, DeviceTensors};

/// A loaded file. C sees a pointer to it only.
#[derive(Debug)]
pub struct TzTensors {
    tensors: DeviceTensors,
    /// Name and dtype of each, for C.
    words: Vec<(CString, CString)>,
}

impl TzTensors {
    fn load(path: &str, device: &str) -> Result<Self, String> {
        let tensors = match device.parse()? {
            DeviceId::Cpu => load(SimDevice::new(SimOptions::default()), path)?,
            #[cfg(feature = "cuda")]
            DeviceId::Cuda(ordinal) => {
                let device = crate::cuda::CudaDevice::open(ordinal);
                load(device.map_err(|error| error.to_string())?, path)?
            }
            #[cfg(not(feature = "cuda"))]
            other => return Err(format!("{other}: built without CUDA")),
        };
        let words = |tensor: &DeviceTensor| {
            let dtype = Dtype::from(tensor.element()).name();
            // A name with a zero byte cannot be told to C; such a tensor is found by its number.
            let name = CString::new(tensor.entry().path.to_string()).unwrap_or_default();
            (name, CString::new(dtype).unwrap_or_default())
        };
        Ok(Self { words: tensors.iter().map(words).collect(), tensors })
    }
}

fn load<D: Device>(device: D, path: &str) -> Result<DeviceTensors, String> {
    let load = || -> Result<_, crate::error::GpuError> {
        let mut loader = GpuLoader::new(device, GpuOptions::local())?;
        let file = TensorFile::open(&Location::parse(path)?, &Limits::default())?;
        loader.load(&file, &Selection::all(), &ReadOptions::default())
    };
    load().map_err(|error| error.to_string())
}

/// Loads the file at `path` onto `device` (`cpu`, `cuda:0`). On failure gives null and writes the reason to `error`,
/// which has room for `error_len` bytes.
///
/// # Safety
/// `path` and `device` are C strings; `error` is null or has that much room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tz_gpu_load(
    path: *const c_char,
    device: *const c_char,
    error: *mut c_char,
    error_len: usize,
) -> *mut TzTensors {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    // SAFETY: the caller's promise.
    let device = unsafe { CStr::from_ptr(device) }.to_string_lossy();
    match TzTensors::load(&path, &device) {
        Ok(tensors) => Box::into_raw(Box::new(tensors)),
        Err(why) => {
            if !error.is_null() && error_len > 0 {
                // SAFETY: the caller's promise; a C character is a byte.
                let room = unsafe { std::slice::from_raw_parts_mut(error.cast::<u8>(), error_len) };
                let len = why.len().min(error_len - 1);
                for (to, from) in room.iter_mut().zip(why.bytes().take(len).chain([0])) {
                    *to = from;
                }
            }
            std::ptr::null_mut()
        }
    }
}

/// How many tensors there are.
///
/// # Safety
/// `tensors` comes from [`tz_gpu_load`] and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tz_gpu_count(tensors: *const TzTensors) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*tensors }.tensors.len()
}

/// Name of a tensor, or null past the last. Valid until the tensors are freed.
///
/// # Safety
/// As [`tz_gpu_count`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tz_gpu_name(tensors: *const TzTensors, index: usize) -> *const c_char {
    // SAFETY: the caller's promise.
    let words = unsafe { &*tensors }.words.get(index);
    words.map_or(std::ptr::null(), |(name, _)| name.as_ptr())
}

/// Name of a tensor's dtype, or null past the last. Valid until the tensors are freed.
///
/// # Safety
/// As [`tz_gpu_count`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tz_gpu_dtype(tensors: *const TzTensors, index: usize) -> *const c_char {
    // SAFETY: the caller's promise.
    let words = unsafe { &*tensors }.words.get(index);
    words.map_or(std::ptr::null(), |(_, dtype)| dtype.as_ptr())
}

/// Exports a tensor, or gives null where DLPack has no name for its type. Whoever takes it calls its destructor.
///
/// # Safety
/// As [`tz_gpu_count`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tz_gpu_dlpack(
    tensors: *const TzTensors,
    index: usize,
) -> *mut DLManagedTensor {
    // SAFETY: the caller's promise.
    let tensor = unsafe { &*tensors }.tensors.iter().nth(index);
    let exported = tensor.and_then(|tensor| ManagedTensor::new(tensor).ok());
    exported.map_or(std::ptr::null_mut(), ManagedTensor::into_raw)
}

/// As [`tz_gpu_dlpack`], in the structure that states its version.
///
/// # Safety
/// As [`tz_gpu_count`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tz_gpu_dlpack_versioned(
    tensors: *const TzTensors,
    index: usize,
) -> *mut DLManagedTensorVersioned {
    // SAFETY: the caller's promise.
    let tensor = unsafe { &*tensors }.tensors.iter().nth(index);
    let exported = tensor.and_then(|tensor| ManagedTensor::new(tensor).ok());
    exported.map_or(std::ptr::null_mut(), ManagedTensor::into_raw)
}

/// Frees the list. Exported tensors live on.
///
/// # Safety
/// `tensors` comes from [`tz_gpu_load`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tz_gpu_free(tensors: *mut TzTensors) {
    // SAFETY: the caller's promise; `tz_gpu_load` made it from a box.
    drop(unsafe { Box::from_raw(tensors) });
}
