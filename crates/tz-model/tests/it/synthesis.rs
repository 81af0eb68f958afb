//! Synthetic checkpoints: complete directories, the same bytes for the same seed.

use std::collections::BTreeMap;
use std::path::Path;

use tz_format::{Dtype, Element};
use tz_model::{Checkpoint, Preset, SynthFormat, SynthOptions, synthesize};

use crate::support::{contents, listing};

/// Contents of every file.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let bytes = std::fs::read(dir.join(&name)).expect("file");
        (name, bytes)
    };
    listing(dir).into_iter().map(read).collect()
}

fn make(preset: &Preset, options: &SynthOptions) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().expect("directory");
    let bytes = synthesize(dir.path(), preset, options).expect("synthesize");
    assert_eq!(bytes, preset.byte_len());
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    assert_eq!(checkpoint.total_bytes(), bytes);
    files(dir.path())
}

#[test]
fn bytes_depend_on_the_seed_alone() {
    // Larger than one block, so that threads share a tensor.
    let preset = Preset::sized(5 << 20);
    let options = SynthOptions::default();
    let one = make(&preset, &options.clone().with_threads(1));
    assert_eq!(one, make(&preset, &options.clone().with_threads(4)));
    let other = make(&preset, &options.with_seed(1));
    assert_eq!(one["config.json"], other["config.json"]);
    assert_ne!(one["model.safetensors"], other["model.safetensors"]);
    // Frozen: who names a seed expects its model, in every release.
    let preset = Preset::named("llama-tiny").expect("preset");
    let tiny = make(&preset, &SynthOptions::default());
    let sum = tiny["model.safetensors"]
        .iter()
        .fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    assert_eq!(sum, 2_382_393_224_407_347_401);
}

#[test]
fn sharding_changes_no_tensor() {
    let preset = Preset::named("qwen2-tiny").expect("preset");
    let (whole, parts) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
    let options = SynthOptions::default();
    synthesize(whole.path(), &preset, &options).expect("whole");
    let sharded = options.with_max_shard_bytes(100_000);
    synthesize(parts.path(), &preset, &sharded).expect("shards");
    let (whole, parts) = (Checkpoint::open(whole.path()), Checkpoint::open(parts.path()));
    let (whole, parts) = (whole.expect("whole"), parts.expect("parts"));
    assert!(parts.files().len() > 2);
    assert_eq!(whole.tensors().len(), parts.tensors().len());
    for (i, tensor) in whole.tensors().iter().enumerate() {
        let other = parts.find(&tensor.name).expect("tensor");
        assert_eq!(contents(&whole, i), contents(&parts, other), "{}", tensor.name);
    }
}

#[test]
fn every_miniature_is_a_complete_directory() {
    for name in Preset::names().filter(|name| name.contains("tiny")) {
        let made = make(&Preset::named(name).expect("preset"), &SynthOptions::default());
        let names: Vec<&str> = made.keys().map(String::as_str).collect();
        let expect = [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names, expect, "{name}");
        for json in names.iter().filter(|name| name.ends_with(".json")) {
            serde_json::from_slice::<serde_json::Value>(&made[*json]).expect(json);
        }
    }
}

#[test]
fn dtype_can_be_chosen() {
    let preset = Preset::named("opt-tiny").expect("preset");
    let dtype = Dtype::from(Element::Float32);
    let preset = preset.with_dtype(dtype);
    let dir = tempfile::tempdir().expect("directory");
    synthesize(dir.path(), &preset, &SynthOptions::default()).expect("synthesize");
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    assert!(checkpoint.tensors().iter().all(|tensor| tensor.dtype == dtype));
    let config = std::fs::read_to_string(dir.path().join("config.json")).expect("config");
    assert!(config.contains("\"torch_dtype\": \"float32\""));
}

#[test]
fn a_cancelled_synthesis_leaves_no_weights() {
    let dir = tempfile::tempdir().expect("directory");
    let options = SynthOptions::default();
    options.cancel.cancel();
    let result = synthesize(dir.path(), &Preset::named("llama-tiny").expect("preset"), &options);
    assert!(matches!(result, Err(tz_model::Error::Cancelled)), "{result:?}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
}

#[test]
fn a_pytorch_file_holds_the_same_tensors() {
    let preset = Preset::named("opt-tiny").expect("preset");
    let (bin, safe) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
    let options = SynthOptions::default();
    synthesize(safe.path(), &preset, &options).expect("safetensors");
    let options = options.with_format(SynthFormat::PyTorch);
    synthesize(bin.path(), &preset, &options).expect("PyTorch");
    assert!(listing(bin.path()).iter().any(|name| name == "pytorch_model.bin"));
    let bin = Checkpoint::open(bin.path()).expect("PyTorch");
    let safe = Checkpoint::open(safe.path()).expect("safetensors");
    assert_eq!(bin.tensors().len(), safe.tensors().len());
    for (i, tensor) in bin.tensors().iter().enumerate() {
        assert_eq!(tensor.offset % 64, 0, "{}", tensor.name);
        let other = safe.find(&tensor.name).expect("tensor");
        assert_eq!(tensor.shape, safe.tensors()[other].shape);
        assert_eq!(contents(&bin, i), contents(&safe, other), "{}", tensor.name);
    }
}
