//! A slow decoder written from `docs/FORMAT.md` alone, sharing no code with the crate. Owns what a file says in plain
//! values; `agreement.rs` holds the crate against it.

use serde_json::Value;

use crate::manifest::hex;
/// What both decoders say of a file, in plain values.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Said {
    pub(crate) version: u64,
    pub(crate) flags: [bool; 3],
    pub(crate) tensors: Vec<SaidTensor>,
    pub(crate) blake3: Option<String>,
    pub(crate) writer: Option<String>,
    pub(crate) user_metadata: Option<Value>,
    pub(crate) key_slots: Option<String>,
    pub(crate) metadata_mac: Option<String>,
    pub(crate) skipped: Vec<u64>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct SaidTensor {
    pub(crate) path: Value,
    pub(crate) kind: u64,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) place: [u64; 3],
    pub(crate) module_index: u64,
    pub(crate) hashes: Vec<String>,
    pub(crate) covered: String,
    pub(crate) key_derivation: Option<(u64, u64, String)>,
    /// Crypt chunk type, chunk size, nonce, tags.
    pub(crate) cipher: Option<(u64, u64, String, String)>,
}

/// A cursor that gives `None` past its end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// A little-endian number of `width` bytes.
    fn number(&mut self, width: u64) -> Option<u64> {
        let bytes = self.take(width)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Bytes after their length, which is `width` bytes wide.
    fn sized(&mut self, width: u64) -> Option<&'a [u8]> {
        let len = self.number(width)?;
        self.take(len)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

const NUMPY: &str = "u1 uint8,i1 int8,i2 int16,i4 int32,i8 int64,u2 uint16,u4 uint32,u8 uint64,b1 bool,f2 float16,\
f4 float32,f8 float64,c8 complex64,c16 complex128";
const OPAQUE: &str = "2 bfloat16,1 float8_e4m3fn,1 float8_e5m2,1 float8_e4m3fnuz,1 float8_e5m2fnuz,1 float8_e8m0fnu,\
1 float4_e2m1fn_x2,4 complex32,1 uint1,1 uint2,1 uint3,1 uint4,1 uint5,1 uint6,1 uint7,1 int1,1 int2,1 int3,1 int4,\
1 int5,1 int6,1 int7,1 bits1x8,1 bits2x4,1 bits4x2,1 bits8,2 bits16";

/// Name (marked where big-endian), element size, and whether it is opaque.
fn dtype(bytes: &[u8]) -> Option<(String, u64, bool)> {
    let text = std::str::from_utf8(bytes).ok()?;
    for row in NUMPY.split(',') {
        let (code, name) = row.split_once(' ')?;
        let size: u64 = code[1..].parse().ok()?;
        if text == format!("{}{code}", if size == 1 { '|' } else { '<' }) {
            return Some((name.to_owned(), size, false));
        }
        if size > 1 && text == format!(">{code}") {
            return Some((format!(">{name}"), size, false));
        }
    }
    for row in OPAQUE.split(',') {
        let (size, name) = row.split_once(' ')?;
        if ["|", "<"].iter().any(|mark| text == format!("{mark}V{size}\0torch.{name}")) {
            return Some((name.to_owned(), size.parse().ok()?, true));
        }
    }
    None
}

fn path(bytes: &[u8]) -> Option<Vec<Value>> {
    let keys = match bytes.split_first()? {
        (0x1e, json) => {
            let framed = json.first() == Some(&b'[') && json.last() == Some(&b']');
            let one_line = !json.contains(&b'\n') && !json.contains(&b'\r');
            (framed && one_line).then(|| serde_json::from_slice::<Vec<Value>>(json).ok())??
        }
        _ => vec![Value::from(std::str::from_utf8(bytes).ok()?)],
    };
    let fine = !keys.is_empty() && keys.iter().all(|key| key.is_string() || key.is_u64());
    fine.then_some(keys)
}

/// Whether two paths can stand in one tree.
fn apart(one: &[Value], other: &[Value]) -> bool {
    let differ = one.iter().zip(other).find(|(a, b)| a != b);
    differ.is_some_and(|(a, b)| a.is_string() == b.is_string())
}

fn crypt(block: &[u8], len: u64, sealed: bool, tensor: &mut SaidTensor) -> Option<()> {
    let mut block = Cursor(block);
    for _ in 0..block.number(2)? {
        let mut chunk = Cursor(block.sized(8)?);
        let kind = chunk.number(2)?;
        if kind == 1 {
            let one = chunk.number(2)? == 1 && tensor.key_derivation.is_none() && !sealed;
            let (passes, memory, alg) = (chunk.number(8)?, chunk.number(8)?, chunk.number(4)?);
            tensor.key_derivation = Some((passes, memory, hex(chunk.sized(2)?)));
            (one && alg == 2).then_some(())?;
        } else {
            (tensor.cipher.is_none() && sealed == (kind == 0x5a01)).then_some(())?;
            let size = if kind == 3 { 0 } else { chunk.number(8)? };
            let nonce = chunk.take(if sealed { 0 } else { 24 })?;
            let tags = if kind == 3 { 1 } else { chunk.number(8)? };
            let fine = match kind {
                2 => size >= 1024 && size % 64 == 0 && (tags == 1 || tags == len.div_ceil(size)),
                3 => true,
                0x5a01 => {
                    (4096..=64 << 20).contains(&size)
                        && size % 4096 == 0
                        && tags == len.div_ceil(size)
                }
                _ => false,
            };
            let tags = chunk.take(tags.checked_mul(16)?)?;
            fine.then_some(())?;
            tensor.cipher = Some((kind, size, hex(nonce), hex(tags)));
        }
        chunk.end()?;
    }
    (tensor.cipher.is_some() || len == 0 && !sealed).then_some(())?;
    block.end()
}

fn tensor(
    file: &[u8],
    c: &mut Cursor<'_>,
    version: u64,
    flags: [bool; 3],
    end: u64,
) -> Option<SaidTensor> {
    let [encrypted, versioned, sealed] = flags;
    let long = match if versioned { c.number(4)? } else { 1 } {
        1 => false,
        5 => true,
        _ => return None,
    };
    let (name, kind, spelling) = (c.sized(2)?, c.number(1)?, c.sized(1)?);
    let (keys, (dtype, size, opaque)) = (path(name)?, dtype(spelling)?);
    let plain = keys.len() == 1 && keys[0].is_string();
    (kind <= 2 && (plain || kind == 2) && (version >= 2 || !opaque)).then_some(())?;
    let rank = c.number(1)?;
    let width = if long { 8 } else { 4 };
    let shape: Vec<u64> = (0..rank).map(|_| c.number(width)).collect::<Option<_>>()?;
    let place = [c.number(8)?, c.number(8)?, c.number(8)?];
    let [header_at, data_at, len] = place;
    let bytes = if shape.contains(&0) {
        0
    } else {
        shape.iter().try_fold(size, |len, &dim| len.checked_mul(dim))?
    };
    let meta = len == 0 && version >= 4;
    let data_end = data_at.checked_add(len)?;
    let fits = bytes >> 63 == 0
        && (len == bytes || meta)
        && header_at == end
        && data_end <= file.len() as u64;
    fits.then_some(())?;

    let whole = file.get(usize::try_from(header_at).ok()?..usize::try_from(data_at).ok()?)?;
    let mut h = Cursor(whole);
    (h.number(8)? == whole.len() as u64).then_some(())?;
    let module_index = h.number(2)?;
    let same = h.number(1)? == kind && path(h.sized(2)?)? == keys;
    let same = same && self::dtype(h.sized(1)?)?.0 == dtype && h.number(1)? == rank;
    let dims: Vec<u64> = (0..rank).map(|_| h.number(width)).collect::<Option<_>>()?;
    (same && dims == shape).then_some(())?;
    let mut said = SaidTensor {
        path: keys.into(),
        kind,
        dtype,
        shape,
        place,
        module_index,
        hashes: Vec::new(),
        covered: String::new(),
        key_derivation: None,
        cipher: None,
    };
    let mut covered = whole.to_vec();
    let mut block = Cursor(h.sized(2)?);
    for _ in 0..block.number(1)? {
        let (kind, width) = (block.number(1)?, block.number(1)?);
        matches!((kind, width), (0, 4) | (1, 32)).then_some(())?;
        let value_at = whole.len() - h.0.len() - block.0.len();
        let mut value = block.take(width)?.to_vec();
        covered[value_at..][..value.len()].fill(0);
        if kind == 0 {
            value.reverse(); // a number, so its hexadecimal begins with the last byte
        }
        said.hashes.push(hex(&value));
    }
    block.end()?;
    if encrypted {
        let from = whole.len() - h.0.len();
        crypt(h.sized(8)?, len, sealed, &mut said)?;
        covered.drain(from..whole.len() - h.0.len());
    }
    said.covered = hex(&covered);
    let stated = h.0.last_chunk::<8>()?;
    (u64::from_le_bytes(*stated) == len).then_some(said)
}

fn extension(mut c: Cursor<'_>, tensors: u64, said: &mut Said) -> Option<()> {
    if c.take(8) != Some(b"tz-ext\0\x01") {
        return Some(());
    }
    let mut block = Cursor(c.sized(4)?);
    while !block.0.is_empty() {
        let kind = block.number(2)?;
        let body = block.sized(4)?;
        let text = || String::from_utf8(body.to_vec()).ok();
        let size = body.len() as u64;
        let (fine, twice) = match kind {
            1 => (size == 32 * tensors, said.blake3.replace(hex(body)).is_some()),
            2 => (true, said.writer.replace(text()?).is_some()),
            3 => {
                let value: Value = serde_json::from_slice(body).ok()?;
                let fine = value.is_object() && size <= 1 << 20;
                (fine, said.user_metadata.replace(value).is_some())
            }
            4 => (true, said.key_slots.replace(hex(body)).is_some()),
            5 => (size == 32, said.metadata_mac.replace(hex(body)).is_some()),
            _ => {
                said.skipped.push(kind);
                (kind < 0x8000, false)
            }
        };
        (fine && !twice).then_some(())?;
    }
    Some(())
}

/// What the file says, or nothing where any rule is broken.
pub(crate) fn slow(file: &[u8]) -> Option<Said> {
    let mut c = Cursor(file);
    (c.take(5)? == b"|TZR|").then_some(())?;
    let version = c.number(4)?;
    let bits = c.take(32)?;
    let set: Vec<usize> = (0..256).filter(|bit| bits[bit / 8] >> (bit % 8) & 1 == 1).collect();
    let known = set.iter().all(|bit| matches!((bit, version), (0 | 128, 4 | 5) | (1, 5)));
    let has = |bit| set.contains(&bit);
    let flags = [has(0) || version == 3, has(1), has(128)];
    let (count, index_len) = (c.take(16).and_then(|_| c.number(8))?, c.number(8)?);
    let profile_fits = !has(128) || has(0);
    ((1..=5).contains(&version) && known && profile_fits && count > 0).then_some(())?;
    let mut index = Cursor(c.take(index_len)?);
    let mut said = Said { version, flags, ..Said::default() };
    let mut end = 73 + index_len;
    let mut paths: Vec<Vec<Value>> = Vec::new();
    for _ in 0..count {
        let tensor = tensor(file, &mut index, version, flags, end)?;
        let path = tensor.path.as_array()?.clone();
        paths.iter().all(|other| apart(&path, other)).then_some(())?;
        paths.push(path);
        end = tensor.place[1] + tensor.place[2];
        said.tensors.push(tensor);
    }
    extension(index, count, &mut said)?;
    let secrets = (said.key_slots.is_some(), said.metadata_mac.is_some());
    let fits = secrets == (has(128), has(128)) && !(has(128) && said.blake3.is_some());
    fits.then_some(said)
}
