//! The extension block after the index entries, where the reference never looks. Owns [`Extension`].

use crate::error::{Fault, FormatError};
use crate::frozen::{
    EXT_BLAKE3, EXT_CRITICAL, EXT_KEY_SLOTS, EXT_METADATA_MAC, EXT_USER_METADATA, EXT_WRITER,
    EXTENSION_MAGIC,
};
use crate::limits::Limits;
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
    /// Offset of the MAC's bytes from the start of the block.
    pub(crate) mac_at: Option<usize>,
    /// Offset of the key slots' bytes from the start of the block.
    pub(crate) key_slots_at: Option<usize>,
}

impl Extension {
    /// Whether there is anything to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.blake3.is_none()
            && self.writer.is_none()
            && self.user_metadata.is_none()
            && self.key_slots.is_none()
            && self.metadata_mac.is_none()
    }

    /// Reads the block from the bytes after the last index entry; without the block's magic there is none.
    pub(crate) fn read(
        mut r: Reader<'_>,
        tensors: usize,
        limits: &Limits,
    ) -> Result<Self, FormatError> {
        let mut extension = Self::default();
        if !r.rest().starts_with(EXTENSION_MAGIC) {
            return Ok(extension);
        }
        let start = r.pos();
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
        let body_at = r.pos() - start;
        let mut block = r.sub(len.into(), "extension block")?;
        while !block.rest().is_empty() {
            let offset = block.offset();
            let kind = block.u16("extension record type")?;
            let len = block.u32("extension record length")?;
            let at = body_at + block.pos();
            let body = block.bytes(len.into(), "extension record")?;
            extension.record(kind, body, at, offset, tensors, limits)?;
        }
        Ok(extension)
    }

    fn record(
        &mut self,
        kind: u16,
        body: &[u8],
        at: usize,
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
                if body.len() as u64 > limits.user_metadata_len {
                    return Err(FormatError::LimitExceeded {
                        what: "user metadata length",
                        value: body.len() as u64,
                        limit: limits.user_metadata_len,
                        offset,
                    });
                }
                let map = serde_json::from_slice(body)
                    .map_err(|_| bad("user metadata is not a JSON object"))?;
                self.user_metadata.replace(map).is_some()
            }
            EXT_KEY_SLOTS => {
                self.key_slots_at = Some(at);
                self.key_slots.replace(body.to_vec()).is_some()
            }
            EXT_METADATA_MAC => {
                let mac = body
                    .try_into()
                    .map_err(|_| bad("metadata MAC is not 32 bytes"))?;
                self.mac_at = Some(at);
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
        if twice {
            Err(bad("stands twice"))
        } else {
            Ok(())
        }
    }

    /// The block's bytes; none where there is nothing to say. The MAC stands last.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let user_metadata = self.user_metadata.as_ref().map(|map| {
            // A map of JSON values always has a JSON form.
            serde_json::to_vec(map).unwrap_or_default()
        });
        let records = [
            (
                EXT_BLAKE3,
                self.blake3.as_ref().map(|digests| digests.as_flattened()),
            ),
            (
                EXT_WRITER,
                self.writer.as_ref().map(|writer| writer.as_bytes()),
            ),
            (EXT_USER_METADATA, user_metadata.as_deref()),
            (EXT_KEY_SLOTS, self.key_slots.as_deref()),
            (
                EXT_METADATA_MAC,
                self.metadata_mac.as_ref().map(|mac| mac.as_slice()),
            ),
        ];
        let mut body = Writer::default();
        for (kind, record) in records {
            if let Some(record) = record {
                body.u16(kind);
                body.u32(u32::try_from(record.len()).unwrap_or(u32::MAX));
                body.bytes(record);
            }
        }
        let mut w = Writer::with_capacity(body.len() + 12);
        w.bytes(EXTENSION_MAGIC);
        w.u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        w.bytes(&body.into_bytes());
        w.into_bytes()
    }
}
