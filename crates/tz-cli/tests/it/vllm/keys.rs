//! Keys of models: made as vLLM's script makes them, never lost by accident.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{serialize, synth};
use crate::made::adapter;
use crate::run::{finish, listing, tz};
use crate::s3::S3;

const TENSORS: &str = "out/vllm/demo/v1/model.tensors";

#[test]
fn a_key_is_made_used_again_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    let key = || fs::read(folder.join("k")).unwrap();

    let made = serialize(folder, &["--keyfile", "k"]).exits(0);
    assert!(made.stderr.contains("made the key"), "{}", made.stderr);
    let shown = format!("\"encryption_keyfile\":\"{}\"", folder.join("k").display());
    assert!(made.stdout.contains(&shown), "{}", made.stdout);
    let first = key();
    assert_eq!(first.len(), 32);
    assert_eq!(fs::metadata(folder.join("k")).unwrap().permissions().mode() & 0o777, 0o600);
    tz(folder, &["verify", TENSORS, "--keyfile", "k"]).exits(0);
    tz(folder, &["deserialize", TENSORS]).exits(5);

    let refused = serialize(folder, &["--keyfile", "k", "--overwrite"]).exits(3);
    assert!(refused.stderr.contains("--reuse-key"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--overwrite-key"), "{}", refused.stderr);
    assert_eq!(key(), first);
    tz(folder, &["verify", TENSORS, "--keyfile", "k"]).exits(0);

    let again = serialize(folder, &["--keyfile", "k", "--overwrite", "--reuse-key"]).exits(0);
    assert!(!again.stderr.contains("made the key"), "{}", again.stderr);
    assert_eq!(key(), first);
    tz(folder, &["verify", TENSORS, "--keyfile", "k"]).exits(0);

    serialize(folder, &["--keyfile", "k", "--overwrite", "--overwrite-key"]).exits(0);
    assert_ne!(key(), first);
    tz(folder, &["verify", TENSORS, "--keyfile", "k"]).exits(0);
    let load = ["vllm", "deserialize", "--serialized-directory", "out/vllm/demo/v1"];
    tz(folder, &[&load[..], &["--keyfile", "k"]].concat()).exits(0);
    tz(folder, &load).exits(5);
}

#[test]
fn what_cannot_be_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    fs::write(folder.join("short"), [1; 31]).unwrap();
    let before = listing(folder);
    for (more, code, says) in [
        (&["--keyfile", "short"][..], 3, "--reuse-key"),
        (&["--keyfile", "short", "--reuse-key"], 5, "exactly 32 bytes"),
        (&["--keyfile", "absent", "--reuse-key"], 3, "absent"),
        (&["--keyfile", "s3://bucket/k"], 2, "written to this machine"),
        (&["--keyfile", "no/folder/k"], 3, "no/folder/k"),
        (&["--reuse-key"], 2, "--keyfile"),
        (&["--keyfile", "short", "--reuse-key", "--overwrite-key"], 2, "cannot be used with"),
    ] {
        let ran = serialize(folder, more).exits(code);
        assert!(ran.stderr.contains(says), "{more:?}: {}", ran.stderr);
        assert_eq!(listing(folder), before, "{more:?}");
    }
    let job = ["vllm", "serialize", "--model", "demo", "--serialized-directory", "out"];
    let mut command = crate::run::command(folder);
    let ran = finish(command.args(job).env("TZ_PASSPHRASE", "words")).exits(2);
    assert!(ran.stderr.contains("never with a passphrase"), "{}", ran.stderr);
    assert_eq!(listing(folder), before);
}

#[test]
fn a_key_in_the_models_folder_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    for more in [
        &["--keyfile", "demo/model.key"][..],
        &["--keyfile", "demo/model.key", "--reuse-key", "--overwrite"],
    ] {
        serialize(folder, more).exits(0);
        let names = listing(&folder.join("out/vllm/demo/v1"));
        assert!(!names.iter().any(|name| name.ends_with("key")), "{names:?}");
    }
}

#[test]
fn ranks_and_adapters_share_the_key_and_nothing_is_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    adapter(&folder.join("lora"), 4);
    let more = ["--keyfile", "k", "--tensor-parallel-size", "2", "--lora-path", "lora", "--json"];
    let made = serialize(folder, &more).exits(0).json();
    let notes = made["notes"].to_string();
    assert!(notes.contains("in clear alone"), "{notes}");
    let directory = folder.join("out/vllm/demo/v1");
    let names = listing(&directory);
    assert!(!names.iter().any(|name| name.contains("lora")), "{names:?}");
    for name in ["model-rank-000.tensors", "model-rank-001.tensors", "adapter_model.tensors"] {
        let file = format!("out/vllm/demo/v1/{name}");
        tz(folder, &["deserialize", &file]).exits(5);
        tz(folder, &["deserialize", &file, "--keyfile", "k"]).exits(0);
    }
    let locked = tz(folder, &["verify", "out/vllm/demo/v1"]).exits(0);
    assert_eq!(locked.stderr.matches("no key was given").count(), 3, "{}", locked.stderr);
    let opened = tz(folder, &["verify", "out/vllm/demo/v1", "--keyfile", "k"]).exits(0);
    assert_eq!(opened.stderr.matches(": verified ").count(), 3, "{}", opened.stderr);
}

#[test]
fn a_failure_takes_its_key_along_unless_something_was_published() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    synth(folder, "llama-tiny");
    fs::create_dir_all(folder.join("out/vllm/demo/v1/config.json/in-the-way")).unwrap();
    serialize(folder, &["--keyfile", "k"]).exits(3);
    assert!(!folder.join("k").exists());

    // On S3 the first rank stays, so its key does too.
    let s3 = S3::start();
    let job = ["vllm", "serialize", "--model", "demo", "--serialized-directory", "s3://bucket"];
    let job =
        [&job[..], &["--suffix", "v1", "--keyfile", "k", "--tensor-parallel-size", "2"]].concat();
    fs::create_dir_all(s3.path("vllm/demo/v1/model-rank-001.tensors/in-the-way")).unwrap();
    let ran = s3.tz(folder, &job);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    let kept = folder.join("k").exists();
    assert_eq!(kept, s3.path("vllm/demo/v1/model-rank-000.tensors").exists(), "{}", ran.stderr);
}
