//! Reads tensors through a bounded pool, piece by piece, to a consumer. Owns [`Piece`] and [`Consumer`].
//!
//! A reader thread takes a buffer, fills it with one fetch of the plan, checks it and hands it on. The consumer owns
//! the buffer from then on; when it drops it, the buffer goes back to the pool and the next fetch can start. So memory
//! in flight never exceeds the pool, whatever the size of the tensors.

use std::io::{self, IoSliceMut};

use crate::buffer::{BufferPool, PooledBuffer};
use crate::check::{Checks, HeaderFacts, corruption};
use crate::error::IoError;
use crate::file::TensorFile;
use crate::host::slots_of;
use crate::options::ReadOptions;
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
    if needed > pool.buffer_len() {
        return Err(IoError::MemoryLimit {
            location: file.location().to_owned(),
            what: "one piece of the plan",
            needed: needed as u64,
            limit: pool.buffer_len() as u64,
        });
    }
    let checks = Checks::new(plan.tensors.len());
    let slots = slots_of(plan, file.entries().len());
    let [requests, fetch_time, verify_time, wait_time, consume_time] =
        std::array::from_fn(|_| Counter::default());
    let threads = options.readers_for(file.source(), plan.fetches.len()).min(pool.buffers());
    let work = |(): &mut (), i: usize| {
        let Some(fetch) = plan.fetches.get(i) else {
            return Ok(());
        };
        let mut buffer = wait_time.time(|| pool.acquire()).ok_or(IoError::Cancelled)?;
        let bytes = buffer.get_mut(..fetch.len()).unwrap_or_default();
        requests.add(1);
        fetch_time
            .time(|| file.source().read_into(fetch.range.start, &mut [IoSliceMut::new(bytes)]))?;
        if options.verify {
            verify_time.time(|| check(file, fetch.parts.as_slice(), &buffer, &slots, &checks))?;
        }
        options.progress.add(fetch.range.end - fetch.range.start);
        let tensor = fetch.parts.first().and_then(|part| file.entries().get(part.tensor));
        let piece = Piece { buffer, parts: fetch.parts.clone() };
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
        |state, i| work(state, i).inspect_err(|_| pool.close()),
    );
    result?;
    if options.verify {
        verify_time.time(|| verdict(file, plan, &checks, options))?;
    }
    let delivered =
        plan.tensors.iter().filter_map(|&i| file.entries().get(i)).map(|entry| entry.data_len);
    Ok(ReadStats {
        requests: requests.value(),
        bytes_fetched: plan.fetched_bytes(),
        bytes_delivered: delivered.sum(),
        fetch: fetch_time.duration(),
        verify: verify_time.duration(),
        wait: wait_time.duration(),
        consume: consume_time.duration(),
        ..ReadStats::default()
    })
}

/// Notes headers and hashes data of one filled buffer.
fn check(
    file: &TensorFile,
    parts: &[Part],
    buffer: &PooledBuffer,
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

/// CRC-32s follow from the pieces; tensors with SHA-256 alone are read once more, in order.
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
            slow.push(tensor);
        }
    }
    failures.extend(crate::scan::verify(file, &slow, options)?);
    file.corrupt(failures)
}
