//! The families' tables against what real libraries have: transformers for checkpoints, vLLM for its own files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tz_format::{TensorKind, TensorSpec};
use tz_model::{
    Checkpoint, MARKER, Preset, SynthOptions, VllmLayout, VllmOptions, read_config, synthesize,
};

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(folder)
}

#[test]
fn checkpoints_have_the_tensors_that_transformers_has() {
    let text =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hf-models/tiny.json"))
            .expect("fixture");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let models: BTreeMap<String, BTreeMap<String, Vec<u64>>> =
        serde_json::from_value(json["models"].clone()).expect("models");
    assert_eq!(models.len(), 11);
    for (name, expect) in models {
        // From the configuration alone: published checkpoints leave prefixes out.
        let config = Preset::named(&name).expect("preset").config().clone();
        let preset = Preset::from_config(config).expect("family");
        let tensors = preset.tensors().iter();
        let found: BTreeMap<String, Vec<u64>> =
            tensors.map(|t| (t.name.clone(), t.shape.clone())).collect();
        assert_eq!(found, expect, "{name}");
    }
}

/// A line of a dump: name, and for the first of repeated layers dtype and shape.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: String,
    rest: Option<(String, Vec<u64>)>,
}

/// The parameters of a dump, in its order.
fn dump(family: &str) -> Vec<Line> {
    let path = fixtures("vllm-layouts").join(format!("layout_{family}.txt"));
    let text = std::fs::read_to_string(path).expect("dump");
    let parameters = text.lines().filter_map(|line| {
        let (index, rest) = line.trim().split_once(" P ")?;
        index.starts_with("idx=").then(|| {
            let (name, rest) = match rest.split_once(' ') {
                None => (rest, None),
                Some((name, rest)) => {
                    let (dtype, rest) = rest.split_once(" (").expect("shape");
                    let (shape, _) = rest.split_once(')').expect("shape");
                    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
                    let dims = dims.map(|dim| dim.parse().expect("dimension"));
                    (name, Some((dtype.to_owned(), dims.collect())))
                }
            };
            Line { name: name.to_owned(), rest }
        })
    });
    parameters.collect()
}

/// The model as a dump would show it, as far as `like` shows it.
fn lines(specs: &[TensorSpec], like: &[Line]) -> Vec<Line> {
    let line = |(i, spec): (usize, &TensorSpec)| {
        let shown = like.get(i).is_some_and(|line| line.rest.is_some());
        Line {
            name: spec.path.plain().expect("plain name").to_owned(),
            rest: shown.then(|| (spec.dtype.name().to_owned(), spec.shape.clone())),
        }
    };
    specs.iter().enumerate().map(line).collect()
}

#[test]
fn layouts_are_those_of_vllm() {
    for (family, preset) in [
        ("llama_tied", "llama-tiny-tied"),
        ("mistral", "mistral-tiny"),
        ("qwen2", "qwen2-tiny"),
        ("qwen3", "qwen3-tiny"),
        ("opt", "opt-tiny"),
        ("gpt2", "gpt2-tiny"),
        ("gemma", "gemma-tiny"),
        ("phi3", "phi3-tiny"),
    ] {
        let dir = tempfile::tempdir().expect("directory");
        let preset = Preset::named(preset).expect("preset");
        synthesize(dir.path(), &preset, &SynthOptions::default()).expect("synthesize");
        let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
        let config = read_config(dir.path()).expect("config");
        let layout = VllmLayout::prove(&checkpoint, &config, &VllmOptions::default());
        let model = layout.expect("proof").rank(0).expect("rank");
        let expect = dump(family);
        assert!(expect.len() > 10, "{family}");
        assert_eq!(lines(model.specs(), &expect), expect, "{family}");

        let marker = &model.specs()[0];
        assert_eq!(marker.path.plain(), Some(MARKER));
        assert!(marker.meta);
        let others = &model.specs()[1..];
        assert!(others.iter().all(|spec| !spec.meta && spec.kind == TensorKind::Parameter));
    }
}
