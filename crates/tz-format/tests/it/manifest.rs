//! The files of `fixtures/foreign` and what their manifest says of them. Owns [`Fixture`].

use std::path::PathBuf;

use serde_json::Value;
use tz_format::{Flags, Front, FrontDecoder, Limits, PathKey, Step, TensorEntry, TensorHeader};

/// A file that the reference wrote, or a broken copy of one.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) says: Value,
}

/// Every fixture, read from disk; the folder holds those of the manifest and no other.
pub(crate) fn fixtures() -> Vec<Fixture> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/foreign");
    let manifest = std::fs::read(folder.join("manifest.json")).expect("manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let files = manifest["files"].as_object().expect("files");
    let on_disk = std::fs::read_dir(&folder).expect("folder");
    let mut on_disk: Vec<String> = on_disk
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.ends_with(".tensors"))
        .collect();
    on_disk.sort();
    let mut listed: Vec<&String> = files.keys().collect();
    listed.sort();
    assert_eq!(on_disk.iter().collect::<Vec<_>>(), listed);
    let read = |(name, says): (&String, &Value)| Fixture {
        name: name.clone(),
        bytes: std::fs::read(folder.join(name)).expect("fixture"),
        says: says.clone(),
    };
    files.iter().map(read).collect()
}

impl Fixture {
    pub(crate) fn find(name: &str) -> Self {
        let found = fixtures().into_iter().find(|fixture| fixture.name == name);
        found.unwrap_or_else(|| panic!("no fixture {name}"))
    }

    pub(crate) fn front(&self) -> Front {
        front(&self.bytes)
    }

    /// What the manifest says of each tensor; the broken copies say nothing.
    pub(crate) fn tensors(&self) -> &[Value] {
        self.says["tensors"].as_array().map_or(&[], Vec::as_slice)
    }
}

/// The front of a valid file that is all there.
#[track_caller]
pub(crate) fn front(file: &[u8]) -> Front {
    match FrontDecoder::new(Limits::default()).step(file) {
        Ok(Step::Done(front)) => front,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn header_bytes<'a>(file: &'a [u8], entry: &TensorEntry) -> &'a [u8] {
    &file[at(entry.header_offset)..at(entry.data_offset)]
}

pub(crate) fn data<'a>(file: &'a [u8], entry: &TensorEntry) -> &'a [u8] {
    &file[at(entry.data_offset)..at(entry.data_end())]
}

#[track_caller]
pub(crate) fn header(file: &[u8], entry: &TensorEntry, flags: Flags) -> TensorHeader {
    TensorHeader::decode(header_bytes(file, entry), entry, flags).expect("valid header")
}

/// The path as JSON writes it.
pub(crate) fn path_json(entry: &TensorEntry) -> Value {
    let key = |key: &PathKey| match key {
        PathKey::Name(name) => Value::from(name.as_str()),
        PathKey::Index(index) => Value::from(*index),
    };
    entry.path.keys().iter().map(key).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("64-bit")
}
