//! The extension block after the index entries, where the reference never looks. Owns [`Extension`].

use crate::error::{Fault, FormatError, Unwritable};
use crate::frozen::{
    EXT_BLAKE3, EXT_CRITICAL, EXT_KEY_SLOTS, EXT_METADATA_MAC, EXT_USER_METADATA,
    EXT_USER_METADATA_MAX, EXT_USER_METADATA_VALUES_MAX, EXT_WRITER, EXTENSION_MAGIC,
};
use crate::limits::Limits;
use crate::version::Profile;
use crate::wire::{Reader, Writer};

/// BLAKE3 digest of a tensor's stored bytes.
pub type Digest = [u8; 32];

/// What our own files say beyond the reference's format. Every part is optional.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Extension {
    /// One digest per tensor in index order, over the stored data; compat profile only.
    pub blake3: Option<Vec<Digest>>,
    /// Name and version of the program that wrote the file.
    pub writer: Option<String>,
    /// The user's own metadata.
    pub user_metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Salt and key slots, as `tz-crypto` reads them; sealed profile.
    pub key_slots: Option<Vec<u8>>,
    /// Keyed BLAKE3 over the front of the file with these bytes zeroed; sealed profile.
    pub metadata_mac: Option<Digest>,
    /// Types of records that this crate does not know and may skip.
    pub unknown: Vec<u16>,
}

/// Offsets from the start of the file of the records that are changed or checked in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) metadata_mac: Option<u64>,
    pub(crate) key_slots: Option<u64>,
}

impl Extension {
    /// Whether a file of `profile` may have these records, and has those that it must.
    pub(crate) fn fits(&self, profile: Profile) -> bool {
        let (slots, mac) = (self.key_slots.is_some(), self.metadata_mac.is_some());
        match profile {
            Profile::Sealed => slots && mac && self.blake3.is_none(),
            Profile::Compat => !slots && !mac,
        }
    }

    /// Refuses to write what a reader would not take for a file of `tensors` tensors.
    pub(crate) fn check(&self, tensors: usize, profile: Profile) -> Result<(), Unwritable> {
        let digests_fit = |digests: &Vec<Digest>| digests.len() == tensors;
        let json = self.user_metadata_json();
        let len: usize = self.records(&json).map(|(_, record)| record.len()).sum();
        let why = if !self.fits(profile) {
            "extension: key slots and metadata MAC in every sealed file and no other, BLAKE3 digests in no sealed one"
        } else if !self.blake3.as_ref().is_none_or(digests_fit) {
            "extension: one BLAKE3 digest per tensor"
        } else if json.len() as u64 > EXT_USER_METADATA_MAX {
            "extension: at most 1 MiB of user metadata"
        } else if count_values(&json) > EXT_USER_METADATA_VALUES_MAX {
            "extension: at most 16,384 values of user metadata"
        } else if self.user_metadata.is_some() && parse_object(&json).is_none() {
            "extension: user metadata nested at most 127 deep"
        } else if (len + 64) as u64 > Limits::default().extension_len {
            "extension: at most 128 MiB in all"
        } else {
            return Ok(());
        };
        Err(Unwritable::Option(why))
    }

    fn user_metadata_json(&self) -> Vec<u8> {
        // A map of JSON values always has a JSON form.
        let json = |map| serde_json::to_vec(map).unwrap_or_default();
        self.user_metadata.as_ref().map(json).unwrap_or_default()
    }

    /// Reads the block from the bytes after the last index entry; without the block's magic there is none.
    pub(crate) fn read(
        mut r: Reader<'_>,
        tensors: usize,
        limits: &Limits,
    ) -> Result<(Self, Places), FormatError> {
        let (mut extension, mut places) = (Self::default(), Places::default());
        if !r.rest().starts_with(EXTENSION_MAGIC) {
            return Ok((extension, places));
        }
        r.bytes(EXTENSION_MAGIC.len() as u64, "extension magic")?;
        let offset = r.offset();
        let len = r.u32("extension length")?;
        if u64::from(len) > limits.extension_len {
            return Err(FormatError::LimitExceeded {
                what: "extension length",
                value: len.into(),
                limit: limits.extension_len,
                offset,
            });
        }
        let mut block = r.sub(len.into(), "extension block")?;
        while !block.rest().is_empty() {
            let offset = block.offset();
            let kind = block.u16("extension record type")?;
            let len = block.u32("extension record length")?;
            let body_at = block.offset();
            let body = block.bytes(len.into(), "extension record")?;
            match kind {
                EXT_METADATA_MAC => places.metadata_mac = Some(body_at),
                EXT_KEY_SLOTS => places.key_slots = Some(body_at),
                _ => {}
            }
            extension.record(kind, body, offset, tensors, limits)?;
        }
        Ok((extension, places))
    }

    fn record(
        &mut self,
        kind: u16,
        body: &[u8],
        offset: u64,
        tensors: usize,
        limits: &Limits,
    ) -> Result<(), FormatError> {
        let bad =
            |why| FormatError::malformed("extension record", offset, Fault::BadExtension(why));
        let twice = match kind {
            EXT_BLAKE3 => {
                let (digests, rest) = body.as_chunks::<32>();
                if !rest.is_empty() || digests.len() != tensors {
                    return Err(bad("not one digest per tensor"));
                }
                self.blake3.replace(digests.to_vec()).is_some()
            }
            EXT_WRITER => {
                let text = std::str::from_utf8(body).map_err(|_| bad("writer is not UTF-8"))?;
                self.writer.replace(text.to_owned()).is_some()
            }
            EXT_USER_METADATA => {
                let within = |what, value, limit| {
                    if value <= limit {
                        return Ok(());
                    }
                    Err(FormatError::LimitExceeded { what, value, limit, offset })
                };
                let len = body.len() as u64;
                within("user metadata length", len, limits.user_metadata_len)?;
                let values = count_values(body);
                within("user metadata values", values, limits.user_metadata_values)?;
                let map =
                    parse_object(body).ok_or_else(|| bad("user metadata is not a JSON object"))?;
                self.user_metadata.replace(map).is_some()
            }
            EXT_KEY_SLOTS => self.key_slots.replace(body.to_vec()).is_some(),
            EXT_METADATA_MAC => {
                let mac = body.try_into().map_err(|_| bad("metadata MAC is not 32 bytes"))?;
                self.metadata_mac.replace(mac).is_some()
            }
            _ if kind & EXT_CRITICAL != 0 => {
                return Err(FormatError::UnsupportedExtension { kind });
            }
            _ => {
                self.unknown.push(kind);
                false
            }
        };
        if twice { Err(bad("stands twice")) } else { Ok(()) }
    }

    /// What is to be written, by record type; `user_metadata` is its JSON form. The MAC stands last.
    fn records<'a>(&'a self, user_metadata: &'a [u8]) -> impl Iterator<Item = (u16, &'a [u8])> {
        let digests = self.blake3.as_ref().map(|digests| digests.as_flattened());
        let has_metadata = self.user_metadata.is_some();
        [
            (EXT_BLAKE3, digests),
            (EXT_WRITER, self.writer.as_deref().map(str::as_bytes)),
            (EXT_USER_METADATA, has_metadata.then_some(user_metadata)),
            (EXT_KEY_SLOTS, self.key_slots.as_deref()),
            (EXT_METADATA_MAC, self.metadata_mac.as_ref().map(<[u8; 32]>::as_slice)),
        ]
        .into_iter()
        .filter_map(|(kind, record)| Some((kind, record?)))
    }

    /// The block's bytes; none where there is nothing to say.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let user_metadata = self.user_metadata_json();
        let len: usize = self.records(&user_metadata).map(|(_, record)| 6 + record.len()).sum();
        if len == 0 {
            return Vec::new();
        }
        let mut w = Writer::with_capacity(len + EXTENSION_MAGIC.len() + 4);
        w.bytes(EXTENSION_MAGIC);
        // `check` has bounded the sum, so both casts fit.
        w.u32(u32::try_from(len).unwrap_or(u32::MAX));
        for (kind, record) in self.records(&user_metadata) {
            w.u16(kind);
            w.u32(u32::try_from(record.len()).unwrap_or(u32::MAX));
            w.bytes(record);
        }
        w.into_bytes()
    }
}

/// The parser gives up on values nested more than 127 deep, so that it cannot run out of stack.
fn parse_object(json: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_slice(json).ok()
}

/// Values in JSON text, by its commas and opening brackets: known before any of them takes memory.
fn count_values(json: &[u8]) -> u64 {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}
