//! Cuts a file to be written into jobs that fit in memory. Pure: layout in, [`Jobs`] out.

use std::ops::Range;

use tz_format::{CipherPlan, HashKind, Layout, TensorEntry};

use crate::error::IoError;

/// Longest piece. A power of two, as the digest tree needs; what was read is then still in the core's cache when it is
/// hashed and written.
const MAX_PIECE: u64 = 1 << 20;
/// Shortest piece: below it, threads spend their time on claiming work.
const MIN_PIECE: u64 = 64 << 10;

/// One unit of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    /// Consecutive small tensors, written as one image of headers and data.
    Run(Range<usize>),
    /// A piece of a large tensor.
    Piece { tensor: usize, data: Range<u64> },
    /// A large tensor from front to back: it has a hash that cannot be computed in parts.
    Whole { tensor: usize },
}

/// What to do, in file order, and in what memory.
#[derive(Debug)]
pub(crate) struct Jobs {
    pub(crate) list: Vec<Job>,
    pub(crate) piece_len: u64,
    pub(crate) workers: usize,
}

/// Plans for `workers` threads that each hold one piece and one tensor header within `limit` bytes in all.
pub(crate) fn plan(
    layout: &Layout,
    limit: u64,
    workers: usize,
    location: &str,
) -> Result<Jobs, IoError> {
    let per_worker = |workers: usize| limit / workers as u64;
    let chunk = match layout.options().cipher {
        Some(
            CipherPlan::XSalsa20Chunked { chunk_size, .. } | CipherPlan::Sealed { chunk_size },
        ) => chunk_size,
        None => 1,
    };
    // Encryption takes a second buffer, and never less than a chunk.
    let copies = if layout.options().cipher.is_some() { 3 } else { 2 };
    // While a header is made there are three of it: with hashes, without, and what they cover.
    let header = 3 * layout.entries().iter().map(TensorEntry::header_len).max().unwrap_or(0);
    let least = chunk.max(MIN_PIECE).max(header);
    let affordable = usize::try_from(limit / (copies * least)).unwrap_or(usize::MAX);
    if affordable == 0 {
        return Err(IoError::MemoryLimit {
            location: location.to_owned(),
            what: "one piece and its header",
            needed: copies * least,
            limit,
        });
    }
    let workers = workers.min(affordable);
    let mut piece_len = MAX_PIECE;
    while piece_len * copies > per_worker(workers) {
        piece_len /= 2;
    }
    piece_len = (piece_len / chunk).max(1) * chunk;
    // What cannot be computed from parts: SHA-256, and a digest tree over pieces that are no power of two.
    let digests = layout.options().extension.blake3.is_some();
    let in_order = layout.options().hashes.contains(&HashKind::Sha256)
        || (digests && !piece_len.is_power_of_two());
    let mut list: Vec<Job> = Vec::new();
    let mut run_start = 0;
    for (tensor, entry) in layout.entries().iter().enumerate() {
        // A header without data is a run, however long it is: there is no piece that it could follow.
        if entry.data_len > 0 && entry.data_end() - entry.header_offset > piece_len {
            list.extend(pieces(tensor, entry.data_len, piece_len, in_order));
            continue;
        }
        match list.last_mut() {
            Some(Job::Run(run))
                if run.end == tensor && entry.data_end() - run_start <= piece_len =>
            {
                run.end = tensor + 1;
            }
            _ => {
                run_start = entry.header_offset;
                list.push(Job::Run(tensor..tensor + 1));
            }
        }
    }
    Ok(Jobs { list, piece_len, workers })
}

fn pieces(tensor: usize, data_len: u64, piece_len: u64, in_order: bool) -> Vec<Job> {
    if in_order {
        return vec![Job::Whole { tensor }];
    }
    let starts = (0..data_len.div_ceil(piece_len)).map(|i| i * piece_len);
    starts
        .map(|start| Job::Piece { tensor, data: start..data_len.min(start + piece_len) })
        .collect()
}
