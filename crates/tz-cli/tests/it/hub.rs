//! Ids of Hugging Face as sources, from a cache as its libraries leave it. `tz-model` tests downloads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::run::{Ran, command, finish, tz};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Runs `tz-cli` without a network, with the cache in `folder`.
fn offline(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = command(folder);
    command.args(arguments).env("HF_HUB_OFFLINE", "1").env("HF_HOME", folder.join("hf"));
    for other in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT"] {
        command.env_remove(other);
    }
    finish(&mut command)
}

/// Puts the checkpoint `demo` into the cache, as `org/demo` at `main`.
fn cached() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    tz(folder.path(), &["synth", "demo", "--preset", "llama-tiny"]).exits(0);
    let model = folder.path().join("hf/hub/models--org--demo");
    let (blobs, snapshot) = (model.join("blobs"), model.join("snapshots").join(COMMIT));
    for made in [&blobs, &snapshot, &model.join("refs")] {
        fs::create_dir_all(made).expect("a folder");
    }
    fs::write(model.join("refs/main"), COMMIT).expect("a reference");
    for (i, entry) in fs::read_dir(folder.path().join("demo")).expect("files").enumerate() {
        let file = entry.expect("an entry").path();
        fs::copy(&file, blobs.join(i.to_string())).expect("a blob");
        let target = Path::new("../../blobs").join(i.to_string());
        symlink(target, snapshot.join(file.file_name().expect("a name"))).expect("a link");
    }
    folder
}

#[test]
fn a_model_of_the_cache_is_a_source() {
    let folder = cached();
    for id in ["hf://org/demo", "hf://org/demo@main", &format!("hf://org/demo@{COMMIT}")] {
        offline(folder.path(), &["serialize", id, "model.tensors"]).exits(0);
        offline(folder.path(), &["diff", "model.tensors", "demo"]).exits(0);
    }
    offline(folder.path(), &["diff", "hf://org/demo", "demo"]).exits(0);
}

#[test]
fn what_the_cache_lacks_is_named_with_the_way_out() {
    let folder = cached();
    // A folder of that name is something else.
    fs::create_dir_all(folder.path().join("org/other")).unwrap();
    for (id, code, words) in [
        ("hf://org/other", 3, "offline"),
        ("hf://org/demo@v2", 3, "\"v2\""),
        ("hf://../demo", 2, "Hugging Face"),
        ("hf://", 2, "Hugging Face"),
    ] {
        let ran = offline(folder.path(), &["serialize", id, "model.tensors"]).exits(code);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("\ntry: "), "{}", ran.stderr);
        assert!(!folder.path().join("model.tensors").exists());
    }
}
