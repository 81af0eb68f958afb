//! Files of the reference give what their manifest says, byte for byte and hash for hash.

use serde_json::Value;
use sha2::{Digest, Sha256};
use tz_format::{
    Cipher, CryptInfo, Fault, FormatError, HashKind, Malformed, TensorHash, TensorKind, testing,
};

use crate::manifest::{Fixture, data, fixtures, front, header, header_bytes, hex, path_json};

/// The one tensor that the reference writes wrongly: it is not marked as meta, and its hashes cover other bytes.
const META_SCALAR: (&str, &str) = ("v4_meta.tensors", "meta_scalar");

fn kind_name(kind: TensorKind) -> &'static str {
    match kind {
        TensorKind::Parameter => "param",
        TensorKind::Buffer => "buffer",
        TensorKind::StateDict => "state_dict",
    }
}

#[test]
fn f01_every_file_of_the_reference_gives_its_manifest() {
    let mut tensors = 0;
    for fixture in fixtures() {
        let Some(version) = fixture.says["data_version"].as_u64() else {
            continue;
        };
        let (front, name) = (fixture.front(), &fixture.name);
        let stated = fixture.says["feature_flags"].as_u64();
        let flags = u64::from_le_bytes(*fixture.bytes[9..41].first_chunk().expect("flags"));
        assert_eq!(Some(flags), stated, "{name}");
        assert_eq!(u64::from(front.header.version.number()), version, "{name}");
        assert_eq!(front.header.flags.encrypted, fixture.says.get("key_hex").is_some(), "{name}");
        assert_eq!(front.header.flags.versioned_entries, flags & 2 != 0, "{name}");
        assert_eq!(Some(front.header.tensor_bytes), fixture.says["tensor_size"].as_u64(), "{name}");
        assert_eq!(Some(front.header.index_len), fixture.says["metadata_size"].as_u64(), "{name}");
        assert_eq!(
            Some(front.entries.len() as u64),
            fixture.says["tensor_count"].as_u64(),
            "{name}"
        );
        front.check_file_len(fixture.bytes.len() as u64).expect(name);
        for (entry, says) in front.entries.iter().zip(fixture.tensors()) {
            let what = format!("{name}: {}", entry.path);
            assert_eq!(path_json(entry), says["path"], "{what}");
            assert_eq!(says["kind"], kind_name(entry.kind), "{what}");
            assert_eq!(says["dtype"], entry.dtype.name(), "{what}");
            assert_eq!(says["shape"], Value::from(entry.shape.clone()), "{what}");
            assert_eq!(says["nbytes"], entry.byte_len(), "{what}");
            let is_meta =
                says["meta"] == true && (name.as_str(), &*entry.path.to_string()) != META_SCALAR;
            assert_eq!(entry.is_meta(), is_meta && entry.byte_len() > 0, "{what}");
            assert_eq!(entry.data_len, if is_meta { 0 } else { entry.byte_len() }, "{what}");
            let decoded = header(&fixture.bytes, entry, front.header.flags);
            // Modules number their tensors; the manifest says so only where a test chose the number.
            let module_index = says.get("module_idx").and_then(Value::as_u64);
            if module_index.is_some() || entry.kind == TensorKind::StateDict {
                let module_index = module_index.unwrap_or(0);
                assert_eq!(u64::from(decoded.module_index), module_index, "{what}");
            }
            tensors += 1;
        }
    }
    assert_eq!(tensors, 129, "every tensor of the manifest was looked at");
}

/// Names of the tensors of which a hash is wrong, once for each wrong hash.
fn mismatches(fixture: &Fixture) -> Vec<(String, HashKind)> {
    let front = fixture.front();
    let mut wrong = Vec::new();
    for entry in &front.entries {
        let decoded = header(&fixture.bytes, entry, front.header.flags);
        let mut covered = decoded.hashed_bytes(header_bytes(&fixture.bytes, entry));
        covered.extend_from_slice(data(&fixture.bytes, entry));
        for hash in &decoded.hashes {
            let found = match hash {
                TensorHash::Crc32(_) => TensorHash::Crc32(crc32fast::hash(&covered)),
                TensorHash::Sha256(_) => TensorHash::Sha256(Sha256::digest(&covered).into()),
            };
            if found != *hash {
                wrong.push((entry.path.to_string(), hash.kind()));
            }
        }
        assert!(!decoded.hashes.is_empty(), "{}: {}", fixture.name, entry.path);
    }
    wrong
}

#[test]
fn f02_hashes_cover_header_and_data() {
    for fixture in fixtures() {
        let wrong = match fixture.name.as_str() {
            "bad_hash.tensors" => vec!["complex128"],
            "v4_meta.tensors" => vec!["meta_scalar"],
            "truncated_data.tensors" => continue,
            _ if fixture.says.get("key_hex").is_some() => continue,
            _ => Vec::new(),
        };
        let wrong: Vec<_> = wrong
            .into_iter()
            .flat_map(|name| {
                [HashKind::Crc32, HashKind::Sha256].map(|kind| (name.to_owned(), kind))
            })
            .collect();
        assert_eq!(mismatches(&fixture), wrong, "{}", fixture.name);
    }
}

#[test]
fn plaintext_is_what_the_manifest_digests() {
    for fixture in fixtures() {
        if fixture.says.get("key_hex").is_some() {
            continue;
        }
        for (entry, says) in fixture.front().entries.iter().zip(fixture.tensors()) {
            let mut bytes = data(&fixture.bytes, entry).to_vec();
            if entry.is_meta() {
                bytes = vec![0; usize::try_from(entry.byte_len()).expect("small")];
            }
            let digest = hex(&Sha256::digest(&bytes));
            assert_eq!(says["sha256"], digest, "{}: {}", fixture.name, entry.path);
        }
    }
}

#[test]
fn truncated_file_names_the_tensor() {
    let fixture = Fixture::find("truncated_data.tensors");
    let front = fixture.front();
    let file_len = fixture.bytes.len() as u64;
    let last = front.entries.last().expect("entries");
    assert_eq!(
        front.check_file_len(file_len),
        Err(FormatError::Malformed(Malformed {
            field: "data",
            offset: last.data_offset,
            tensor: Some("complex128".to_owned()),
            fault: Fault::OutOfFile { end: last.data_end(), file_len },
        }))
    );
    assert_eq!(front.check_file_len(last.data_end()), Ok(()));
}

#[test]
fn f03_crypt_blocks_of_the_reference() {
    let mut seen = Vec::new();
    for fixture in fixtures() {
        let front = fixture.front();
        if !front.header.flags.encrypted {
            continue;
        }
        for entry in &front.entries {
            let what = format!("{}: {}", fixture.name, entry.path);
            let decoded = header(&fixture.bytes, entry, front.header.flags);
            let crypt = decoded.crypt.clone().expect(&what);
            if entry.data_len == 0 {
                assert_eq!(crypt, CryptInfo::default(), "{what}");
                continue;
            }
            let kdf = crypt.key_derivation.map(|kdf| (kdf.opslimit, kdf.memlimit, hex(&kdf.salt)));
            let says = fixture.says.get("opslimit").map(|opslimit| {
                let memlimit = fixture.says["memlimit"].as_u64().expect("memlimit");
                let salt = fixture.says["salt_hex"].as_str().expect("salt");
                (opslimit.as_u64().expect("opslimit"), memlimit, salt.to_owned())
            });
            assert_eq!(kdf, says, "{what}");
            let Some(Cipher::XSalsa20Chunked { chunk_size, tags, .. }) = crypt.cipher else {
                panic!("{what}: {:?}", crypt.cipher);
            };
            assert_eq!(tags.len() as u64, entry.data_len.div_ceil(chunk_size), "{what}");
            // The reference keeps a SHA-256 of the plaintext, and no CRC-32, beside a ciphertext.
            let kinds: Vec<_> = decoded.hashes.iter().map(TensorHash::kind).collect();
            assert_eq!(kinds, [HashKind::Sha256], "{what}");
            seen.push((chunk_size, tags.len()));
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [(2 << 20, 1), (2 << 20, 3)]);
}

#[test]
fn f04_decoded_files_are_written_back_byte_for_byte() {
    for fixture in fixtures() {
        let front = front(&fixture.bytes);
        let written = testing::encode_front(&front);
        assert!(fixture.bytes.starts_with(&written), "{}", fixture.name);
        for entry in &front.entries {
            let bytes = header_bytes(&fixture.bytes, entry);
            let decoded = header(&fixture.bytes, entry, front.header.flags);
            let written = testing::encode_header(&decoded, entry).expect("room");
            assert_eq!(written, bytes, "{}: {}", fixture.name, entry.path);
        }
    }
}
