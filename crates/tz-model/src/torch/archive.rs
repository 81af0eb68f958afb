//! The zip archive around a PyTorch checkpoint. Owns its directory: where each stored entry's bytes stand.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Fault, Place};

const END_LEN: u64 = 22;
const END_MAGIC: u32 = 0x0605_4b50;
const LONG_END_LOCATOR_LEN: u64 = 20;
const LONG_END_LOCATOR_MAGIC: u32 = 0x0706_4b50;
const LONG_END_LEN: usize = 56;
const LONG_END_MAGIC: u32 = 0x0606_4b50;
const ENTRY_LEN: usize = 46;
const ENTRY_MAGIC: u32 = 0x0201_4b50;
const LOCAL_LEN: usize = 30;
const LOCAL_MAGIC: u32 = 0x0403_4b50;
const LONG_FIELDS: u16 = 1;
const ENCRYPTED: u16 = 1;
const STORED: u16 = 0;

/// The end record is followed by a comment of at most this length.
const MAX_COMMENT_LEN: u64 = 0xffff;

/// Longest directory that is read: a checkpoint has an entry of about a hundred bytes per tensor.
const MAX_DIRECTORY_LEN: u64 = 64 << 20;

/// Bytes of an entry that is stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) offset: u64,
    pub(super) len: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    flags: u16,
    method: u16,
    stored_len: u64,
    len: u64,
    header_offset: u64,
}

/// The directory of a PyTorch archive. Names are without the archive's own folder.
#[derive(Debug)]
pub(super) struct Archive {
    folder: String,
    entries: BTreeMap<String, Entry>,
    directory_offset: u64,
}

/// Reads little-endian fields one after the other; what is missing is a fault at this place.
struct Fields<'a> {
    bytes: &'a [u8],
    offset: u64,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or_else(|| bad(self.offset, "a record is cut short"))?;
        self.bytes = rest;
        self.offset = self.offset.saturating_add(len as u64);
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<u64, Fault> {
        let mut wide = [0; 8];
        for (to, from) in wide.iter_mut().zip(self.take(N)?) {
            *to = *from;
        }
        Ok(u64::from_le_bytes(wide))
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        self.number::<2>().map(|value| u16::try_from(value).unwrap_or(0))
    }

    fn len16(&mut self) -> Result<usize, Fault> {
        self.u16().map(usize::from)
    }

    fn magic(&mut self, magic: u32, why: &'static str) -> Result<(), Fault> {
        let offset = self.offset;
        if self.number::<4>()? == u64::from(magic) { Ok(()) } else { Err(bad(offset, why)) }
    }
}

fn bad(offset: u64, why: &'static str) -> Fault {
    Fault::Zip { offset, why }
}

/// Where the directory stands.
struct End {
    directory_offset: u64,
    directory_len: u64,
    entries: u64,
}

impl Archive {
    /// Reads the directory of a file of `len` bytes.
    pub(super) fn read(path: &Path, file: &File, len: u64) -> Result<Self, Error> {
        let malformed = |fault| Error::malformed(path, fault);
        let read = |offset: u64, len: u64| {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, offset)
                .map_err(|error| Error::io(path, "read", error))?;
            Ok::<_, Error>(bytes)
        };
        let tail_len = len.min(END_LEN + MAX_COMMENT_LEN + LONG_END_LOCATOR_LEN);
        let tail_offset = len - tail_len;
        let tail = read(tail_offset, tail_len)?;
        let (mut end, locator) = find_end(&tail, tail_offset).map_err(malformed)?;
        if let Some(offset) = locator {
            let room = len.checked_sub(LONG_END_LEN as u64);
            if room.is_none_or(|room| offset > room) {
                return Err(malformed(bad(offset, "the zip64 end record is beyond the file")));
            }
            end = long_end(&read(offset, LONG_END_LEN as u64)?, offset).map_err(malformed)?;
        }
        let limit = MAX_DIRECTORY_LEN;
        if end.directory_len > limit {
            return Err(malformed(Fault::HeaderTooLong { len: end.directory_len, limit }));
        }
        let directory_end = end.directory_offset.checked_add(end.directory_len);
        if directory_end.is_none_or(|at| at > len) {
            let offset = end.directory_offset;
            return Err(malformed(bad(offset, "the directory is beyond the file")));
        }
        let directory = read(end.directory_offset, end.directory_len)?;
        Self::parse(&directory, &end).map_err(malformed)
    }

    fn parse(directory: &[u8], end: &End) -> Result<Self, Fault> {
        let mut fields = Fields { bytes: directory, offset: end.directory_offset };
        let mut names = BTreeMap::new();
        for _ in 0..end.entries {
            let at = fields.offset;
            let (name, entry) = directory_entry(&mut fields)?;
            if names.insert(name, entry).is_some() {
                return Err(bad(at, "a name stands twice"));
            }
        }
        let mut roots = names.keys().filter_map(|name| {
            let folder = name.strip_suffix("/data.pkl")?;
            (!folder.contains('/')).then(|| folder.to_owned())
        });
        let (Some(folder), None) = (roots.next(), roots.next()) else {
            return Err(Fault::NotTorch);
        };
        let prefix = format!("{folder}/");
        let entries = names
            .into_iter()
            .filter_map(|(name, entry)| Some((name.strip_prefix(&prefix)?.to_owned(), entry)))
            .collect();
        Ok(Self { folder, entries, directory_offset: end.directory_offset })
    }

    /// Whether there is an entry of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Where the bytes of an entry stand. Reads its local header, whose length only it knows.
    pub(super) fn stored(&self, path: &Path, file: &File, name: &str) -> Result<Stored, Error> {
        let malformed = |fault| Error::malformed(path, fault);
        let missing = || malformed(Fault::MissingEntry(format!("{}/{name}", self.folder)));
        let entry = self.entries.get(name).ok_or_else(missing)?;
        if entry.flags & ENCRYPTED != 0 || entry.method != STORED || entry.stored_len != entry.len {
            return Err(Error::Unsupported {
                place: Place::from(path),
                what: format!("the compressed or encrypted archive entry {name:?}"),
            });
        }
        let at = entry.header_offset;
        let room = self.directory_offset.checked_sub(LOCAL_LEN as u64);
        if room.is_none_or(|room| at > room) {
            return Err(malformed(bad(at, "an entry is beyond the directory")));
        }
        let mut header = [0; LOCAL_LEN];
        file.read_exact_at(&mut header, at).map_err(|error| Error::io(path, "read", error))?;
        let header_len = local_header(&header, at).map_err(malformed)?;
        let offset = at.saturating_add(header_len);
        let end = offset.checked_add(entry.len);
        if end.is_none_or(|end| end > self.directory_offset) {
            return Err(malformed(bad(at, "an entry runs into the directory")));
        }
        Ok(Stored { offset, len: entry.len })
    }
}

/// Finds the end record from the back, and the place of the zip64 one where there is one.
fn find_end(tail: &[u8], tail_offset: u64) -> Result<(End, Option<u64>), Fault> {
    let magic = END_MAGIC.to_le_bytes();
    let last = tail.len().checked_sub(22);
    let found = last.and_then(|last| {
        (0..=last).rev().find(|&at| {
            let record = tail.get(at..).unwrap_or_default();
            let comment = record.get(20..22).unwrap_or_default();
            record.starts_with(&magic)
                && <[u8; 2]>::try_from(comment)
                    .is_ok_and(|len| usize::from(u16::from_le_bytes(len)) + 22 == record.len())
        })
    });
    let Some(at) = found else {
        return Err(bad(tail_offset, "there is no end record: the file is truncated"));
    };
    let offset = tail_offset + at as u64;
    let mut fields = Fields { bytes: tail.get(at + 4..).unwrap_or_default(), offset: offset + 4 };
    let disks = (fields.u16()?, fields.u16()?);
    let entries = (fields.number::<2>()?, fields.number::<2>()?);
    let directory_len = fields.number::<4>()?;
    let directory_offset = fields.number::<4>()?;
    let end = End { directory_offset, directory_len, entries: entries.1 };
    let before = at.checked_sub(20).and_then(|from| tail.get(from..at));
    let mut locator = Fields {
        bytes: before.unwrap_or_default(),
        offset: offset.saturating_sub(LONG_END_LOCATOR_LEN),
    };
    let magic = LONG_END_LOCATOR_MAGIC.to_le_bytes();
    if locator.bytes.starts_with(&magic) {
        locator.take(8)?;
        return Ok((end, Some(locator.number::<8>()?)));
    }
    if disks != (0, 0) || entries.0 != entries.1 {
        return Err(bad(offset, "the archive is split over several files"));
    }
    Ok((end, None))
}

fn long_end(record: &[u8], offset: u64) -> Result<End, Fault> {
    let mut fields = Fields { bytes: record, offset };
    fields.magic(LONG_END_MAGIC, "there is no zip64 end record where one should be")?;
    fields.take(12)?;
    let disks = (fields.number::<4>()?, fields.number::<4>()?);
    let entries = (fields.number::<8>()?, fields.number::<8>()?);
    if disks != (0, 0) || entries.0 != entries.1 {
        return Err(bad(offset, "the archive is split over several files"));
    }
    Ok(End {
        entries: entries.1,
        directory_len: fields.number::<8>()?,
        directory_offset: fields.number::<8>()?,
    })
}

fn directory_entry(fields: &mut Fields<'_>) -> Result<(String, Entry), Fault> {
    let at = fields.offset;
    fields.magic(ENTRY_MAGIC, "a directory entry does not begin as one")?;
    fields.take(4)?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.take(8)?;
    let mut stored_len = fields.number::<4>()?;
    let mut len = fields.number::<4>()?;
    let (name_len, extra_len, comment_len) = (fields.len16()?, fields.len16()?, fields.len16()?);
    fields.take(8)?;
    let mut header_offset = fields.number::<4>()?;
    debug_assert_eq!(fields.offset - at, ENTRY_LEN as u64);
    let name = std::str::from_utf8(fields.take(name_len)?).map_err(|_| Fault::NotUtf8)?;
    let mut extra = Fields { offset: fields.offset, bytes: fields.take(extra_len)? };
    fields.take(comment_len)?;
    while extra.bytes.len() >= 4 {
        let (kind, len_of_field) = (extra.u16()?, extra.len16()?);
        let mut field = Fields { offset: extra.offset, bytes: extra.take(len_of_field)? };
        if kind == LONG_FIELDS {
            // Only what did not fit above stands here, in this order.
            for value in [&mut len, &mut stored_len, &mut header_offset] {
                if *value == u64::from(u32::MAX) {
                    *value = field.number::<8>()?;
                }
            }
        }
    }
    let entry = Entry { flags, method, stored_len, len, header_offset };
    Ok((name.to_owned(), entry))
}

/// Length of a local header with its name and extra field.
fn local_header(header: &[u8], offset: u64) -> Result<u64, Fault> {
    let mut fields = Fields { bytes: header, offset };
    fields.magic(LOCAL_MAGIC, "an entry does not begin as one")?;
    fields.take(22)?;
    Ok(LOCAL_LEN as u64 + fields.number::<2>()? + fields.number::<2>()?)
}
