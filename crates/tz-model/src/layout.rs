//! vLLM's layout of a model, made from its checkpoint. Owns [`VllmLayout`] and [`VllmModel`]: what is proven before a
//! byte is written, and which bytes of the checkpoint each of vLLM's tensors is.
//!
//! vLLM does not notice a missing tensor (it computes with uninitialised memory) and dies on an extra one. So a layout
//! exists only where the checkpoint has exactly the tensors that the family's table lists for this configuration.

mod proof;
mod recipe;
mod refusal;
mod version;

use std::io;
use std::path::Path;

use serde_json::Value;
use tz_format::{Dtype, Element, TensorKind, TensorSpec};
use tz_io::TensorSource;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::family::{ModelConfig, OWN_HEAD, Row, TiedHead, head};
use crate::json::{parse, read_bounded};
use proof::Proven;
use recipe::{Part, Slicer};

pub use refusal::Refusal;
pub use version::{NotAVersion, VllmVersion};

/// Name by which vLLM knows its own files. Its content is never looked at.
pub const MARKER: &str = ".vllm_tensorized_marker";

/// Longest `config.json` that is read; real ones have a few kilobytes.
const MAX_CONFIG_LEN: u64 = 16 << 20;

/// Reads the `config.json` of a checkpoint directory.
///
/// # Errors
/// [`Error`] where it is missing, too long, not JSON, or not an object.
pub fn read_config(dir: &Path) -> Result<Value, Error> {
    let path = dir.join("config.json");
    let config: Value = parse(&path, &read_bounded(&path, MAX_CONFIG_LEN)?)?;
    if !config.is_object() {
        return Err(Error::Config { path, reason: "not a JSON object".to_owned() });
    }
    Ok(config)
}

/// For which vLLM a model is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VllmOptions {
    /// Number of ranks that share the model; each gets a file of its own. Default 1.
    pub tensor_parallel: u32,
    /// Decides how tied embeddings are written. Default [`VllmVersion::NEWEST_KNOWN`].
    pub version: VllmVersion,
}

impl Default for VllmOptions {
    fn default() -> Self {
        Self { tensor_parallel: 1, version: VllmVersion::NEWEST_KNOWN }
    }
}

impl VllmOptions {
    /// Sets the number of ranks.
    #[must_use]
    pub fn with_tensor_parallel(mut self, degree: u32) -> Self {
        self.tensor_parallel = degree;
        self
    }

    /// Sets the version of vLLM that will load the files.
    #[must_use]
    pub fn with_version(mut self, version: VllmVersion) -> Self {
        self.version = version;
        self
    }
}

/// A checkpoint that is proven to be complete, and how vLLM wants it.
#[derive(Debug)]
pub struct VllmLayout<'a> {
    checkpoint: &'a Checkpoint,
    config: ModelConfig,
    proven: Proven,
    dtype: Dtype,
    degree: u64,
    /// How the output head is made; `None` where vLLM's model has none.
    head: Option<Row>,
    versions: &'static str,
}

impl<'a> VllmLayout<'a> {
    /// Proves that `checkpoint` holds exactly the model that `config` (its parsed `config.json`) describes.
    ///
    /// # Errors
    /// [`Refusal`] says what is unknown, missing, superfluous or different; [`Refusal::advice`] what to do.
    pub fn prove(
        checkpoint: &'a Checkpoint,
        config: &Value,
        options: &VllmOptions,
    ) -> Result<Self, Refusal> {
        let config = proof::supported(config)?;
        let degree = proof::degree(&config, options.tensor_parallel)?;
        let proven = Proven::new(checkpoint, &config)?;
        let dtype = proven.dtype(checkpoint, &config)?;
        let head = head_row(&config, proven.has_head, options.version)?;
        let versions = versions(&config, proven.has_head, options.version)?;
        Ok(Self { checkpoint, config, proven, dtype, degree, head, versions })
    }

    /// Releases of vLLM that load these tensors as they are meant, as Python packages state requirements. The oldest
    /// that was checked is 0.9.2; later ones than [`VllmVersion::NEWEST_KNOWN`] are taken to be the same.
    #[must_use]
    pub fn versions(&self) -> &'static str {
        self.versions
    }

    /// `model_type` of the family.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.config.family.model_type
    }

    /// Element type of every parameter.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of ranks.
    #[must_use]
    pub fn tensor_parallel(&self) -> u64 {
        self.degree
    }

    /// Tensors of the checkpoint that vLLM computes itself and that are left out.
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        self.proven.ignored.iter().map(String::as_str)
    }

    /// The tensors of one rank; `None` where there are not so many ranks.
    #[must_use]
    pub fn rank(&self, rank: u32) -> Option<VllmModel<'a>> {
        let rank = u64::from(rank);
        if rank >= self.degree {
            return None;
        }
        let mut marker = TensorSpec::new(MARKER, Element::Int64, vec![1]);
        marker.kind = TensorKind::Parameter;
        marker.meta = true;
        let mut model = VllmModel {
            checkpoint: self.checkpoint,
            specs: vec![marker],
            recipes: vec![Vec::new()],
        };
        let slicer = Slicer {
            config: &self.config,
            proven: &self.proven,
            dtype: self.dtype,
            degree: self.degree,
            rank,
        };
        let mut add = |rows: &[Row], layer| {
            for row in rows {
                for (spec, recipe) in slicer.tensors(row, layer) {
                    model.specs.push(spec);
                    model.recipes.push(recipe);
                }
            }
        };
        add(self.config.family.before, 0);
        for layer in 0..self.config.layers {
            add(self.config.family.layer, layer);
        }
        add(self.config.family.after, 0);
        add(self.head.as_slice(), 0);
        Some(model)
    }
}

/// How the output head is made. Where the configuration ties it to the embedding, it depends on vLLM's version: a model
/// whose head *is* the embedding must not have the tensor, any other must, because loading replaces the embedding and
/// leaves the head with uninitialised memory.
fn head_row(
    config: &ModelConfig,
    has_own: bool,
    version: VllmVersion,
) -> Result<Option<Row>, Refusal> {
    let own = head(OWN_HEAD);
    let copy = head(config.family.embedding);
    let changes = config.family.tied_head == TiedHead::SinceUntying;
    Ok(match version {
        _ if !config.tied => Some(own),
        // A checkpoint's own head counts although the configuration ties it.
        version if version >= VllmVersion::UNTIES && has_own => Some(own),
        version if version >= VllmVersion::UNTIES => Some(copy),
        version if version < VllmVersion::UNCHECKED && changes => None,
        version if version < VllmVersion::UNCHECKED => Some(copy),
        _ if !changes && !has_own => Some(copy),
        version => return Err(Refusal::UncheckedVersion { version }),
    })
}

/// The releases that want the same output head as `version`.
fn versions(
    config: &ModelConfig,
    has_own: bool,
    version: VllmVersion,
) -> Result<&'static str, Refusal> {
    let made_of = |version| -> Result<Option<&str>, Refusal> {
        let row = head_row(config, has_own, version)?;
        Ok(row.and_then(|row| row.sources.first()).map(|source| source.name))
    };
    let (old, new) = (made_of(VllmVersion::new(0, 9, 2))?, made_of(VllmVersion::UNTIES)?);
    Ok(match version {
        _ if old == new => ">=0.9.2",
        version if version < VllmVersion::UNCHECKED => ">=0.9.2,<0.27.0",
        _ => ">=0.30.0",
    })
}

/// The tensors of one rank as vLLM wants them, each read from the checkpoint when it is asked for: the marker first,
/// then the parameters in the order of vLLM's modules. Buffers are left out, because the model computes its own.
#[derive(Debug)]
pub struct VllmModel<'a> {
    checkpoint: &'a Checkpoint,
    specs: Vec<TensorSpec>,
    recipes: Vec<Vec<Part>>,
}

impl VllmModel<'_> {
    /// The tensors, in file order.
    #[must_use]
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Bytes of all tensors together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let len = |parts: &Vec<Part>| parts.iter().map(Part::byte_len).sum::<u64>();
        self.recipes.iter().map(len).sum()
    }

    /// Fills `buf` from byte `offset` of a tensor's data.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the tensor has no such bytes, [`Error::Io`] where the checkpoint cannot be read.
    pub fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let out_of_range =
            |len| Error::OutOfRange { tensor, tensors: self.specs.len(), offset, len };
        let len = buf.len();
        let parts = self.recipes.get(tensor).ok_or_else(|| out_of_range(len))?;
        let (mut skip, mut rest) = (offset, buf);
        for part in parts {
            if rest.is_empty() {
                return Ok(());
            }
            let Some(left) = part.byte_len().checked_sub(skip).filter(|&left| left > 0) else {
                skip -= part.byte_len();
                continue;
            };
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (own, after) = rest.split_at_mut(take);
            part.read(self.checkpoint, skip, own)?;
            (skip, rest) = (0, after);
        }
        if rest.is_empty() && (len > 0 || skip == 0) { Ok(()) } else { Err(out_of_range(len)) }
    }
}

impl TensorSource for VllmModel<'_> {
    fn specs(&self) -> &[TensorSpec] {
        self.specs()
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Ok(Self::read_at(self, index, offset, buf)?)
    }
}
