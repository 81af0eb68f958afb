//! Tensors in device memory. Owns [`DeviceTensor`] and [`DeviceTensors`].
//!
//! A tensor shares ownership of the allocation it lives in: an arena goes back to the device when the last of its
//! tensors is dropped, whatever became of the loader. Tensors exist only once every byte is in place and every hash has
//! been compared, so work on any stream may use them at once.

use std::fmt;
use std::sync::Arc;

use tz_format::{Element, TensorEntry};

use crate::device::{Device, DeviceId, DeviceMemory};
use crate::error::DeviceError;
use crate::stats::LoadStats;

/// An allocation and the device it is on.
trait Resident: Send + Sync + fmt::Debug {
    fn device(&self) -> DeviceId;
    fn address(&self) -> u64;
    fn read(&self, offset: u64, destination: &mut [u8]) -> Result<(), DeviceError>;
}

#[derive(Debug)]
struct Held<D: Device> {
    device: D,
    memory: D::Memory,
}

impl<D: Device> Resident for Held<D> {
    fn device(&self) -> DeviceId {
        self.device.id()
    }

    fn address(&self) -> u64 {
        self.memory.address()
    }

    fn read(&self, offset: u64, destination: &mut [u8]) -> Result<(), DeviceError> {
        self.device.copy_to_host(&self.memory, offset, destination)
    }
}

/// An allocation that several tensors keep alive.
#[derive(Debug, Clone)]
pub(crate) struct Home(Arc<dyn Resident>);

impl Home {
    pub(crate) fn new<D: Device>(device: D, memory: D::Memory) -> Self {
        Self(Arc::new(Held { device, memory }))
    }
}

/// One tensor in device memory.
#[derive(Debug, Clone)]
pub struct DeviceTensor {
    entry: TensorEntry,
    element: Element,
    home: Home,
    offset: u64,
    len: u64,
}

impl DeviceTensor {
    pub(crate) fn new(
        entry: TensorEntry,
        element: Element,
        home: Home,
        offset: u64,
        len: u64,
    ) -> Self {
        Self { entry, element, home, offset, len }
    }

    /// Name, shape and place in the file; its dtype is that of the file.
    #[must_use]
    pub fn entry(&self) -> &TensorEntry {
        &self.entry
    }

    /// Type of the elements on the device, after a cast if one was asked for. They are little-endian.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// Dimensions, outermost first. Elements are in C order without gaps.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.entry.shape
    }

    /// Where the tensor is.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.home.0.device()
    }

    /// Address of the first element in the device's address space, a multiple of [`crate::ALIGNMENT`]. Valid as long
    /// as this tensor or a clone of it lives.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.home.0.address().wrapping_add(self.offset)
    }

    /// Length in bytes.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.len
    }

    /// Copies bytes of the tensor from `offset` on to the host and waits for them.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] beyond the tensor's end, and whatever the device says.
    pub fn read(&self, offset: u64, destination: &mut [u8]) -> Result<(), DeviceError> {
        let len = destination.len() as u64;
        match offset.checked_add(len) {
            Some(end) if end <= self.len => self.home.0.read(self.offset + offset, destination),
            _ => Err(DeviceError::OutOfRange {
                device: self.device(),
                offset,
                len,
                allocation: self.len,
            }),
        }
    }

    /// Copies the whole tensor to the host.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn to_host(&self) -> Result<Vec<u8>, DeviceError> {
        // It fitted into the host's address space when it was read.
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// Loaded tensors, in file order.
#[derive(Debug, Clone)]
pub struct DeviceTensors {
    tensors: Vec<DeviceTensor>,
    stats: LoadStats,
}

impl DeviceTensors {
    pub(crate) fn new(tensors: Vec<DeviceTensor>, stats: LoadStats) -> Self {
        Self { tensors, stats }
    }

    /// Every tensor.
    pub fn iter(&self) -> std::slice::Iter<'_, DeviceTensor> {
        self.tensors.iter()
    }

    /// The tensor of that name (plain, or a path joined with `/`).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&DeviceTensor> {
        let named = |tensor: &&DeviceTensor| match tensor.entry.path.plain() {
            Some(plain) => plain == name,
            None => tensor.entry.path.to_string() == name,
        };
        self.tensors.iter().find(named)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// What the load did.
    #[must_use]
    pub fn stats(&self) -> &LoadStats {
        &self.stats
    }
}

impl<'a> IntoIterator for &'a DeviceTensors {
    type Item = &'a DeviceTensor;
    type IntoIter = std::slice::Iter<'a, DeviceTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for DeviceTensors {
    type Item = DeviceTensor;
    type IntoIter = std::vec::IntoIter<DeviceTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}
