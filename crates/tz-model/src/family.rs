//! Model families as data. Owns the vocabulary of the tables ([`Family`], [`Row`], [`Axis`]) and [`ModelConfig`].
//!
//! A row says how one module of vLLM is made from modules of the checkpoint. The same row gives the names and shapes
//! that the checkpoint must have, the names and shapes that vLLM has, and, for every rank, which bytes go where.

mod config;
mod tables;

pub(crate) use config::ModelConfig;
pub(crate) use tables::FAMILIES;

/// A length that the model's configuration gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Hidden,
    /// Query heads times head dimension.
    Query,
    /// Key (or value) heads times head dimension.
    KeyValue,
    HeadDim,
    Intermediate,
    Vocab,
    /// Rows of a learned position table.
    Positions,
    /// Width of the embedding where it is not the hidden size.
    Embedding,
}

/// One dimension of a weight: whole on every rank, or divided among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    Whole(Size),
    Split(Size),
}

impl Axis {
    pub(crate) const fn size(self) -> Size {
        match self {
            Self::Whole(size) | Self::Split(size) => size,
        }
    }
}

/// On what a row or a bias depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    Never,
    AttentionBias,
    MlpBias,
    /// OPT: `enable_bias`.
    LinearBias,
    /// OPT: `layer_norm_elementwise_affine`.
    AffineNorm,
    /// OPT: a norm after the last layer.
    FinalNorm,
    /// OPT: embedding and hidden size differ.
    Projection,
}

/// One module of the checkpoint that a row takes, and the pieces that follow each other along its output dimension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) pieces: &'static [Axis],
}

/// How one module of vLLM is made. `{}` in a name is the layer's number; `.weight` and `.bias` are understood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) target: &'static str,
    /// Concatenated along the output dimension.
    pub(crate) sources: &'static [Source],
    /// Second dimension of the weight; norms have none.
    pub(crate) input: Option<Axis>,
    /// The checkpoint stores `[in, out]`.
    pub(crate) transposed: bool,
    pub(crate) weight: When,
    pub(crate) bias: When,
}

/// A family that vLLM loads: rows in vLLM's order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    /// `model_type` of `config.json`.
    pub(crate) model_type: &'static str,
    /// The class in `architectures`.
    pub(crate) architecture: &'static str,
    pub(crate) before: &'static [Row],
    pub(crate) layer: &'static [Row],
    pub(crate) after: &'static [Row],
    /// The checkpoint's embedding, of which a tied output head is a copy.
    pub(crate) embedding: &'static [Source],
    pub(crate) tied_head: TiedHead,
    /// Prefix that some checkpoints of the family leave out.
    pub(crate) optional_prefix: Option<&'static str>,
    /// Endings of tensors that checkpoints carry and vLLM's loader skips: tables that the model computes itself.
    pub(crate) ignored: &'static [&'static str],
}

/// Whether vLLM's model has an output head of its own where the configuration ties it to the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TiedHead {
    /// In every version.
    Always,
    /// Not up to 0.26, always from 0.30 on.
    SinceUntying,
}

/// The output head that a checkpoint has of its own.
pub(crate) const OWN_HEAD: &[Source] =
    &[Source { name: "lm_head", pieces: &[Axis::Split(Size::Vocab)] }];

/// The row of an output head that is made from `sources`.
pub(crate) const fn head(sources: &'static [Source]) -> Row {
    Row {
        target: "lm_head",
        sources,
        input: Some(Axis::Whole(Size::Embedding)),
        transposed: false,
        weight: When::Always,
        bias: When::Never,
    }
}

impl Family {
    pub(crate) fn by_architecture(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.architecture == name)
    }
}

impl Row {
    /// Checkpoint tensors of this row: name and shape.
    pub(crate) fn source_tensors(
        &self,
        config: &ModelConfig,
        layer: u64,
    ) -> Vec<(String, Vec<u64>)> {
        let mut tensors = Vec::new();
        for source in self.sources {
            let name = source.name.replace("{}", &layer.to_string());
            let out = source.pieces.iter().map(|piece| config.size(piece.size()));
            let out = out.fold(0_u64, u64::saturating_add);
            if config.has(self.weight) {
                let shape = match (self.input, self.transposed) {
                    (None, _) => vec![out],
                    (Some(input), false) => vec![out, config.size(input.size())],
                    (Some(input), true) => vec![config.size(input.size()), out],
                };
                tensors.push((format!("{name}.weight"), shape));
            }
            if config.has(self.bias) {
                tensors.push((format!("{name}.bias"), vec![out]));
            }
        }
        tensors
    }
}

/// Every tensor that a checkpoint of this model has, in the family's order. A tied output head is left out.
pub(crate) fn source_tensors(config: &ModelConfig) -> Vec<(String, Vec<u64>)> {
    let family = config.family;
    let mut tensors = Vec::new();
    let mut add = |rows: &[Row], layer| {
        for row in rows {
            tensors.extend(row.source_tensors(config, layer));
        }
    };
    add(family.before, 0);
    for layer in 0..config.layers {
        add(family.layer, layer);
    }
    add(family.after, 0);
    if !config.tied {
        add(&[head(OWN_HEAD)], 0);
    }
    tensors
}
