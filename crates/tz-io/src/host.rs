//! Tensors in host memory: owned or mapped. Owns [`HostTensors`], [`HostTensor`] and the load into them.

use std::io::IoSliceMut;
use std::sync::{Mutex, PoisonError};

use tz_format::TensorEntry;

use crate::check::{Checks, HeaderFacts, corruption};
use crate::error::IoError;
use crate::file::TensorFile;
use crate::memory::{Arena, ArenaSlice, SharedBytes};
use crate::options::ReadOptions;
use crate::plan::{LoadPlan, Part, PartKind};
use crate::stats::{Counter, ReadStats};
use crate::workers;

/// Alignment of every tensor in an arena: a cache line, and enough for any vector unit.
const TENSOR_ALIGNMENT: usize = 64;

/// One tensor in host memory.
#[derive(Debug, Clone)]
pub struct HostTensor {
    entry: TensorEntry,
    bytes: SharedBytes,
}

impl HostTensor {
    pub(crate) fn new(entry: TensorEntry, bytes: SharedBytes) -> Self {
        Self { entry, bytes }
    }

    /// Name, dtype, shape and place in the file.
    #[must_use]
    pub fn entry(&self) -> &TensorEntry {
        &self.entry
    }

    /// The elements in C order, in the byte order that the dtype states.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes with shared ownership: they outlive the file and the other tensors.
    #[must_use]
    pub fn shared_bytes(&self) -> SharedBytes {
        self.bytes.clone()
    }
}

/// Loaded tensors, in file order.
#[derive(Debug, Clone)]
pub struct HostTensors {
    tensors: Vec<HostTensor>,
    stats: ReadStats,
}

impl HostTensors {
    pub(crate) fn new(tensors: Vec<HostTensor>, stats: ReadStats) -> Self {
        Self { tensors, stats }
    }

    /// Every tensor.
    pub fn iter(&self) -> std::slice::Iter<'_, HostTensor> {
        self.tensors.iter()
    }

    /// The tensor of that name (plain, or a path joined with `/`).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.tensors.iter().find(|tensor| match tensor.entry.path.plain() {
            Some(plain) => plain == name,
            None => tensor.entry.path.to_string() == name,
        })
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
    pub fn stats(&self) -> &ReadStats {
        &self.stats
    }
}

impl<'a> IntoIterator for &'a HostTensors {
    type Item = &'a HostTensor;
    type IntoIter = std::slice::Iter<'a, HostTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Where each selected tensor stands in the arena, and the arena's length.
fn places(entries: &[&TensorEntry]) -> Option<(Vec<(usize, usize)>, usize)> {
    let mut end = 0_usize;
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let start = end.checked_next_multiple_of(TENSOR_ALIGNMENT)?;
        let len = usize::try_from(entry.byte_len()).ok()?;
        end = start.checked_add(len)?;
        places.push((start, len));
    }
    Some((places, end))
}

/// Cuts the arena into one slice per data part of the plan; meta tensors stay untouched zeros.
fn cut(
    plan: &LoadPlan,
    places: &[(usize, usize)],
    slots: &[usize],
    arena: &mut Arena,
) -> Option<Vec<Mutex<Vec<ArenaSlice>>>> {
    let mut at = 0;
    let mut targets = Vec::with_capacity(plan.fetches.len());
    for fetch in &plan.fetches {
        let mut slices = Vec::new();
        for part in fetch.parts.iter().filter(|part| part.kind == PartKind::Data) {
            let &(start, _) = places.get(*slots.get(part.tensor)?)?;
            let start = start.checked_add(usize::try_from(part.offset).ok()?)?;
            arena.take(start.checked_sub(at)?)?;
            slices.push(arena.take(part.len)?);
            at = start + part.len;
        }
        targets.push(Mutex::new(slices));
    }
    Some(targets)
}

/// Reads the plan's tensors into one arena, every piece straight to its place.
pub(crate) fn load(
    file: &TensorFile,
    plan: &LoadPlan,
    options: &ReadOptions,
) -> Result<HostTensors, IoError> {
    let location = file.location();
    let entries: Vec<&TensorEntry> =
        plan.tensors.iter().filter_map(|&i| file.entries().get(i)).collect();
    let too_large =
        || IoError::io(location, "reserve memory")(std::io::ErrorKind::OutOfMemory.into());
    let (places, len) = places(&entries).ok_or_else(too_large)?;
    let mut arena = Arena::new(len).map_err(IoError::io(location, "reserve memory"))?;
    let slots = slots_of(plan, file.entries().len());
    let targets = cut(plan, &places, &slots, &mut arena).ok_or_else(too_large)?;

    let checks = Checks::new(plan.tensors.len());
    let (requests, fetch_time, verify_time) =
        (Counter::default(), Counter::default(), Counter::default());
    let threads = options.readers_for(file.source(), plan.fetches.len());
    workers::for_each(plan.fetches.len(), threads, &options.cancel, Vec::new, |scratch, i| {
        let (Some(fetch), Some(target)) = (plan.fetches.get(i), targets.get(i)) else {
            return Ok(());
        };
        let mut slices =
            std::mem::take(&mut *target.lock().unwrap_or_else(PoisonError::into_inner));
        requests.add(1);
        let headers = fetch_time.time(|| {
            scatter(file, fetch.range.start, &fetch.parts, fetch.len(), &mut slices, scratch)
        })?;
        if options.verify {
            let checked = verify_time.time(|| -> Result<(), IoError> {
                let mut data = slices.iter();
                for part in &fetch.parts {
                    let Some(&slot) = slots.get(part.tensor) else {
                        continue;
                    };
                    match part.kind {
                        PartKind::Header => {
                            let bytes = headers.iter().find(|(tensor, _)| *tensor == part.tensor);
                            let bytes = bytes
                                .and_then(|(_, range)| scratch.get(range.clone()))
                                .unwrap_or_default();
                            checks.header(slot, file.facts(part.tensor, bytes)?);
                        }
                        PartKind::Data => {
                            if let Some(bytes) = data.next() {
                                checks.piece(slot, part.offset, bytes);
                            }
                        }
                    }
                }
                Ok(())
            });
            checked?;
        }
        options.progress.add(fetch.range.end - fetch.range.start);
        Ok(())
    })?;
    drop(targets);
    let bytes = arena.freeze().ok_or_else(too_large)?;
    let tensors: Vec<HostTensor> = entries
        .iter()
        .zip(&places)
        .filter_map(|(entry, &(start, len))| {
            Some(HostTensor::new((*entry).clone(), bytes.part(start, len)?))
        })
        .collect();
    if options.verify {
        verify_time.time(|| verdict(file, &tensors, &checks, threads))?;
    }
    let stats = ReadStats {
        requests: requests.value(),
        bytes_fetched: plan.fetched_bytes(),
        bytes_delivered: entries.iter().map(|entry| entry.data_len).sum(),
        fetch: fetch_time.duration(),
        verify: verify_time.duration(),
        ..ReadStats::default()
    };
    Ok(HostTensors::new(tensors, stats))
}

/// Position in the plan's selection of every tensor of the file.
pub(crate) fn slots_of(plan: &LoadPlan, tensors: usize) -> Vec<usize> {
    let mut slots = vec![usize::MAX; tensors];
    for (slot, &tensor) in plan.tensors.iter().enumerate() {
        if let Some(place) = slots.get_mut(tensor) {
            *place = slot;
        }
    }
    slots
}

/// Reads one fetch: data into `slices`, headers and gaps into `scratch`. Gives the place of each header.
fn scatter(
    file: &TensorFile,
    offset: u64,
    parts: &[Part],
    len: usize,
    slices: &mut [ArenaSlice],
    scratch: &mut Vec<u8>,
) -> Result<Vec<(usize, std::ops::Range<usize>)>, IoError> {
    let data_len: usize = slices.iter().map(|slice| slice.len()).sum();
    scratch.resize(len.saturating_sub(data_len), 0);
    let mut headers = Vec::new();
    let mut buffers = Vec::with_capacity(parts.len() * 2 + 1);
    let (mut rest, mut used, mut at) = (scratch.as_mut_slice(), 0, 0);
    let mut spare = |len: usize, used: &mut usize| {
        let (taken, left) = std::mem::take(&mut rest).split_at_mut_checked(len)?;
        rest = left;
        *used += len;
        Some(taken)
    };
    let mut slices = slices.iter_mut();
    for part in parts {
        if let Some(gap) =
            part.at.checked_sub(at).filter(|&gap| gap > 0).and_then(|gap| spare(gap, &mut used))
        {
            buffers.push(IoSliceMut::new(gap));
        }
        at = part.at + part.len;
        match part.kind {
            PartKind::Header => {
                headers.push((part.tensor, used..used + part.len));
                buffers.extend(spare(part.len, &mut used).map(IoSliceMut::new));
            }
            PartKind::Data => buffers.extend(slices.next().map(|slice| IoSliceMut::new(slice))),
        }
    }
    file.source().read_into(offset, &mut buffers)?;
    Ok(headers)
}

/// Refuses tensors whose hash does not match. SHA-256 alone is computed here, a tensor a thread.
fn verdict(
    file: &TensorFile,
    tensors: &[HostTensor],
    checks: &Checks,
    threads: usize,
) -> Result<(), IoError> {
    let failures = Mutex::new(Vec::new());
    let fail = |slot: usize, check| {
        if let Some(tensor) = tensors.get(slot) {
            let failure = corruption(&tensor.entry, check);
            failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        }
    };
    let mut slow = Vec::new();
    for slot in 0..tensors.len() {
        if checks.crc32_differs(slot) {
            fail(slot, "crc32");
        } else if checks.facts(slot).is_some_and(HeaderFacts::needs_sha256) {
            slow.push(slot);
        }
    }
    workers::for_each(
        slow.len(),
        threads,
        &crate::options::Cancel::default(),
        || (),
        |(), i| {
            let slot = slow.get(i).copied().unwrap_or(usize::MAX);
            if let (Some(tensor), Some(facts)) = (tensors.get(slot), checks.facts(slot)) {
                let stored = if tensor.entry.is_meta() { &[] } else { tensor.bytes() };
                if !facts.sha256_matches(stored) {
                    fail(slot, "sha256");
                }
            }
            Ok(())
        },
    )?;
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    file.corrupt(failures)
}
