//! Memory of a simulated device, device and pinned, that notices early use. Owns [`SimMemory`] and [`SimPinned`].

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::Shared;
use crate::device::{ALIGNMENT, DeviceMemory};

/// Memory of a simulated device. Its address is a host address.
#[derive(Debug)]
pub struct SimMemory {
    pub(super) block: Arc<Block>,
    pub(super) len: u64,
    pub(super) shared: Arc<Shared>,
}

impl DeviceMemory for SimMemory {
    fn address(&self) -> u64 {
        self.block.address
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for SimMemory {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.usage.device_bytes -= self.len;
        let waiting = state.streams.iter().flat_map(|stream| &stream.waiting);
        let writing = waiting.filter(|work| Arc::ptr_eq(&work.target, &self.block)).count();
        if writing > 0 {
            let violation = format!("freed device memory that {writing} copies still write");
            state.violations.push(violation);
        }
    }
}

/// Pinned memory of a simulated device: host memory that is watched.
#[derive(Debug)]
pub struct SimPinned {
    pub(super) bytes: Box<[u8]>,
    pub(super) shared: Arc<Shared>,
}

impl SimPinned {
    pub(super) fn new(len: usize, shared: Arc<Shared>) -> Self {
        // Fresh memory is not zero on a real device either.
        let bytes = vec![0xA5; len].into_boxed_slice();
        if len > 0 {
            shared.lock().buffers.insert(addresses(&bytes).start, (addresses(&bytes).end, false));
        }
        Self { bytes, shared }
    }
}

impl Deref for SimPinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for SimPinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.shared.watch_host(&self.bytes, "wrote to");
        &mut self.bytes
    }
}

impl Drop for SimPinned {
    fn drop(&mut self) {
        self.shared.watch_host(&self.bytes, "unpinned");
        let mut state = self.shared.lock();
        state.usage.pinned_bytes -= self.bytes.len() as u64;
        state.buffers.remove(&addresses(&self.bytes).start);
    }
}

/// Bytes at an aligned address that stays the same.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Mutex<Box<[u8]>>,
    /// Where the aligned part begins.
    pub(super) skip: usize,
    pub(super) address: u64,
}

impl Block {
    pub(super) fn new(len: usize) -> Option<Self> {
        let alignment = usize::try_from(ALIGNMENT).ok()?;
        let bytes = vec![0xA5_u8; len.checked_add(alignment)?].into_boxed_slice();
        let skip = bytes.as_ptr().align_offset(alignment);
        let address = bytes.as_ptr().addr().checked_add(skip)? as u64;
        Some(Self { bytes: Mutex::new(bytes), skip, address })
    }

    pub(super) fn lock(&self) -> Aligned<'_> {
        Aligned {
            bytes: self.bytes.lock().unwrap_or_else(PoisonError::into_inner),
            skip: self.skip,
        }
    }
}

/// The aligned part of a block.
pub(super) struct Aligned<'a> {
    pub(super) bytes: MutexGuard<'a, Box<[u8]>>,
    pub(super) skip: usize,
}

impl Aligned<'_> {
    pub(super) fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        self.bytes.get(self.skip..)?.get(range)
    }

    pub(super) fn get_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.skip..)?.get_mut(range)
    }
}

pub(super) fn addresses(memory: &[u8]) -> Range<usize> {
    let range = memory.as_ptr_range();
    range.start.addr()..range.end.addr()
}
