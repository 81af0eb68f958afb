//! What `config.json` says about a model's tensors. Owns [`ModelConfig`] and the defaults of each family.

use serde_json::Value;
use tz_format::Dtype;

use super::{Family, Size, When};

/// The sizes and switches on which names and shapes depend.
#[derive(Debug, Clone)]
pub(crate) struct ModelConfig {
    pub(crate) family: &'static Family,
    pub(crate) hidden: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) intermediate: u64,
    pub(crate) layers: u64,
    pub(crate) vocab: u64,
    pub(crate) positions: u64,
    pub(crate) embedding: u64,
    pub(crate) tied: bool,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) linear_bias: bool,
    pub(crate) affine_norm: bool,
    pub(crate) final_norm: bool,
    /// The element type, where the configuration names one.
    pub(crate) dtype: Option<Dtype>,
}

/// Most layers that a configuration may state; the deepest published models have about a hundred and thirty.
const MAX_LAYERS: u64 = 10_000;

/// Reads fields with the defaults of transformers; the reason names the field.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn optional(&self, name: &str) -> Result<Option<u64>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            // Products of a few sizes must stay far below 2^64, so none may be larger than any model's.
            Some(value) => match value.as_u64() {
                Some(size) if (1..=1 << 32).contains(&size) => Ok(Some(size)),
                _ => Err(format!("{name:?} is {value}, not a size")),
            },
        }
    }

    fn size(&self, name: &str) -> Result<u64, String> {
        self.optional(name)?.ok_or_else(|| format!("{name:?} is missing"))
    }

    /// A count for which memory is taken.
    fn layers(&self, name: &str) -> Result<u64, String> {
        match self.size(name)? {
            layers if layers <= MAX_LAYERS => Ok(layers),
            layers => Err(format!("{name:?} is {layers}, over {MAX_LAYERS}")),
        }
    }

    /// `dtype`, which transformers called `torch_dtype` until version 5.
    fn dtype(&self) -> Result<Option<Dtype>, String> {
        let value = ["dtype", "torch_dtype"].iter().find_map(|name| self.0.get(name));
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let name = value.as_str().unwrap_or_default();
                let name = name.strip_prefix("torch.").unwrap_or(name);
                let dtype = Dtype::from_name(name);
                dtype.map(Some).ok_or_else(|| format!("\"dtype\" is {value}"))
            }
        }
    }

    fn switch(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(on)) => Ok(*on),
            Some(value) => Err(format!("{name:?} is {value}, neither true nor false")),
        }
    }
}

impl ModelConfig {
    /// Whether there is a table for a model class.
    pub(crate) fn knows(architecture: &str) -> bool {
        Family::by_architecture(architecture).is_some()
    }

    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// A reason, where the model is of an unknown family or a field is missing or wrong.
    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        let architectures = json.get("architectures").and_then(Value::as_array);
        let architecture = architectures
            .and_then(|list| list.first())
            .and_then(Value::as_str)
            .ok_or("\"architectures\" names no model class")?;
        let family = Family::by_architecture(architecture)
            .ok_or_else(|| format!("the architecture {architecture:?} is not a known family"))?;
        let model_type = json.get("model_type").unwrap_or(&Value::Null);
        if model_type.as_str() != Some(family.model_type) {
            return Err(format!(
                "\"model_type\" is {model_type}, {architecture} has {:?}",
                family.model_type
            ));
        }
        let fields = Fields(json);
        match family.model_type {
            "gpt2" => Self::gpt2(family, &fields),
            "opt" => Self::opt(family, &fields),
            _ => Self::llama_like(family, &fields),
        }
    }

    fn llama_like(family: &'static Family, fields: &Fields<'_>) -> Result<Self, String> {
        let hidden = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let head_dim = match (family.model_type, fields.optional("head_dim")?) {
            // Phi-3's and Qwen2's own classes have no such field.
            ("phi3" | "qwen2", _) => divide(hidden, heads)?,
            (_, Some(dim)) => dim,
            ("qwen3", None) => 128,
            ("gemma", None) => 256,
            _ => divide(hidden, heads)?,
        };
        if family.model_type == "qwen3" && fields.switch("attention_bias", false)? {
            return Err("\"attention_bias\" is true, which no published Qwen3 has".to_owned());
        }
        Ok(Self {
            family,
            hidden,
            heads,
            kv_heads: fields.optional("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            intermediate: fields.size("intermediate_size")?,
            layers: fields.layers("num_hidden_layers")?,
            vocab: fields.size("vocab_size")?,
            positions: 0,
            embedding: hidden,
            tied: fields.switch("tie_word_embeddings", family.model_type == "gemma")?,
            attention_bias: fields.switch("attention_bias", false)?,
            mlp_bias: fields.switch("mlp_bias", false)?,
            linear_bias: false,
            affine_norm: true,
            final_norm: true,
            dtype: fields.dtype()?,
        })
    }

    fn gpt2(family: &'static Family, fields: &Fields<'_>) -> Result<Self, String> {
        let hidden = fields.size("n_embd")?;
        let heads = fields.size("n_head")?;
        Ok(Self {
            family,
            hidden,
            heads,
            kv_heads: heads,
            head_dim: divide(hidden, heads)?,
            intermediate: fields.optional("n_inner")?.unwrap_or(4 * hidden),
            layers: fields.layers("n_layer")?,
            vocab: fields.size("vocab_size")?,
            positions: fields.size("n_positions")?,
            embedding: hidden,
            tied: fields.switch("tie_word_embeddings", true)?,
            attention_bias: true,
            mlp_bias: true,
            linear_bias: true,
            affine_norm: true,
            final_norm: true,
            dtype: fields.dtype()?,
        })
    }

    fn opt(family: &'static Family, fields: &Fields<'_>) -> Result<Self, String> {
        let hidden = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let affine_norm = fields.switch("layer_norm_elementwise_affine", true)?;
        let final_norm = fields.switch("do_layer_norm_before", true)?
            && !fields.switch("_remove_final_layer_norm", false)?;
        Ok(Self {
            family,
            hidden,
            heads,
            kv_heads: heads,
            head_dim: divide(hidden, heads)?,
            intermediate: fields.size("ffn_dim")?,
            layers: fields.layers("num_hidden_layers")?,
            vocab: fields.size("vocab_size")?,
            // The first two rows of the table are for padding.
            positions: fields.size("max_position_embeddings")? + 2,
            embedding: fields.optional("word_embed_proj_dim")?.unwrap_or(hidden),
            tied: fields.switch("tie_word_embeddings", true)?,
            attention_bias: true,
            mlp_bias: true,
            linear_bias: fields.switch("enable_bias", true)?,
            affine_norm,
            final_norm: final_norm && affine_norm,
            dtype: fields.dtype()?,
        })
    }

    /// The value of a symbolic size.
    pub(crate) fn size(&self, size: Size) -> u64 {
        match size {
            Size::Hidden => self.hidden,
            Size::Query => self.heads.saturating_mul(self.head_dim),
            Size::KeyValue => self.kv_heads.saturating_mul(self.head_dim),
            Size::HeadDim => self.head_dim,
            Size::Intermediate => self.intermediate,
            Size::Vocab => self.vocab,
            Size::Positions => self.positions,
            Size::Embedding => self.embedding,
        }
    }

    /// Rows of vLLM's vocabulary: a multiple of 64, for the sake of its kernels.
    pub(crate) fn padded_vocab(&self) -> u64 {
        self.vocab.next_multiple_of(64)
    }

    /// Whether a condition holds.
    pub(crate) fn has(&self, when: When) -> bool {
        match when {
            When::Always => true,
            When::Never => false,
            When::AttentionBias => self.attention_bias,
            When::MlpBias => self.mlp_bias,
            When::LinearBias => self.linear_bias,
            When::AffineNorm => self.affine_norm,
            When::FinalNorm => self.final_norm,
            When::Projection => self.embedding != self.hidden,
        }
    }
}

fn divide(hidden: u64, heads: u64) -> Result<u64, String> {
    if hidden.is_multiple_of(heads) {
        Ok(hidden / heads)
    } else {
        Err(format!("the hidden size {hidden} is not a multiple of {heads} heads"))
    }
}
