//! What the commands about adapters return.

use serde::Serialize;
use serde_json::Value;

/// A command about an adapter.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Adapted {
    /// `lora pack`, `lora unpack`.
    Written(AdapterWritten),
    /// `lora inspect`.
    Inspected(AdapterFacts),
}

/// What was written where.
#[derive(Debug, Serialize)]
pub(crate) struct AdapterWritten {
    pub(crate) destination: String,
    pub(crate) rank: Option<u64>,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    /// In the order in which they appeared.
    pub(crate) files: Vec<WrittenFile>,
    pub(crate) seconds: f64,
    /// How to use it, line by line.
    pub(crate) usage: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WrittenFile {
    pub(crate) location: String,
    pub(crate) bytes: u64,
}

/// An adapter in either form.
#[derive(Debug, Serialize)]
pub(crate) struct AdapterFacts {
    pub(crate) location: String,
    /// `packed` or `plain`.
    pub(crate) form: &'static str,
    pub(crate) encrypted: bool,
    pub(crate) base_model: Option<String>,
    pub(crate) rank: Option<u64>,
    pub(crate) alpha: Option<f64>,
    /// What the product of both halves is multiplied by.
    pub(crate) scaling: Option<f64>,
    /// As the configuration has it: a list, a pattern, or `null`.
    pub(crate) target_modules: Value,
    pub(crate) tensor_count: usize,
    pub(crate) tensor_bytes: u64,
    pub(crate) tensors: Vec<AdapterRow>,
    /// Why `lora pack` would not take it, and vLLM neither.
    pub(crate) refusals: Vec<Refused>,
}

#[derive(Debug, Serialize)]
pub(crate) struct AdapterRow {
    pub(crate) name: String,
    /// Path in the base model; `null` where the name is not one of a LoRA weight.
    pub(crate) module: Option<String>,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    pub(crate) message: String,
    pub(crate) advice: &'static str,
}
