//! A device in host memory that is late, out of order, and fails on request. Owns [`SimDevice`].
//!
//! Work on a stream waits until somebody asks for it. Every query lets a stream chosen by a seeded generator run one
//! step, so completions come late and streams overtake each other, the same way for the same seed; no clock takes
//! part. Copies take effect when they run, from what was in the source when they were started.
//!
//! The device keeps watch. Writing to or unpinning a buffer that a copy still reads, or freeing memory that a copy
//! still writes, is noted as a violation. Tests assert that there are none and that everything was given back.

mod memory;
mod state;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use memory::{Block, addresses};
use state::{Shared, State, StreamState, Work};

use crate::device::{Device, DeviceId, MemoryInfo, check_range};
use crate::error::{DeviceError, MemoryKind};

pub use memory::{SimMemory, SimPinned};

/// Which call to let fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimCall {
    /// [`Device::allocate`].
    Allocate,
    /// [`Device::pin_buffers`].
    Pin,
    /// [`Device::stream`].
    Stream,
    /// [`Device::copy_to_device`], when it is called.
    Copy,
    /// A copy itself, while it runs: later calls report it, as they do on CUDA.
    LateCopy,
    /// [`Device::event`].
    Event,
    /// [`Device::record`].
    Record,
    /// [`Device::query`].
    Query,
    /// [`Device::synchronize`].
    Synchronize,
}

/// How a simulated device behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimOptions {
    /// What the device says it is.
    pub id: DeviceId,
    /// Bytes of device memory. Default 1 GiB; taken from the host only as it is allocated.
    pub memory: u64,
    /// Bytes of host memory that can be pinned. Default 1 GiB.
    pub pinnable: u64,
    /// Seed of the order in which streams run.
    pub seed: u64,
    /// Most steps that a piece of work takes; with 0 it is done as soon as anybody asks. Default 3.
    pub delay: u64,
    /// Calls that fail: which, and counted from 1, its how manyeth. All later ones succeed.
    pub failures: Vec<(SimCall, u64)>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            id: DeviceId::Cpu,
            memory: 1 << 30,
            pinnable: 1 << 30,
            seed: 1,
            delay: 3,
            failures: Vec::new(),
        }
    }
}

/// The code that injected failures report.
pub const INJECTED_CODE: i32 = 719;

/// A simulated device.
#[derive(Debug, Clone)]
pub struct SimDevice {
    shared: Arc<Shared>,
}

/// What is in use on a simulated device, and how much ever was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimUsage {
    /// Bytes of device memory now.
    pub device_bytes: u64,
    /// Most bytes of device memory.
    pub peak_device_bytes: u64,
    /// Bytes of pinned memory now.
    pub pinned_bytes: u64,
    /// Most bytes of pinned memory.
    pub peak_pinned_bytes: u64,
    /// Allocations of pinned memory, those that are gone included.
    pub pinned_allocations: u64,
    /// Pinned buffers that anything was copied from, those that are gone included.
    pub buffers_used: u64,
    /// Events that were made.
    pub events: u64,
    /// Copies to the device that were started.
    pub copies: u64,
}

/// Stream of a simulated device.
#[derive(Debug)]
pub struct SimStream(usize);

/// Event of a simulated device.
#[derive(Debug, Clone, Copy)]
pub struct SimEvent {
    stream: usize,
    after: u64,
}

impl SimDevice {
    /// A device that behaves as `options` say.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        let state = State { random: options.seed, ..State::default() };
        Self { shared: Arc::new(Shared { options, state: Mutex::new(state) }) }
    }

    /// Buffers that were written or freed too early, in words.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.lock().violations.clone()
    }

    /// What is in use.
    #[must_use]
    pub fn usage(&self) -> SimUsage {
        self.shared.lock().usage
    }

    /// Counts the call; fails where a failure was ordered, or where an earlier copy failed.
    fn call(
        &self,
        state: &mut State,
        call: SimCall,
        name: &'static str,
    ) -> Result<(), DeviceError> {
        if state.is_due(call, &self.shared.options) || state.failed {
            return Err(DeviceError::Driver {
                device: self.shared.options.id,
                call: name,
                code: INJECTED_CODE,
                name: "injected failure".to_owned(),
            });
        }
        Ok(())
    }

    fn enqueue(
        &self,
        stream: &SimStream,
        source: Range<usize>,
        bytes: Vec<u8>,
        memory: &SimMemory,
        offset: u64,
    ) {
        let mut state = self.shared.lock();
        let steps = 1 + state.random() % self.shared.options.delay.max(1);
        if let Some(stream) = state.streams.get_mut(stream.0) {
            stream.queued += 1;
            stream.waiting.push_back(Work {
                steps,
                source,
                bytes,
                target: Arc::clone(&memory.block),
                offset: usize::try_from(offset).unwrap_or(usize::MAX),
            });
        }
    }
}

impl Device for SimDevice {
    type Memory = SimMemory;
    type Pinned = SimPinned;
    type Stream = SimStream;
    type Event = SimEvent;

    fn id(&self) -> DeviceId {
        self.shared.options.id
    }

    fn memory_info(&self) -> Result<MemoryInfo, DeviceError> {
        let total = self.shared.options.memory;
        let free = total - self.shared.lock().usage.device_bytes;
        Ok(MemoryInfo { free, total })
    }

    fn allocate(&self, len: u64) -> Result<SimMemory, DeviceError> {
        let mut state = self.shared.lock();
        self.call(&mut state, SimCall::Allocate, "allocate")?;
        let free = self.shared.options.memory - state.usage.device_bytes;
        let refused = DeviceError::OutOfMemory {
            device: self.id(),
            memory: MemoryKind::Device,
            needed: len,
            free: Some(free),
        };
        let host_len = usize::try_from(len).ok().filter(|_| len <= free);
        let block = host_len.and_then(Block::new).ok_or(refused)?;
        state.usage.device_bytes += len;
        state.usage.peak_device_bytes = state.usage.peak_device_bytes.max(state.usage.device_bytes);
        Ok(SimMemory { block: Arc::new(block), len, shared: Arc::clone(&self.shared) })
    }

    fn pin_buffers(&self, len: usize, count: usize) -> Result<Vec<SimPinned>, DeviceError> {
        let mut state = self.shared.lock();
        self.call(&mut state, SimCall::Pin, "pin")?;
        let free = self.shared.options.pinnable - state.usage.pinned_bytes;
        let needed = len.saturating_mul(count) as u64;
        if needed > free {
            return Err(DeviceError::OutOfMemory {
                device: self.id(),
                memory: MemoryKind::Pinned,
                needed,
                free: Some(free),
            });
        }
        state.usage.pinned_allocations += 1;
        state.usage.pinned_bytes += needed;
        state.usage.peak_pinned_bytes = state.usage.peak_pinned_bytes.max(state.usage.pinned_bytes);
        drop(state);
        Ok((0..count).map(|_| SimPinned::new(len, Arc::clone(&self.shared))).collect())
    }

    fn stream(&self) -> Result<SimStream, DeviceError> {
        let mut state = self.shared.lock();
        self.call(&mut state, SimCall::Stream, "open a stream")?;
        state.streams.push(StreamState::default());
        Ok(SimStream(state.streams.len() - 1))
    }

    fn copy_to_device(
        &self,
        stream: &SimStream,
        source: &[u8],
        memory: &SimMemory,
        offset: u64,
    ) -> Result<(), DeviceError> {
        check_range(self.id(), memory, offset, source.len() as u64)?;
        let mut state = self.shared.lock();
        self.call(&mut state, SimCall::Copy, "copy to the device")?;
        state.usage.copies += 1;
        state.note_source(addresses(source));
        drop(state);
        self.enqueue(stream, addresses(source), source.to_vec(), memory, offset);
        Ok(())
    }

    fn fill_zero(
        &self,
        stream: &SimStream,
        memory: &SimMemory,
        offset: u64,
        len: u64,
    ) -> Result<(), DeviceError> {
        check_range(self.id(), memory, offset, len)?;
        let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
        self.enqueue(stream, 0..0, zeros, memory, offset);
        Ok(())
    }

    fn event(&self) -> Result<SimEvent, DeviceError> {
        let mut state = self.shared.lock();
        self.call(&mut state, SimCall::Event, "make an event")?;
        state.usage.events += 1;
        // There is no such stream: nothing to wait for.
        Ok(SimEvent { stream: usize::MAX, after: 0 })
    }

    fn record(&self, stream: &SimStream, event: &mut SimEvent) -> Result<(), DeviceError> {
        let mut state = self.shared.lock();
        self.call(&mut state, SimCall::Record, "record an event")?;
        let queued = state.streams.get(stream.0).map_or(0, |stream| stream.queued);
        *event = SimEvent { stream: stream.0, after: queued };
        Ok(())
    }

    fn query(&self, event: &SimEvent) -> Result<bool, DeviceError> {
        let mut state = self.shared.lock();
        match self.shared.options.delay {
            0 => state.run_all(&self.shared.options),
            _ => state.step(&self.shared.options),
        }
        self.call(&mut state, SimCall::Query, "query an event")?;
        Ok(state.is_done(*event))
    }

    fn synchronize(&self, stream: &SimStream) -> Result<(), DeviceError> {
        let mut state = self.shared.lock();
        while state.streams.get(stream.0).is_some_and(|stream| !stream.waiting.is_empty()) {
            state.step_stream(stream.0, &self.shared.options);
        }
        self.call(&mut state, SimCall::Synchronize, "synchronize a stream")
    }

    fn copy_to_host(
        &self,
        memory: &SimMemory,
        offset: u64,
        destination: &mut [u8],
    ) -> Result<(), DeviceError> {
        check_range(self.id(), memory, offset, destination.len() as u64)?;
        let bytes = memory.block.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let source = start.checked_add(destination.len()).and_then(|end| bytes.get(start..end));
        destination.copy_from_slice(source.unwrap_or_default());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(device: &SimDevice, stream: &SimStream) -> SimEvent {
        let mut event = device.event().unwrap();
        device.record(stream, &mut event).unwrap();
        event
    }

    #[test]
    fn touching_a_buffer_before_its_event_is_noticed() {
        let device = SimDevice::new(SimOptions::default());
        let (stream, memory) = (device.stream().unwrap(), device.allocate(8).unwrap());
        let mut pinned = device.pin(8).unwrap();
        pinned.fill(1);
        device.copy_to_device(&stream, &pinned, &memory, 0).unwrap();
        assert!(device.violations().is_empty(), "reading while copying is allowed");
        pinned.fill(2);
        drop(pinned);
        drop(memory);
        let words: Vec<_> = device.violations().iter().map(|text| text[..5].to_owned()).collect();
        assert_eq!(words, ["wrote", "unpin", "freed"]);
        assert_eq!((device.usage().device_bytes, device.usage().pinned_bytes), (0, 0));
    }

    #[test]
    fn touching_it_afterwards_is_not() {
        let device = SimDevice::new(SimOptions::default());
        let (stream, memory) = (device.stream().unwrap(), device.allocate(8).unwrap());
        let mut pinned = device.pin(8).unwrap();
        device.copy_to_device(&stream, &pinned, &memory, 0).unwrap();
        let event = recorded(&device, &stream);
        while !device.query(&event).unwrap() {}
        pinned.fill(2);
        drop(pinned);
        drop(memory);
        assert_eq!(device.violations(), Vec::<String>::new());
    }

    #[test]
    fn streams_overtake_each_other() {
        let overtaken = |seed| {
            let device = SimDevice::new(SimOptions { seed, ..SimOptions::default() });
            let (first, second) = (device.stream().unwrap(), device.stream().unwrap());
            let memory = device.allocate(2).unwrap();
            device.copy_to_device(&first, &[1], &memory, 0).unwrap();
            let early = recorded(&device, &first);
            device.copy_to_device(&second, &[2], &memory, 1).unwrap();
            let late = recorded(&device, &second);
            while !device.query(&late).unwrap() {}
            let overtaken = !device.shared.lock().is_done(early);
            device.synchronize(&first).unwrap();
            overtaken
        };
        let count = (1..=100).filter(|&seed| overtaken(seed)).count();
        assert!((1..100).contains(&count), "{count} of 100 seeds");
    }

    #[test]
    fn a_copy_that_fails_late_is_reported_by_later_calls() {
        let device = SimDevice::new(SimOptions {
            failures: vec![(SimCall::LateCopy, 1)],
            ..SimOptions::default()
        });
        let (stream, memory) = (device.stream().unwrap(), device.allocate(1).unwrap());
        device.copy_to_device(&stream, &[1], &memory, 0).unwrap();
        assert!(device.synchronize(&stream).is_err());
        assert!(device.event().is_err());
    }
}
