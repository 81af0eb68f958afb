//! Models by their Hugging Face id. Owns [`resolve`]: an id becomes a directory that
//! [`Checkpoint::open`](crate::Checkpoint::open) takes.
//!
//! The directory is a snapshot in the cache that every Hugging Face library shares: `blobs/<etag>` holds the bytes,
//! `snapshots/<commit>/<file>` points there, `refs/<revision>` names the commit. What is cached whole is used without
//! a network; what is missing is downloaded, weights last, so that a snapshot with weights is a whole one. A blob
//! appears under its name once it has its length, and its SHA-256 where the hub states one; the revision is noted
//! after the last file.
//!
//! Only what a model needs is downloaded: `config.json` and the other small files of the top folder, and one form of
//! the weights, safetensors where there is a choice. Why no library of the hub's is used, docs/decisions/0013-hub.md
//! says.
//!
//! ```
//! use tz_model::hub::{HubOptions, resolve};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! # std::fs::write(dir.join("config.json"), "{}")?;
//! # let local = dir.to_str().unwrap();
//! // A directory is taken as it is; "org/name" would be looked up in HF_HOME, then on the hub.
//! let snapshot = resolve(local, &HubOptions::from_env()?)?;
//! assert_eq!(snapshot.dir, dir);
//! assert_eq!(snapshot.commit, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod choice;
mod download;
mod error;
mod id;
mod options;

use std::path::{Path, PathBuf};

pub use error::{Damage, HubError};
pub use options::{DEFAULT_ENDPOINT, DEFAULT_REVISION, HubFiles, HubOptions, Token, Transfer};

use cache::Repository;
use id::{ModelId, Revision};

/// A model's files in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Where they are.
    pub dir: PathBuf,
    /// What was asked for.
    pub id: String,
    /// The commit that the revision names; `None` for a directory that is no snapshot of the cache.
    pub commit: Option<String>,
}

/// Finds the files of `id`: a directory of that path, else a snapshot in the cache, else on the hub. Blocks while it
/// downloads.
///
/// # Errors
/// [`HubError`] says whether the id, the access, the network or the cache is at fault.
pub fn resolve(id: &str, options: &HubOptions) -> Result<Snapshot, HubError> {
    let path = Path::new(id);
    if path.is_dir() {
        return Ok(Snapshot { dir: path.to_owned(), id: id.to_owned(), commit: None });
    }
    resolve_id(id, options)
}

/// As [`resolve`], where no directory is meant: a snapshot in the cache, else on the hub.
///
/// # Errors
/// As there.
pub fn resolve_id(id: &str, options: &HubOptions) -> Result<Snapshot, HubError> {
    let model = ModelId::parse(id)?;
    let revision =
        Revision::parse(&model, options.revision.as_deref().unwrap_or(DEFAULT_REVISION))?;
    let cache = options.cache.as_deref().ok_or(HubError::NoCache)?;
    let repository = Repository::new(cache, &model);
    if let Some(commit) = repository.commit(&revision)? {
        let dir = repository.snapshot(&commit);
        if options.files.are_in(&dir) {
            return Ok(Snapshot { dir, id: id.to_owned(), commit: Some(commit) });
        }
    }
    if options.offline {
        let (id, revision) = (model.to_string(), revision.to_string());
        return Err(HubError::Offline { id, revision, cache: cache.to_owned() });
    }
    let commit = download::download(&repository, &model, &revision, options)?;
    Ok(Snapshot { dir: repository.snapshot(&commit), id: id.to_owned(), commit: Some(commit) })
}
