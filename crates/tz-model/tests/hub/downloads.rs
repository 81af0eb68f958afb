//! What is downloaded, where it stands then, and that it is not downloaded twice.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::tempdir;
use tz_model::Checkpoint;
use tz_model::hub::{HubFiles, resolve};

use crate::server::{COMMIT, File, Server, block_on};
use crate::support::{ID, model, names, options, safetensors, tree, usual};

#[test]
fn a_model_comes_into_the_cache_that_all_libraries_share() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let snapshot = resolve(ID, &options(cache.path(), &server)).unwrap();

    let root = cache.path().join("models--facebook--opt-tiny");
    assert_eq!(snapshot.dir, root.join("snapshots").join(COMMIT));
    assert_eq!(snapshot.commit.as_deref(), Some(COMMIT));
    assert_eq!(names(&snapshot.dir), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    for file in usual().files.iter().filter(|file| snapshot.dir.join(file.name).exists()) {
        let target = fs::read_link(snapshot.dir.join(file.name)).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(file.etag()));
        assert_eq!(fs::read(root.join("blobs").join(file.etag())).unwrap(), file.bytes);
    }
    assert_eq!(tree(&root).len(), 7, "{:?}", tree(&root));
    assert_eq!(Checkpoint::open(&snapshot.dir).unwrap().tensors().len(), 1);
    // Weights last; the others in any order.
    let mut sent = server.sent();
    assert_eq!(sent.pop().as_deref(), Some("model.safetensors"));
    sent.sort();
    assert_eq!(sent, ["config.json", "tokenizer.json"]);
}

#[test]
fn what_is_cached_whole_asks_nobody() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let first = resolve(ID, &options(cache.path(), &server)).unwrap();
    let requests = server.log().len();
    assert_eq!(resolve(ID, &options(cache.path(), &server)).unwrap(), first);
    assert_eq!(server.log().len(), requests);
}

#[test]
fn what_is_missing_comes_and_nothing_else() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let first = resolve(ID, &options(cache.path(), &server)).unwrap();
    let weights = first.dir.join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    fs::remove_file(&weights).unwrap();

    // The bytes are here under their own name.
    let sent = server.sent().len();
    resolve(ID, &options(cache.path(), &server)).unwrap();
    assert_eq!(server.sent().len(), sent);

    // A link to nothing, as a cleaned cache has it.
    fs::remove_file(&blob).unwrap();
    resolve(ID, &options(cache.path(), &server)).unwrap();
    assert_eq!(server.sent()[sent..], ["model.safetensors"]);
    assert!(weights.is_file());
}

#[test]
fn shards_come_by_their_index() {
    let index = |second: &str| {
        format!(
            "{{\"weight_map\": {{\"a\": \"model-00001-of-00002.safetensors\", \"b\": \"{second}\"}}}}"
        )
    };
    let files = |second: &str| {
        model(vec![
            File::new("config.json", "{}"),
            File::new("model.safetensors.index.json", index(second)),
            File::large("model-00001-of-00002.safetensors", safetensors("a", 10)),
            File::large("model-00002-of-00002.safetensors", safetensors("b", 20)),
            File::large("model-00003-of-00002.safetensors", safetensors("c", 30)),
        ])
    };
    let cache = tempdir().unwrap();
    let server = Server::new(files("model-00002-of-00002.safetensors"));
    let snapshot = resolve(ID, &options(cache.path(), &server)).unwrap();
    assert_eq!(Checkpoint::open(&snapshot.dir).unwrap().tensors().len(), 2);
    assert_eq!(names(&snapshot.dir).len(), 4);

    // Without its index, a shard says nothing of the others.
    fs::remove_file(snapshot.dir.join("model.safetensors.index.json")).unwrap();
    fs::remove_file(snapshot.dir.join("model-00002-of-00002.safetensors")).unwrap();
    resolve(ID, &options(cache.path(), &server)).unwrap();
    assert_eq!(names(&snapshot.dir).len(), 4);

    let shard = |second: &str| {
        let cache = tempdir().unwrap();
        let server = Server::new(files(second));
        resolve(ID, &options(cache.path(), &server)).unwrap_err().to_string()
    };
    assert!(shard("model-00009.safetensors").contains("which is not there"));
    assert!(shard("../../../etc/passwd").contains("not a plain file name"));
}

#[test]
fn pickles_come_where_there_is_nothing_else() {
    let cache = tempdir().unwrap();
    let server = Server::new(model(vec![
        File::new("config.json", "{}"),
        File::large("pytorch_model.bin", "a pickle"),
        File::large("training_args.bin", "never"),
        File::large("flax_model.msgpack", "never"),
    ]));
    let snapshot = resolve(ID, &options(cache.path(), &server)).unwrap();
    assert_eq!(names(&snapshot.dir), ["config.json", "pytorch_model.bin"]);
}

#[test]
fn adapters_are_two_files() {
    let cache = tempdir().unwrap();
    let server = Server::new(model(vec![
        File::new("README.md", "# An adapter"),
        File::new("adapter_config.json", "{}"),
        File::large("adapter_model.safetensors", safetensors("a", 10)),
        File::large("adapter_model.bin", "old"),
        File::new("tokenizer.json", "{}"),
    ]));
    let options = options(cache.path(), &server).with_files(HubFiles::Adapter);
    let snapshot = resolve(ID, &options).unwrap();
    assert_eq!(names(&snapshot.dir), ["adapter_config.json", "adapter_model.safetensors"]);
    let requests = server.log().len();
    resolve(ID, &options).unwrap();
    assert_eq!(server.log().len(), requests);
}

#[test]
fn revisions_have_names_of_their_own() {
    let cache = tempdir().unwrap();
    let mut model = usual();
    model.revisions.push("refs/pr/1");
    let server = Server::new(model);
    let at = |revision: &str| options(cache.path(), &server).with_revision(revision);
    let snapshot = resolve(ID, &at("refs/pr/1")).unwrap();
    let refs = cache.path().join("models--facebook--opt-tiny/refs");
    assert_eq!(fs::read_to_string(refs.join("refs/pr/1")).unwrap(), COMMIT);
    assert!(!refs.join("main").exists());

    // A commit is its own name: what is cached under another revision serves it.
    let requests = server.log().len();
    assert_eq!(resolve(ID, &at(COMMIT)).unwrap(), snapshot);
    assert_eq!(server.log().len(), requests);
}

#[test]
fn progress_ends_at_the_length_of_every_file() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let options = options(cache.path(), &server).with_progress(move |transfer| {
        noted.lock().unwrap().push((transfer.file.to_owned(), transfer.done, transfer.len));
    });
    resolve(ID, &options).unwrap();
    let seen = seen.lock().unwrap();
    for file in usual().files.iter().filter(|file| server.sent().contains(&file.name.to_owned())) {
        let len = file.bytes.len() as u64;
        let last = seen.iter().rfind(|(name, ..)| name == file.name);
        assert_eq!(last, Some(&(file.name.to_owned(), len, len)));
    }
}

#[test]
fn two_at_once_end_with_one_copy() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let get = || resolve(ID, &options(cache.path(), &server)).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(get);
        assert_eq!(get(), other.join().unwrap());
    });
    let blobs = names(&cache.path().join("models--facebook--opt-tiny/blobs"));
    assert_eq!(blobs.len(), 3, "{blobs:?}");
}

#[test]
fn a_runtime_may_be_running_already() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let options = options(cache.path(), &server);
    block_on(async { resolve(ID, &options) }).unwrap();
}
