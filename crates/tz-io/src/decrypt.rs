//! Decrypts what readers bring. Owns the rules between pieces of a plan and chunks of a cipher.
//!
//! A plan is cut at multiples of the first tensor's chunk size, so pieces hold whole chunks and each reader decrypts
//! what it has just read. A tensor with another chunk size, which no writer known mixes into one file, is *irregular*:
//! it is read by itself, chunk by chunk.

use std::io::IoSliceMut;

use tz_crypto::{CryptoError, TensorOpener};

use crate::check::HeaderFacts;
use crate::error::IoError;
use crate::file::TensorFile;
use crate::memory::ArenaSlice;
use crate::options::Cancel;
use crate::plan::{LoadPlan, Part, PartKind, PlanOptions};
use crate::source::{RangeRead, Until};

/// Largest chunk that the plan's pieces grow for; larger ones are irregular.
const MAX_PIECE: u64 = 64 << 20;

/// Cuts pieces at multiples of `chunk_size`.
pub(crate) fn align_pieces(options: PlanOptions, chunk_size: Option<u64>) -> PlanOptions {
    let Some(chunk) = chunk_size.filter(|&chunk| chunk > 0 && chunk <= MAX_PIECE) else {
        return options;
    };
    let piece_len = (options.piece_len / chunk).max(1) * chunk;
    // Chunks and blocks seldom end at the same places, and no chunk is split.
    PlanOptions { piece_len, aligned: false, ..options }
}

/// The opener of an encrypted tensor that was unlocked.
fn opener(facts: &HeaderFacts) -> Result<&TensorOpener, CryptoError> {
    facts.opener.as_ref().ok_or(CryptoError::Misuse("the file was not unlocked"))
}

/// Whether the part begins and ends where chunks do.
pub(crate) fn is_regular(facts: &HeaderFacts, part: &Part) -> bool {
    let Some(opener) = &facts.opener else { return false };
    let end = part.offset + part.len as u64;
    let size = opener.chunk_size().max(1);
    let data_end = last_chunk_end(opener);
    part.offset.is_multiple_of(size) && (end.is_multiple_of(size) || end == data_end)
}

/// Whether every part of the tensor is regular.
pub(crate) fn is_regular_tensor(facts: &HeaderFacts, plan: &LoadPlan, tensor: usize) -> bool {
    let parts = plan.fetches.iter().flat_map(|fetch| &fetch.parts);
    let mut own = parts.filter(|part| part.tensor == tensor && part.kind == PartKind::Data);
    own.all(|part| is_regular(facts, part))
}

fn last_chunk_end(opener: &TensorOpener) -> u64 {
    opener.chunk_count().checked_sub(1).map_or(0, |last| opener.chunk_range(last).end)
}

/// The chunks of a regular part and where each stands in it.
fn chunks<'a>(
    opener: &'a TensorOpener,
    part: &'a Part,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + 'a {
    let first = usize::try_from(part.offset / opener.chunk_size().max(1)).unwrap_or(usize::MAX);
    let within =
        move |at: u64| usize::try_from(at.saturating_sub(part.offset)).unwrap_or(usize::MAX);
    (first..opener.chunk_count())
        .map(move |i| (i, opener.chunk_range(i)))
        .take_while(move |(_, range)| within(range.start) < part.len)
        .map(move |(i, range)| (i, within(range.start)..within(range.end)))
}

/// Decrypts the chunks of a regular part from `stored` to `out`.
pub(crate) fn open_part(
    facts: &HeaderFacts,
    part: &Part,
    stored: &[u8],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let opener = opener(facts)?;
    for (i, range) in chunks(opener, part) {
        let sealed = stored.get(range.clone()).unwrap_or_default();
        opener.open_chunk(i, sealed, out.get_mut(range).unwrap_or_default())?;
    }
    Ok(())
}

/// Decrypts the chunks of a regular part where they are.
pub(crate) fn open_part_in_place(
    facts: &HeaderFacts,
    part: &Part,
    data: &mut [u8],
) -> Result<(), CryptoError> {
    let opener = opener(facts)?;
    for (i, range) in chunks(opener, part) {
        opener.open_chunk_in_place(i, data.get_mut(range).unwrap_or_default())?;
    }
    Ok(())
}

/// Reads one tensor chunk by chunk, in order, and shows each chunk's plaintext and offset.
pub(crate) fn each_chunk(
    file: &TensorFile,
    tensor: usize,
    facts: &HeaderFacts,
    cancel: &Cancel,
    mut show: impl FnMut(u64, &[u8]),
) -> Result<(), IoError> {
    let show = |offset, _: &[u8], plain: &[u8]| show(offset, plain);
    each_sealed_chunk(file, &Until::new(file.source(), cancel), (tensor, facts), cancel, show)
}

/// As [`each_chunk`], with the stored bytes too, which `source` reads for the file.
pub(crate) fn each_sealed_chunk(
    file: &TensorFile,
    source: &dyn RangeRead,
    (tensor, facts): (usize, &HeaderFacts),
    cancel: &Cancel,
    mut show: impl FnMut(u64, &[u8], &[u8]),
) -> Result<(), IoError> {
    let opener = opener(facts).map_err(|error| file.crypto(tensor, error))?;
    let data_offset = file.entries().get(tensor).map_or(0, |entry| entry.data_offset);
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    for i in 0..opener.chunk_count() {
        cancel.check()?;
        let range = opener.chunk_range(i);
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        stored.resize(len, 0);
        plain.resize(len, 0);
        source.read_into(data_offset + range.start, &mut [IoSliceMut::new(&mut stored)])?;
        let opened = opener.open_chunk(i, &stored, &mut plain);
        opened.map_err(|error| file.crypto(tensor, error))?;
        show(range.start, &stored, &plain);
    }
    Ok(())
}

/// Copies `bytes`, which stand at `offset` of a tensor, to the slices that hold it.
pub(crate) fn scatter_to(slices: &mut [(u64, ArenaSlice)], offset: u64, bytes: &[u8]) {
    let end = offset + bytes.len() as u64;
    for (start, slice) in slices {
        let (from, to) = (offset.max(*start), end.min(*start + slice.len() as u64));
        let place =
            |at: u64, base: u64| usize::try_from(at.saturating_sub(base)).unwrap_or(usize::MAX);
        if from < to
            && let Some(out) = slice.get_mut(place(from, *start)..place(to, *start))
            && let Some(bytes) = bytes.get(place(from, offset)..place(to, offset))
        {
            out.copy_from_slice(bytes);
        }
    }
}

/// Reads and decrypts the chunks of a tensor that hold `offset..offset + buf.len()`.
pub(crate) fn read_at(
    file: &TensorFile,
    tensor: usize,
    facts: &HeaderFacts,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), IoError> {
    let opener = opener(facts).map_err(|error| file.crypto(tensor, error))?;
    let data_offset = file.entries().get(tensor).map_or(0, |entry| entry.data_offset);
    let end = offset + buf.len() as u64;
    let place = |at: u64, base: u64| usize::try_from(at.saturating_sub(base)).unwrap_or(usize::MAX);
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    let first = place(offset / opener.chunk_size().max(1), 0);
    for i in first..opener.chunk_count() {
        let chunk = opener.chunk_range(i);
        if chunk.start >= end {
            break;
        }
        stored.resize(place(chunk.end, chunk.start), 0);
        let at = data_offset + chunk.start;
        file.source().read_into(at, &mut [IoSliceMut::new(&mut stored)])?;
        let (from, to) = (chunk.start.max(offset), chunk.end.min(end));
        let out = buf.get_mut(place(from, offset)..place(to, offset)).unwrap_or_default();
        let opened = if out.len() == stored.len() {
            opener.open_chunk(i, &stored, out)
        } else {
            plain.resize(stored.len(), 0);
            let opened = opener.open_chunk(i, &stored, &mut plain);
            let wanted = place(from, chunk.start)..place(to, chunk.start);
            out.copy_from_slice(plain.get(wanted).unwrap_or_default());
            opened
        };
        opened.map_err(|error| file.crypto(tensor, error))?;
    }
    Ok(())
}
