//! Shapes to synthesise: published models, their tiny likenesses, and a model of any wanted size. Owns [`Preset`].

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Value, json};
use tz_format::{Dtype, Element};

use crate::family::{ModelConfig, source_tensors};
use crate::safetensors_plan::TensorDecl;

/// Names, shapes and configuration of a model to synthesise.
#[derive(Debug, Clone)]
pub struct Preset {
    config: Value,
    style: Style,
    tensors: Vec<TensorDecl>,
}

/// How a published checkpoint differs from what the model's class would save today.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Style {
    /// Prefix that its names leave out.
    strip: Option<String>,
    /// GPT-2's carries the causal mask of every layer as a tensor.
    causal_mask: bool,
}

/// One row of the table `presets.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// Contents of `config.json`.
    config: Value,
    #[serde(default)]
    style: Style,
}

static PRESETS: LazyLock<BTreeMap<String, Row>> = LazyLock::new(|| {
    // The text is part of the program and a test parses it; an empty table is what a typo would leave.
    serde_json::from_str(include_str!("presets.json")).unwrap_or_default()
});

impl Preset {
    /// Names that [`Preset::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.keys().map(String::as_str)
    }

    /// A published model (`llama-1b`, `opt-125m`, …), or one of the same family in miniature (`llama-tiny`, …).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let row = PRESETS.get(name)?;
        Self::build(row.config.clone(), row.style.clone())
    }

    /// A Llama-shaped model in bfloat16 whose tensors have about `bytes` bytes: within 2 % from 4 MiB on.
    #[must_use]
    pub fn sized(bytes: u64) -> Self {
        // Hidden size, heads, key-value heads, feed-forward and vocabulary of models that are published at about
        // these sizes; the number of layers fills most of the rest, the feed-forward's width what is left.
        let (hidden, heads, kv_heads, intermediate, vocab) = match bytes {
            0..0x80_0000 => (64, 4, 2, 176, 1024),
            0x80_0000..0x400_0000 => (256, 4, 2, 704, 4096),
            0x400_0000..0x1000_0000 => (512, 8, 4, 1376, 8192),
            0x1000_0000..0x4000_0000 => (1024, 16, 8, 2816, 16_384),
            0x4000_0000..0x1_0000_0000 => (2048, 32, 8, 5632, 32_000),
            0x1_0000_0000..0xa_0000_0000 => (4096, 32, 8, 14_336, 32_000),
            _ => (8192, 64, 8, 28_672, 128_256),
        };
        let model = |layers: u64, intermediate: u64| {
            Self::llama(hidden, heads, kv_heads, intermediate, vocab, layers)
        };
        let one = model(1, intermediate).byte_len();
        let layer = model(2, intermediate).byte_len() - one;
        let layers = 1 + bytes.saturating_sub(one) / layer;
        let rest = bytes.saturating_sub(model(layers, intermediate).byte_len());
        // Gate, up and down projection grow by one row or column of two-byte elements each, in every layer.
        let wider = rest / (layers * 3 * hidden * 2);
        model(layers, (intermediate + wider + 4) / 8 * 8)
    }

    fn llama(hidden: u64, heads: u64, kv: u64, intermediate: u64, vocab: u64, layers: u64) -> Self {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": hidden / heads,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "initializer_range": 0.02,
            "intermediate_size": intermediate,
            "max_position_embeddings": 4096,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": kv,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
            "vocab_size": vocab,
        });
        let tensors = dense_tensors(&config).unwrap_or_default();
        let style = Style::default();
        Self { config, style, tensors }
    }

    /// The model that a `config.json` describes; `None` where its family is not known.
    #[must_use]
    pub fn from_config(config: Value) -> Option<Self> {
        Self::build(config, Style::default())
    }

    fn build(config: Value, style: Style) -> Option<Self> {
        let mut tensors = match config.get("model_type").and_then(Value::as_str) {
            Some("mixtral") => mixtral_tensors(&config)?,
            _ => dense_tensors(&config)?,
        };
        if style.causal_mask {
            tensors.extend(causal_masks(&config));
        }
        if let Some(prefix) = &style.strip {
            for tensor in &mut tensors {
                if let Some(short) = tensor.name.strip_prefix(prefix.as_str()) {
                    tensor.name = short.to_owned();
                }
            }
        }
        Some(Self { config, style, tensors })
    }

    /// The same model with another number of layers, for files of many tensors; `None` where the family's
    /// configuration does not admit so many.
    #[must_use]
    pub fn with_layers(&self, layers: u64) -> Option<Self> {
        let mut config = self.config.clone();
        for name in ["num_hidden_layers", "n_layer"] {
            if let Some(value) = config.get_mut(name) {
                *value = layers.into();
            }
        }
        Self::build(config, self.style.clone())
    }

    /// The same model in another element type.
    #[must_use]
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        for tensor in &mut self.tensors {
            tensor.dtype = dtype;
        }
        if let Some(config) = self.config.as_object_mut() {
            config.insert("torch_dtype".to_owned(), dtype.name().into());
        }
        self
    }

    /// Contents of `config.json`.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The tensors, in the order of the model's modules.
    #[must_use]
    pub fn tensors(&self) -> &[TensorDecl] {
        &self.tensors
    }

    /// Bytes of all tensors together.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        let len = |t: &TensorDecl| t.shape.iter().product::<u64>() * t.dtype.size();
        self.tensors.iter().map(len).sum()
    }
}

fn causal_masks(config: &Value) -> impl Iterator<Item = TensorDecl> {
    let size = |name: &str| config.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (layers, positions) = (size("n_layer"), size("n_positions"));
    (0..layers).map(move |layer| TensorDecl {
        name: format!("transformer.h.{layer}.attn.bias"),
        dtype: Element::Float32.into(),
        shape: vec![1, 1, positions, positions],
    })
}

fn dense_tensors(config: &Value) -> Option<Vec<TensorDecl>> {
    let model = ModelConfig::from_json(config).ok()?;
    let dtype = model.dtype.unwrap_or_else(|| Element::Float32.into());
    let decl = |(name, shape)| TensorDecl { name, dtype, shape };
    Some(source_tensors(&model).into_iter().map(decl).collect())
}

/// Mistral's attention and norms, with experts in place of the feed-forward.
fn mixtral_tensors(config: &Value) -> Option<Vec<TensorDecl>> {
    let size = |name: &str| config.get(name).and_then(Value::as_u64);
    let (hidden, inner) = (size("hidden_size")?, size("intermediate_size")?);
    let (layers, experts) = (size("num_hidden_layers")?, size("num_local_experts")?);
    let mut dense = config.clone();
    let fields = dense.as_object_mut()?;
    fields.insert("model_type".to_owned(), "mistral".into());
    fields.insert("architectures".to_owned(), json!(["MistralForCausalLM"]));
    let mut tensors = dense_tensors(&dense)?;
    let dtype = tensors.first()?.dtype;
    tensors.retain(|tensor| !tensor.name.contains(".mlp."));
    for layer in 0..layers {
        let mut add = |name: &str, shape: [u64; 2]| {
            tensors.push(TensorDecl {
                name: format!("model.layers.{layer}.block_sparse_moe.{name}.weight"),
                dtype,
                shape: shape.to_vec(),
            });
        };
        add("gate", [experts, hidden]);
        for expert in 0..experts {
            add(&format!("experts.{expert}.w1"), [inner, hidden]);
            add(&format!("experts.{expert}.w2"), [hidden, inner]);
            add(&format!("experts.{expert}.w3"), [inner, hidden]);
        }
    }
    Some(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_a_model() {
        let rows: BTreeMap<String, Row> =
            serde_json::from_str(include_str!("presets.json")).expect("presets.json");
        assert!(!rows.is_empty());
        for name in rows.keys() {
            let preset = Preset::named(name).expect(name);
            assert!(preset.tensors().len() > 10, "{name}");
        }
        assert!(Preset::named("llama-9000b").is_none());
    }

    /// Published numbers of parameters; they do not come from these tables.
    #[test]
    fn published_models_have_their_number_of_parameters() {
        for (name, parameters) in [
            ("llama-1b", 1_235_814_400),
            ("llama-8b", 8_030_261_248),
            ("mistral-7b", 7_241_732_096),
            ("qwen2-0.5b", 494_032_768),
            ("qwen3-0.6b", 596_049_920),
            ("opt-125m", 125_239_296),
            ("gemma-2b", 2_506_172_416),
            ("phi3-mini", 3_821_079_552),
        ] {
            let preset = Preset::named(name).expect(name);
            let count = |t: &TensorDecl| t.shape.iter().product::<u64>();
            let count: u64 = preset.tensors().iter().map(count).sum();
            assert_eq!(count, parameters, "{name}");
        }
        let gpt2 = Preset::named("gpt2").expect("gpt2");
        let weights = gpt2.tensors().iter().filter(|t| t.shape.len() < 4);
        let count: u64 = weights.map(|t| t.shape.iter().product::<u64>()).sum();
        assert_eq!(count, 124_439_808);
        assert_eq!(gpt2.tensors().len(), 160);
    }

    #[test]
    fn sized_models_have_about_the_wanted_size() {
        for mib in [4_u64, 7, 8, 63, 64, 255, 256, 1023, 1024, 2048, 4095, 4096, 30_000, 140_000] {
            let bytes = mib << 20;
            let preset = Preset::sized(bytes);
            let off = preset.byte_len().abs_diff(bytes);
            assert!(off * 50 <= bytes, "{mib} MiB gives {}", preset.byte_len());
        }
        assert!(Preset::sized(0).byte_len() > 0);
    }

    #[test]
    fn layers_can_be_added_until_there_are_thousands_of_tensors() {
        let preset = Preset::named("llama-tiny").expect("preset");
        let deep = preset.with_layers(670).expect("layers");
        assert_eq!(deep.tensors().len(), 670 * 9 + 3);
        assert!(preset.with_layers(0).is_none());
        let gpt2 = Preset::named("gpt2").expect("preset");
        let shallow = gpt2.with_layers(3).expect("layers");
        assert_eq!(shallow.tensors().len(), 3 * 13 + 4);
    }
}
