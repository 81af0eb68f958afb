//! Writes a checkpoint as `torch.save` does, by positioned writes. Owns the archive's and the pickle's wire form.
//!
//! Only synthesis writes this format: whoever has a choice should write safetensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tz_format::{ByteOrder, Dtype, Element};
use tz_io::TemporaryFile;

use crate::dtype::byte_len;
use crate::error::{Error, Fault, Place};
use crate::safetensors_plan::TensorDecl;
use crate::safetensors_writer::{Durability, publish, sync, sync_parent, temp_beside};

/// Tensor data begins at a multiple of this many bytes, as torch writes it.
const ALIGNMENT: u64 = 64;

const LOCAL_LEN: u64 = 30;
const LIMIT_32: u64 = u32::MAX as u64;

/// One entry of the archive.
#[derive(Debug)]
struct Entry {
    name: String,
    header_offset: u64,
    /// Fills the gap between the header and the aligned data.
    padding: u64,
    len: u64,
    crc: u32,
}

impl Entry {
    fn data_offset(&self) -> u64 {
        self.header_offset + header_len(&self.name, self.len) + self.padding
    }
}

/// Local header without padding: a long entry needs twenty bytes more for its length, and padding has a field's head.
fn header_len(name: &str, len: u64) -> u64 {
    let long = if len >= LIMIT_32 { 20 } else { 0 };
    LOCAL_LEN + name.len() as u64 + long + 4
}

/// Checksums of the pieces of one tensor that have been written, by offset.
type Pieces = BTreeMap<u64, (u64, u32)>;

/// A `pytorch_model.bin` in the making.
#[derive(Debug)]
pub(crate) struct TorchWriter {
    dest: PathBuf,
    temp: TemporaryFile,
    /// The pickle and the small entries, then one per tensor.
    small: Vec<(Entry, Vec<u8>)>,
    tensors: Vec<(Entry, Mutex<Pieces>)>,
    end: u64,
    durability: Durability,
}

impl TorchWriter {
    pub(crate) fn create(
        dest: &Path,
        decls: &[TensorDecl],
        durability: Durability,
    ) -> Result<Self, Error> {
        let mut end = 0_u64;
        let mut place = |name: &str, len: u64| {
            let name = format!("pytorch_model/{name}");
            let bare = end + header_len(&name, len);
            let padding = bare.next_multiple_of(ALIGNMENT) - bare;
            let header_offset = end;
            end = (bare + padding).checked_add(len).filter(|&end| i64::try_from(end).is_ok())?;
            Some(Entry { name, header_offset, padding, len, crc: 0 })
        };
        let overflow = || Error::malformed(dest, Fault::ShapeOverflow);
        let mut small = Vec::new();
        for (name, data) in [
            ("data.pkl", pickle(dest, decls)?),
            ("byteorder", b"little".to_vec()),
            ("version", b"3\n".to_vec()),
        ] {
            let mut entry = place(name, data.len() as u64).ok_or_else(overflow)?;
            entry.crc = crc32fast::hash(&data);
            small.push((entry, data));
        }
        let mut tensors = Vec::new();
        for (i, decl) in decls.iter().enumerate() {
            let fail = || Error::of_tensor(dest, &decl.name, Fault::ShapeOverflow);
            let len = byte_len(decl.dtype, &decl.shape).ok_or_else(fail)?;
            let entry = place(&format!("data/{i}"), len).ok_or_else(fail)?;
            tensors.push((entry, Mutex::default()));
        }
        let temp = temp_beside(dest)?;
        Ok(Self { dest: dest.to_owned(), temp, small, tensors, end, durability })
    }

    /// Writes `data` at byte `offset` of a tensor, from any thread.
    pub(crate) fn write_at(&self, tensor: usize, offset: u64, data: &[u8]) -> Result<(), Error> {
        let len = data.len();
        let out_of_range =
            || Error::OutOfRange { tensor, tensors: self.tensors.len(), offset, len };
        let (entry, pieces) = self.tensors.get(tensor).ok_or_else(out_of_range)?;
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > entry.len) {
            return Err(out_of_range());
        }
        let file = self.temp.as_file();
        self.write(file, entry.data_offset() + offset, data)?;
        if let Ok(mut pieces) = pieces.lock()
            && !data.is_empty()
        {
            pieces.insert(offset, (len as u64, crc32fast::hash(data)));
        }
        Ok(())
    }

    /// Writes headers and directory, then makes the file appear.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        for (entry, pieces) in &mut self.tensors {
            let pieces = std::mem::take(&mut *pieces.get_mut().unwrap_or_else(|e| e.into_inner()));
            let mut whole = crc32fast::Hasher::new();
            let mut written = 0;
            for (offset, (len, crc)) in pieces {
                if offset == written {
                    whole.combine(&crc32fast::Hasher::new_with_initial_len(crc, len));
                    written += len;
                }
            }
            if written != entry.len {
                let expected = entry.len;
                let place = Place::tensor(&self.dest, &entry.name);
                return Err(Error::Incomplete { place, expected, written });
            }
            entry.crc = whole.finalize();
        }
        let file = self.temp.as_file();
        let mut directory = Vec::new();
        let mut count = 0_u64;
        let small = self.small.iter().map(|(entry, data)| (entry, Some(data)));
        for (entry, data) in small.chain(self.tensors.iter().map(|(entry, _)| (entry, None))) {
            self.write(file, entry.header_offset, &local_header(entry))?;
            if let Some(data) = data {
                self.write(file, entry.data_offset(), data)?;
            }
            directory.extend(directory_entry(entry));
            count += 1;
        }
        let len = directory.len() as u64;
        directory.extend(end_records(count, self.end, len));
        self.write(file, self.end, &directory)?;
        sync(file, &self.dest, self.durability)?;
        publish(self.temp, &self.dest)?;
        sync_parent(&self.dest, self.durability)
    }

    fn write(&self, file: &File, offset: u64, data: &[u8]) -> Result<(), Error> {
        file.write_all_at(data, offset).map_err(|error| Error::io(&self.dest, "write", error))
    }
}

/// A value of 32 bits, all ones where a zip64 field has it.
fn short(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

fn half(value: u64) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes()
}

/// Version needed, flags (UTF-8 names), method (stored), time, date, checksum.
fn common(entry: &Entry) -> Vec<u8> {
    let mut out = vec![45, 0, 0, 8, 0, 0, 0, 0, 0x21, 0];
    out.extend(entry.crc.to_le_bytes());
    out.extend(short(entry.len));
    out.extend(short(entry.len));
    out.extend(half(entry.name.len() as u64));
    out
}

/// The zip64 field with these values, or nothing.
fn long_field(values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    if !values.is_empty() {
        out.extend(1_u16.to_le_bytes());
        out.extend(half(values.len() as u64 * 8));
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    out
}

fn local_header(entry: &Entry) -> Vec<u8> {
    let sizes = if entry.len >= LIMIT_32 { vec![entry.len; 2] } else { Vec::new() };
    let mut extra = long_field(&sizes);
    extra.extend(b"FB");
    extra.extend(half(entry.padding));
    extra.resize(extra.len() + usize::try_from(entry.padding).unwrap_or(0), b'Z');
    let mut out = b"PK\x03\x04".to_vec();
    out.extend(common(entry));
    out.extend(half(extra.len() as u64));
    out.extend(entry.name.as_bytes());
    out.extend(extra);
    out
}

fn directory_entry(entry: &Entry) -> Vec<u8> {
    let mut long = Vec::new();
    if entry.len >= LIMIT_32 {
        long.extend([entry.len; 2]);
    }
    if entry.header_offset >= LIMIT_32 {
        long.push(entry.header_offset);
    }
    let extra = long_field(&long);
    let mut out = b"PK\x01\x02\x2d\0".to_vec();
    out.extend(common(entry));
    out.extend(half(extra.len() as u64));
    // Comment, disk, attributes.
    out.extend([0; 10]);
    out.extend(short(entry.header_offset));
    out.extend(entry.name.as_bytes());
    out.extend(extra);
    out
}

fn end_records(count: u64, offset: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if count >= u64::from(u16::MAX) || offset >= LIMIT_32 {
        out.extend(b"PK\x06\x06");
        out.extend(44_u64.to_le_bytes());
        out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for value in [count, count, len, offset] {
            out.extend(value.to_le_bytes());
        }
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend((offset + len).to_le_bytes());
        out.extend(1_u32.to_le_bytes());
    }
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(half(count));
    out.extend(half(count));
    out.extend(short(len));
    out.extend(short(offset));
    out.extend([0; 2]);
    out
}

/// The state dict: an `OrderedDict` of tensors, each with a storage of its own.
fn pickle(dest: &Path, decls: &[TensorDecl]) -> Result<Vec<u8>, Error> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (i, decl) in decls.iter().enumerate() {
        let unsupported = || {
            let what = format!("dtype {} in this writer of PyTorch files", decl.dtype);
            Error::unsupported(dest, &decl.name, what)
        };
        let storage = storage_name(decl.dtype).ok_or_else(unsupported)?;
        let count: u64 = decl.shape.iter().product();
        text(&mut out, &decl.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}Storage\n").as_bytes());
        text(&mut out, &i.to_string());
        text(&mut out, "cpu");
        int(&mut out, count);
        out.extend(b"tQK\0(");
        decl.shape.iter().for_each(|&dim| int(&mut out, dim));
        out.extend(b"t(");
        let mut stride = count;
        for &dim in &decl.shape {
            stride = stride.checked_div(dim).unwrap_or(0);
            int(&mut out, stride);
        }
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    Ok(out)
}

fn storage_name(dtype: Dtype) -> Option<&'static str> {
    if dtype.byte_order() == ByteOrder::Big {
        return None;
    }
    Some(match dtype.element() {
        Element::Uint8 => "Byte",
        Element::Int8 => "Char",
        Element::Int16 => "Short",
        Element::Int32 => "Int",
        Element::Int64 => "Long",
        Element::Bool => "Bool",
        Element::Float16 => "Half",
        Element::Bfloat16 => "BFloat16",
        Element::Float32 => "Float",
        Element::Float64 => "Double",
        Element::Complex64 => "ComplexFloat",
        Element::Complex128 => "ComplexDouble",
        _ => return None,
    })
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend(short(text.len() as u64));
    out.extend(text.as_bytes());
}

/// Lengths that fit a file are below 2^63, so eight bytes hold them with a sign of zero.
fn int(out: &mut Vec<u8>, value: u64) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(b'J');
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend(value.to_le_bytes());
        }
    }
}
