//! Whole files, planned and read by `tz-io`: any bytes, and valid files with damage where it matters.

use std::io::Cursor;

use arbitrary::{Result, Unstructured};
use tz_format::{Dtype, Element, TensorHeader, TensorKind, testing};
use tz_io::testing::{MemoryFile, exercise};
use tz_io::{LocalFile, RangeRead, StreamSource};

use crate::files::{SEEDS, Seed, open_options};
use crate::guard::Bound;
use crate::scratch::Scratch;
use crate::target::Target;

/// The first read of a front (512 KiB), a piece of a scan (1 MiB), the longest header that limits admit (4 MiB, of
/// which hashing takes a copy), a small key derivation, and what is decoded and printed.
const READ_BOUND: Bound = Bound { base: 16 << 20, per_byte: 128, resident: true };

/// Any bytes as a whole file; the first says how it is read and whether with secrets.
pub const READ: Target = Target { name: "read", run: read, bound: READ_BOUND };

fn read(data: &[u8]) {
    if let Some((&how, file)) = data.split_first() {
        ask_everything(how, file);
    }
}

/// Opens, inspects, plans, loads, streams, verifies, hashes and maps the file.
fn ask_everything(how: u8, file: &[u8]) {
    let options = open_options(how & 4 != 0);
    let memory = || -> Box<dyn RangeRead> { Box::new(MemoryFile::new(file)) };
    let stream = || -> Box<dyn RangeRead> {
        Box::new(StreamSource::new(Box::new(Cursor::new(file.to_vec())), "stream"))
    };
    match how & 3 {
        0 => drop(exercise(memory, &options)),
        1 => drop(exercise(stream, &options)),
        _ => {
            let scratch = Scratch::new();
            let path = scratch.write("model.tensors", file);
            exercise(|| Box::new(LocalFile::open(&path).expect("written")), &options);
        }
    }
}

/// A valid file, whose entries, headers, extension and bytes are then changed as the input says.
pub const DAMAGE: Target = Target {
    name: "damage",
    run: damage,
    // That of `read`, for files of up to 400 KiB.
    bound: Bound { base: 64 << 20, per_byte: 0, resident: true },
};

fn damage(data: &[u8]) {
    let mut u = Unstructured::new(data);
    if let Ok((how, file)) = damaged(&mut u) {
        ask_everything(how, &file);
    }
}

fn damaged(u: &mut Unstructured<'_>) -> Result<(u8, Vec<u8>)> {
    let how = u.arbitrary()?;
    let seed = u.choose(&SEEDS)?;
    let mut file = seed.bytes.clone();
    let mut front = seed.front.clone();
    let authentic = u.arbitrary()?;
    for _ in 0..u.int_in_range(0..=3)? {
        change_front(u, seed, &mut front)?;
    }
    if front != seed.front {
        splice(&mut file, 0, &testing::encode_front(&front), seed.front.header.front_len());
    }
    for _ in 0..u.int_in_range(0..=2)? {
        change_header(u, seed, &mut file)?;
    }
    for _ in 0..u.int_in_range(0..=3)? {
        change_bytes(u, seed, &mut file)?;
    }
    let mac_at = seed.front.metadata_mac_at();
    if let (true, Some(sealer), Some(mac_at)) = (authentic, &seed.sealer, mac_at) {
        let front_len = usize::try_from(seed.front.header.front_len()).unwrap_or(0);
        if let Some(front) = file.get_mut(..front_len) {
            sealer.seal_front(front, mac_at).expect("its own front");
        }
    }
    Ok((how, file))
}

/// Lengths, offsets and counts at which arithmetic goes wrong, and those of the file itself.
fn number(u: &mut Unstructured<'_>, seed: &Seed) -> Result<u64> {
    let known = [
        seed.bytes.len() as u64,
        seed.front.header.front_len(),
        seed.front.header.index_len,
        seed.front.entries.first().map_or(0, |entry| entry.header_offset),
        seed.front.entries.last().map_or(0, |entry| entry.data_offset),
        1 << u.int_in_range(0..=63)?,
    ];
    let near = u.choose(&known)?.wrapping_add(u.int_in_range(0..=16)?).wrapping_sub(8);
    Ok(if u.ratio(3, 4)? { near } else { u.arbitrary()? })
}

/// A change of what the front means: it is written again as a writer would write it.
fn change_front(u: &mut Unstructured<'_>, seed: &Seed, front: &mut tz_format::Front) -> Result<()> {
    let value = number(u, seed)?;
    if front.entries.is_empty() || u.ratio(1, 5)? {
        let extension = &mut front.extension;
        match u.int_in_range(0..=4)? {
            0 => extension.blake3 = u.arbitrary()?,
            1 => extension.writer = u.arbitrary()?,
            2 => extension.metadata_mac = u.arbitrary()?,
            3 => {
                if let Some(slots) = extension.key_slots.as_mut().filter(|slots| !slots.is_empty())
                {
                    let at = u.choose_index(slots.len())?;
                    slots[at] = u.arbitrary()?;
                }
            }
            _ => front.header.tensor_bytes = value,
        }
        return Ok(());
    }
    let (i, other) = (u.choose_index(front.entries.len())?, u.choose_index(front.entries.len())?);
    let path = front.entries[other].path.clone();
    let entry = &mut front.entries[i];
    match u.int_in_range(0..=7)? {
        0 => entry.header_offset = value,
        1 => entry.data_offset = value,
        2 => entry.data_len = value,
        3 => {
            let room = entry.shape.len();
            if room > 0 {
                entry.shape[u.choose_index(room)?] = value;
            }
        }
        4 => entry.dtype = Dtype::from(*u.choose(Element::ALL)?),
        5 => {
            entry.kind =
                *u.choose(&[TensorKind::Parameter, TensorKind::Buffer, TensorKind::StateDict])?
        }
        6 => entry.path = path,
        _ => front.entries.swap(i, other),
    }
    Ok(())
}

/// A change of what one tensor's header means.
fn change_header(u: &mut Unstructured<'_>, seed: &Seed, file: &mut [u8]) -> Result<()> {
    let value = number(u, seed)?;
    if seed.front.entries.is_empty() {
        return Ok(());
    }
    let entry = u.choose(&seed.front.entries)?;
    let range =
        usize::try_from(entry.header_offset).ok().zip(usize::try_from(entry.data_offset).ok());
    let bytes = range.and_then(|(start, end)| file.get(start..end)).unwrap_or_default();
    let Ok(mut header) = TensorHeader::decode(bytes, entry, seed.front.header.flags) else {
        return Ok(());
    };
    let mut stated = entry.clone();
    match u.int_in_range(0..=4)? {
        0 => header.hashes.clear(),
        1 => stated.data_len = value,
        2 => stated.shape.clone_from(&u.choose(&seed.front.entries)?.shape),
        3 => {
            let kdf = header.crypt.as_mut().and_then(|crypt| crypt.key_derivation.as_mut());
            if let Some(kdf) = kdf {
                (kdf.opslimit, kdf.memlimit) = (u.arbitrary()?, value);
            }
        }
        _ => change_cipher(u, value, &mut header)?,
    }
    if let Ok(again) = testing::encode_header(&header, &stated) {
        splice(file, entry.header_offset, &again, entry.header_len());
    }
    Ok(())
}

fn change_cipher(u: &mut Unstructured<'_>, value: u64, header: &mut TensorHeader) -> Result<()> {
    use tz_format::Cipher::{Sealed, XSalsa20Chunked, XSalsa20Whole};
    match header.crypt.as_mut().and_then(|crypt| crypt.cipher.as_mut()) {
        Some(XSalsa20Chunked { chunk_size, tags, .. } | Sealed { chunk_size, tags }) => {
            *chunk_size = value;
            if u.arbitrary()? {
                tags.pop();
            }
        }
        Some(XSalsa20Whole { nonce, .. }) => *nonce = u.arbitrary()?,
        _ => {}
    }
    Ok(())
}

/// A change of bytes, wherever they stand.
fn change_bytes(u: &mut Unstructured<'_>, seed: &Seed, file: &mut Vec<u8>) -> Result<()> {
    let value = number(u, seed)?;
    // Most rules are about the front's own bytes, of which the index's room for more is empty.
    let end = if u.ratio(3, 4)? { file.len().min(2048) } else { file.len() };
    if end == 0 {
        return Ok(());
    }
    let at = u.choose_index(end)?;
    match u.int_in_range(0..=5)? {
        0 => file.truncate(at),
        1 => file.extend_from_slice(&value.to_le_bytes()),
        2 => drop(file.drain(at..end.min(at + 8))),
        3 => file[at] = u.arbitrary()?,
        _ => {
            let width = *u.choose(&[1, 2, 4, 8])?;
            splice(file, at as u64, &value.to_le_bytes()[..width], width as u64);
        }
    }
    Ok(())
}

/// Writes `new` over the `len` bytes at `offset`, where it has that length and they are there.
fn splice(file: &mut [u8], offset: u64, new: &[u8], len: u64) {
    let place =
        usize::try_from(offset).ok().and_then(|at| file.get_mut(at..)?.get_mut(..new.len()));
    if let Some(place) = place.filter(|place| place.len() as u64 == len) {
        place.copy_from_slice(new);
    }
}
