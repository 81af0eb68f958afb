//! The crate and the slow decoder of `reference.rs` agree on every file: what is read, and whether it is read at all.

use proptest::prelude::*;
use serde_json::Value;
use tz_format::{
    Cipher, Dtype, FormatError, FrontDecoder, Limits, Step, TensorHash, TensorHeader, TensorKind,
};

use crate::files::generated;
use crate::manifest::{Fixture, fixtures, header_bytes, hex, path_json};
use crate::reference::{Said, SaidTensor, slow};

/// The same through the crate.
fn ours(file: &[u8]) -> Result<Said, FormatError> {
    let Step::Done(front) = FrontDecoder::new(Limits::default()).step(file)? else {
        return Err(FormatError::NotTensors);
    };
    front.check_file_len(file.len() as u64)?;
    let flags = front.header.flags;
    let mut tensors = Vec::new();
    for entry in &front.entries {
        let bytes = header_bytes(file, entry);
        let header = TensorHeader::decode(bytes, entry, flags)?;
        let crypt = header.crypt.clone().unwrap_or_default();
        let cipher = crypt.cipher.map(|cipher| match cipher {
            Cipher::XSalsa20Chunked { chunk_size, nonce, tags } => {
                (2, chunk_size, hex(&nonce), hex(tags.as_flattened()))
            }
            Cipher::XSalsa20Whole { nonce, tag } => (3, 0, hex(&nonce), hex(&tag)),
            Cipher::Sealed { chunk_size, tags } => {
                (0x5a01, chunk_size, String::new(), hex(tags.as_flattened()))
            }
        });
        let big = entry.dtype != Dtype::from(entry.dtype.element());
        let kinds = [TensorKind::Parameter, TensorKind::Buffer, TensorKind::StateDict];
        tensors.push(SaidTensor {
            path: path_json(entry),
            kind: kinds.iter().position(|kind| *kind == entry.kind).expect("kind") as u64,
            dtype: format!("{}{}", if big { ">" } else { "" }, entry.dtype),
            shape: entry.shape.clone(),
            place: [entry.header_offset, entry.data_offset, entry.data_len],
            module_index: header.module_index.into(),
            hashes: header.hashes.iter().map(TensorHash::to_hex).collect(),
            covered: hex(&header.hashed_bytes(bytes)),
            key_derivation: crypt
                .key_derivation
                .map(|kdf| (kdf.opslimit, kdf.memlimit, hex(&kdf.salt))),
            cipher,
        });
    }
    let extension = front.extension;
    Ok(Said {
        version: front.header.version.number().into(),
        flags: [flags.encrypted, flags.versioned_entries, flags.sealed],
        tensors,
        blake3: extension.blake3.map(|digests| hex(digests.as_flattened())),
        writer: extension.writer,
        user_metadata: extension.user_metadata.map(Value::Object),
        key_slots: extension.key_slots.map(|slots| hex(&slots)),
        metadata_mac: extension.metadata_mac.map(|mac| hex(&mac)),
        skipped: extension.unknown.into_iter().map(u64::from).collect(),
    })
}

#[track_caller]
fn agree(file: &[u8]) -> bool {
    let (ours, slow) = (ours(file), slow(file));
    match (&ours, &slow) {
        (Ok(ours), Some(slow)) => assert_eq!(ours, slow),
        (Err(_), None) => {}
        (Err(error), Some(_)) => panic!("only the slow decoder reads it; the crate: {error}"),
        (Ok(_), None) => panic!("only the crate reads it: {ours:?}"),
    }
    ours.is_ok()
}

#[test]
fn agrees_on_files_of_the_reference() {
    for Fixture { name, bytes, .. } in fixtures() {
        assert_eq!(agree(&bytes), name != "truncated_data.tensors", "{name}");
    }
}

/// Sound or tampered with, they are files to a decoder that holds no key.
#[test]
fn agrees_on_sealed_files() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/sealed");
    let files =
        std::fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path());
    let mut seen = 0;
    for path in files.filter(|path| path.extension().is_some_and(|end| end == "tensors")) {
        agree(&std::fs::read(path).expect("fixture"));
        seen += 1;
    }
    assert!(seen > 5, "{seen} files");
}

#[test]
fn agrees_on_files_of_every_kind() {
    for (name, bytes) in generated() {
        assert!(agree(&bytes), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// A byte or two changed anywhere before the last tensor's data: both read it, or neither does.
    #[test]
    fn agrees_on_damaged_files(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..3),
    ) {
        let files = generated();
        let (_, mut bytes) = which.get(&files).clone();
        for (place, value, flip) in edits {
            let byte = place.index(bytes.len());
            bytes[byte] = if flip { bytes[byte] ^ (1 << (value % 8)) } else { value };
        }
        agree(&bytes);
    }
}
