//! Which model is meant and what it is called. Owns [`Model`].

use std::path::{Component, Path, PathBuf};

use super::ModelArgs;
use crate::error::Failure;
use crate::job::Session;

/// A model whose files are on this machine.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) dir: PathBuf,
    /// Its name in the directory that is made.
    pub(super) name: String,
    /// What vLLM takes configuration and tokenizer from: an id, or an absolute path.
    pub(super) tag: String,
    /// The commit of a model from Hugging Face.
    pub(super) commit: Option<String>,
}

impl Model {
    /// Finds the model; downloads it where it is an id that the cache does not have.
    pub(super) fn find(args: &ModelArgs, session: &Session) -> Result<Self, Failure> {
        let text = args.model.as_deref().ok_or_else(|| {
            Failure::usage("--model is needed: a directory, or an id of Hugging Face")
        })?;
        let revision = args.revision.as_deref();
        let (dir, commit) = find("--model", text, revision, Files::Model, session)?;
        let id = if commit.is_some() { Some(text.to_owned()) } else { cached_id(&dir) };
        let name = args.served_model_name.clone().or_else(|| id.clone());
        let name = name.map_or_else(|| name_of(text, &dir), Ok)?;
        let absolute = || std::path::absolute(&dir).unwrap_or_else(|_| dir.clone());
        let tag = id.unwrap_or_else(|| absolute().display().to_string());
        Ok(Self { dir, name, tag, commit })
    }
}

/// What is needed of an id of Hugging Face.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    Model,
    Adapter,
}

/// The directory that the text of an option names, and its commit where it is an id of Hugging Face.
#[cfg(feature = "hub")]
pub(super) fn find(
    option: &str,
    text: &str,
    revision: Option<&str>,
    files: Files,
    session: &Session,
) -> Result<(PathBuf, Option<String>), Failure> {
    use tz_model::hub::{HubFiles, HubOptions, resolve};

    if let Some(dir) = directory(option, text, revision)? {
        return Ok((dir, None));
    }
    let mut options = HubOptions::from_env()?.with_files(match files {
        Files::Model => HubFiles::Model,
        Files::Adapter => HubFiles::Adapter,
    });
    options.revision = revision.map(ToOwned::to_owned);
    options.cancel = session.cancel.clone();
    (options.stall_timeout, options.retries) = session.access.waits();
    let snapshot = resolve(text, &options)?;
    Ok((snapshot.dir, snapshot.commit))
}

/// The directory that the text of an option names.
#[cfg(not(feature = "hub"))]
pub(super) fn find(
    option: &str,
    text: &str,
    revision: Option<&str>,
    _files: Files,
    _session: &Session,
) -> Result<(PathBuf, Option<String>), Failure> {
    let missing = || {
        Failure::usage(format!("{option} {text:?} is no directory"))
            .hint("this program was built without ids of Hugging Face: give a directory")
    };
    directory(option, text, revision)?.map(|dir| (dir, None)).ok_or_else(missing)
}

/// A directory of this machine; `None` where the text names none.
fn directory(option: &str, text: &str, revision: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    let path = Path::new(text);
    if path.is_file() {
        return Err(Failure::usage(format!("{option} {text:?} is a file"))
            .hint("give the directory that holds it and its configuration"));
    }
    if !path.is_dir() {
        return Ok(None);
    }
    match revision {
        None => Ok(Some(path.to_owned())),
        Some(_) => {
            Err(Failure::usage(format!("--revision: {text:?} is a directory, which has none")))
        }
    }
}

/// The id of a directory in Hugging Face's cache, `models--org--name/snapshots/<commit>`.
fn cached_id(dir: &Path) -> Option<String> {
    let dir = std::path::absolute(dir).ok()?;
    let snapshots = dir.parent()?;
    let repository = snapshots.parent()?.file_name()?.to_str()?;
    let id = repository.strip_prefix("models--").filter(|_| snapshots.ends_with("snapshots"))?;
    Some(id.replacen("--", "/", 1))
}

/// As typed where that could be an id, which is what vLLM's script does; else the folder's own name.
pub(super) fn name_of(text: &str, dir: &Path) -> Result<String, Failure> {
    let parts: Vec<Component<'_>> = Path::new(text).components().collect();
    let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    if plain && parts.len() <= 2 && !text.ends_with('/') {
        return Ok(text.to_owned());
    }
    let real = dir.canonicalize().ok();
    let name = real.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    name.map(ToOwned::to_owned).ok_or_else(|| {
        Failure::usage(format!("{text:?} does not say what the model is called"))
            .hint("--served-model-name gives it a name")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("my-model");
        std::fs::create_dir(&dir).unwrap();
        let absolute = dir.display().to_string();
        for (text, expected) in [
            ("facebook/opt-125m", "facebook/opt-125m"),
            ("demo", "demo"),
            ("demo/", "my-model"),
            ("./demo", "my-model"),
            ("../demo", "my-model"),
            ("a/b/c", "my-model"),
            (absolute.as_str(), "my-model"),
        ] {
            assert_eq!(name_of(text, &dir).unwrap(), expected, "{text}");
        }
        assert!(name_of("/", Path::new("/")).is_err());
    }

    #[test]
    fn snapshots_of_the_cache_have_their_id() {
        for (dir, expected) in [
            ("/c/hub/models--facebook--opt-125m/snapshots/27dcfa74", Some("facebook/opt-125m")),
            ("/c/hub/models--gpt2/snapshots/main", Some("gpt2")),
            ("/c/hub/models--a--b--c/snapshots/x", Some("a/b--c")),
            ("/c/hub/models--a--b/blobs/x", None),
            ("/models/llama", None),
        ] {
            assert_eq!(cached_id(Path::new(dir)).as_deref(), expected, "{dir}");
        }
    }
}
