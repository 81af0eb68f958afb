//! The scripts of `docs/examples`, which pipelines and cold starts run: publish a model, fetch it, refuse a bad one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Ran, finish, listing, on_path, tz};
use crate::s3::S3;

const PUBLISHED: &str = "vllm/me/demo/v1";

/// A folder with a checkpoint and a key, and a server to publish on.
struct Pipeline {
    folder: tempfile::TempDir,
    s3: S3,
}

impl Pipeline {
    fn new() -> Self {
        let pipeline = Self { folder: tempfile::tempdir().expect("folder"), s3: S3::start() };
        tz(pipeline.path(), &["synth", "demo", "--preset", "llama-tiny", "-q"]).exits(0);
        tz(pipeline.path(), &["keygen", "model.key", "-q"]).exits(0);
        pipeline
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a script of `docs/examples` with the key in its environment.
    fn run(&self, script: &str, arguments: &[&str]) -> Ran {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples").join(script);
        let mut shell = Command::new("sh");
        shell.arg(script).args(arguments).current_dir(self.path());
        let shell = self.s3.environment(on_path(&mut shell), self.path());
        finish(shell.env("TZ_KEYFILE", "model.key"))
    }

    fn publish(&self) -> Ran {
        self.run("publish.sh", &["demo", "me/demo", "s3://bucket", "v1"])
    }

    fn fetch(&self) -> Ran {
        self.run("fetch.sh", &["s3://bucket/vllm/me/demo/v1/", "models/demo"])
    }

    fn object(&self, file: &str) -> PathBuf {
        self.s3.path(&format!("{PUBLISHED}/{file}"))
    }
}

#[test]
fn what_is_published_is_fetched_and_verified() {
    let pipeline = Pipeline::new();
    let published = pipeline.publish().exits(0);
    assert!(published.stderr.contains("as in the manifest"), "{}", published.stderr);
    pipeline.publish().exits(3);
    let fetched = pipeline.fetch().exits(0);
    assert!(fetched.stderr.contains("model.tensors: verified 16 tensors"), "{}", fetched.stderr);
    let files = listing(&pipeline.path().join("models/demo"));
    assert!(["config.json", "manifest.toml", "model.tensors"].iter().all(|name| {
        let fetched = fs::read(pipeline.path().join("models/demo").join(name)).expect("fetched");
        files.contains(&(*name).to_owned())
            && fetched == fs::read(pipeline.object(name)).expect("published")
    }));
}

#[test]
fn a_damaged_model_is_not_served() {
    for file in ["config.json", "model.tensors"] {
        let pipeline = Pipeline::new();
        pipeline.publish().exits(0);
        let object = pipeline.object(file);
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&object, bytes).unwrap();
        let refused = pipeline.fetch().exits(1);
        assert!(refused.stdout.contains(file), "{}", refused.stdout);
    }
}

#[test]
fn a_manifest_that_leads_out_of_the_folder_is_refused() {
    for name in ["../config.json", "/config.json", "a/../../config.json"] {
        let pipeline = Pipeline::new();
        pipeline.publish().exits(0);
        let object = pipeline.object("manifest.toml");
        let text = fs::read_to_string(&object).unwrap();
        fs::write(&object, text.replace("\"config.json\"", &format!("{name:?}"))).unwrap();
        let refused = pipeline.fetch().exits(4);
        assert!(refused.stderr.contains(&format!("refused: {name}")), "{}", refused.stderr);
        assert_eq!(listing(&pipeline.path().join("models")), ["demo/", "demo/manifest.toml"]);
    }
}
