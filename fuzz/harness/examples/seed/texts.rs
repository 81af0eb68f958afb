//! Seeds of the targets that read texts: headers, indices, configurations, manifests.

use std::io;

use tz_model::{
    Facts, FileEntry, LayoutName, Manifest, Moment, Preset, Source, SynthOptions, synthesize,
};

use crate::Corpus;

const PRESETS: [&str; 6] =
    ["llama-tiny", "opt-tiny-projected", "gpt2-tiny", "phi3-tiny", "qwen3-tiny", "gemma-tiny"];

const HEADERS: [&str; 4] = [
    r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"b":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}"#,
    r#"{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]},"e":{"dtype":"U8","shape":[0,7],"data_offsets":[4,4]}}   "#,
    "{}",
    r#"{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":{"dtype":"F16","shape":[1,4],"data_offsets":[0,8]},"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight":{"dtype":"F16","shape":[4,1],"data_offsets":[8,16]}}"#,
];

const ADAPTERS: [&str; 3] = [
    r#"{"peft_type":"LORA","r":1,"lora_alpha":2,"target_modules":["q_proj"],"base_model_name_or_path":"m","bias":"none","use_rslora":true,"use_dora":false,"modules_to_save":null,"rank_pattern":{},"fan_in_fan_out":false}"#,
    r#"{"peft_type":"LORA","r":8,"lora_alpha":16.5,"target_modules":".*\\.(q|v)_proj$","modules_to_save":["lm_head"],"layers_to_transform":[0,1],"rank_pattern":{"q_proj":4}}"#,
    r#"{"r":1,"lora_alpha":2,"target_modules":"all-linear"}"#,
];

pub(crate) fn write(corpus: &Corpus) -> io::Result<()> {
    for (i, header) in HEADERS.iter().enumerate() {
        let name = format!("header-{i}");
        corpus.seed("safetensors", &name, &[&[17], header.as_bytes()].concat())?;
        let len = (header.len() as u64).to_le_bytes();
        let file = [&[0], &len[..], header.as_bytes(), &[0; 16]].concat();
        corpus.seed("safetensors", &format!("file-{i}"), &file)?;
        for (j, config) in ADAPTERS.iter().enumerate() {
            let bytes = [&[16], config.as_bytes(), b"\0", header.as_bytes()].concat();
            corpus.seed("adapter", &format!("{i}-{j}"), &bytes)?;
        }
    }
    let index = r#"{"metadata":{"total_size":8},"weight_map":{"x":"a.safetensors","y":"a.safetensors","z":"b.safetensors","w":"b.safetensors"}}"#;
    corpus.seed("shard_index", "whole", index.as_bytes())?;
    corpus.seed("shard_index", "outside", br#"{"weight_map":{"x":"../a.safetensors"}}"#)?;
    for (preset, which) in PRESETS.iter().zip(0..) {
        let folder = tempfile::tempdir()?;
        let shapes = Preset::named(preset).expect("a preset");
        synthesize(folder.path(), &shapes, &SynthOptions::default()).map_err(io::Error::other)?;
        let config = std::fs::read(folder.path().join("config.json"))?;
        corpus.seed("model_config", preset, &[&[which], &*config].concat())?;
        // As many layers as the rules admit: the largest table that a configuration can ask for.
        let mut fields: serde_json::Value = serde_json::from_slice(&config)?;
        let layers = if fields.get("n_layer").is_some() { "n_layer" } else { "num_hidden_layers" };
        fields[layers] = 10_000.into();
        let config = serde_json::to_vec(&fields)?;
        corpus.seed("model_config", &format!("{preset}-deep"), &[&[which], &*config].concat())?;
    }
    let file = |path: &str| FileEntry::new(path, 7, [9; 32]);
    let source =
        Source::new("/models/m".into(), Some("main".into()), vec![file("model.safetensors")]);
    let facts = Facts {
        model: "org/m".into(),
        layout: LayoutName::Vllm,
        vllm: ">=0.30.0".into(),
        tensor_parallel_size: 2,
        encrypted: true,
        source,
        created: Moment::at(1_700_000_000),
    };
    let manifest = Manifest::new(facts, vec![file("model-rank-000.tensors"), file("config.json")]);
    corpus.seed("manifest", "whole", manifest.to_text().map_err(io::Error::other)?.as_bytes())
}
