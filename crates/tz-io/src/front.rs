//! Reads the front of a file over whatever source. Owns [`read`], the loop that drives the decoder, and
//! [`read_header`]. The length of a source is somebody's word, a server's or a sparse file's: memory is taken only as
//! fast as bytes prove to be there.

use std::io::IoSliceMut;

use tz_format::{Fault, Front, FrontDecoder, Limits, Malformed, Step, TensorEntry};

use crate::error::IoError;
use crate::source::RangeRead;

/// First read of a file: the front of models of up to some thousand tensors in one go.
const FIRST_READ: u64 = 512 << 10;

/// Longest tensor header of a file of unknown length: memory is taken for a header before its bytes prove to be there.
/// The encryption tags of 64 GiB in the shortest chunks that anyone writes, 16 KiB, fit.
const MAX_STREAMED_HEADER: u64 = 64 << 20;

/// Longest tensor header of any other file: the tags of 64 GiB in the shortest chunks that there are, 1 KiB, fit.
const MAX_HEADER: u64 = 1 << 30;

/// Least bytes of a front, beyond its first read, or of a tensor header that are read at once: all but the fronts of
/// a hundred thousand tensors and the headers of encrypted giants.
const STEP: u64 = 16 << 20;

/// Reads and checks everything that stands before the first tensor; gives the bytes too, and possibly more.
pub(crate) fn read(source: &dyn RangeRead, limits: &Limits) -> Result<(Front, Vec<u8>), IoError> {
    let decoder = FrontDecoder::new(limits.clone());
    let mut prefix = Vec::new();
    let front = loop {
        let need = match decoder.step(&prefix).map_err(IoError::format(source.location()))? {
            Step::Done(front) => break front,
            Step::Need(range) => range.end,
        };
        read_prefix(source, &mut prefix, need)?;
    };
    let (what, limit) = match source.len() {
        Some(len) => {
            front.check_file_len(len).map_err(IoError::format(source.location()))?;
            ("a tensor header", MAX_HEADER)
        }
        None => ("a tensor header in a stream", MAX_STREAMED_HEADER),
    };
    if let Some(entry) = front.entries.iter().find(|entry| entry.header_len() > limit) {
        let (location, needed) = (source.location().to_owned(), entry.header_len());
        return Err(IoError::MemoryLimit { location, what, needed, limit });
    }
    Ok((front, prefix))
}

/// Reads the header of one tensor.
pub(crate) fn read_header(source: &dyn RangeRead, entry: &TensorEntry) -> Result<Vec<u8>, IoError> {
    let too_large =
        |_| IoError::io(source.location(), "read a header")(std::io::ErrorKind::OutOfMemory.into());
    let mut bytes = Vec::new();
    loop {
        let have = bytes.len() as u64;
        let want = entry.header_len().min(have + have.max(STEP));
        bytes.resize(usize::try_from(want).map_err(too_large)?, 0);
        let fresh = usize::try_from(have).ok().and_then(|have| bytes.get_mut(have..));
        let offset = entry.header_offset.saturating_add(have);
        source.read_into(offset, &mut [IoSliceMut::new(fresh.unwrap_or_default())])?;
        if want == entry.header_len() {
            return Ok(bytes);
        }
    }
}

/// Grows `prefix` towards `need` bytes.
fn read_prefix(source: &dyn RangeRead, prefix: &mut Vec<u8>, need: u64) -> Result<(), IoError> {
    let have = prefix.len() as u64;
    let want = match source.len() {
        Some(len) if have == len => {
            let fault = Fault::Truncated;
            let malformed = Malformed { field: "index", offset: have, tensor: None, fault };
            return Err(IoError::malformed(source.location(), malformed));
        }
        Some(len) => need.max(FIRST_READ).min(len).min(have + have.max(STEP)),
        // A stream must not be read beyond the front.
        None => need.min(have + (have / 2).max(FIRST_READ)),
    };
    let too_large = |_| {
        IoError::io(source.location(), "read the front")(std::io::ErrorKind::OutOfMemory.into())
    };
    prefix.resize(usize::try_from(want).map_err(too_large)?, 0);
    let fresh = usize::try_from(have).ok().and_then(|have| prefix.get_mut(have..));
    source.read_into(have, &mut [IoSliceMut::new(fresh.unwrap_or_default())])
}
