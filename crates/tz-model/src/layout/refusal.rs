//! Why a checkpoint is not converted. Owns [`Refusal`].

use std::fmt;

use thiserror::Error;
use tz_format::Dtype;

use super::VllmVersion;

/// A model that cannot be proven to be what vLLM needs. Nothing has been written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No table describes the model's class.
    #[error("the architecture {0:?} is not a family that tz knows")]
    UnknownFamily(String),
    /// A field of the configuration is missing or wrong.
    #[error("config.json: {0}")]
    Config(String),
    /// Quantised weights are reordered by vLLM in ways that depend on the machine.
    #[error("the weights are quantised ({0})")]
    Quantised(String),
    /// vLLM cannot load the experts of such a model from a tensorized file.
    #[error("the model is a mixture of experts")]
    MixtureOfExperts,
    /// Tensors that the model needs are not in the checkpoint.
    #[error("the checkpoint lacks {}", Names(.0))]
    Missing(Vec<String>),
    /// The checkpoint has tensors that the model does not.
    #[error("the checkpoint has tensors that the model does not: {}", Names(.0))]
    Extra(Vec<String>),
    /// A tensor does not have the shape that the configuration gives.
    #[error("tensor {name:?} has the shape {found:?}, config.json makes it {expected:?}")]
    WrongShape {
        /// The tensor.
        name: String,
        /// The shape by the configuration.
        expected: Vec<u64>,
        /// The shape in the checkpoint.
        found: Vec<u64>,
    },
    /// A tensor does not have the model's element type; vLLM would convert it on every load.
    #[error("tensor {name:?} is {found}, the model is {expected}")]
    WrongDtype {
        /// The tensor.
        name: String,
        /// The model's type.
        expected: Dtype,
        /// The tensor's type.
        found: Dtype,
    },
    /// The element type is not one of vLLM's for dense weights.
    #[error("the weights are {0}; vLLM's dense layers take float16, bfloat16 and float32")]
    UnsupportedDtype(Dtype),
    /// The model cannot be divided among so many ranks.
    #[error("the model cannot be divided among {degree} ranks: {reason}")]
    TensorParallel {
        /// Number of ranks.
        degree: u32,
        /// What does not divide.
        reason: String,
    },
    /// Whether this release has an output head of its own was never checked.
    #[error("tied embeddings were not checked with vLLM {version}")]
    UncheckedVersion {
        /// The release asked for.
        version: VllmVersion,
    },
}

impl Refusal {
    /// What to do instead.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::TensorParallel { .. } => {
                "choose a degree that divides the heads, or use `--layout hf`, where vLLM itself divides the tensors"
            }
            Self::UncheckedVersion { .. } => {
                "name a version up to 0.26 or from 0.30 on, or use `--layout hf`, which does not depend on it"
            }
            Self::Missing(_) => {
                "fetch the whole checkpoint; `--layout hf` writes what there is, and vLLM's loader checks it"
            }
            _ => "use `--layout hf`, which works for every architecture that vLLM knows",
        }
    }
}

/// The first few names of a list, and how many follow.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        for (i, name) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name:?}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
