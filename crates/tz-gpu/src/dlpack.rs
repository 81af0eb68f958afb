//! Hands device tensors to other libraries without a copy: the C structures of DLPack 1. Owns [`ManagedTensor`].
//!
//! An exported tensor is a C structure that carries its own destructor. Whoever takes the pointer calls that function
//! once, on any thread, and not before it is done with the data; the allocation lives until then. Tensors are complete
//! when they are exported, so no stream has to wait for another.
#![allow(unsafe_code, reason = "a C structure that is freed through a pointer in it")]

#[cfg(feature = "capi")]
pub mod capi;

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use thiserror::Error;
use tz_format::Element;

use crate::device::DeviceId;
use crate::tensor::DeviceTensor;

/// Major and minor version of the structures here.
pub const VERSION: (u32, u32) = (1, 1);

/// Kind and ordinal of a device.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDevice {
    /// 1 host memory, 2 CUDA.
    pub device_type: i32,
    /// Ordinal among devices of its kind.
    pub device_id: i32,
}

/// Type of an element.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDataType {
    /// Family: 0 signed, 1 unsigned, 2 IEEE float, 4 bfloat, 5 complex, 6 boolean, 7 and up small floats.
    pub code: u8,
    /// Bits of one lane.
    pub bits: u8,
    /// Lanes of one element.
    pub lanes: u16,
}

/// A tensor in memory that somebody else owns.
#[repr(C)]
#[derive(Debug)]
pub struct DLTensor {
    /// Address on the device.
    pub data: *mut c_void,
    /// Where it is.
    pub device: DLDevice,
    /// Number of dimensions.
    pub ndim: i32,
    /// Type of the elements.
    pub dtype: DLDataType,
    /// `ndim` dimensions.
    pub shape: *mut i64,
    /// `ndim` strides in elements.
    pub strides: *mut i64,
    /// Where the first element is, from `data` on.
    pub byte_offset: u64,
}

/// An owned tensor, as all consumers know it.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// The producer's own.
    pub manager_ctx: *mut c_void,
    /// Frees everything.
    pub deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// Version of a structure.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLPackVersion {
    /// A consumer refuses a major version that it does not know.
    pub major: u32,
    /// Additions only.
    pub minor: u32,
}

/// An owned tensor that says which version it is of, as consumers from DLPack 1.0 on know it.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    /// Version of this structure.
    pub version: DLPackVersion,
    /// The producer's own.
    pub manager_ctx: *mut c_void,
    /// Frees everything.
    pub deleter: Option<unsafe extern "C" fn(*mut Self)>,
    /// Bit 0: read only; bit 1: a copy was made. Both are clear.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// Why a tensor cannot be exported.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DlpackError {
    /// DLPack has no name for the type.
    #[error("DLPack has no type for {0}")]
    Dtype(&'static str),
    /// A dimension, or the ordinal of the device, is more than the structure holds.
    #[error("the tensor is too large for DLPack")]
    TooLarge,
}

/// A structure that owns what it points to.
pub trait Managed: Sized {
    /// Makes the structure.
    #[doc(hidden)]
    fn new(tensor: DLTensor, context: *mut c_void) -> Self;

    /// Its destructor.
    #[doc(hidden)]
    fn deleter(&self) -> Option<unsafe extern "C" fn(*mut Self)>;

    /// The tensor in it.
    fn tensor(&self) -> &DLTensor;
}

impl Managed for DLManagedTensor {
    fn new(dl_tensor: DLTensor, manager_ctx: *mut c_void) -> Self {
        Self { dl_tensor, manager_ctx, deleter: Some(delete) }
    }

    fn deleter(&self) -> Option<unsafe extern "C" fn(*mut Self)> {
        self.deleter
    }

    fn tensor(&self) -> &DLTensor {
        &self.dl_tensor
    }
}

impl Managed for DLManagedTensorVersioned {
    fn new(dl_tensor: DLTensor, manager_ctx: *mut c_void) -> Self {
        let version = DLPackVersion { major: VERSION.0, minor: VERSION.1 };
        let deleter: unsafe extern "C" fn(*mut Self) = delete_versioned;
        Self { version, manager_ctx, deleter: Some(deleter), flags: 0, dl_tensor }
    }

    fn deleter(&self) -> Option<unsafe extern "C" fn(*mut Self)> {
        self.deleter
    }

    fn tensor(&self) -> &DLTensor {
        &self.dl_tensor
    }
}

/// What an exported structure keeps alive. The structure itself is a part of it.
#[derive(Debug)]
struct Context<M> {
    managed: Option<M>,
    shape: Vec<i64>,
    strides: Vec<i64>,
    _tensor: DeviceTensor,
}

/// An exported tensor that nobody has taken yet. Dropping it frees it.
#[must_use]
pub struct ManagedTensor<M: Managed> {
    managed: NonNull<M>,
    _owned: PhantomData<M>,
}

impl<M: Managed> fmt::Debug for ManagedTensor<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManagedTensor").field(self.tensor()).finish()
    }
}

// SAFETY: the structure owns its parts, a `DeviceTensor` among them, which may move between threads; its pointers lead
// to those parts only.
unsafe impl<M: Managed> Send for ManagedTensor<M> {}

impl<M: Managed> ManagedTensor<M> {
    /// Exports `tensor`; the export keeps the tensor's memory alive.
    ///
    /// # Errors
    /// [`DlpackError`] where DLPack cannot express the tensor.
    pub fn new(tensor: &DeviceTensor) -> Result<Self, DlpackError> {
        let dims = tensor.shape().iter().map(|&dim| i64::try_from(dim));
        let shape: Vec<i64> = dims.collect::<Result<_, _>>().map_err(|_| DlpackError::TooLarge)?;
        let mut context = Box::new(Context {
            managed: None,
            strides: strides(&shape),
            shape,
            _tensor: tensor.clone(),
        });
        let dl_tensor = DLTensor {
            data: std::ptr::with_exposed_provenance_mut(address(tensor)?),
            device: device(tensor.device())?,
            ndim: i32::try_from(context.shape.len()).map_err(|_| DlpackError::TooLarge)?,
            dtype: data_type(tensor.element())?,
            shape: context.shape.as_mut_ptr(),
            strides: context.strides.as_mut_ptr(),
            byte_offset: 0,
        };
        let raw = Box::into_raw(context);
        // SAFETY: `raw` comes from a box that nobody else knows of.
        let context = unsafe { &mut *raw };
        let managed = context.managed.insert(M::new(dl_tensor, raw.cast()));
        Ok(Self { managed: NonNull::from(managed), _owned: PhantomData })
    }

    /// The tensor as C sees it.
    #[must_use]
    pub fn tensor(&self) -> &DLTensor {
        // SAFETY: this value owns the structure, which lives until it is dropped or taken.
        unsafe { self.managed.as_ref() }.tensor()
    }

    /// Hands the structure over: who takes it calls its destructor, once.
    #[must_use]
    pub fn into_raw(self) -> *mut M {
        ManuallyDrop::new(self).managed.as_ptr()
    }
}

impl<M: Managed> Drop for ManagedTensor<M> {
    fn drop(&mut self) {
        // SAFETY: as in `tensor`.
        let deleter = unsafe { self.managed.as_ref() }.deleter();
        if let Some(deleter) = deleter {
            // SAFETY: the structure was not taken, so this is the only call.
            unsafe { deleter(self.managed.as_ptr()) };
        }
    }
}

unsafe extern "C" fn delete(managed: *mut DLManagedTensor) {
    // SAFETY: a destructor is called with the structure it came in.
    let context = unsafe { &*managed }.manager_ctx;
    // SAFETY: `new` made the context from a box of this type, and destructors are called once.
    drop(unsafe { Box::from_raw(context.cast::<Context<DLManagedTensor>>()) });
}

unsafe extern "C" fn delete_versioned(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: as in `delete`.
    let context = unsafe { &*managed }.manager_ctx;
    // SAFETY: as in `delete`.
    drop(unsafe { Box::from_raw(context.cast::<Context<DLManagedTensorVersioned>>()) });
}

fn address(tensor: &DeviceTensor) -> Result<usize, DlpackError> {
    usize::try_from(tensor.address()).map_err(|_| DlpackError::TooLarge)
}

fn device(id: DeviceId) -> Result<DLDevice, DlpackError> {
    let (device_type, ordinal) = match id {
        DeviceId::Cpu => (1, 0),
        DeviceId::Cuda(ordinal) => (2, ordinal),
    };
    let device_id = i32::try_from(ordinal).map_err(|_| DlpackError::TooLarge)?;
    Ok(DLDevice { device_type, device_id })
}

/// Strides of dense C order, in elements. An empty dimension counts as one, as torch has it.
fn strides(shape: &[i64]) -> Vec<i64> {
    let mut stride = 1_i64;
    let mut strides: Vec<i64> = shape
        .iter()
        .rev()
        .map(|&dim| {
            let own = stride;
            // Only an empty tensor can be that large, and its strides lead nowhere.
            stride = stride.saturating_mul(dim.max(1));
            own
        })
        .collect();
    strides.reverse();
    strides
}

fn data_type(element: Element) -> Result<DLDataType, DlpackError> {
    let (code, bits, lanes) = match element {
        Element::Int8 => (0, 8, 1),
        Element::Int16 => (0, 16, 1),
        Element::Int32 => (0, 32, 1),
        Element::Int64 => (0, 64, 1),
        Element::Uint8 => (1, 8, 1),
        Element::Uint16 => (1, 16, 1),
        Element::Uint32 => (1, 32, 1),
        Element::Uint64 => (1, 64, 1),
        Element::Float16 => (2, 16, 1),
        Element::Float32 => (2, 32, 1),
        Element::Float64 => (2, 64, 1),
        Element::Bfloat16 => (4, 16, 1),
        Element::Complex32 => (5, 32, 1),
        Element::Complex64 => (5, 64, 1),
        Element::Complex128 => (5, 128, 1),
        Element::Bool => (6, 8, 1),
        Element::Float8E4m3fn => (10, 8, 1),
        Element::Float8E4m3fnuz => (11, 8, 1),
        Element::Float8E5m2 => (12, 8, 1),
        Element::Float8E5m2fnuz => (13, 8, 1),
        Element::Float8E8m0fnu => (14, 8, 1),
        Element::Float4E2m1fnX2 => (17, 4, 2),
        other => return Err(DlpackError::Dtype(tz_format::Dtype::from(other).name())),
    };
    Ok(DLDataType { code, bits, lanes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_c_header() {
        assert_eq!(size_of::<DLDevice>(), 8);
        assert_eq!(size_of::<DLDataType>(), 4);
        assert_eq!(size_of::<DLTensor>(), 48);
        assert_eq!(std::mem::offset_of!(DLTensor, dtype), 20);
        assert_eq!(std::mem::offset_of!(DLTensor, byte_offset), 40);
        assert_eq!(size_of::<DLManagedTensor>(), 64);
        assert_eq!(std::mem::offset_of!(DLManagedTensor, deleter), 56);
        assert_eq!(size_of::<DLManagedTensorVersioned>(), 80);
        assert_eq!(std::mem::offset_of!(DLManagedTensorVersioned, flags), 24);
        assert_eq!(std::mem::offset_of!(DLManagedTensorVersioned, dl_tensor), 32);
    }

    #[test]
    fn bits_and_lanes_make_up_the_element() {
        let mut named = 0;
        for &element in Element::ALL {
            if let Ok(data_type) = data_type(element) {
                let bits = u64::from(data_type.bits) * u64::from(data_type.lanes);
                assert_eq!(bits, tz_format::Dtype::from(element).size() * 8, "{element:?}");
                named += 1;
            }
        }
        assert_eq!(named, 22);
        assert_eq!(data_type(Element::Uint4), Err(DlpackError::Dtype("uint4")));
    }

    #[test]
    fn strides_count_elements() {
        assert_eq!(strides(&[]), [0_i64; 0]);
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(strides(&[2, 0, 4]), [4, 4, 1]);
        assert_eq!(strides(&[0, i64::MAX, 3]), [i64::MAX, 3, 1]);
    }
}
