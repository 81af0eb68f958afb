//! What stands beside the weights: configuration and tokenizer stubs. Owns their contents.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Error;
use crate::safetensors_writer::{Durability, publish_all, sync, temp_beside};
use crate::synth::Preset;

/// Writes the small files, and gives their paths. They come before the weights, so that a directory with weights is
/// complete.
pub(super) fn write(
    dir: &Path,
    preset: &Preset,
    durability: Durability,
) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let config = preset.config();
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let mut generation = json!({ "_from_model_config": true });
    for id in ids {
        if let (Some(value), Some(target)) = (config.get(id), generation.as_object_mut()) {
            target.insert(id.to_owned(), value.clone());
        }
    }
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 2048,
    });
    let special = json!({ "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>" });
    for (name, value) in [
        ("config.json", config),
        ("generation_config.json", &generation),
        ("tokenizer_config.json", &tokenizer_config),
        ("special_tokens_map.json", &special),
        ("tokenizer.json", &tokenizer()),
    ] {
        let path = dir.join(name);
        let mut file = temp_beside(&path)?;
        file.write_all(format!("{value:#}\n").as_bytes())
            .map_err(|error| Error::io(&path, "write", error))?;
        sync(file.as_file(), &path, durability)?;
        files.push((file, path));
    }
    publish_all(files.into_iter())
}

/// A word-level tokenizer of three tokens: valid, and good for nothing but loading.
fn tokenizer() -> Value {
    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "WordLevel",
            "vocab": { "<unk>": 0, "<s>": 1, "</s>": 2 },
            "unk_token": "<unk>",
        },
    })
}
