//! Whole files encrypted and opened in memory, as a reader and a writer on top of this crate do it. Owns the honest
//! reader that the tamper tests attack, and the builder of the published test vectors. Feature `testing`.

use std::ops::Range;

use tz_format::{
    Extension, Front, FrontDecoder, Layout, LayoutOptions, Limits, Step, TensorEntry, TensorHeader,
    TensorSpec,
};

use crate::entropy::Seeded;
use crate::{
    CryptoError, FileOpener, FileSealer, JournalPlace, KdfLimits, SealSecret, Secret, Tail,
};

mod vectors;

pub use vectors::{Expect, PASSPHRASE, Vector, vectors};

/// A sealer whose file key, salts and nonces follow from `seed`: for test vectors, never for data.
///
/// # Errors
/// As [`FileSealer::sealed_with_room`].
pub fn seeded_sealer(
    seed: &str,
    secrets: &[SealSecret],
    chunk_size: u64,
    room: usize,
) -> Result<FileSealer, CryptoError> {
    FileSealer::sealed_from(&mut Seeded::new(seed), secrets, chunk_size, room)
}

/// `len` bytes that differ between tensors: byte *i* of tensor *t* is *i* + 17 *t* mod 251.
#[must_use]
pub fn contents(tensor: usize, len: u64) -> Vec<u8> {
    let shift = 17 * tensor as u64;
    (shift..shift + len).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect()
}

/// Encrypts a file of `specs`, tensor *t* holding [`contents`]`(t, …)`, with data aligned to `alignment`.
///
/// # Errors
/// As the layout and the sealer.
pub fn seal_file(
    specs: Vec<TensorSpec>,
    sealer: &FileSealer,
    alignment: u64,
    mut extension: Extension,
) -> Result<Vec<u8>, CryptoError> {
    sealer.extend(&mut extension);
    let mut options = LayoutOptions::default();
    options.alignment = alignment;
    options.hashes = Vec::new();
    options.cipher = Some(sealer.cipher_plan());
    options.extension = extension;
    let layout = Layout::plan(specs, options)?;
    let mut file = layout.encode_front(&layout.options().extension)?;
    if let Some(mac_at) = layout.metadata_mac_at() {
        sealer.seal_front(&mut file, mac_at)?;
    }
    for (index, entry) in layout.entries().iter().enumerate() {
        let mut data = contents(index, entry.data_len);
        let tensor = sealer.tensor(&layout, index)?;
        let mut tags = Vec::new();
        for i in 0..tensor.chunk_count() {
            let chunk = slice_mut(&mut data, tensor.chunk_range(i))?;
            tags.push(tensor.seal_chunk_in_place(i, chunk)?);
        }
        file.extend(layout.encode_header(index, &[], Some(&tensor.finish(tags)?))?);
        file.extend(data);
    }
    file.extend([0; 8]);
    Ok(file)
}

/// A tensor as [`open_file`] found it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedTensor {
    /// Its index entry.
    pub entry: TensorEntry,
    /// Its plaintext, or why there is none.
    pub data: Result<Vec<u8>, CryptoError>,
}

/// Opens every tensor of an encrypted file as a careful reader does: nothing of the front is used before it is
/// checked, and a tensor is released once all its chunks have opened.
///
/// # Errors
/// Where the file is refused as a whole.
pub fn open_file(file: &[u8], secrets: &[Secret]) -> Result<Vec<OpenedTensor>, CryptoError> {
    let front = decode_front(file)?;
    let opener = FileOpener::new(&front, file, secrets, &KdfLimits::default())?;
    check_end(&front, file)?;
    front.check_file_len(file.len() as u64)?;
    let tensors = front.entries.iter().enumerate().map(|(index, entry)| {
        let data = open_tensor(file, &front, &opener, index);
        let entry = entry.clone();
        OpenedTensor { entry, data }
    });
    Ok(tensors.collect())
}

/// Refuses a sealed file that is shorter or longer than it was sealed, unless a journal follows it.
fn check_end(front: &Front, file: &[u8]) -> Result<(), CryptoError> {
    let Some(place) = JournalPlace::of(front) else { return Ok(()) };
    let len = file.len() as u64;
    let tail = slice(file, place.file_len()..len).map_err(|_| place.refuse(len))?;
    if Tail::new(&place).push(tail) { Ok(()) } else { Err(place.refuse(len)) }
}

/// Decodes the front of a file that is in memory as a whole.
///
/// # Errors
/// Where the front is malformed or cut off.
pub fn decode_front(file: &[u8]) -> Result<Front, CryptoError> {
    match FrontDecoder::new(Limits::default()).step(file)? {
        Step::Done(front) => Ok(front),
        Step::Need(_) => Err(CryptoError::Misuse("the front is cut off")),
    }
}

fn open_tensor(
    file: &[u8],
    front: &Front,
    opener: &FileOpener,
    index: usize,
) -> Result<Vec<u8>, CryptoError> {
    let entry = front.entries.get(index).ok_or(CryptoError::Misuse("no such tensor"))?;
    let header_bytes = slice(file, entry.header_offset..entry.data_offset)?;
    let header = TensorHeader::decode(header_bytes, entry, front.header.flags)?;
    let tensor = opener.tensor(index, entry, &header, header_bytes)?;
    let sealed = slice(file, entry.data_offset..entry.data_end())?;
    let mut plain = vec![0; sealed.len()];
    for i in 0..tensor.chunk_count() {
        let range = tensor.chunk_range(i);
        let out = slice_mut(&mut plain, range.clone())?;
        tensor.open_chunk(i, slice(sealed, range)?, out)?;
    }
    Ok(plain)
}

fn slice(bytes: &[u8], range: Range<u64>) -> Result<&[u8], CryptoError> {
    to_usize(range)
        .and_then(|range| bytes.get(range))
        .ok_or(CryptoError::Misuse("a range outside the file"))
}

fn slice_mut(bytes: &mut [u8], range: Range<u64>) -> Result<&mut [u8], CryptoError> {
    to_usize(range)
        .and_then(|range| bytes.get_mut(range))
        .ok_or(CryptoError::Misuse("a range outside the file"))
}

fn to_usize(range: Range<u64>) -> Option<Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
