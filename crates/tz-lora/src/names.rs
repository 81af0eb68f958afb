//! Names of LoRA tensors as PEFT writes them and vLLM reads them. Owns [`LoraName`].

use thiserror::Error;

/// What PEFT puts before the module's own path.
const PREFIX: &str = "base_model.model.";

/// Which half of a pair a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// From the module's inputs to the rank, of a linear layer: `lora_A.weight`.
    A,
    /// From the rank to the module's outputs, of a linear layer: `lora_B.weight`.
    B,
    /// From the vocabulary to the rank, of an embedding: `lora_embedding_A`.
    EmbeddingA,
    /// From the rank to the model's width, of an embedding: `lora_embedding_B`.
    EmbeddingB,
}

impl Role {
    /// Whether the rank is the first dimension; else it is the second.
    #[must_use]
    pub fn is_a(self) -> bool {
        matches!(self, Self::A | Self::EmbeddingA)
    }

    /// How the other half is called.
    pub(crate) fn other(self) -> &'static str {
        match self {
            Self::A => "lora_B.weight",
            Self::B => "lora_A.weight",
            Self::EmbeddingA => "lora_embedding_B",
            Self::EmbeddingB => "lora_embedding_A",
        }
    }
}

/// A tensor's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoraName<'a> {
    /// Path of the module in the base model, without PEFT's prefix.
    pub module: &'a str,
    /// Which half of its pair the tensor is.
    pub role: Role,
}

/// Why a name is not one of a LoRA weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameFault {
    /// The tensor is a bias.
    #[error("vLLM applies no bias of an adapter")]
    Bias,
    /// The tensor belongs to DoRA.
    #[error("a magnitude vector of DoRA, which vLLM does not support")]
    DoraMagnitude,
    /// The tensor is a whole layer that was trained.
    #[error("a layer of modules_to_save, which vLLM does not support")]
    SavedModule,
    /// The tensor is a weight of the base model.
    #[error("a weight of the base model, which has no place in an adapter")]
    BaseWeight,
    /// The adapter's own name stands inside: what a training script saved instead of PEFT's `save_pretrained`.
    #[error(
        "the adapter's own name stands after lora_A or lora_B: save it with PEFT's save_pretrained"
    )]
    AdapterName,
    /// The ending is none that vLLM knows.
    #[error(
        "its name must end in .lora_A.weight, .lora_B.weight, .lora_embedding_A or .lora_embedding_B"
    )]
    Ending,
}

impl<'a> LoraName<'a> {
    /// Takes a name apart.
    ///
    /// # Errors
    /// [`NameFault`] says what the tensor is instead of a LoRA weight.
    pub fn parse(name: &'a str) -> Result<Self, NameFault> {
        const ENDINGS: [(&str, Role); 4] = [
            (".lora_A.weight", Role::A),
            (".lora_B.weight", Role::B),
            (".lora_embedding_A", Role::EmbeddingA),
            (".lora_embedding_B", Role::EmbeddingB),
        ];
        let path = name.strip_prefix(PREFIX).unwrap_or(name);
        let found = ENDINGS.iter().find_map(|&(ending, role)| {
            let module = path.strip_suffix(ending).filter(|module| !module.is_empty())?;
            Some(Self { module, role })
        });
        found.filter(|found| fault(found.module).is_none()).ok_or_else(|| {
            fault(path).unwrap_or_else(|| match path.rsplit('.').next() {
                Some("bias") => NameFault::Bias,
                _ => NameFault::Ending,
            })
        })
    }

    /// The last part of the module's path: what vLLM looks up among the layers that take adapters.
    #[must_use]
    pub fn layer(&self) -> &'a str {
        self.module.rsplit('.').next().unwrap_or(self.module)
    }
}

/// What the parts of a path give away.
fn fault(path: &str) -> Option<NameFault> {
    const MARKS: [&str; 4] = [".lora_A.", ".lora_B.", ".lora_embedding_A.", ".lora_embedding_B."];
    let part = path.split('.').find_map(|part| match part {
        "lora_magnitude_vector" => Some(NameFault::DoraMagnitude),
        "modules_to_save" => Some(NameFault::SavedModule),
        "base_layer" => Some(NameFault::BaseWeight),
        _ => None,
    });
    let marked = MARKS.iter().any(|mark| path.find(mark).is_some_and(|at| at > 0));
    let named = marked && !path.ends_with(".bias");
    part.or(named.then_some(NameFault::AdapterName))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expect: Result<(&str, Role), NameFault>) {
        let found = LoraName::parse(name).map(|found| (found.module, found.role));
        assert_eq!(found, expect, "{name}");
    }

    #[test]
    fn names_that_vllm_reads() {
        let layer = "model.layers.0.self_attn.q_proj";
        check(&format!("base_model.model.{layer}.lora_A.weight"), Ok((layer, Role::A)));
        check(&format!("{layer}.lora_B.weight"), Ok((layer, Role::B)));
        let embedding = "base_model.model.model.embed_tokens.lora_embedding_A";
        check(embedding, Ok(("model.embed_tokens", Role::EmbeddingA)));
        check("lm_head.lora_embedding_B", Ok(("lm_head", Role::EmbeddingB)));
        assert_eq!(LoraName::parse(embedding).map(|name| name.layer()), Ok("embed_tokens"));
    }

    #[test]
    fn names_that_it_does_not() {
        check("q_proj.lora_B.bias", Err(NameFault::Bias));
        check("q_proj.bias", Err(NameFault::Bias));
        check("q_proj.lora_magnitude_vector", Err(NameFault::DoraMagnitude));
        check("q_proj.lora_magnitude_vector.weight", Err(NameFault::DoraMagnitude));
        check("lm_head.modules_to_save.weight", Err(NameFault::SavedModule));
        check("embed_tokens.base_layer.weight", Err(NameFault::BaseWeight));
        check("base_model.model.q_proj.lora_A.default.weight", Err(NameFault::AdapterName));
        check("embed_tokens.lora_embedding_A.default", Err(NameFault::AdapterName));
        check("q_proj.weight", Err(NameFault::Ending));
        check("base_model.model.lora_A.weight", Err(NameFault::Ending));
        check(".lora_A.weight", Err(NameFault::Ending));
        check("", Err(NameFault::Ending));
    }
}
