//! The safetensors file of an adapter, before and while it is written. Owns [`Image`], and the decision whether a
//! packed file must carry the header of the file it was made from.
//!
//! PEFT writes through the safetensors library, whose header follows from the tensors and one text of metadata. A
//! header that follows from nothing (another library's order, other spaces) is kept in the packed file's user
//! metadata, so that unpacking gives the very same file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Map, Value, json};
use tz_format::TensorEntry;
use tz_io::{Cancel, HeapPool, IoError, Piece, ReadOptions, Selection, TensorFile};
use tz_model::{Checkpoint, MAX_HEADER_LEN, packing, to_safetensors};

use crate::adapter::AdapterTensor;
use crate::error::Error;

/// Key of the header in a packed file's user metadata.
pub(crate) const KEPT_HEADER: &str = "tz-lora.safetensors-header";
/// Longest header that is kept, of the 1 MiB that user metadata may have; escapes of quotes take a tenth or so.
const MAX_KEPT_LEN: u64 = 800 << 10;
/// Bytes of a tensor that are copied at a time.
const BLOCK: usize = 1 << 20;
/// Room in a staging buffer beyond one piece: headers and gaps between tensors.
const SLACK: usize = 64 << 10;

/// A safetensors file to be: its header, and where each tensor goes.
#[derive(Debug)]
pub(crate) struct Image {
    /// With the length before it.
    header: Vec<u8>,
    /// In the tensors' order, from the start of the file.
    offsets: Vec<u64>,
    file_len: u64,
}

impl Image {
    /// What the safetensors library would write: by falling alignment of the dtype, then by name. Without metadata of
    /// its own, the file says that it is PyTorch's, as PEFT does.
    pub(crate) fn canonical(
        path: &Path,
        tensors: &[AdapterTensor],
        metadata: &Map<String, Value>,
    ) -> Result<Self, Error> {
        let unsupported = |tensor: &AdapterTensor, what: String| {
            let place = tz_model::Place::tensor(path, &tensor.name);
            tz_model::Error::Unsupported { place, what }
        };
        let mut rows = Vec::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            let dtype = to_safetensors(tensor.dtype).ok_or_else(|| {
                unsupported(tensor, format!("dtype {} in safetensors", tensor.dtype.name()))
            })?;
            let mut shape = tensor.shape.clone();
            if let Some(last) = shape.last_mut() {
                let packed = last.checked_mul(packing(dtype));
                *last = packed.ok_or_else(|| unsupported(tensor, "this size".to_owned()))?;
            }
            rows.push((i, tensor, dtype, shape));
        }
        rows.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.1.name.cmp(&b.1.name)));

        let texts = metadata.iter().filter(|(key, _)| *key != KEPT_HEADER);
        let mut texts: Map<String, Value> = texts
            .filter(|(_, value)| value.is_string())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if texts.is_empty() {
            texts.insert("format".to_owned(), "pt".into());
        }
        let mut text = format!("{{\"__metadata__\":{}", Value::Object(texts));
        let (mut end, mut starts) = (0_u64, vec![0; tensors.len()]);
        for (i, tensor, dtype, shape) in rows {
            let begin = end;
            // Lengths of tensors of one file on disk or in a store, whose sum is below 2^63.
            end = end.saturating_add(tensor.byte_len);
            if let Some(start) = starts.get_mut(i) {
                *start = begin;
            }
            text.push_str(&format!(
                ",{}:{{\"dtype\":\"{dtype}\",\"shape\":{},\"data_offsets\":[{begin},{end}]}}",
                json!(tensor.name),
                json!(shape),
            ));
        }
        text.push('}');
        while !text.len().is_multiple_of(8) {
            text.push(' ');
        }
        Ok(Self::assemble(&text, starts, end))
    }

    /// A file with this very header, its tensors one after the other in their order.
    pub(crate) fn with_header(text: &str, tensors: &[AdapterTensor]) -> Self {
        let (mut end, mut starts) = (0_u64, Vec::with_capacity(tensors.len()));
        for tensor in tensors {
            starts.push(end);
            end = end.saturating_add(tensor.byte_len);
        }
        Self::assemble(text, starts, end)
    }

    fn assemble(text: &str, mut offsets: Vec<u64>, data_len: u64) -> Self {
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        let start = header.len() as u64;
        for offset in &mut offsets {
            *offset = offset.saturating_add(start);
        }
        Self { header, offsets, file_len: start.saturating_add(data_len) }
    }

    /// Makes the file from an open checkpoint.
    pub(crate) fn write_from(
        &self,
        path: &Path,
        checkpoint: &Checkpoint,
        tensors: &[AdapterTensor],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let file = self.create(path)?;
        let mut block = Vec::new();
        for (i, (tensor, &start)) in tensors.iter().zip(&self.offsets).enumerate() {
            let mut at = 0;
            while at < tensor.byte_len {
                if cancel.is_cancelled() {
                    return Err(IoError::Cancelled.into());
                }
                let left = usize::try_from(tensor.byte_len - at).unwrap_or(BLOCK);
                block.resize(left.min(BLOCK), 0);
                checkpoint.read_at(i, at, &mut block)?;
                file.write_all_at(&block, start + at).map_err(Error::io(path, "write"))?;
                at += block.len() as u64;
            }
        }
        Ok(())
    }

    /// Makes the file from a packed one, through bounded memory; hashes and tags are checked on the way.
    pub(crate) fn write_packed(
        &self,
        path: &Path,
        source: &TensorFile,
        options: &ReadOptions,
    ) -> Result<(), Error> {
        let file = self.create(path)?;
        let pool = pool(source, options).map_err(Error::io(path, "reserve memory to write"))?;
        let consumer = |piece: Piece| {
            piece.parts().try_for_each(|(part, bytes)| {
                let start = self.offsets.get(part.tensor).copied();
                let at = start.and_then(|start| start.checked_add(part.offset));
                file.write_all_at(bytes, at.ok_or(std::io::ErrorKind::InvalidData)?)
            })
        };
        // A stream says which tensor it was at; the file that was written is for the consumer to say.
        let consumer = |piece: Piece| {
            consumer(piece).map_err(|source| {
                let (location, doing) = (path.display().to_string(), "write");
                std::io::Error::new(source.kind(), IoError::Io { location, doing, source })
            })
        };
        source.stream(&Selection::all(), options, &pool, &consumer)?;
        Ok(())
    }

    fn create(&self, path: &Path) -> Result<File, Error> {
        let made = || {
            let file = File::create_new(path)?;
            file.set_len(self.file_len)?;
            file.write_all_at(&self.header, 0)?;
            Ok(file)
        };
        made().map_err(Error::io(path, "write"))
    }
}

/// Buffers of a piece each, within the memory limit, but large enough for the longest header.
fn pool(source: &TensorFile, options: &ReadOptions) -> std::io::Result<HeapPool> {
    let longest = source.entries().iter().map(TensorEntry::header_len).max().unwrap_or(0);
    let piece = source.source().plan_options().piece_len.max(longest);
    let wanted = usize::try_from(piece).map_err(std::io::Error::other)?.saturating_add(SLACK);
    let limit = options.memory_limit.unwrap_or_else(tz_io::default_staging_bytes);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let readers = options.readers.unwrap_or_else(|| source.source().default_readers());
    let buffers = (limit / wanted).clamp(1, readers.max(1));
    HeapPool::new(wanted.min(limit), buffers)
}

/// The header of a safetensors file, where it must be kept because its tensors and `metadata` alone do not give it
/// back. One that is too long is not kept: unpacking then gives the same tensors in another file.
pub(crate) fn header_to_keep(
    path: &Path,
    data_start: Option<u64>,
    tensors: &[AdapterTensor],
    metadata: &Map<String, Value>,
) -> Result<Option<String>, Error> {
    let canonical = Image::canonical(path, tensors, metadata)?;
    let len = data_start.unwrap_or(0).saturating_sub(8);
    if len == 0 || len > MAX_HEADER_LEN {
        return Ok(None);
    }
    let mut header = vec![0; usize::try_from(len).unwrap_or(0).saturating_add(8)];
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    file.read_exact_at(&mut header, 0).map_err(Error::io(path, "read"))?;
    if header == canonical.header || len > MAX_KEPT_LEN {
        return Ok(None);
    }
    Ok(header.get(8..).and_then(|text| String::from_utf8(text.to_vec()).ok()))
}
