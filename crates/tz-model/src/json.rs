//! Reads JSON objects that must not name a key twice. Owns [`UniqueMap`] and bounded reading of JSON files.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{Error, Fault};

/// Entries of a JSON object in their order, duplicates included: the caller names the offender.
pub(crate) struct UniqueMap<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

struct Entries<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let value =
                map.next_value().map_err(|error| A::Error::custom(format!("{key:?}: {error}")))?;
            entries.push((key, value));
        }
        Ok(UniqueMap(entries))
    }
}

/// Parses JSON of `path`.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::malformed(path, Fault::NotUtf8))?;
    serde_json::from_str(text)
        .map_err(|error| Error::malformed(path, Fault::Json(error.to_string())))
}

/// Reads a small file whole; one over `limit` bytes is refused before memory is taken for it.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(path, "read", error))?;
    let len = bytes.len() as u64;
    if len > limit {
        return Err(Error::malformed(path, Fault::HeaderTooLong { len, limit }));
    }
    Ok(bytes)
}
