//! Files of real torch, as it made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tz_format::PathKey;
use tz_model::{Checkpoint, Error, Fault};

use crate::support::{contents, names, write};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/foreign/torch")
}

fn manifest() -> BTreeMap<String, Value> {
    let text = std::fs::read(folder().join("manifest.json")).expect("manifest");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    serde_json::from_value(json["files"].clone()).expect("files")
}

fn key(key: &PathKey) -> Value {
    match key {
        PathKey::Name(name) => name.as_str().into(),
        PathKey::Index(index) => (*index).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The rows of the manifest, by path.
fn rows(checkpoint: &Checkpoint) -> BTreeMap<String, Value> {
    let row = |(i, tensor): (usize, &tz_model::SourceTensor)| {
        let path: Vec<Value> = tensor.path.keys().iter().map(key).collect();
        let row = serde_json::json!({
            "path": path,
            "dtype": tensor.dtype.name(),
            "shape": tensor.shape,
            "sha256": hex(&Sha256::digest(contents(checkpoint, i))),
        });
        (tensor.name.clone(), row)
    };
    checkpoint.tensors().iter().enumerate().map(row).collect()
}

#[test]
fn every_file_of_real_torch_gives_its_verdict() {
    let mut files = 0;
    for (name, verdict) in manifest() {
        let opened = Checkpoint::open(folder().join(&name));
        match (opened, verdict["refused"].as_str()) {
            (Err(error), Some(why)) => {
                assert!(error.to_string().contains(why), "{name}: {error}");
            }
            (Ok(checkpoint), None) => {
                let found: Vec<Value> = rows(&checkpoint).into_values().collect();
                let mut expect = verdict["tensors"].as_array().expect("tensors").clone();
                let mut sorted = found.clone();
                sorted.sort_by_key(|row| row["path"].to_string());
                expect.sort_by_key(|row| row["path"].to_string());
                assert_eq!(sorted, expect, "{name}");
            }
            (opened, refused) => panic!("{name}: {opened:?}, {refused:?}"),
        }
        files += 1;
    }
    assert_eq!(files, 18);
}

#[test]
fn views_are_read_in_any_piece() {
    let checkpoint = Checkpoint::open(folder().join("views.pt")).expect("checkpoint");
    for (i, tensor) in checkpoint.tensors().iter().enumerate() {
        let whole = contents(&checkpoint, i);
        for from in 0..whole.len() {
            for to in from..=whole.len() {
                let mut part = vec![0; to - from];
                checkpoint.read_at(i, from as u64, &mut part).expect("read");
                assert_eq!(part, whole[from..to], "{} {from}..{to}", tensor.name);
            }
        }
    }
}

#[test]
fn shards_follow_the_index() {
    let checkpoint = Checkpoint::open(folder().join("sharded")).expect("checkpoint");
    assert_eq!(names(&checkpoint), ["a", "b", "c"]);
    assert_eq!(checkpoint.files().len(), 2);
}

#[test]
fn numbers_and_texts_are_kept_beside_the_tensors() {
    let checkpoint = Checkpoint::open(folder().join("nested.pt")).expect("checkpoint");
    let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let expect = [
        entry("optimizer/groups/0/lr", "0.1"),
        entry("epoch", "3"),
        entry("name", "run"),
        entry("amp", "true"),
    ];
    assert_eq!(checkpoint.files()[0].user_metadata(), expect);
    let step = checkpoint.find("optimizer/state/1/step").expect("tensor");
    assert_eq!(contents(&checkpoint, step), 4.0_f32.to_le_bytes());
    let spec = &checkpoint.specs()[step];
    assert_eq!(spec.path.keys()[2], PathKey::Index(1));
}

#[test]
fn safetensors_are_preferred_and_training_leftovers_ignored() {
    let dir = tempfile::tempdir().expect("directory");
    let copy = |from: &str, to: &str| {
        std::fs::copy(folder().join(from), dir.path().join(to)).expect("copy");
    };
    copy("runs_a_program.bin", "training_args.bin");
    let error = Checkpoint::open(dir.path()).expect_err("nothing");
    assert!(matches!(error, Error::NotACheckpoint { .. }));
    copy("protocol_4.pt", "weights.pth");
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    assert_eq!(names(&checkpoint), ["w", "again"]);
    copy("state_dict.bin", "pytorch_model.bin");
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    assert!(checkpoint.find("0.weight").is_some());
    write(dir.path(), "x.safetensors", &crate::support::bytes_file(&[("a", 1)]));
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    assert_eq!(names(&checkpoint), ["a"]);
}

#[test]
fn any_cut_of_a_file_is_refused() {
    let whole = std::fs::read(folder().join("nested.pt")).expect("file");
    let dir = tempfile::tempdir().expect("directory");
    for len in 0..whole.len() {
        write(dir.path(), "m.pt", &whole[..len]);
        let error = Checkpoint::open(dir.path()).expect_err("cut");
        let expected = matches!(
            error,
            Error::Malformed {
                fault: Fault::Zip { .. } | Fault::Truncated { .. } | Fault::HeaderTooLong { .. },
                ..
            }
        );
        assert!(expected, "{len}: {error}");
    }
}

/// Flipping any one byte must never panic, nor take memory or time without bound.
#[test]
fn any_changed_byte_is_survived() {
    let whole = std::fs::read(folder().join("protocol_4.pt")).expect("file");
    let dir = tempfile::tempdir().expect("directory");
    let mut opened = 0;
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        write(dir.path(), "m.pt", &changed);
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            opened += 1;
            for i in 0..checkpoint.tensors().len() {
                contents(&checkpoint, i);
            }
        }
    }
    assert!(opened > 0, "changed data, dates and checksums do not matter");
}
