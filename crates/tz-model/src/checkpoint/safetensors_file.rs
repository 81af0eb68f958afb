//! Reads the header of one safetensors file. Owns its rules; never touches tensor data.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::Dtype as Stored;
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};

use crate::checkpoint::{SourceFile, SourceTensor};
use crate::dtype::{byte_len, from_safetensors, packing};
use crate::error::{Error, Fault};
use crate::json::{UniqueMap, parse};

/// Longest header that is read: the bound of the `safetensors` library itself, so that no file of its making is
/// refused. The largest known headers have a few megabytes.
pub const MAX_HEADER_LEN: u64 = 100_000_000;

const LEN_BYTES: u64 = 8;
const METADATA_KEY: &str = "__metadata__";

/// The header's object: its tensors, and the text that stands under one reserved key.
#[derive(Default)]
struct Header {
    metadata: Option<UniqueMap<String>>,
    tensors: Vec<(String, Tensor)>,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        while let Some(key) = map.next_key::<String>()? {
            let of_key = |error| A::Error::custom(format!("{key:?}: {error}"));
            if key != METADATA_KEY {
                let tensor = map.next_value().map_err(of_key)?;
                header.tensors.push((key, tensor));
            } else if header.metadata.replace(map.next_value().map_err(of_key)?).is_some() {
                return Err(A::Error::duplicate_field(METADATA_KEY));
            }
        }
        Ok(header)
    }
}

/// Opens `path` and reads its header; the tensors come in order of position.
pub(super) fn open(
    path: &Path,
    file: File,
    index: usize,
) -> Result<(SourceFile, Vec<SourceTensor>), Error> {
    let metadata = file.metadata().map_err(|error| Error::io(path, "read", error))?;
    let byte_len = metadata.len();
    let header = read_header(path, &file, byte_len)?;
    let data_start = LEN_BYTES + header.len() as u64;
    let Header { metadata, mut tensors } = parse(path, &header)?;
    // Empty tensors share a position with their neighbours; the name makes the order certain.
    tensors.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
    if let Some(pair) = duplicate(&tensors) {
        return Err(Error::of_tensor(path, pair, Fault::DuplicateName));
    }
    let mut end = 0;
    let mut placed = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let source = place(path, name, &tensor, end, data_start, index)?;
        end = tensor.data_offsets.1;
        placed.push(source);
    }
    check_end(path, data_start.checked_add(end), byte_len, &placed)?;
    let user_metadata = metadata.map_or(Vec::new(), |map| map.0);
    let file = SourceFile::new(path, file, byte_len, user_metadata);
    Ok((file, placed))
}

fn read_header(path: &Path, file: &File, file_len: u64) -> Result<Vec<u8>, Error> {
    let truncated = |expected| {
        let found = file_len;
        Error::malformed(path, Fault::Truncated { expected, found })
    };
    if file_len < LEN_BYTES {
        return Err(truncated(LEN_BYTES));
    }
    let read = |buf: &mut [u8], at| {
        file.read_exact_at(buf, at).map_err(|error| Error::io(path, "read", error))
    };
    let mut prefix = [0; 8];
    read(&mut prefix, 0)?;
    let len = u64::from_le_bytes(prefix);
    let limit = MAX_HEADER_LEN;
    if len > limit {
        return Err(Error::malformed(path, Fault::HeaderTooLong { len, limit }));
    }
    if LEN_BYTES + len > file_len {
        return Err(truncated(LEN_BYTES + len));
    }
    let too_long = |_| Error::malformed(path, Fault::HeaderTooLong { len, limit });
    let mut header = vec![0; usize::try_from(len).map_err(too_long)?];
    read(&mut header, LEN_BYTES)?;
    Ok(header)
}

fn duplicate(tensors: &[(String, Tensor)]) -> Option<&str> {
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let pair = names.array_windows().find(|[a, b]| a == b);
    pair.map(|[name, _]| *name)
}

fn place(
    path: &Path,
    name: String,
    tensor: &Tensor,
    expected: u64,
    data_start: u64,
    file: usize,
) -> Result<SourceTensor, Error> {
    let fail = |fault| Error::of_tensor(path, &name, fault);
    let (begin, end) = tensor.data_offsets;
    if begin != expected || end < begin {
        let fault = Fault::Misplaced { begin, end, expected };
        return Err(fail(fault));
    }
    let unsupported = || Error::unsupported(path, &name, format!("dtype {:?}", tensor.dtype));
    let text: StrDeserializer<'_, ValueError> = tensor.dtype.as_str().into_deserializer();
    let stored = Stored::deserialize(text).map_err(|_| unsupported())?;
    let dtype = from_safetensors(stored).ok_or_else(unsupported)?;
    let mut shape = tensor.shape.clone();
    if packing(stored) > 1 {
        let last = shape.last_mut().ok_or_else(unsupported)?;
        if !last.is_multiple_of(packing(stored)) {
            return Err(unsupported());
        }
        *last /= packing(stored);
    }
    let expected = byte_len(dtype, &shape).ok_or_else(|| fail(Fault::ShapeOverflow))?;
    let found = end - begin;
    if found != expected {
        return Err(fail(Fault::WrongLength { expected, found }));
    }
    let offset = data_start.checked_add(begin).ok_or_else(|| fail(Fault::ShapeOverflow))?;
    Ok(SourceTensor {
        path: name.as_str().into(),
        name,
        dtype,
        shape,
        byte_len: found,
        file,
        offset,
        strides: None,
    })
}

/// The last tensor must end where the file does; the first one that does not fit is named.
fn check_end(
    path: &Path,
    end: Option<u64>,
    found: u64,
    tensors: &[SourceTensor],
) -> Result<(), Error> {
    let expected = end.unwrap_or(u64::MAX);
    match expected.cmp(&found) {
        Ordering::Equal => Ok(()),
        Ordering::Less => {
            let fault = Fault::TrailingBytes { expected, found };
            Err(Error::malformed(path, fault))
        }
        Ordering::Greater => {
            let fault = Fault::Truncated { expected, found };
            let cut =
                |tensor: &&SourceTensor| tensor.offset.saturating_add(tensor.byte_len) > found;
            Err(match tensors.iter().find(cut) {
                Some(tensor) => Error::of_tensor(path, &tensor.name, fault),
                None => Error::malformed(path, fault),
            })
        }
    }
}
