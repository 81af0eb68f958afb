//! Tensors into memory that this process owns, or through it. Owns [`load`].

use std::io;
use std::sync::{Mutex, PoisonError};

use tz_format::Element;
use tz_io::{
    BufferPool as _, Cancel, Counter, HeapPool, HostTensor, HostTensors, PooledBuffer, ReadStats,
};

use crate::convert::Conversion;
use crate::error::Failure;
use crate::job::Job;
use crate::parallel;
use crate::source::{Row, Source};

/// Alignment of every tensor in memory: a cache line, and enough for any vector unit.
const ALIGNMENT: u64 = 64;
/// Bytes of source data that one slot takes: what one thread reads straight to its place.
const SLOT_BYTES: u64 = 4 << 20;

/// What is left of a load.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) stats: ReadStats,
    /// Bytes of the tensors as they are in memory.
    pub(crate) bytes: u64,
    /// Holds the memory; taking it down takes time of its own, which is not part of loading.
    pub(crate) kept: Kept,
}

/// The memory that tensors were loaded into.
#[derive(Debug)]
#[expect(dead_code, reason = "held, so that the memory is there until the figures are taken")]
pub(crate) enum Kept {
    /// By tensor.
    Tensors(HostTensors),
    /// In one piece.
    Memory(PooledBuffer),
    /// Nothing: the tensors went through bounded memory.
    Nothing,
}

impl Kept {
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// Loads the tensors at these positions, which `job` selects, and casts them. Where they exceed the memory limit,
/// every byte is still read and checked, but none is kept.
pub(crate) fn load(
    source: &Source,
    tensors: &[usize],
    job: &Job,
    dtype: Option<Element>,
) -> Result<Loaded, Failure> {
    source.require_unlocked()?;
    let conversion = |row: &Row<'_>| Conversion::new(row.dtype, dtype);
    let bytes = source.rows(tensors).map(|row| conversion(&row).offset(row.byte_len)).sum();
    if job.read.memory_limit.is_some_and(|limit| bytes > limit) {
        let stats = source.stream(tensors, job, &|_, _, _| Ok(()))?;
        return Ok(Loaded { stats, bytes, kept: Kept::Nothing });
    }
    let casts =
        dtype.is_some() && source.rows(tensors).any(|row| conversion(&row) != Conversion::Keep);
    if let (Source::Tensors(file), false) = (source, casts) {
        let tensors = file.load(&job.selection, &job.read)?;
        return Ok(Loaded { stats: *tensors.stats(), bytes, kept: Kept::Tensors(tensors) });
    }
    let mut memory = Memory::reserve(source, tensors, dtype)?;
    let stats = if casts {
        memory.fill_casting(source, tensors, job)?
    } else {
        memory.fill_directly(source, tensors, job)?
    };
    Ok(Loaded { stats, bytes, kept: Kept::Memory(memory.buffer) })
}

/// Maps the selected tensors and brings their pages in.
pub(crate) fn map(source: &Source, job: &Job) -> Result<Loaded, Failure> {
    let Source::Tensors(file) = source else {
        let why = "--mmap takes a .tensors file: what it is for is measured with those";
        return Err(Failure::usage(format!("{}: {why}", source.location())));
    };
    let mapped = file.map(&job.selection)?;
    let tensors: Vec<&HostTensor> = mapped.iter().collect();
    parallel::for_each(tensors.len(), source.readers(job), &job.read.cancel, |at| {
        let Some(tensor) = tensors.get(at) else { return Ok(()) };
        let failed = |error| Failure::io(source.location(), "read a mapped page of", &error);
        tensor.shared_bytes().prefault().map_err(failed)
    })?;
    let bytes = mapped.iter().map(|tensor| tensor.bytes().len() as u64).sum();
    drop(tensors);
    Ok(Loaded { stats: *mapped.stats(), bytes, kept: Kept::Tensors(mapped) })
}

/// One block of memory with a place for every tensor.
struct Memory {
    buffer: PooledBuffer,
    /// Where each selected tensor begins, what becomes of its elements, and its bytes before that.
    places: Vec<(usize, Conversion, u64)>,
}

/// A part of the block, for one thread to fill.
type Slot<'a> = Mutex<&'a mut [u8]>;

impl Memory {
    fn reserve(
        source: &Source,
        tensors: &[usize],
        dtype: Option<Element>,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(source.location(), "reserve memory", &error);
        let too_large = || failed(io::ErrorKind::OutOfMemory.into());
        let mut places = Vec::with_capacity(tensors.len());
        let mut end = 0_u64;
        for row in source.rows(tensors) {
            let conversion = Conversion::new(row.dtype, dtype);
            let start = end.checked_next_multiple_of(ALIGNMENT).ok_or_else(too_large)?;
            end = start.checked_add(conversion.offset(row.byte_len)).ok_or_else(too_large)?;
            let start = usize::try_from(start).map_err(|_| too_large())?;
            places.push((start, conversion, row.byte_len));
        }
        let len = usize::try_from(end).map_err(|_| too_large())?;
        // A pool of one buffer is a block of huge pages.
        let buffer = HeapPool::new(len, 1)
            .map_err(failed)?
            .acquire(&Cancel::default())
            .ok_or_else(too_large)?;
        Ok(Self { buffer, places })
    }

    /// Cuts the block into one slot per [`SLOT_BYTES`] of source data, and tells each tensor's first slot.
    fn slots(&mut self) -> (Vec<usize>, Vec<Slot<'_>>) {
        let (mut rest, mut at) = (&mut *self.buffer, 0);
        let (mut firsts, mut slots) = (Vec::new(), Vec::new());
        for &(start, conversion, len) in &self.places {
            firsts.push(slots.len());
            rest = rest.get_mut(start.saturating_sub(at)..).unwrap_or_default();
            at = start;
            for piece in 0..len.div_ceil(SLOT_BYTES) {
                let step = (len - piece * SLOT_BYTES).min(SLOT_BYTES);
                let step = usize::try_from(conversion.offset(step)).unwrap_or(usize::MAX);
                let Some((slot, left)) = std::mem::take(&mut rest).split_at_mut_checked(step)
                else {
                    break;
                };
                slots.push(Mutex::new(slot));
                (rest, at) = (left, at + step);
            }
        }
        (firsts, slots)
    }

    fn fill_casting(
        &mut self,
        source: &Source,
        tensors: &[usize],
        job: &Job,
    ) -> Result<ReadStats, Failure> {
        let conversions: Vec<Conversion> = self.places.iter().map(|place| place.1).collect();
        let (firsts, slots) = self.slots();
        source.stream(tensors, job, &|tensor, mut offset, mut bytes| {
            let at = tensors.binary_search(&tensor).map_err(|_| io::ErrorKind::InvalidInput)?;
            let found = firsts.get(at).zip(conversions.get(at));
            let (&first, &conversion) = found.ok_or(io::ErrorKind::InvalidInput)?;
            // Pieces are cut by another measure than slots, but neither splits an element.
            while !bytes.is_empty() {
                let (number, within) = (offset / SLOT_BYTES, offset % SLOT_BYTES);
                let step = usize::try_from(SLOT_BYTES - within).unwrap_or(usize::MAX);
                let (now, later) = bytes.split_at(bytes.len().min(step));
                let slot =
                    usize::try_from(number).ok().and_then(|number| slots.get(first + number));
                let slot = slot.ok_or(io::ErrorKind::InvalidInput)?;
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                let start = usize::try_from(conversion.offset(within)).unwrap_or(usize::MAX);
                conversion.apply(now, slot.get_mut(start..).unwrap_or_default());
                (offset, bytes) = (offset + now.len() as u64, later);
            }
            Ok(())
        })
    }

    fn fill_directly(
        &mut self,
        source: &Source,
        tensors: &[usize],
        job: &Job,
    ) -> Result<ReadStats, Failure> {
        let (firsts, slots) = self.slots();
        let clock = Counter::default();
        parallel::for_each(slots.len(), job.threads, &job.read.cancel, |i| {
            let at = firsts.partition_point(|&first| first <= i) - 1;
            let (Some(&tensor), Some(slot), Some(first)) =
                (tensors.get(at), slots.get(i), firsts.get(at))
            else {
                return Ok(());
            };
            let offset = (i - first) as u64 * SLOT_BYTES;
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            clock
                .time(|| source.read_at(tensor, offset, &mut slot))
                .map_err(|error| source.failed(tensor, error))
        })?;
        let mut stats = ReadStats::default();
        stats.requests = slots.len() as u64;
        stats.bytes_fetched = source.rows(tensors).map(|row| row.byte_len).sum();
        stats.bytes_delivered = stats.bytes_fetched;
        stats.fetch = clock.duration();
        Ok(stats)
    }
}
