//! The reference's files through the binary: what the manifest says of each must be what we find.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use serde_json::Value;

use crate::run::{foreign, tz};

#[derive(Debug, Deserialize)]
struct Manifest {
    files: BTreeMap<String, File>,
}

#[derive(Debug, Deserialize)]
struct File {
    data_version: Option<u64>,
    encryption: Option<String>,
    key_hex: Option<String>,
    password: Option<String>,
    #[serde(default)]
    tensors: Vec<Tensor>,
}

#[derive(Debug, Deserialize)]
struct Tensor {
    path: Vec<Value>,
    dtype: String,
    shape: Vec<u64>,
    nbytes: u64,
    meta: bool,
    kind: String,
    sha256: String,
}

/// The tensor whose hash the reference's writer took of memory that it never wrote.
const WRONG_HASH: (&str, &str) = ("v4_meta.tensors", "meta_scalar");

fn manifest() -> BTreeMap<String, File> {
    let text = fs::read_to_string(foreign().join("manifest.json")).expect("manifest");
    let manifest: Manifest = serde_json::from_str(&text).expect("manifest");
    manifest.files
}

/// Files with a list of tensors: the whole ones.
fn whole() -> impl Iterator<Item = (String, File)> {
    manifest().into_iter().filter(|(_, file)| !file.tensors.is_empty())
}

fn plain() -> impl Iterator<Item = (String, File)> {
    whole().filter(|(_, file)| file.encryption.is_none())
}

#[test]
fn tables_are_the_manifests() {
    let mut files = 0;
    for (name, file) in whole() {
        let table = tz(&foreign(), &["inspect", &name, "--json"]).exits(0).json();
        assert_eq!(table["version"].as_u64(), file.data_version, "{name}");
        assert_eq!(table["encrypted"], file.encryption.is_some(), "{name}");
        assert_eq!(table["tensor_count"], file.tensors.len(), "{name}");
        for (row, tensor) in table["tensors"].as_array().expect("rows").iter().zip(&file.tensors) {
            let Tensor { path, dtype, shape, nbytes, meta, kind, .. } = tensor;
            assert_eq!(row["path"], Value::from(path.clone()), "{name}");
            assert_eq!(row["dtype"], **dtype, "{name} {path:?}");
            assert_eq!(row["shape"], Value::from(shape.clone()), "{name} {path:?}");
            assert_eq!(row["kind"], **kind, "{name} {path:?}");
            // A scalar that should be meta has bytes in the file.
            let stored = if *meta && !shape.is_empty() { 0 } else { *nbytes };
            assert_eq!(row["data_bytes"], stored, "{name} {path:?}");
        }
        files += 1;
    }
    assert!(files >= 19, "{files} files");
}

#[test]
fn digests_are_the_manifests() {
    for (name, file) in plain() {
        let arguments = ["checksum", &name, "--algorithm", "sha256", "--json"];
        let sums = tz(&foreign(), &arguments).exits(0).json();
        assert_eq!(sums["algorithm"], "sha256");
        let rows = sums["tensors"].as_array().expect("rows");
        assert_eq!(rows.len(), file.tensors.len(), "{name}");
        for (row, tensor) in rows.iter().zip(&file.tensors) {
            assert_eq!(row["path"], Value::from(tensor.path.clone()), "{name}");
            assert_eq!(row["digest"], *tensor.sha256, "{name} {:?}", tensor.path);
        }
    }
}

#[test]
fn verify_finds_exactly_the_known_faults() {
    for (name, _) in plain() {
        let ran = tz(&foreign(), &["verify", &name, "--json"]);
        let (code, faults) = if name == WRONG_HASH.0 { (1, 1) } else { (0, 0) };
        let report = ran.exits(code).json();
        let failures = report["failures"].as_array().expect("failures");
        assert_eq!(failures.len(), faults, "{name}: {failures:?}");
        if let Some(failure) = failures.first() {
            assert_eq!(failure["name"], WRONG_HASH.1);
        }
    }
}

#[test]
fn every_plain_file_loads_and_survives_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    for (name, file) in plain() {
        let path = foreign().join(&name);
        let path = path.to_str().expect("path");
        let verify = if name == WRONG_HASH.0 { "--no-verify" } else { "--verify" };
        let load = tz(dir.path(), &["deserialize", path, verify, "--json"]).exits(0).json();
        let bytes: u64 = file.tensors.iter().map(|tensor| tensor.nbytes).sum();
        assert_eq!((&load["tensors"], &load["bytes"]), (&file.tensors.len().into(), &bytes.into()));
        let copy = ["serialize", path, "copy.tensors", verify, "--hash", "crc32,sha256,blake3"];
        tz(dir.path(), &copy).exits(0);
        tz(dir.path(), &["verify", "copy.tensors"]).exits(0);
        tz(dir.path(), &["diff", path, "copy.tensors"]).exits(0);
    }
}

#[test]
fn damage_is_refused_and_named() {
    for (name, codes, words) in [
        ("bad_hash.tensors", [1, 4], "complex128"),
        ("truncated_data.tensors", [4, 4], "complex128"),
    ] {
        let verify = tz(&foreign(), &["verify", name]).exits(codes[0]);
        assert!(format!("{}{}", verify.stdout, verify.stderr).contains(words), "{verify:?}");
        let load = tz(&foreign(), &["deserialize", name]).exits(codes[1]);
        assert!(load.stderr.contains(words) && load.stderr.contains("offset"), "{load:?}");
        assert_eq!(load.stdout, "");
    }
}

#[test]
fn an_encrypted_file_needs_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = 0;
    for (name, _) in whole().filter(|(_, file)| file.encryption.is_some()) {
        let path = foreign().join(&name);
        let path = path.to_str().expect("path");
        for arguments in [
            &["deserialize", path][..],
            &["deserialize", path, "--to", "out.safetensors"],
            &["serialize", path, "out.tensors"],
            &["checksum", path],
            &["verify", path],
            &["diff", path, path],
            &["bench", path],
        ] {
            let ran = tz(dir.path(), arguments).exits(5);
            assert!(ran.stderr.starts_with("error (key): "), "{arguments:?}: {}", ran.stderr);
            assert_eq!((ran.stderr.lines().count(), &*ran.stdout), (2, ""), "{arguments:?}");
        }
        files += 1;
    }
    assert_eq!(files, 5);
    assert_eq!(crate::run::listing(dir.path()), Vec::<String>::new());
}

#[test]
fn nested_paths_become_joined_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = foreign().join("nested_paths.tensors");
    let path = path.to_str().expect("path");
    tz(dir.path(), &["deserialize", path, "--to", "flat.safetensors"]).exits(0);
    tz(dir.path(), &["diff", path, "flat.safetensors"]).exits(0);
    let names = |source: &str| {
        let sums = tz(dir.path(), &["checksum", source]).exits(0).stdout;
        let mut names: Vec<String> = sums.lines().map(ToOwned::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(path), names("flat.safetensors"));
    assert!(names(path).iter().any(|line| line.ends_with("  model/layer/0/weight")));
}

#[test]
fn encrypted_files_open_with_their_key_or_password() {
    let dir = tempfile::tempdir().unwrap();
    for (name, file) in whole().filter(|(_, file)| file.encryption.is_some()) {
        let secret = dir.path().join("secret");
        let option = match (&file.password, &file.key_hex) {
            (Some(password), _) => {
                fs::write(&secret, format!("{password}\n")).unwrap();
                "--passphrase-file"
            }
            (None, key) => {
                let key = key.as_ref().expect("key");
                let byte = |i: usize| u8::from_str_radix(&key[i..i + 2], 16).expect("digits");
                fs::write(&secret, (0..64).step_by(2).map(byte).collect::<Vec<_>>()).unwrap();
                "--keyfile"
            }
        };
        let path = foreign().join(&name);
        let (path, secret) = (path.to_str().expect("path"), secret.to_str().expect("path"));
        let arguments = ["checksum", path, "--algorithm", "sha256", option, secret, "--json", "-q"];
        let sums = tz(dir.path(), &arguments).exits(0).json();
        let digests = sums["tensors"].as_array().expect("rows").iter().map(|row| &row["digest"]);
        assert!(digests.eq(file.tensors.iter().map(|tensor| &*tensor.sha256)), "{name}");
        tz(dir.path(), &["verify", path, option, secret]).exits(0);
    }
}
