//! `verify DIR`: every way in which a directory can differ from its manifest.

use std::fs;
use std::path::Path;

use super::{serialize, synth};
use crate::run::{Ran, tz};

const DIRECTORY: &str = "out/vllm/demo/v1";

/// Does something to a fresh directory and verifies it.
fn after(change: &dyn Fn(&Path)) -> Ran {
    let dir = tempfile::tempdir().expect("works");
    let folder = dir.path();
    synth(folder, "llama-tiny");
    serialize(folder, &["--tensor-parallel-size", "2"]).exits(0);
    change(&folder.join(DIRECTORY));
    tz(folder, &["verify", DIRECTORY])
}

#[track_caller]
fn check(change: &dyn Fn(&Path), says: &[&str]) {
    let ran = after(change).exits(1);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), says.len(), "{}", ran.stdout);
    for says in says {
        assert!(lines.iter().any(|line| line.contains(says)), "{says}: {}", ran.stdout);
    }
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("works");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("works");
}

#[test]
fn what_differs_is_named() {
    check(&|dir| fs::remove_file(dir.join("config.json")).unwrap(), &["config.json: missing"]);
    check(&|dir| flip(&dir.join("tokenizer.json")), &["tokenizer.json: changed: its contents"]);
    check(
        &|dir| fs::write(dir.join("config.json"), "{}").unwrap(),
        &["config.json: changed: 2 bytes, the manifest says "],
    );
    check(
        &|dir| fs::write(dir.join("chat_template.jinja"), "{{ evil }}").unwrap(),
        &["chat_template.jinja: not in the manifest"],
    );
    check(
        &|dir| {
            fs::create_dir(dir.join("more")).unwrap();
            fs::write(dir.join("more/x.py"), "").unwrap();
        },
        &["more/x.py: not in the manifest"],
    );
    check(
        &|dir| fs::remove_file(dir.join("model-rank-001.tensors")).unwrap(),
        &["model-rank-001.tensors: missing"],
    );
    check(
        &|dir| {
            let ranks = ["model-rank-000.tensors", "model-rank-001.tensors"];
            let [first, second] = ranks.map(|name| fs::read(dir.join(name)).unwrap());
            fs::write(dir.join(ranks[0]), second).unwrap();
            fs::write(dir.join(ranks[1]), first).unwrap();
        },
        // Each is a good file; they are in each other's place.
        &["model-rank-000.tensors: changed", "model-rank-001.tensors: changed"],
    );
}

#[test]
fn damaged_tensors_are_named_too() {
    let ran = after(&|dir| flip(&dir.join("model-rank-000.tensors"))).exits(1);
    assert!(ran.stdout.contains("model-rank-000.tensors: changed: its contents"), "{}", ran.stdout);
    assert!(ran.stdout.contains("crc32 does not match"), "{}", ran.stdout);
    // Cut so short that it cannot be opened.
    let ran = after(&|dir| fs::write(dir.join("model-rank-000.tensors"), b"|TZR|").unwrap());
    assert!(ran.exits(1).stdout.contains("model-rank-000.tensors: changed: 5 bytes"));
}

#[test]
fn what_is_no_difference() {
    let unchanged = after(&|_| {}).exits(0);
    assert_eq!(unchanged.stdout, "");
    assert_eq!(unchanged.stderr.matches(": verified ").count(), 2, "{}", unchanged.stderr);
    // Volumes and editors keep their own things in hidden files.
    after(&|dir| fs::write(dir.join(".DS_Store"), "x").unwrap()).exits(0);
}

#[test]
fn manifests_that_are_none() {
    for (text, says) in [
        ("", "schema"),
        ("schema = 9", "schema 9 is not known"),
        ("schema = 1\ntool = 2", "manifest.toml"),
        ("not toml", "manifest.toml"),
    ] {
        let ran = after(&|dir| fs::write(dir.join("manifest.toml"), text).unwrap()).exits(4);
        assert!(ran.stderr.contains(says), "{text:?}: {}", ran.stderr);
    }
    let escapes = |dir: &Path| {
        let path = dir.join("manifest.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"config.json\"", "\"../../../../demo/config.json\""))
            .unwrap();
    };
    let ran = after(&escapes).exits(4);
    assert!(ran.stderr.contains("single slashes"), "{}", ran.stderr);
}

#[test]
fn reports_for_machines() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    serialize(folder, &[]).exits(0);
    fs::remove_file(folder.join(DIRECTORY).join("config.json")).unwrap();
    let ran = tz(folder, &["verify", DIRECTORY, "--json"]).exits(1).json();
    assert_eq!(ran["ok"], false);
    assert_eq!(ran["listed"], true);
    let expected = serde_json::json!([{"path": "config.json", "what": "missing"}]);
    assert_eq!(ran["file_failures"], expected);
    assert_eq!(ran["tensors"][0]["ok"], true);
    let filter = tz(folder, &["verify", DIRECTORY, "--filter", "*"]).exits(2);
    assert!(filter.stderr.contains("verified whole"), "{}", filter.stderr);
}
