//! Files that the reference wrote load to what their manifest says, by every way of reading.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tz_io::{Algorithm, IoError, ReadOptions, StreamSource, TensorFile};

use crate::model::{
    Contents, all, contents_of, load, open_path, open_source, pool, readers, stream, unverified,
};

/// The one tensor that the reference writes wrongly: its hash covers other bytes than those in the file.
const META_SCALAR: (&str, &str) = ("v4_meta.tensors", "meta_scalar");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/foreign")
}

/// Name, path and what the manifest says of each file.
fn fixtures() -> Vec<(String, PathBuf, Value)> {
    let manifest = std::fs::read(folder().join("manifest.json")).expect("manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let files = manifest["files"].as_object().expect("files");
    let fixture =
        |(name, says): (&String, &Value)| (name.clone(), folder().join(name), says.clone());
    files.iter().map(fixture).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Path as the manifest spells it, joined; SHA-256 of the plaintext; whether it is stored as a meta tensor.
fn expected(says: &Value, file: &TensorFile) -> Vec<(String, String, bool)> {
    let tensors = says["tensors"].as_array().expect("tensors");
    let name = |tensor: &Value| {
        let keys = tensor["path"].as_array().expect("path").iter();
        let key = |key: &Value| key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        keys.map(key).collect::<Vec<_>>().join("/")
    };
    let digest = |tensor: &Value| tensor["sha256"].as_str().expect("digest").to_owned();
    let tensors = tensors.iter().zip(file.entries());
    tensors.map(|(tensor, entry)| (name(tensor), digest(tensor), entry.is_meta())).collect()
}

fn digests(contents: &Contents) -> Vec<(String, String)> {
    let digest = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    contents.iter().map(|(path, bytes)| (path.to_string(), digest(bytes))).collect()
}

fn piped(path: &Path) -> TensorFile {
    let reader = Box::new(File::open(path).expect("fixture"));
    open_source(StreamSource::new(reader, "pipe")).expect("valid")
}

#[test]
fn unencrypted_files_give_their_digests_by_every_way_of_reading() {
    let mut seen = 0;
    for (name, path, says) in fixtures() {
        let tensors = says["tensors"].as_array();
        if says.get("encryption").is_some() || tensors.is_none_or(Vec::is_empty) {
            continue;
        }
        let file = open_path(&path).expect(&name);
        let expected = expected(&says, &file);
        let with_meta: Vec<(String, String)> =
            expected.iter().map(|(name, digest, _)| (name.clone(), digest.clone())).collect();
        let stored: Vec<(String, String)> = expected
            .iter()
            .filter(|(_, _, is_meta)| !is_meta)
            .map(|(name, digest, _)| (name.clone(), digest.clone()))
            .collect();
        assert_eq!(says["tensor_count"].as_u64(), Some(with_meta.len() as u64), "{name}");
        for threads in [1, 4] {
            let mut options = readers(threads);
            options.verify = name != META_SCALAR.0;
            let check = |contents: Result<Contents, IoError>, expect: &[(String, String)], way| {
                let contents = contents.unwrap_or_else(|error| panic!("{name}, {way}: {error}"));
                assert_eq!(digests(&contents), expect, "{name}, {way}");
            };
            check(load(&file, &options), &with_meta, "load");
            check(stream(&file, &options, &pool(1 << 18, 2)), &with_meta, "stream");
            check(stream(&file, &options, &pool(16 << 10, 1)), &with_meta, "short buffers");
            check(load(&piped(&path), &options), &with_meta, "load from a pipe");
            let staged = stream(&piped(&path), &options, &pool(1 << 18, 2));
            check(staged, &with_meta, "stream from a pipe");
            check(file.map(&all()).map(|tensors| contents_of(&tensors)), &stored, "map");
            for file in [&open_path(&path).expect("valid"), &piped(&path)] {
                let sums = file.checksum(&all(), Algorithm::Sha256, &options).expect(&name);
                let sums: Vec<String> = sums.into_iter().map(|(_, sum)| sum).collect();
                let digests: Vec<String> = with_meta.iter().map(|(_, d)| d.clone()).collect();
                assert_eq!(sums, digests, "{name}, checksum");
            }
            for (tensor, digest) in &with_meta {
                let one = file.load_one(tensor, &options).expect(tensor);
                assert_eq!(hex(&Sha256::digest(one.bytes())), *digest, "{name}: {tensor}");
            }
        }
        seen += with_meta.len();
    }
    assert_eq!(seen, 98, "every tensor of the unencrypted files");
}

#[test]
fn verification_finds_the_faults_that_the_readme_names_and_no_other() {
    for (name, path, says) in fixtures() {
        if says.get("encryption").is_some() || name == "truncated_data.tensors" {
            continue;
        }
        let wrong = match &*name {
            "bad_hash.tensors" => Some("complex128"),
            "v4_meta.tensors" => Some(META_SCALAR.1),
            _ => None,
        };
        let expect: Vec<(&str, &str)> =
            wrong.iter().flat_map(|&name| [(name, "crc32"), (name, "sha256")]).collect();
        for file in [open_path(&path).expect(&name), piped(&path)] {
            let failures = file.verify(&all(), &ReadOptions::default()).expect(&name);
            let found: Vec<_> = failures.iter().map(|f| (&*f.tensor, f.check)).collect();
            assert_eq!(found, expect, "{name}");
        }
        let loaded = load(&open_path(&path).expect(&name), &ReadOptions::default());
        let streamed = stream(&piped(&path), &ReadOptions::default(), &pool(1 << 18, 2));
        for result in [loaded, streamed] {
            match (result, wrong) {
                (Ok(_), None) => {}
                (Err(IoError::Corrupt { failures, .. }), Some(wrong)) => {
                    assert_eq!(failures.len(), 1, "{name}: a load stops at the first check");
                    assert_eq!((&*failures[0].tensor, failures[0].check), (wrong, "crc32"));
                }
                (result, _) => panic!("{name}: {result:?}"),
            }
        }
    }
}

#[test]
fn a_truncated_file_is_refused_by_name_of_the_tensor() {
    let path = folder().join("truncated_data.tensors");
    let error = open_path(&path).expect_err("truncated");
    assert!(matches!(error, IoError::Format { .. }), "{error:?}");
    assert!(error.to_string().contains("tensor \"complex128\": data at offset"), "{error}");
    // A pipe shows it only when it ends.
    let error = load(&piped(&path), &ReadOptions::default()).expect_err("truncated");
    match error {
        IoError::Io { source, .. } => assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof),
        other => panic!("{other:?}"),
    }
}

#[test]
fn encrypted_files_ask_for_the_key_and_show_no_ciphertext() {
    let mut seen = 0;
    for (name, path, says) in fixtures() {
        if says.get("encryption").is_none() {
            continue;
        }
        let options = unverified();
        let file = open_path(&path).expect("the index is not encrypted");
        assert!(file.is_encrypted());
        assert_eq!(Some(file.entries().len() as u64), says["tensor_count"].as_u64());
        let nobody = |_: tz_io::Piece| panic!("a piece was shown");
        for (way, result) in [
            ("load", load(&file, &options).map(drop)),
            ("load_one", file.load_one(&file.entries()[0].path.to_string(), &options).map(drop)),
            ("stream", file.stream(&all(), &options, &pool(1 << 18, 1), &nobody).map(drop)),
            ("verify", file.verify(&all(), &options).map(drop)),
            ("checksum", file.checksum(&all(), Algorithm::Crc32, &options).map(drop)),
            ("load from a pipe", load(&piped(&path), &options).map(drop)),
        ] {
            assert!(matches!(result, Err(IoError::KeyMissing { .. })), "{name}, {way}: {result:?}");
        }
        let mapped = file.map(&all()).map(drop);
        assert!(matches!(mapped, Err(IoError::Unsupported { .. })), "{name}: {mapped:?}");
        assert!(file.header(0).is_ok(), "headers are not encrypted");
        seen += 1;
    }
    assert_eq!(seen, 5);
}
