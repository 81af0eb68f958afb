//! Files that were written before: the reference's, and our own published vectors.

use std::collections::BTreeSet;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tz_crypto::testing::{Expect, OpenedTensor, open_file, vectors};
use tz_crypto::{CryptoError, ErrorClass, Key, Needs, Secret};

use crate::support::{fixtures, from_hex, hex, manifest, pass, refusal, secret, text, unopened};

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The encrypted files of the reference: file name, bytes, its entry in the manifest.
fn foreign() -> Vec<(String, Vec<u8>, Value)> {
    let manifest = manifest("foreign");
    let files = manifest["files"].as_object().unwrap();
    let encrypted = files.iter().filter(|(_, entry)| entry.get("encryption").is_some());
    let found: Vec<_> = encrypted
        .map(|(name, entry)| {
            let bytes = std::fs::read(fixtures("foreign").join(name)).unwrap();
            (name.clone(), bytes, entry.clone())
        })
        .collect();
    assert_eq!(found.len(), 5);
    found
}

fn raw_key(entry: &Value) -> Secret {
    Secret::Key(Key::from_bytes(&from_hex(text(&entry["key_hex"]))).unwrap())
}

/// Plaintext as a user gets it: a meta tensor is zeros.
fn plain(tensor: OpenedTensor) -> Vec<u8> {
    let data = tensor.data.unwrap();
    if tensor.entry.is_meta() {
        vec![0; usize::try_from(tensor.entry.byte_len()).unwrap()]
    } else {
        data
    }
}

#[track_caller]
fn check_foreign(name: &str, file: &[u8], entry: &Value, secrets: &[Secret]) {
    let opened = open_file(file, secrets).unwrap();
    let tensors = entry["tensors"].as_array().unwrap();
    assert_eq!(opened.len(), tensors.len(), "{name}");
    for (tensor, expect) in opened.into_iter().zip(tensors) {
        assert_eq!(digest(&plain(tensor)), text(&expect["sha256"]), "{name}: {expect}");
    }
}

#[test]
fn e08_files_of_the_reference_open_with_their_key() {
    for (name, file, entry) in foreign() {
        check_foreign(&name, &file, &entry, &[raw_key(&entry)]);
        check_foreign(&name, &file, &entry, &[secret(1), raw_key(&entry), pass("no")]);
    }
}

#[test]
fn e08_files_of_the_reference_open_with_their_passphrase() {
    let mut passphrases = 0;
    for (name, file, entry) in foreign() {
        if let Some(passphrase) = entry.get("password") {
            check_foreign(&name, &file, &entry, &[pass(text(passphrase))]);
            passphrases += 1;
        }
    }
    assert_eq!(passphrases, 2);
}

#[test]
fn e02_wrong_secrets_open_no_tensor_of_the_reference() {
    for (name, file, entry) in foreign() {
        let wrong = if entry.get("password").is_some() {
            vec![pass("correct horse"), secret(9)]
        } else {
            vec![secret(9)]
        };
        let opened = open_file(&file, &wrong).unwrap();
        for tensor in opened.into_iter().filter(|tensor| tensor.entry.data_len > 0) {
            assert_eq!(tensor.data, Err(CryptoError::Open), "{name}");
        }
    }
}

#[test]
fn e03_a_missing_secret_is_named() {
    for (name, file, entry) in foreign() {
        let missing = |needs| CryptoError::KeyMissing { needs };
        assert_eq!(refusal(&file, &[]), missing(Needs::Either), "{name}");
        let (other, needs) = if entry.get("password").is_some() {
            continue; // A raw key is tried on a passphrase file: it may be the derived one.
        } else {
            (pass("a passphrase"), Needs::Key)
        };
        let opened = open_file(&file, &[other]).unwrap();
        for tensor in opened.into_iter().filter(|tensor| tensor.entry.data_len > 0) {
            assert_eq!(tensor.data, Err(missing(needs)), "{name}");
        }
    }
}

#[test]
fn e21_a_plain_file_is_refused_when_a_key_is_given() {
    for name in ["v1_shapes.tensors", "v4_meta.tensors"] {
        let file = std::fs::read(fixtures("foreign").join(name)).unwrap();
        let error = refusal(&file, &[secret(1)]);
        assert_eq!(error, CryptoError::NotEncrypted);
        assert_eq!(error.class(), ErrorClass::Key);
    }
}

#[test]
fn e23_published_vectors_are_what_the_builder_makes() {
    for vector in vectors().unwrap() {
        let published = fixtures("sealed").join(format!("{}.tensors", vector.name));
        let published = std::fs::read(published).unwrap();
        assert!(published == vector.file, "{} changed: give a new case a new name", vector.name);
    }
}

#[test]
fn e23_published_vectors_give_their_verdict() {
    let manifest = manifest("sealed");
    let files = manifest.as_object().unwrap();
    for (name, entry) in files {
        let file = std::fs::read(fixtures("sealed").join(name)).unwrap();
        assert_eq!(digest(&file), text(&entry["sha256"]), "{name}");
        for given in entry["secrets"].as_array().unwrap() {
            let given = match given.get("passphrase") {
                Some(passphrase) => pass(text(passphrase)),
                None => raw_key(given),
            };
            check_verdict(name, &file, entry, given);
        }
        assert_eq!(refusal(&file, &[secret(0xee)]), wrong_or_missing(entry), "{name}");
    }
    let listed: BTreeSet<_> = files.keys().cloned().collect();
    let present = std::fs::read_dir(fixtures("sealed")).unwrap();
    let present = present.map(|file| file.unwrap().file_name().into_string().unwrap());
    let present: BTreeSet<_> = present.filter(|name| name.ends_with(".tensors")).collect();
    assert_eq!(listed, present);
}

#[track_caller]
fn check_verdict(name: &str, file: &[u8], entry: &Value, given: Secret) {
    let opened = open_file(file, &[given]);
    let expect = text(&entry["expect"]);
    if expect == Expect::FrontAltered.name() {
        assert_eq!(opened, Err(CryptoError::FrontAltered), "{name}");
    } else if expect == Expect::FileLength.name() {
        assert!(matches!(opened, Err(CryptoError::FileLength { .. })), "{name}: {opened:?}");
    } else if expect == Expect::Open.name() {
        assert!(!unopened(&opened.unwrap()).is_empty(), "{name}");
    } else {
        let tensors = entry["tensors"].as_array().unwrap();
        let opened = opened.unwrap();
        assert_eq!(opened.len(), tensors.len(), "{name}");
        for (tensor, expect) in opened.into_iter().zip(tensors) {
            assert_eq!(tensor.entry.path.to_string(), text(&expect["name"]), "{name}");
            assert_eq!(digest(&tensor.data.unwrap()), text(&expect["sha256"]), "{name}");
        }
    }
}

/// What a strange raw key meets.
fn wrong_or_missing(entry: &Value) -> CryptoError {
    let keys = entry["secrets"].as_array().unwrap();
    if keys.iter().any(|given| given.get("key_hex").is_some()) {
        CryptoError::WrongKey
    } else {
        let needs = Needs::Passphrase;
        CryptoError::KeyMissing { needs }
    }
}
