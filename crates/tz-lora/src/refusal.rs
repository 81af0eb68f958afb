//! Why vLLM would not take an adapter, or would compute something else with it. Owns [`Refusal`]; when each applies is
//! in `rules`.

use thiserror::Error;

use crate::names::NameFault;

/// One thing that is wrong with an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// vLLM asks for three fields by name.
    #[error("adapter_config.json has no {key:?}")]
    MissingKey {
        /// The field.
        key: &'static str,
    },
    /// A field is of another type than vLLM computes with.
    #[error("{key:?} in adapter_config.json is {found}, not {expected}")]
    WrongType {
        /// The field.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// PEFT has other kinds of adapters; vLLM would take one for LoRA without looking.
    #[error("\"peft_type\" is {peft_type:?}, only \"LORA\" can be applied")]
    NotLora {
        /// The kind.
        peft_type: String,
    },
    /// The scale is alpha divided by the rank.
    #[error("the rank \"r\" is 0")]
    ZeroRank,
    /// vLLM reserves memory for adapters when it starts, up to `--max-lora-rank`.
    #[error("the rank {rank} is over --max-lora-rank {limit}")]
    RankOverLimit {
        /// The adapter's rank.
        rank: u64,
        /// The limit in force.
        limit: u64,
    },
    /// vLLM applies no biases.
    #[error("\"bias\" is {bias}, vLLM takes \"none\" only")]
    Bias {
        /// The field.
        bias: String,
    },
    /// vLLM does not do weight-decomposed adaptation.
    #[error("\"use_dora\" is true, vLLM does not support DoRA")]
    Dora,
    /// vLLM changes no whole layers.
    #[error("\"modules_to_save\" names {modules}, vLLM takes none")]
    ModulesToSave {
        /// The layers.
        modules: String,
    },
    /// vLLM ignores the field and scales every layer by the one rank: results would silently be wrong.
    #[error(
        "\"rank_pattern\" gives {module:?} the rank {rank}, vLLM ignores it and scales by \"r\""
    )]
    RankPattern {
        /// Pattern of the modules concerned.
        module: String,
        /// Their rank.
        rank: String,
    },
    /// vLLM ignores the field and scales every layer by the one alpha: results would silently be wrong.
    #[error(
        "\"alpha_pattern\" gives {module:?} the alpha {alpha}, vLLM ignores it and scales by \"lora_alpha\""
    )]
    AlphaPattern {
        /// Pattern of the modules concerned.
        module: String,
        /// Their alpha.
        alpha: String,
    },
    /// PEFT computes something else with the field set; vLLM does not look at it.
    #[error("{field:?} is {value}, vLLM ignores it and applies plain LoRA")]
    Variant {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// There is nothing to apply.
    #[error("there is no tensor in the adapter")]
    NoTensors,
    /// vLLM stops at a name that it does not know.
    #[error("tensor {name:?} is not a LoRA weight: {fault}")]
    UnexpectedName {
        /// The tensor.
        name: String,
        /// What it is instead.
        fault: NameFault,
    },
    /// vLLM casts to its own type: numbers that are no floats would change their meaning.
    #[error("tensor {name:?} is of type {dtype}, not of floating-point numbers")]
    NotFloat {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: &'static str,
    },
    /// Both halves are matrices.
    #[error("tensor {name:?} has the shape {shape:?}, a matrix is needed")]
    NotTwoDimensional {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The configuration and the weights disagree; vLLM would scale by the wrong rank.
    #[error("tensor {name:?} is of rank {found}, adapter_config.json says {rank}")]
    RankMismatch {
        /// The tensor.
        name: String,
        /// Rank of its shape.
        found: u64,
        /// `r`.
        rank: u64,
    },
    /// One half alone changes nothing, or stops vLLM.
    #[error("{module:?} has no {missing}")]
    Unpaired {
        /// The module.
        module: String,
        /// The half that is not there.
        missing: &'static str,
    },
    /// The same weight stands twice, with PEFT's prefix and without; vLLM takes whichever comes last.
    #[error("tensor {name:?} is the same half of the same module as another tensor")]
    Duplicate {
        /// The tensor.
        name: String,
    },
    /// The list promises what the tensors do not hold: the file may have lost some.
    #[error("target_modules names {target:?}, for which there is no tensor")]
    UnusedTarget {
        /// The name in the list.
        target: String,
    },
    /// The tensors hold what the list does not promise.
    #[error("tensor {name:?} is outside target_modules")]
    OutsideTargets {
        /// The tensor.
        name: String,
    },
    /// vLLM's class of the base model takes no adapters at all.
    #[error("vLLM takes no adapters for models of the family {model_type:?}")]
    BaseWithoutLora {
        /// The family.
        model_type: String,
    },
    /// vLLM stops at a layer that it does not expect.
    #[error("tensor {name:?}: vLLM takes no adapter for {layer:?} of {model_type}, only for {}", .expected.join(", "))]
    UnexpectedModule {
        /// The tensor.
        name: String,
        /// Name of the layer.
        layer: String,
        /// Family of the base model.
        model_type: String,
        /// Names of those that do.
        expected: Vec<&'static str>,
    },
    /// vLLM drops weights for a module that the model does not have, without a word.
    #[error("the base model has no module {module:?}")]
    NoSuchModule {
        /// Path of the module.
        module: String,
    },
    /// The adapter is of another model.
    #[error("tensor {name:?} has the shape {found:?}, the base model needs {expected:?}")]
    BaseShape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<u64>,
        /// What its module needs.
        expected: Vec<u64>,
    },
}

impl Refusal {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::MissingKey { .. } | Self::WrongType { .. } | Self::ZeroRank => {
                "give the adapter_config.json that PEFT saved with these weights"
            }
            Self::RankOverLimit { .. } => {
                "serve with a larger --max-lora-rank, and name it here too"
            }
            Self::RankMismatch { .. } => "check that configuration and weights belong together",
            Self::UnusedTarget { .. } => {
                "save the adapter again, or accept it with --allow-unused-targets: vLLM does not look at the list"
            }
            Self::OutsideTargets { .. } => {
                "correct target_modules in adapter_config.json; check that it belongs to these weights"
            }
            Self::NoSuchModule { .. } | Self::BaseShape { .. } | Self::UnexpectedModule { .. } => {
                "check that --base-config is of the model that the adapter was trained on"
            }
            Self::NoTensors
            | Self::Unpaired { .. }
            | Self::Duplicate { .. }
            | Self::NotTwoDimensional { .. } => {
                "save the adapter again with PEFT's save_pretrained"
            }
            _ => {
                "merge the adapter into its model with PEFT's merge_and_unload, and serve that; `tz-cli serialize` stores it as it is"
            }
        }
    }

    /// The first of them, and how many more there are.
    pub(crate) fn list(refusals: &[Self]) -> String {
        let first = refusals.first().map_or_else(String::new, Self::to_string);
        match refusals.len() {
            0 | 1 => first,
            more => format!("{first} (and {} more)", more - 1),
        }
    }
}
