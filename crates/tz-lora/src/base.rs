//! The base model's linear layers and embeddings, from its `config.json`. Owns [`BaseModel`]: which modules vLLM lets
//! an adapter change, and their sizes. A family is a row of the table below.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::{parse_object, read_bounded};
use crate::error::Error;

/// What a base model looks like to an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    model_type: String,
    /// Whether vLLM's class of the model takes adapters at all.
    takes_adapters: bool,
    layers: u64,
    /// What stands before the number of a layer.
    prefix: &'static str,
    in_layers: Vec<Module>,
    outside: Vec<Module>,
}

/// One module that takes an adapter: its path, in a layer or of its own, and its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Module {
    path: &'static str,
    inputs: u64,
    outputs: u64,
}

/// How a module of an adapter relates to the base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is there, with these inputs and outputs.
    Module { inputs: u64, outputs: u64 },
    /// Layers of this name take adapters, but not at this path.
    Elsewhere,
    /// No layer of this name takes adapters.
    Unknown,
}

/// Reads fields; the reason names the one that is missing or wrong.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn optional(&self, name: &str) -> Result<Option<u64>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            // Sizes are multiplied with each other and must stay far below 2^64.
            Some(value) => match value.as_u64() {
                Some(size) if (1..=1 << 28).contains(&size) => Ok(Some(size)),
                _ => Err(format!("{name:?} is {value}, not a size")),
            },
        }
    }

    fn size(&self, name: &str) -> Result<u64, String> {
        self.optional(name)?.ok_or_else(|| format!("{name:?} is missing"))
    }
}

impl BaseModel {
    /// Reads a base model's `config.json`, or the one in a directory.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Config`] where the family is unknown or a field is missing or wrong.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        let location = file.display().to_string();
        let fields = parse_object(&location, &read_bounded(&file)?)?;
        Self::from_fields(&fields).map_err(|reason| Error::Config { location, reason })
    }

    /// Takes a parsed `config.json`.
    ///
    /// # Errors
    /// A reason, as [`Self::read`].
    pub fn from_fields(config: &Map<String, Value>) -> Result<Self, String> {
        let model_type = config.get("model_type").and_then(Value::as_str);
        let model_type = model_type.ok_or("\"model_type\" is missing")?;
        let fields = Fields(config);
        match model_type {
            "llama" | "mistral" | "qwen2" | "qwen3" | "gemma" | "phi3" => {
                Self::llama_like(model_type, &fields)
            }
            "opt" => Self::opt(&fields),
            // The shapes do not matter: vLLM's class has no support for adapters.
            "gpt2" => Ok(Self {
                model_type: model_type.to_owned(),
                takes_adapters: false,
                layers: 0,
                prefix: "",
                in_layers: Vec::new(),
                outside: Vec::new(),
            }),
            _ => Err(format!("the family {model_type:?} is not one that can be checked")),
        }
    }

    fn llama_like(model_type: &str, fields: &Fields<'_>) -> Result<Self, String> {
        let hidden = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let kv_heads = fields.optional("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match (model_type, fields.optional("head_dim")?) {
            // Their own classes have no such field.
            ("phi3" | "qwen2", _) => hidden / heads,
            (_, Some(dim)) => dim,
            ("qwen3", None) => 128,
            ("gemma", None) => 256,
            _ => hidden / heads,
        };
        let inner = fields.size("intermediate_size")?;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let module = |path, inputs, outputs| Module { path, inputs, outputs };
        let mut in_layers = if model_type == "phi3" {
            vec![
                module("self_attn.qkv_proj", hidden, queries + 2 * keys),
                module("mlp.gate_up_proj", hidden, 2 * inner),
            ]
        } else {
            vec![
                module("self_attn.q_proj", hidden, queries),
                module("self_attn.k_proj", hidden, keys),
                module("self_attn.v_proj", hidden, keys),
                module("mlp.gate_proj", hidden, inner),
                module("mlp.up_proj", hidden, inner),
            ]
        };
        in_layers.push(module("self_attn.o_proj", queries, hidden));
        in_layers.push(module("mlp.down_proj", inner, hidden));
        // In every version only Llama's class and those made from it take adapters of the vocabulary.
        let outside = if matches!(model_type, "llama" | "mistral" | "phi3") {
            let vocab = fields.size("vocab_size")?;
            vec![module("model.embed_tokens", vocab, hidden), module("lm_head", hidden, vocab)]
        } else {
            Vec::new()
        };
        Ok(Self {
            model_type: model_type.to_owned(),
            takes_adapters: true,
            layers: fields.size("num_hidden_layers")?,
            prefix: "model.layers.",
            in_layers,
            outside,
        })
    }

    fn opt(fields: &Fields<'_>) -> Result<Self, String> {
        let hidden = fields.size("hidden_size")?;
        let inner = fields.size("ffn_dim")?;
        let module = |path, inputs, outputs| Module { path, inputs, outputs };
        Ok(Self {
            model_type: "opt".to_owned(),
            takes_adapters: true,
            layers: fields.size("num_hidden_layers")?,
            prefix: "model.decoder.layers.",
            in_layers: vec![
                module("self_attn.q_proj", hidden, hidden),
                module("self_attn.k_proj", hidden, hidden),
                module("self_attn.v_proj", hidden, hidden),
                module("self_attn.out_proj", hidden, hidden),
                module("fc1", hidden, inner),
                module("fc2", inner, hidden),
            ],
            outside: Vec::new(),
        })
    }

    /// `model_type` of the family.
    #[must_use]
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    pub(crate) fn takes_adapters(&self) -> bool {
        self.takes_adapters
    }

    /// Names of the layers that take adapters.
    pub(crate) fn layer_names(&self) -> Vec<&'static str> {
        let modules = self.in_layers.iter().chain(&self.outside);
        modules.map(|module| module.path.rsplit('.').next().unwrap_or(module.path)).collect()
    }

    /// Looks a module's path up.
    pub(crate) fn find(&self, path: &str) -> Found {
        let in_layer = path.strip_prefix(self.prefix).and_then(|rest| {
            let (number, rest) = rest.split_once('.')?;
            let known = number.parse::<u64>().is_ok_and(|number| number < self.layers);
            self.in_layers.iter().find(|module| known && module.path == rest)
        });
        let module = in_layer.or_else(|| self.outside.iter().find(|module| module.path == path));
        if let Some(&Module { inputs, outputs, .. }) = module {
            return Found::Module { inputs, outputs };
        }
        let name = path.rsplit('.').next().unwrap_or(path);
        if self.layer_names().contains(&name) { Found::Elsewhere } else { Found::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Result<BaseModel, String> {
        BaseModel::from_fields(&parse_object("x", text.as_bytes()).unwrap())
    }

    const SIZES: &str = r#""hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 99, "ffn_dim": 32"#;

    #[track_caller]
    fn check(model_type: &str, module: &str, expect: Found) {
        let base = base(&format!(r#"{{"model_type": "{model_type}", {SIZES}}}"#)).unwrap();
        assert_eq!(base.find(module), expect, "{model_type} {module}");
    }

    #[test]
    fn modules_and_their_sizes() {
        let module = |inputs, outputs| Found::Module { inputs, outputs };
        check("llama", "model.layers.1.self_attn.k_proj", module(8, 4));
        check("llama", "model.layers.1.mlp.down_proj", module(24, 8));
        check("llama", "model.embed_tokens", module(99, 8));
        check("mistral", "lm_head", module(8, 99));
        check("qwen3", "model.layers.0.self_attn.q_proj", module(8, 512));
        check("gemma", "model.layers.0.self_attn.o_proj", module(1024, 8));
        check("phi3", "model.layers.0.self_attn.qkv_proj", module(8, 16));
        check("phi3", "model.layers.0.mlp.gate_up_proj", module(8, 48));
        check("opt", "model.decoder.layers.1.fc1", module(8, 32));
        check("opt", "model.decoder.layers.1.self_attn.out_proj", module(8, 8));
    }

    #[test]
    fn modules_that_are_not_there() {
        check("llama", "model.layers.2.self_attn.k_proj", Found::Elsewhere);
        check("llama", "layers.0.self_attn.k_proj", Found::Elsewhere);
        check("llama", "model.layers.0.self_attn.qkv_proj", Found::Unknown);
        check("phi3", "model.layers.0.self_attn.q_proj", Found::Unknown);
        check("qwen2", "model.embed_tokens", Found::Unknown);
        check("gpt2", "transformer.h.0.attn.c_attn", Found::Unknown);
    }

    #[test]
    fn configurations_that_say_too_little() {
        assert!(base(r#"{}"#).unwrap_err().contains("model_type"));
        assert!(base(r#"{"model_type": "mamba"}"#).unwrap_err().contains("mamba"));
        assert!(base(r#"{"model_type": "opt"}"#).unwrap_err().contains("hidden_size"));
        let huge = r#"{"model_type": "opt", "hidden_size": 99999999999}"#;
        assert!(base(huge).unwrap_err().contains("not a size"));
    }
}
