//! Directories that vLLM serves from: tensors, and beside them what else it reads. Owns their names
//! ([`ArtifactDir`], [`tensors_name`]), the choice of small files ([`SmallFiles`]), the order in which all of it becomes
//! visible ([`Publication`]), and the lines that serve the result ([`ServeLines`]).

mod dir;
mod publication;
mod serve;
mod small_files;

pub(crate) use dir::relative;
pub use dir::{ArtifactDir, NotADirectoryName};
pub use publication::{Publication, TensorPublication};
pub use serve::{Adapter, ServeLines, Served};
pub use small_files::SmallFiles;

/// Name of the tensors of one rank among `degree`, as vLLM's script gives them.
#[must_use]
pub fn tensors_name(degree: u32, rank: u32) -> String {
    if degree > 1 { format!("model-rank-{rank:03}.tensors") } else { "model.tensors".to_owned() }
}

/// The name that stands for all ranks in vLLM's configuration: Python puts the rank's number in.
#[must_use]
pub fn tensors_template(degree: u32) -> &'static str {
    if degree > 1 { "model-rank-%03d.tensors" } else { "model.tensors" }
}

/// How the tensors of a directory are named and typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutName {
    /// vLLM's own parameters, sliced for each rank: its fast path.
    Vllm,
    /// As in the checkpoint: vLLM's ordinary weight loader.
    Hf,
}
