//! Reads tensors through a bounded pool, piece by piece, to a consumer. Owns [`Piece`] and [`Consumer`].
//!
//! A reader thread takes a buffer, fills it with one fetch of the plan, checks it and hands it on. The consumer owns
//! the buffer from then on; when it drops it, the buffer goes back to the pool and the next fetch can start. So memory
//! in flight never exceeds the pool, whatever the size of the tensors.
//!
//! Buffer first, fetch second: a reader that waits for a tensor's header waits for one that has its buffer already.
//! The other way round, loads that share a pool would take each other's last buffers and wait for ever.

use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::{BufferPool, PooledBuffer};
use crate::check::{Checks, HeaderFacts, corruption};
use crate::decrypt;
use crate::error::IoError;
use crate::file::TensorFile;
use crate::load::slots_of;
use crate::options::{Cancel, ReadOptions};
use crate::plan::{LoadPlan, Part, PartKind};
use crate::stats::{Counter, ReadStats};
use crate::workers;

/// A filled buffer and what it holds: plaintext of one or more tensors.
#[derive(Debug)]
pub struct Piece {
    buffer: PooledBuffer,
    parts: Vec<Part>,
}

impl Piece {
    /// The buffer; parts say which of its bytes belong to which tensor.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Data parts in file order.
    pub fn parts(&self) -> impl Iterator<Item = (&Part, &[u8])> {
        let bytes = |part: &Part| self.buffer.get(part.at..part.at + part.len).unwrap_or_default();
        self.parts
            .iter()
            .filter(|part| part.kind == PartKind::Data)
            .map(move |part| (part, bytes(part)))
    }

    /// The buffer itself and its parts, headers included: for consumers that change the bytes, or keep them until a
    /// device has copied them.
    #[must_use]
    pub fn into_parts(self) -> (PooledBuffer, Vec<Part>) {
        (self.buffer, self.parts)
    }
}

/// Takes pieces as they arrive: several threads call at once, in no fixed order.
pub trait Consumer: Sync {
    /// Takes one piece; keeping it keeps its buffer from the pool.
    ///
    /// # Errors
    /// Whatever ends the load.
    fn consume(&self, piece: Piece) -> io::Result<()>;
}

impl<F: Fn(Piece) -> io::Result<()> + Sync> Consumer for F {
    fn consume(&self, piece: Piece) -> io::Result<()> {
        self(piece)
    }
}

/// Runs `plan` through `pool` into `consumer`. Hashes are checked on the way; the verdict comes after the last piece,
/// so a consumer must not publish what it took before this returns.
pub(crate) fn run(
    file: &TensorFile,
    plan: &LoadPlan,
    options: &ReadOptions,
    pool: &dyn BufferPool,
    consumer: &dyn Consumer,
) -> Result<ReadStats, IoError> {
    let needed = plan.longest_fetch();
    let largest = if pool.buffers() == 0 { 0 } else { pool.buffer_len() };
    if needed > largest {
        return Err(IoError::MemoryLimit {
            location: file.location().to_owned(),
            what: "one piece of the plan",
            needed: needed as u64,
            limit: largest as u64,
        });
    }
    let threads = options.readers_for(file.source(), plan.fetches.len()).min(pool.buffers());
    let checks = Checks::new(plan.tensors.len()).read_by(threads);
    let slots = slots_of(plan, file.entries().len());
    let [requests, fetch_time, decrypt_time, verify_time, wait_time, consume_time] =
        std::array::from_fn(|_| Counter::default());
    let next = AtomicUsize::new(0);
    let work = |(): &mut ()| {
        let mut buffer =
            wait_time.time(|| pool.acquire(&options.cancel)).ok_or(IoError::Cancelled)?;
        let Some(fetch) = plan.fetches.get(next.fetch_add(1, Ordering::Relaxed)) else {
            return Ok(());
        };
        let bytes = buffer.get_mut(..fetch.len()).unwrap_or_default();
        requests.add(1);
        let mut buffers = [IoSliceMut::new(bytes)];
        let read =
            || file.source().read_into_until(fetch.range.start, &mut buffers, &options.cancel);
        fetch_time.time(read)?;
        let mut parts = fetch.parts.clone();
        if file.is_encrypted() {
            decrypt_time
                .time(|| open(file, &mut parts, &mut buffer, &slots, &checks, &options.cancel))?;
        } else if options.verify {
            verify_time.time(|| check(file, &parts, &buffer, &slots, &checks))?;
        }
        options.progress.add(fetch.range.end - fetch.range.start);
        // A fetch of headers alone has nothing to show.
        let Some(first) = parts.iter().find(|part| part.kind == PartKind::Data) else {
            return Ok(());
        };
        let tensor = file.entries().get(first.tensor);
        let piece = Piece { buffer, parts };
        consume_time.time(|| consumer.consume(piece)).map_err(|source| IoError::Tensor {
            tensor: tensor.map_or_else(String::new, |entry| entry.path.to_string()),
            source,
        })
    };
    // A failed reader must wake those that wait for a buffer the failed one may hold.
    let result = workers::for_each(
        plan.fetches.len(),
        threads,
        &options.cancel,
        || (),
        |state, _| {
            work(state).inspect_err(|_| {
                pool.close();
                checks.abort();
            })
        },
    );
    result?;
    if file.is_encrypted() {
        irregular(file, plan, &checks, &slots, options, pool, consumer)?;
        file.check_stream_end(&plan.tensors)?;
    } else if options.verify {
        verify_time.time(|| verdict(file, plan, &checks, options))?;
    }
    let delivered =
        plan.tensors.iter().filter_map(|&i| file.entries().get(i)).map(|entry| entry.data_len);
    let stats = ReadStats {
        requests: requests.value(),
        bytes_fetched: plan.fetched_bytes(),
        bytes_delivered: delivered.sum(),
        fetch: fetch_time.duration(),
        decrypt: decrypt_time.duration(),
        verify: verify_time.duration(),
        wait: wait_time.duration(),
        consume: consume_time.duration(),
        ..ReadStats::default()
    };
    Ok(stats.with_source(file.source().counters()))
}

/// Notes headers and hashes data of one filled buffer.
pub(crate) fn check(
    file: &TensorFile,
    parts: &[Part],
    buffer: &[u8],
    slots: &[usize],
    checks: &Checks,
) -> Result<(), IoError> {
    for part in parts {
        let Some(&slot) = slots.get(part.tensor) else {
            continue;
        };
        let bytes = buffer.get(part.at..part.at + part.len).unwrap_or_default();
        match part.kind {
            PartKind::Header => checks.header(slot, file.facts(part.tensor, bytes)?),
            PartKind::Data => checks.piece(slot, part.offset, bytes),
        }
    }
    Ok(())
}

/// Decrypts the data of one filled buffer where it is. Parts of irregular tensors are taken out: see [`irregular`].
fn open(
    file: &TensorFile,
    parts: &mut Vec<Part>,
    buffer: &mut PooledBuffer,
    slots: &[usize],
    checks: &Checks,
    cancel: &Cancel,
) -> Result<(), IoError> {
    let mut kept = Vec::with_capacity(parts.len());
    for part in parts.drain(..) {
        let slot = slots.get(part.tensor).copied().unwrap_or(usize::MAX);
        let bytes = buffer.get_mut(part.at..part.at + part.len).unwrap_or_default();
        if part.kind == PartKind::Header {
            checks.header(slot, file.facts(part.tensor, bytes)?);
            continue;
        }
        let facts = checks.wait(slot, cancel)?;
        if decrypt::is_regular(facts, &part) {
            decrypt::open_part_in_place(facts, &part, bytes)
                .map_err(|error| file.crypto(part.tensor, error))?;
            kept.push(part);
        } else {
            // Ciphertext is not shown to consumers, not even by accident.
            bytes.fill(0);
        }
    }
    *parts = kept;
    Ok(())
}

/// Shows the parts of tensors whose chunks the plan's cuts split, chunk by chunk.
fn irregular(
    file: &TensorFile,
    plan: &LoadPlan,
    checks: &Checks,
    slots: &[usize],
    options: &ReadOptions,
    pool: &dyn BufferPool,
    consumer: &dyn Consumer,
) -> Result<(), IoError> {
    let missed = |part: &&Part| {
        let slot = slots.get(part.tensor).copied().unwrap_or(usize::MAX);
        let facts = checks.facts(slot);
        part.kind == PartKind::Data && facts.is_some_and(|facts| !decrypt::is_regular(facts, part))
    };
    let mut parts: Vec<&Part> =
        plan.fetches.iter().flat_map(|fetch| &fetch.parts).filter(missed).collect();
    parts.sort_by_key(|part| (part.tensor, part.offset));
    for own in parts.chunk_by(|a, b| a.tensor == b.tensor) {
        let Some(tensor) = own.first().map(|part| part.tensor) else { continue };
        let Some(facts) = slots.get(tensor).and_then(|&slot| checks.facts(slot)) else { continue };
        let mut result = Ok(());
        decrypt::each_chunk(file, tensor, facts, &options.cancel, |offset, plain| {
            for part in own {
                if result.is_ok() {
                    result = show(file, part, offset, plain, pool, &options.cancel, consumer);
                }
            }
        })?;
        result?;
    }
    Ok(())
}

/// Shows what of a chunk at `offset` lies in `part`.
fn show(
    file: &TensorFile,
    part: &Part,
    offset: u64,
    plain: &[u8],
    pool: &dyn BufferPool,
    cancel: &Cancel,
    consumer: &dyn Consumer,
) -> Result<(), IoError> {
    let from = offset.max(part.offset);
    let to = (offset + plain.len() as u64).min(part.offset + part.len as u64);
    let (Ok(start), Ok(end)) =
        (usize::try_from(from - offset), usize::try_from(to.saturating_sub(offset)))
    else {
        return Ok(());
    };
    for piece in plain.get(start..end).unwrap_or_default().chunks(pool.buffer_len()) {
        let mut buffer = pool.acquire(cancel).ok_or(IoError::Cancelled)?;
        if let Some(place) = buffer.get_mut(..piece.len()) {
            place.copy_from_slice(piece);
        }
        let at = piece.as_ptr().addr() - plain.as_ptr().addr();
        let shown = Part { offset: offset + at as u64, at: 0, len: piece.len(), ..part.clone() };
        let tensor =
            || file.entries().get(part.tensor).map_or_else(String::new, |e| e.path.to_string());
        consumer
            .consume(Piece { buffer, parts: vec![shown] })
            .map_err(|source| IoError::Tensor { tensor: tensor(), source })?;
    }
    Ok(())
}

/// CRC-32s follow from the pieces; tensors with SHA-256 alone are read once more, in order, unless one reader did that.
fn verdict(
    file: &TensorFile,
    plan: &LoadPlan,
    checks: &Checks,
    options: &ReadOptions,
) -> Result<(), IoError> {
    let mut failures = Vec::new();
    let mut slow = Vec::new();
    for (slot, &tensor) in plan.tensors.iter().enumerate() {
        let Some(entry) = file.entries().get(tensor) else {
            continue;
        };
        if checks.crc32_differs(slot) {
            failures.push(corruption(entry, "crc32"));
        } else if checks.facts(slot).is_some_and(HeaderFacts::needs_sha256) {
            match checks.sha256_differs(slot) {
                Some(true) => failures.push(corruption(entry, "sha256")),
                Some(false) => {}
                None => slow.push(tensor),
            }
        }
    }
    failures.extend(crate::scan::verify(file, &slow, options)?.0);
    file.corrupt(failures)
}
