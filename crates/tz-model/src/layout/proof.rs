//! Whether a checkpoint is the model that its configuration describes. Owns [`Proven`].

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tz_format::{Dtype, Element};

use super::Refusal;
use crate::checkpoint::Checkpoint;
use crate::family::{ModelConfig, OWN_HEAD, head, source_tensors};

/// Fields by which configurations say that there are experts.
const EXPERT_FIELDS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts"];

/// Fields by which configurations say how weights were quantised.
const QUANTISATION_FIELDS: &[&str] = &["quantization_config", "compression_config"];

/// Reads a configuration of a family that can be converted.
pub(super) fn supported(json: &Value) -> Result<ModelConfig, Refusal> {
    for field in QUANTISATION_FIELDS {
        if let Some(value) = json.get(field).filter(|value| !value.is_null()) {
            let method = value.get("quant_method").and_then(Value::as_str);
            return Err(Refusal::Quantised(method.unwrap_or(field).to_owned()));
        }
    }
    let count = |field: &str| json.get(field).and_then(Value::as_u64);
    if EXPERT_FIELDS.iter().any(|field| count(field) > Some(1)) {
        return Err(Refusal::MixtureOfExperts);
    }
    let architecture = json.pointer("/architectures/0").and_then(Value::as_str);
    if let Some(name) = architecture
        && !ModelConfig::knows(name)
    {
        return Err(Refusal::UnknownFamily(name.to_owned()));
    }
    ModelConfig::from_json(json).map_err(Refusal::Config)
}

/// Number of ranks, where the model can be divided among so many.
pub(super) fn degree(config: &ModelConfig, degree: u32) -> Result<u64, Refusal> {
    let ranks = u64::from(degree);
    let refuse = |reason: String| Err(Refusal::TensorParallel { degree, reason });
    if ranks == 0 {
        return refuse("there must be at least one".to_owned());
    }
    let vocab = config.padded_vocab();
    for (what, count) in [
        ("attention heads", config.heads),
        ("rows of the feed-forward", config.intermediate),
        ("padded rows of the vocabulary", vocab),
    ] {
        if !count.is_multiple_of(ranks) {
            return refuse(format!("it has {count} {what}"));
        }
    }
    // Fewer key-value heads than ranks are repeated, each as often as every other.
    let heads = config.kv_heads;
    if !heads.is_multiple_of(ranks) && !ranks.is_multiple_of(heads) {
        return refuse(format!("it has {heads} key-value heads"));
    }
    Ok(ranks)
}

/// Where every expected tensor stands in the checkpoint.
#[derive(Debug)]
pub(super) struct Proven {
    /// By the family's name.
    tensors: HashMap<String, usize>,
    /// Whether the checkpoint has an output head of its own.
    pub(super) has_head: bool,
    /// Names that vLLM's loader skips.
    pub(super) ignored: Vec<String>,
}

impl Proven {
    /// Compares names and shapes.
    pub(super) fn new(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self, Refusal> {
        let mut expected = source_tensors(config);
        let own_head = head(OWN_HEAD).source_tensors(config, 0);
        let has_head = own_head.iter().all(|(name, _)| checkpoint.find(name).is_some());
        if config.tied && has_head {
            expected.extend(own_head);
        }
        let strip = prefix_to_strip(checkpoint, config);
        let mut tensors = HashMap::with_capacity(expected.len());
        let mut used = HashSet::with_capacity(expected.len());
        let mut missing = Vec::new();
        for (name, _) in &expected {
            let own = strip.and_then(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
            match checkpoint.find(own) {
                Some(i) => {
                    tensors.insert(name.clone(), i);
                    used.insert(i);
                }
                None => missing.push(own.to_owned()),
            }
        }
        if !missing.is_empty() {
            return Err(Refusal::Missing(missing));
        }
        let ignorable = |name: &str| {
            let endings = config.family.ignored;
            endings.iter().any(|ending| name.ends_with(ending))
        };
        let unused = checkpoint.tensors().iter().enumerate();
        let unused = unused.filter(|(i, _)| !used.contains(i));
        let (ignored, extra): (Vec<String>, Vec<String>) =
            unused.map(|(_, tensor)| tensor.name.clone()).partition(|name| ignorable(name));
        if !extra.is_empty() {
            return Err(Refusal::Extra(extra));
        }
        for (name, expected) in expected {
            let found = tensors.get(&name).and_then(|&i| checkpoint.tensors().get(i));
            if let Some(found) = found
                && found.shape != expected
            {
                return Err(Refusal::WrongShape {
                    name: found.name.clone(),
                    expected,
                    found: found.shape.clone(),
                });
            }
        }
        Ok(Self { tensors, has_head, ignored })
    }

    /// The one element type of all tensors: the configuration's where it names one.
    pub(super) fn dtype(
        &self,
        checkpoint: &Checkpoint,
        config: &ModelConfig,
    ) -> Result<Dtype, Refusal> {
        // In file order, so that the same tensor is named every time.
        let mut used: Vec<usize> = self.tensors.values().copied().collect();
        used.sort_unstable();
        let tensors = used.iter().filter_map(|&i| checkpoint.tensors().get(i));
        let mut dtype = config.dtype;
        for tensor in tensors {
            let expected = *dtype.get_or_insert(tensor.dtype);
            if tensor.dtype != expected {
                return Err(Refusal::WrongDtype {
                    name: tensor.name.clone(),
                    expected,
                    found: tensor.dtype,
                });
            }
        }
        let dtype = dtype.unwrap_or_else(|| Element::Float32.into());
        match dtype.element() {
            Element::Float16 | Element::Bfloat16 | Element::Float32 => Ok(dtype),
            _ => Err(Refusal::UnsupportedDtype(dtype)),
        }
    }

    /// Index in the checkpoint of the tensor that the family calls `name`.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.tensors.get(name).copied()
    }
}

/// The prefix that this checkpoint leaves out of its names, judged by its embedding.
fn prefix_to_strip(checkpoint: &Checkpoint, config: &ModelConfig) -> Option<&'static str> {
    let prefix = config.family.optional_prefix?;
    let embedding = config.family.embedding.first()?.name;
    let short = embedding.strip_prefix(prefix)?;
    checkpoint.find(&format!("{short}.weight")).map(|_| prefix)
}
