//! Small texts that come with models: `config.json`, manifests, configurations of adapters.

use std::sync::LazyLock;

use tz_io::{OpenOptions, WriteOptions};
use tz_lora::{Adapter, ArtifactDir, BaseModel, Forms, LoraName, PackedAdapter, Rules};
use tz_model::{
    Checkpoint, Manifest, Preset, SynthOptions, VllmLayout, VllmOptions, read_config, synthesize,
};

use super::checkpoint::with_header;
use crate::guard::Bound;
use crate::scratch::Scratch;
use crate::target::Target;

/// A parsed value takes some tens of bytes for each of two, and there are two or three of them.
const PARSED: Bound = Bound { base: 1 << 20, per_byte: 512, resident: false };

/// Any bytes as a manifest: what is read is written and read again.
pub const MANIFEST: Target = Target { name: "manifest", run: manifest, bound: PARSED };

fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else { return };
    // A number may be beyond what TOML holds.
    let Ok(text) = manifest.to_text() else { return };
    assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest));
}

/// Synthetic models of several families, and what their configurations say.
struct Model {
    _folder: Scratch,
    checkpoint: Checkpoint,
    base: Option<BaseModel>,
}

static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
    let names =
        ["llama-tiny", "opt-tiny-projected", "gpt2-tiny", "phi3-tiny", "qwen3-tiny", "gemma-tiny"];
    let make = |name: &&str| {
        let folder = Scratch::new();
        let preset = Preset::named(name).expect("a preset");
        synthesize(folder.path(), &preset, &SynthOptions::default()).expect("synthetic");
        let checkpoint = Checkpoint::open(folder.path()).expect("its own");
        let base = BaseModel::read(folder.path()).ok();
        Model { _folder: folder, checkpoint, base }
    };
    names.iter().map(make).collect()
});

/// Any bytes as `config.json` of a model whose weights are there; the first chooses the model.
pub const MODEL_CONFIG: Target = Target {
    name: "model_config",
    run: model_config,
    // Layers are bounded by the configuration's rules: a table of their tensors is made.
    bound: Bound { base: 64 << 20, per_byte: 512, resident: false },
};

fn model_config(data: &[u8]) {
    let Some((&which, text)) = data.split_first() else { return };
    let scratch = Scratch::new();
    scratch.write("config.json", text);
    if let Ok(base) = BaseModel::read(scratch.path()) {
        drop(format!("{base:?}"));
    }
    let Ok(config) = read_config(scratch.path()) else { return };
    let model = &MODELS[usize::from(which) % MODELS.len()];
    for degree in [1, 2] {
        let options = VllmOptions::default().with_tensor_parallel(degree);
        let layout = match VllmLayout::prove(&model.checkpoint, &config, &options) {
            Ok(layout) => layout,
            Err(refusal) => return drop(format!("{refusal} {}", refusal.advice())),
        };
        for rank in 0..degree {
            let rank = layout.rank(rank).expect("within the degree");
            let mut bytes = [0; 2];
            for (i, spec) in rank.specs().iter().enumerate().filter(|(_, spec)| !spec.meta) {
                // Elements of models have two bytes or four, and none of these tensors is empty.
                let read = rank.read_at(i, 0, &mut bytes);
                assert!(read.is_ok(), "{}: {read:?}", spec.path);
            }
        }
    }
}

/// Any bytes as an adapter: a configuration, a zero, the header of its weights. The first byte chooses the base model.
pub const ADAPTER: Target = Target {
    name: "adapter",
    run: adapter,
    // A pattern may take 10 MiB (the limit of `regex`) while it is compiled, and is compiled anew for each use.
    bound: Bound { base: 64 << 20, per_byte: 1024, resident: false },
};

fn adapter(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let (config, header) = match rest.iter().position(|&byte| byte == 0) {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &rest[rest.len()..]),
    };
    let scratch = Scratch::new();
    scratch.write("adapter_config.json", config);
    let weights = with_header(how, header);
    scratch.write("adapter_model.safetensors", &weights);
    let Ok(adapter) = Adapter::open(scratch.path()) else { return };
    for tensor in adapter.tensors() {
        let _ = LoraName::parse(&tensor.name).map(|name| name.layer().len());
    }
    let base = MODELS[usize::from(how) % MODELS.len()].base.clone();
    for rules in [Some(Rules::default()), base.map(|base| Rules::default().with_base(base))] {
        for refusal in rules.map_or(Vec::new(), |rules| adapter.refusals(&rules)) {
            drop(format!("{refusal} {}", refusal.advice()));
        }
    }
    let folder = |name: &str| {
        let path = scratch.path().join(name).display().to_string();
        ArtifactDir::parse(&path).expect("a folder")
    };
    if adapter.publish(&folder("packed"), Forms::PACKED, &WriteOptions::default()).is_err() {
        return;
    }
    let packed = PackedAdapter::open(&folder("packed"), &OpenOptions::default()).expect("its own");
    let unpacked = packed.unpack(&folder("plain"), &Default::default(), &WriteOptions::default());
    if unpacked.is_ok() {
        let plain = scratch.path().join("plain");
        let again = |name: &str| std::fs::read(plain.join(name)).expect("written");
        assert_eq!(again("adapter_config.json"), config);
        assert_eq!(again("adapter_model.safetensors"), weights);
    }
}
