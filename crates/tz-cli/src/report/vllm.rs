//! What `vllm serialize`, `vllm deserialize` and `verify` of a directory return.

use serde::Serialize;
use tz_model::{FileFault, LayoutName, ServeLines};

use super::{Phases, Verification};

/// `vllm serialize`: what was made, and how to serve it.
#[derive(Debug, Serialize)]
pub(crate) struct ModelPublished {
    pub(crate) directory: String,
    pub(crate) model: String,
    pub(crate) layout: LayoutName,
    /// Releases that the tensors are laid out for.
    pub(crate) vllm: String,
    /// The release that the lines are for.
    pub(crate) vllm_version: String,
    pub(crate) tensor_parallel_size: u32,
    pub(crate) encrypted: bool,
    pub(crate) keyfile: Option<String>,
    /// Whether the key was made by this run.
    pub(crate) key_is_new: bool,
    pub(crate) ranks: Vec<RankWritten>,
    /// Files that the manifest lists.
    pub(crate) files: usize,
    pub(crate) left_out: Vec<String>,
    pub(crate) bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) peak_host_bytes: u64,
    pub(crate) phases: Phases,
    #[serde(flatten)]
    pub(crate) serve: ServeLines,
}

/// The file of one rank.
#[derive(Debug, Serialize)]
pub(crate) struct RankWritten {
    pub(crate) location: String,
    pub(crate) rank: u32,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    pub(crate) file_bytes: u64,
}

/// `vllm deserialize`: what was loaded.
#[derive(Debug, Serialize)]
pub(crate) struct ModelLoaded {
    pub(crate) layout: LayoutName,
    pub(crate) ranks: Vec<RankLoaded>,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) peak_host_bytes: u64,
    pub(crate) device: String,
    pub(crate) streamed: bool,
    pub(crate) verified: bool,
    pub(crate) readers: usize,
    pub(crate) phases: Phases,
}

/// The file of one rank.
#[derive(Debug, Serialize)]
pub(crate) struct RankLoaded {
    pub(crate) location: String,
    pub(crate) rank: u32,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

/// `verify` of a directory: its files against the manifest, and the tensors in them.
#[derive(Debug, Serialize)]
pub(crate) struct DirectoryVerification {
    pub(crate) location: String,
    pub(crate) ok: bool,
    /// Files that the manifest lists.
    pub(crate) files: usize,
    /// Bytes of the files that were compared.
    pub(crate) bytes: u64,
    /// Whether files that the manifest does not list would have been found.
    pub(crate) listed: bool,
    pub(crate) seconds: f64,
    pub(crate) file_failures: Vec<FileFault>,
    /// Every `.tensors` file that could be opened.
    pub(crate) tensors: Vec<Verification>,
    /// Encrypted files of which the contents were compared as they are stored, because no key was given.
    pub(crate) locked: Vec<String>,
}
