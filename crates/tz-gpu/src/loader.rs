//! Loads tensors of a file onto a device. Owns [`GpuLoader`] and [`GpuOptions`].
//!
//! `tz-io` reads, decrypts and verifies pieces into the ring's pinned buffers; this module converts them where they
//! are, and hands each buffer to the copy engine. A load allocates device memory for the tensors and nothing else, and
//! host memory for the ring and nothing that grows with the model but its index.

use std::io;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use tz_format::{Element, TensorEntry};
use tz_io::{
    BufferPool, Cancel, Consumer, Counter, Part, PartKind, Piece, PlanOptions, PooledBuffer,
    ReadOptions, Selection, TensorFile,
};

use crate::convert::Conversion;
use crate::device::Device;
use crate::engine::CopyEngine;
use crate::error::GpuError;
use crate::pinned_pool::PinnedPool;
use crate::schedule::{Copy, Input, Layout, PADDING, Place, Placement, Ring, Staging};
use crate::stats::{CopyStats, LoadStats};
use crate::tensor::{DeviceTensor, DeviceTensors, Home};

/// Pinned memory where the caller sets no limit: two buffers of 4 MiB for each of 16 readers, one to fill and one on the
/// bus. On an H200 with 16 cores larger rings were slower, because the bus then reads what no cache of the CPU holds any
/// more (`docs/GPU.md`).
pub const DEFAULT_RING_BYTES: u64 = 128 << 20;
/// Streams that copies take turns on: the next copy has begun when one ends. More gained nothing on an H200.
pub const DEFAULT_STREAMS: usize = 2;

/// No tensor is cut but at a multiple of this many bytes, so that pieces hold whole elements.
const GRANULE: usize = 4096;

/// How to load onto a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GpuOptions {
    /// Most bytes of pinned host memory. `None` takes [`DEFAULT_RING_BYTES`].
    pub memory_limit: Option<u64>,
    /// Data in one staging buffer. Larger ones mean fewer reads and copies to start; smaller ones stay in a core's
    /// cache between read and hash, and more of them fit the limit.
    pub buffer_bytes: usize,
    /// Streams for copies. Default [`DEFAULT_STREAMS`].
    pub streams: usize,
    /// How tensors share device memory.
    pub placement: Placement,
    /// Type that floating-point tensors are cast to, on the CPU, before they are copied. Others keep their type.
    pub dtype: Option<Element>,
}

impl GpuOptions {
    /// Buffers for local files: 4 MiB. Copies of that length reach 0.97 of the bus on an H200, copies of 2 MiB 0.93, and
    /// longer buffers leave the CPU's caches before they are copied.
    #[must_use]
    pub fn local() -> Self {
        Self {
            memory_limit: None,
            buffer_bytes: 4 << 20,
            streams: DEFAULT_STREAMS,
            placement: Placement::default(),
            dtype: None,
        }
    }

    /// Buffers for servers: 8 MiB, as long as the pieces that `tz-io` asks of them, because requests are dear.
    #[must_use]
    pub fn object_storage() -> Self {
        Self { buffer_bytes: 8 << 20, ..Self::local() }
    }
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self::local()
    }
}

/// A device, a ring of pinned buffers and the engine that copies them. Loads any number of files, one after the
/// other; the ring is pinned once.
#[derive(Debug)]
pub struct GpuLoader<D: Device> {
    // Before the engine, so that buffers that the engine drops last find the pool gone and are unpinned.
    pool: PinnedPool,
    engine: Arc<CopyEngine<D, PooledBuffer>>,
    device: D,
    options: GpuOptions,
    convert_time: Counter,
}

impl<D: Device> GpuLoader<D> {
    /// Opens the streams and begins to pin the ring. Make the loader first and open the file then: the ring is
    /// pinned while the front of the file is being read.
    ///
    /// # Errors
    /// [`GpuError::UnsupportedCast`], [`GpuError::RingTooSmall`], and what the device says.
    pub fn new(device: D, options: GpuOptions) -> Result<Self, GpuError> {
        if let Some(dtype) = options.dtype.filter(|&dtype| !Conversion::can_cast_to(dtype)) {
            let dtype = tz_format::Dtype::from(dtype).name();
            return Err(GpuError::UnsupportedCast { dtype });
        }
        let limit = options.memory_limit.unwrap_or(DEFAULT_RING_BYTES);
        let slack = header_slack();
        let too_small = GpuError::RingTooSmall { limit, needed: (slack + GRANULE) as u64 };
        let buffer_len = options.buffer_bytes.saturating_add(slack);
        let ring = Ring::within(limit, buffer_len, slack, GRANULE).ok_or(too_small)?;
        let engine = Arc::new(CopyEngine::new(device.clone(), options.streams)?);
        let pool = PinnedPool::new(device.clone(), ring, Arc::<CopyEngine<D, _>>::clone(&engine));
        Ok(Self { pool, engine, device, options, convert_time: Counter::default() })
    }

    /// The device that this loader loads onto.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Loads the selected tensors. All arrive, verified, or none does and nothing stays allocated.
    ///
    /// # Errors
    /// [`GpuError::Device`] where the device refuses, [`GpuError::Io`] where the file cannot be read or is corrupt.
    pub fn load(
        &mut self,
        file: &TensorFile,
        selection: &Selection,
        options: &ReadOptions,
    ) -> Result<DeviceTensors, GpuError> {
        let start = Instant::now();
        self.engine.reset();
        let tensors = selection.select(file.entries(), file.location())?;
        let plan = Plan::new(file, &tensors, &self.options)?;
        let allocating = Instant::now();
        let memories = plan.layout.memories.iter();
        let memories =
            memories.map(|&len| self.device.allocate(len)).collect::<Result<Vec<_>, _>>()?;
        let allocate = allocating.elapsed();

        let read = self.fill(file, selection, options, &plan, &memories);
        // Before the memory is dropped or published, nothing may write it any more.
        let drained = self.engine.drain();
        let mut copy = self.engine.take_stats();
        self.pool.take_stats(&mut copy);
        let read = match (drained, read) {
            (Err(error), _) => return Err(error.into()),
            (Ok(()), Err(error)) => return Err(self.explain(error)),
            (Ok(()), Ok(read)) => read,
        };
        let stats = LoadStats {
            read,
            copy: CopyStats {
                device_bytes: plan.layout.device_bytes(),
                allocate,
                convert: self.convert_time.take_duration(),
                ..copy
            },
            wall: start.elapsed(),
        };
        Ok(DeviceTensors::new(plan.publish(&self.device, memories), stats))
    }

    /// Runs every byte of the plan through ring and engine.
    fn fill(
        &self,
        file: &TensorFile,
        selection: &Selection,
        options: &ReadOptions,
        plan: &Plan<'_>,
        memories: &[D::Memory],
    ) -> Result<tz_io::ReadStats, GpuError> {
        for (entry, place, _) in plan.tensors() {
            if let Some(memory) = memories.get(place.memory).filter(|_| entry.is_meta()) {
                self.engine.fill_zero(memory, place.offset, place.len)?;
            }
        }
        let buffer_len = shared_len(self.pool.buffer_len(), plan.growth);
        let buffer_len = buffer_len.ok_or(GpuError::RingTooSmall {
            limit: self.pool.buffer_len() as u64,
            needed: ((header_slack() + GRANULE) * plan.growth) as u64,
        })?;
        // No more buffers than there are pieces to fill them: small loads pin a part of the ring only.
        let mut planned = file.source().plan_options().filling(buffer_len);
        planned.headers = options.verify || file.is_encrypted();
        let pieces = file.plan(selection, &planned)?.fetches.len();
        let pool = GrowingPool {
            pool: &self.pool,
            buffer_len,
            buffers: self.pool.open(pieces),
            device: &self.device,
            caller: std::thread::current().id(),
        };
        let consumer = Stage { loader: self, plan, memories };
        Ok(file.stream(selection, options, &pool, &consumer)?)
    }

    /// The reason behind a failed read, where it was the ring that failed.
    fn explain(&self, error: GpuError) -> GpuError {
        self.pool.failure().map_or(error, GpuError::Device)
    }
}

/// Bytes of every buffer that `tz-io` keeps for headers.
fn header_slack() -> usize {
    const PROBE: usize = 1 << 30;
    let mut options = PlanOptions::local();
    options.piece_len = u64::MAX;
    PROBE - usize::try_from(options.staged(PROBE).piece_len).unwrap_or(PROBE)
}

/// Where every selected tensor goes, and what happens to it on the way.
#[derive(Debug)]
struct Plan<'a> {
    entries: &'a [TensorEntry],
    selected: &'a [usize],
    conversions: Vec<Conversion>,
    layout: Layout,
    /// Position in the selection of every tensor of the file.
    slots: Vec<usize>,
    /// Largest factor by which a tensor grows.
    growth: usize,
    /// Most bytes between two tensors that one copy may write to: [`PADDING`] where nobody else's bytes are there.
    gap: u64,
}

impl<'a> Plan<'a> {
    fn new(
        file: &'a TensorFile,
        selected: &'a [usize],
        options: &GpuOptions,
    ) -> Result<Self, GpuError> {
        let entries = file.entries();
        let chosen = || selected.iter().filter_map(|&i| entries.get(i));
        let conversions: Vec<_> =
            chosen().map(|entry| Conversion::new(entry.dtype, options.dtype)).collect();
        let lens = chosen().zip(&conversions);
        let lens = lens.map(|(entry, conversion)| conversion.out_len(entry.byte_len()));
        let layout =
            lens.collect::<Option<Vec<_>>>().and_then(|lens| Layout::new(&lens, options.placement));
        let layout =
            layout.ok_or_else(|| GpuError::TooLarge { location: file.location().to_owned() })?;
        let mut slots = vec![usize::MAX; entries.len()];
        for (slot, &tensor) in selected.iter().enumerate() {
            if let Some(place) = slots.get_mut(tensor) {
                *place = slot;
            }
        }
        let growth = conversions.iter().map(Conversion::growth).max();
        let growth = growth.unwrap_or(1);
        Ok(Self { entries, selected, growth, conversions, layout, slots, gap: PADDING })
    }

    fn tensors(&self) -> impl Iterator<Item = (&'a TensorEntry, Place, &Conversion)> {
        let entries = self.entries;
        let chosen = self.selected.iter().filter_map(|&i| entries.get(i));
        let places = self.layout.places.iter().copied();
        chosen
            .zip(places)
            .zip(&self.conversions)
            .map(|((entry, place), conversion)| (entry, place, conversion))
    }

    fn publish<D: Device>(&self, device: &D, memories: Vec<D::Memory>) -> Vec<DeviceTensor> {
        let homes = memories.into_iter();
        let homes: Vec<_> = homes.map(|memory| Home::new(device.clone(), memory)).collect();
        let tensor = |(entry, place, conversion): (&TensorEntry, Place, &Conversion)| {
            let home = homes.get(place.memory)?.clone();
            let (element, entry) = (conversion.element(), entry.clone());
            Some(DeviceTensor::new(entry, element, home, place.offset, place.len))
        };
        self.tensors().filter_map(tensor).collect()
    }
}

/// How far a buffer of `buffer_len` bytes may be filled so that what is in it can grow by that factor; `None` where
/// that leaves no room.
fn shared_len(buffer_len: usize, growth: usize) -> Option<usize> {
    let payload = (buffer_len / growth.max(1)).checked_sub(header_slack())?;
    let payload = payload - payload % GRANULE;
    (payload > 0).then_some(payload + header_slack())
}

/// The ring as one load sees it: as many buffers as it can use, to be filled in part where their contents grow.
#[derive(Debug)]
struct GrowingPool<'a, D> {
    pool: &'a PinnedPool,
    buffer_len: usize,
    buffers: usize,
    device: &'a D,
    /// Reads too, and is not ours; all other readers end with the load.
    caller: ThreadId,
}

impl<D: Device> BufferPool for GrowingPool<'_, D> {
    fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    fn buffers(&self) -> usize {
        self.buffers
    }

    fn acquire(&self, cancel: &Cancel) -> Option<PooledBuffer> {
        if std::thread::current().id() != self.caller {
            // The first thing that a reader does. Where it fails, the next call to the device says why.
            let _ = self.device.keep_current();
        }
        self.pool.acquire(cancel)
    }

    fn close(&self) {
        self.pool.close();
    }
}

/// Takes verified pieces, converts them in place and submits them.
struct Stage<'a, D: Device> {
    loader: &'a GpuLoader<D>,
    plan: &'a Plan<'a>,
    memories: &'a [D::Memory],
}

impl<D: Device> Consumer for Stage<'_, D> {
    fn consume(&self, piece: Piece) -> io::Result<()> {
        let (mut buffer, parts) = piece.into_parts();
        let convert = || self.convert(&mut buffer, &parts);
        let copies = self.loader.convert_time.time(convert)?;
        self.loader.engine.submit(buffer, self.memories, &copies).map_err(io::Error::other)
    }
}

impl<D: Device> Stage<'_, D> {
    /// Brings the elements of every part into the form that the device gets, and says which copies to start.
    fn convert(&self, buffer: &mut [u8], parts: &[Part]) -> io::Result<Vec<Copy>> {
        let plan = self.plan;
        let mut inputs = Vec::with_capacity(parts.len());
        let mut conversions = Vec::with_capacity(parts.len());
        for part in parts.iter().filter(|part| part.kind == PartKind::Data) {
            let slot = plan.slots.get(part.tensor).copied().unwrap_or(usize::MAX);
            let place = plan.layout.places.get(slot);
            let (Some(place), Some(conversion)) = (place, plan.conversions.get(slot)) else {
                continue;
            };
            // Cuts are made at multiples of half a page at least.
            if !conversion.holds_whole_elements(part.offset, part.len) {
                return Err(io::Error::other("a piece of the plan cuts an element in two"));
            }
            let converted = |len: u64| conversion.out_len(len).unwrap_or(u64::MAX);
            inputs.push(Input {
                from: part.at..part.at.saturating_add(part.len),
                out_len: usize::try_from(converted(part.len as u64)).unwrap_or(usize::MAX),
                memory: place.memory,
                offset: place.offset.saturating_add(converted(part.offset)),
            });
            conversions.push(conversion);
        }
        let staging = Staging::new(&inputs, buffer.len(), plan.gap);
        for &(i, to) in &staging.moves {
            if let (Some(input), Some(conversion)) = (inputs.get(i), conversions.get(i)) {
                conversion.apply(buffer, input.from.clone(), to);
            }
        }
        Ok(staging.copies)
    }
}
