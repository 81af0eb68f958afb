//! Loads tensors into one arena, every piece straight to its place. Owns [`load`].
//!
//! A plain file is read by scattered reads: data lands where it stays. An encrypted one is read into a buffer of the
//! reader's, and each chunk is decrypted from there to where it stays.

use std::io::IoSliceMut;
use std::sync::{Mutex, PoisonError};

use tz_format::TensorEntry;

use crate::check::{Checks, HeaderFacts, corruption};
use crate::decrypt;
use crate::error::IoError;
use crate::file::TensorFile;
use crate::host::{HostTensor, HostTensors};
use crate::memory::{Arena, ArenaSlice, HUGE_PAGE};
use crate::options::{Cancel, ReadOptions};
use crate::plan::{Fetch, LoadPlan, Part, PartKind};
use crate::stats::{Counter, ReadStats};
use crate::workers;

/// Alignment of every tensor in an arena: a cache line, and enough for any vector unit.
const TENSOR_ALIGNMENT: usize = 64;

/// A tensor from this size on starts on a huge page of its own, unless that would leave too much unused: readers then
/// never fault the same page at once, which is what they would spend a quarter of a load on.
const OWN_PAGE_FROM: u64 = HUGE_PAGE as u64;
/// How much of its length a tensor may leave unused before it, as a divisor.
const WASTE_SHARE: usize = 8;
/// Alignment of large tensors that follow others closely: a page of the file then lands on a page of memory.
const PAGE: usize = 4 << 10;

/// Where a tensor stands: which arena, and where in it.
#[derive(Debug, Clone, Copy)]
struct Place {
    large: bool,
    start: usize,
    len: usize,
}

/// Where each selected tensor stands, and the lengths of the arenas of small and of large tensors.
fn places(entries: &[&TensorEntry]) -> Option<(Vec<Place>, [usize; 2])> {
    let mut ends = [0_usize; 2];
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let len = usize::try_from(entry.byte_len()).ok()?;
        let large = entry.data_len >= OWN_PAGE_FROM;
        let end = ends.get_mut(usize::from(large))?;
        let own_page = end.checked_next_multiple_of(HUGE_PAGE)?;
        let start = match large {
            true if own_page - *end <= len / WASTE_SHARE => own_page,
            true => end.checked_next_multiple_of(PAGE)?,
            false => end.checked_next_multiple_of(TENSOR_ALIGNMENT)?,
        };
        *end = start.checked_add(len)?;
        places.push(Place { large, start, len });
    }
    Some((places, ends))
}

/// Cuts the arenas into one slice per data part of the plan; meta tensors stay untouched zeros.
fn cut(
    plan: &LoadPlan,
    places: &[Place],
    slots: &[usize],
    arenas: &mut [Arena; 2],
) -> Option<Vec<Mutex<Vec<ArenaSlice>>>> {
    let mut ends = [0; 2];
    let mut targets = Vec::with_capacity(plan.fetches.len());
    for fetch in &plan.fetches {
        let mut slices = Vec::new();
        for part in fetch.parts.iter().filter(|part| part.kind == PartKind::Data) {
            let place = places.get(*slots.get(part.tensor)?)?;
            let start = place.start.checked_add(usize::try_from(part.offset).ok()?)?;
            let (arena, end) = (
                arenas.get_mut(usize::from(place.large))?,
                ends.get_mut(usize::from(place.large))?,
            );
            arena.take(start.checked_sub(*end)?)?;
            slices.push(arena.take(part.len)?);
            *end = start + part.len;
        }
        targets.push(Mutex::new(slices));
    }
    Some(targets)
}

/// What the readers of one load share.
struct Load<'a> {
    file: &'a TensorFile,
    plan: &'a LoadPlan,
    verify: bool,
    slots: Vec<usize>,
    /// Data slices of each fetch, in order; taken while the fetch is read.
    targets: Vec<Mutex<Vec<ArenaSlice>>>,
    checks: Checks,
    requests: Counter,
    fetch: Counter,
    decrypt: Counter,
    check: Counter,
}

/// Reads the plan's tensors into one arena.
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
    let (places, lens) = places(&entries).ok_or_else(too_large)?;
    let arena = |len| Arena::new(len).map_err(IoError::io(location, "reserve memory"));
    let mut arenas = [arena(lens[0])?, arena(lens[1])?];
    let slots = slots_of(plan, file.entries().len());
    let targets = cut(plan, &places, &slots, &mut arenas).ok_or_else(too_large)?;
    let load = Load {
        file,
        plan,
        verify: options.verify,
        slots,
        targets,
        checks: Checks::new(plan.tensors.len()),
        requests: Counter::default(),
        fetch: Counter::default(),
        decrypt: Counter::default(),
        check: Counter::default(),
    };
    let threads = options.readers_for(file.source(), plan.fetches.len());
    workers::for_each(plan.fetches.len(), threads, &options.cancel, Vec::new, |scratch, i| {
        let (Some(fetch), Some(target)) = (plan.fetches.get(i), load.targets.get(i)) else {
            return Ok(());
        };
        load.requests.add(1);
        let mut slices =
            std::mem::take(&mut *target.lock().unwrap_or_else(PoisonError::into_inner));
        let read = if file.is_encrypted() {
            load.sealed(fetch, &mut slices, scratch, &options.cancel)
        } else {
            load.plain(fetch, &mut slices, scratch, &options.cancel)
        };
        *target.lock().unwrap_or_else(PoisonError::into_inner) = slices;
        options.progress.add(fetch.range.end - fetch.range.start);
        read.inspect_err(|_| load.checks.abort())
    })?;
    if file.is_encrypted() {
        load.irregular(options)?;
        file.check_stream_end(&plan.tensors)?;
    }
    let Load { targets, checks, requests, fetch, decrypt, check, .. } = load;
    drop(targets);
    let [small, large] = arenas.map(Arena::freeze);
    let (small, large) = (small.ok_or_else(too_large)?, large.ok_or_else(too_large)?);
    let tensor = |(entry, place): (&&TensorEntry, &Place)| {
        let bytes = if place.large { &large } else { &small };
        Some(HostTensor::new((*entry).clone(), bytes.part(place.start, place.len)?))
    };
    let tensors: Vec<HostTensor> = entries.iter().zip(&places).filter_map(tensor).collect();
    // Tags have proven an encrypted file's data already; its hashes are for `verify`.
    if options.verify && !file.is_encrypted() {
        check.time(|| verdict(file, &tensors, &checks, threads))?;
    }
    let stats = ReadStats {
        requests: requests.value(),
        bytes_fetched: plan.fetched_bytes(),
        bytes_delivered: entries.iter().map(|entry| entry.data_len).sum(),
        fetch: fetch.duration(),
        decrypt: decrypt.duration(),
        verify: check.duration(),
        ..ReadStats::default()
    };
    Ok(HostTensors::new(tensors, stats.with_source(file.source().counters())))
}

impl Load<'_> {
    fn slot(&self, part: &Part) -> usize {
        self.slots.get(part.tensor).copied().unwrap_or(usize::MAX)
    }

    /// Reads data to its place, headers and gaps to `scratch`; hashes data while it is in cache.
    fn plain(
        &self,
        fetch: &Fetch,
        slices: &mut [ArenaSlice],
        scratch: &mut Vec<u8>,
        cancel: &Cancel,
    ) -> Result<(), IoError> {
        let headers = self.fetch.time(|| scatter(self.file, fetch, slices, scratch, cancel))?;
        if !self.verify {
            return Ok(());
        }
        self.check.time(|| {
            let (mut data, mut headers) = (slices.iter(), headers.into_iter());
            for part in &fetch.parts {
                let slot = self.slot(part);
                match part.kind {
                    PartKind::Header => {
                        let bytes = headers.next().and_then(|range| scratch.get(range));
                        let facts = self.file.facts(part.tensor, bytes.unwrap_or_default())?;
                        self.checks.header(slot, facts);
                    }
                    PartKind::Data => {
                        if let Some(bytes) = data.next() {
                            self.checks.piece(slot, part.offset, bytes);
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Reads everything to `stored` and decrypts from there to its place.
    fn sealed(
        &self,
        fetch: &Fetch,
        slices: &mut [ArenaSlice],
        stored: &mut Vec<u8>,
        cancel: &Cancel,
    ) -> Result<(), IoError> {
        stored.resize(fetch.len(), 0);
        self.fetch.time(|| {
            let mut buffers = [IoSliceMut::new(stored)];
            self.file.source().read_into_until(fetch.range.start, &mut buffers, cancel)
        })?;
        let mut slices = slices.iter_mut();
        for part in &fetch.parts {
            let slot = self.slot(part);
            let bytes = stored.get(part.at..part.at + part.len).unwrap_or_default();
            match part.kind {
                PartKind::Header => {
                    // With a passphrase the first header takes the key derivation's time.
                    let facts = self.decrypt.time(|| self.file.facts(part.tensor, bytes))?;
                    self.checks.header(slot, facts);
                }
                PartKind::Data => {
                    let facts = self.checks.wait(slot, cancel)?;
                    let Some(out) = slices.next() else { continue };
                    if decrypt::is_regular(facts, part) {
                        let opened =
                            self.decrypt.time(|| decrypt::open_part(facts, part, bytes, out));
                        opened.map_err(|error| self.file.crypto(part.tensor, error))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tensors whose chunks the plan's cuts split: each is read once more, chunk by chunk.
    fn irregular(&self, options: &ReadOptions) -> Result<(), IoError> {
        let data = |fetch: &Fetch| {
            fetch
                .parts
                .iter()
                .filter(|part| part.kind == PartKind::Data)
                .cloned()
                .collect::<Vec<_>>()
        };
        let mut left = std::collections::BTreeMap::<usize, Vec<(u64, ArenaSlice)>>::new();
        for (fetch, target) in self.plan.fetches.iter().zip(&self.targets) {
            let mut slices =
                std::mem::take(&mut *target.lock().unwrap_or_else(PoisonError::into_inner));
            for (part, slice) in data(fetch).into_iter().zip(slices.drain(..)) {
                let facts = self.checks.facts(self.slot(&part));
                if facts
                    .is_some_and(|facts| !decrypt::is_regular_tensor(facts, self.plan, part.tensor))
                {
                    left.entry(part.tensor).or_default().push((part.offset, slice));
                }
            }
        }
        for (tensor, mut slices) in left {
            let Some(facts) =
                self.checks.facts(self.slots.get(tensor).copied().unwrap_or(usize::MAX))
            else {
                continue;
            };
            decrypt::each_chunk(self.file, tensor, facts, &options.cancel, |offset, plain| {
                decrypt::scatter_to(&mut slices, offset, plain);
            })?;
        }
        Ok(())
    }
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

/// Reads one fetch: data into `slices`, headers and gaps into `scratch`. Gives the place of each
/// header, in their order.
fn scatter(
    file: &TensorFile,
    fetch: &Fetch,
    slices: &mut [ArenaSlice],
    scratch: &mut Vec<u8>,
    cancel: &Cancel,
) -> Result<Vec<std::ops::Range<usize>>, IoError> {
    let data_len: usize = slices.iter().map(|slice| slice.len()).sum();
    scratch.resize(fetch.len().saturating_sub(data_len), 0);
    let mut headers = Vec::new();
    let mut buffers = Vec::with_capacity(fetch.parts.len() * 2 + 1);
    let (mut rest, mut used, mut at) = (scratch.as_mut_slice(), 0, 0);
    let mut spare = |len: usize, used: &mut usize| {
        let (taken, left) = std::mem::take(&mut rest).split_at_mut_checked(len)?;
        rest = left;
        *used += len;
        Some(taken)
    };
    let mut slices = slices.iter_mut();
    for part in &fetch.parts {
        if let Some(gap) =
            part.at.checked_sub(at).filter(|&gap| gap > 0).and_then(|gap| spare(gap, &mut used))
        {
            buffers.push(IoSliceMut::new(gap));
        }
        at = part.at + part.len;
        match part.kind {
            PartKind::Header => {
                headers.push(used..used + part.len);
                buffers.extend(spare(part.len, &mut used).map(IoSliceMut::new));
            }
            PartKind::Data => buffers.extend(slices.next().map(|slice| IoSliceMut::new(slice))),
        }
    }
    file.source().read_into_until(fetch.range.start, &mut buffers, cancel)?;
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
            let failure = corruption(tensor.entry(), check);
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
        &Cancel::default(),
        || (),
        |(), i| {
            let slot = slow.get(i).copied().unwrap_or(usize::MAX);
            if let (Some(tensor), Some(facts)) = (tensors.get(slot), checks.facts(slot)) {
                let stored = if tensor.entry().is_meta() { &[] } else { tensor.bytes() };
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

#[cfg(test)]
mod tests {
    use tz_format::{Element, TensorSpec};

    use super::*;

    fn placed(lens: &[u64]) -> (Vec<Place>, [usize; 2]) {
        let spec =
            |(i, &len): (usize, &u64)| TensorSpec::new(i.to_string(), Element::Uint8, vec![len]);
        let specs = lens.iter().enumerate().map(spec).collect();
        let layout = tz_format::Layout::plan(specs, tz_format::LayoutOptions::default()).unwrap();
        places(&layout.entries().iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn large_tensors_start_on_pages_of_their_own_whatever_stands_between_them() {
        let (places, [small, large]) = placed(&[8 << 20, 100, 16 << 20, 4096, 24 << 20]);
        let starts: Vec<usize> = places.iter().map(|place| place.start).collect();
        assert_eq!(starts, [0, 0, 8 << 20, 128, 24 << 20]);
        assert_eq!((small, large), (128 + 4096, 48 << 20));
    }

    #[test]
    fn no_tensor_leaves_more_than_an_eighth_of_its_length_unused() {
        for len in [2 << 20, (2 << 20) + 1, 3_000_000, 9_999_999, 33_000_000] {
            let (places, [_, end]) = placed(&[len; 9]);
            let unused = end - usize::try_from(len * 9).unwrap();
            assert!(
                unused <= (8 * usize::try_from(len).unwrap()) / WASTE_SHARE + 8 * PAGE,
                "{len}"
            );
            assert!(places.iter().all(|place| place.start % PAGE == 0), "{len}");
        }
    }
}
