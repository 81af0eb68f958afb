//! Which files of a directory are the checkpoint. Owns the rules of `*.index.json`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Fault};
use crate::json::{UniqueMap, parse, read_bounded};

/// Longest index that is read: as for headers, far above any real one.
const MAX_INDEX_LEN: u64 = 100_000_000;

const INDEX_NAME: &str = "model.safetensors.index.json";
const SINGLE_NAME: &str = "model.safetensors";
const INDEX_SUFFIX: &str = ".safetensors.index.json";
const SUFFIX: &str = ".safetensors";

/// What an index says: which shard holds which tensor.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    weight_map: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Wire {
    weight_map: UniqueMap<String>,
}

/// The files of a checkpoint directory, in the order in which they are read.
pub(super) fn discover(dir: &Path) -> Result<(Vec<PathBuf>, Option<Index>), Error> {
    let names = file_names(dir)?;
    let indices: Vec<&String> = names
        .iter()
        .filter(|name| name.ends_with(INDEX_SUFFIX))
        .collect();
    let index = match indices.as_slice() {
        _ if names.contains(INDEX_NAME) => Some(INDEX_NAME),
        // Without a file of transformers' usual name, another library's single index decides.
        [other] if !names.contains(SINGLE_NAME) => Some(other.as_str()),
        _ => None,
    };
    if let Some(name) = index {
        let index = Index::read(&dir.join(name))?;
        let shards = index.shards(dir)?;
        return Ok((shards, Some(index)));
    }
    if names.contains(SINGLE_NAME) {
        return Ok((vec![dir.join(SINGLE_NAME)], None));
    }
    let all: Vec<PathBuf> = names
        .iter()
        .filter(|name| name.ends_with(SUFFIX))
        .map(|name| dir.join(name))
        .collect();
    if all.is_empty() {
        return Err(Error::NotACheckpoint {
            path: dir.to_owned(),
            reason: "no *.safetensors file in the directory",
        });
    }
    Ok((all, None))
}

/// Names of regular files, links followed, sorted.
fn file_names(dir: &Path) -> Result<BTreeSet<String>, Error> {
    let fail = |error| Error::io(dir, "list", error);
    let mut names = BTreeSet::new();
    for entry in dir.read_dir().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A name that is not UTF-8 cannot be one that this crate looks for.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if entry.path().is_file() {
            names.insert(name);
        }
    }
    Ok(names)
}

impl Index {
    fn read(path: &Path) -> Result<Self, Error> {
        let wire: Wire = parse(path, &read_bounded(path, MAX_INDEX_LEN)?)?;
        let weight_map = wire.weight_map.0;
        let mut seen = BTreeSet::new();
        for (tensor, _) in &weight_map {
            if !seen.insert(tensor) {
                return Err(Error::of_tensor(path, tensor, Fault::DuplicateName));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            weight_map,
        })
    }

    fn shards(&self, dir: &Path) -> Result<Vec<PathBuf>, Error> {
        let names: BTreeSet<&String> = self.weight_map.iter().map(|(_, shard)| shard).collect();
        if names.is_empty() {
            return Err(Error::NotACheckpoint {
                path: self.path.clone(),
                reason: "the index lists no tensors",
            });
        }
        let resolve = |name: &String| {
            // A name with folders in it could lead out of the directory.
            let mut parts = Path::new(name).components();
            let plain = matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(own)), None) if own == name.as_str()
            );
            if !plain {
                let fault = Fault::BadShardName(name.clone());
                return Err(Error::malformed(&self.path, fault));
            }
            let path = dir.join(name);
            if !path.is_file() {
                let fault = Fault::MissingShard(name.clone());
                return Err(Error::malformed(&self.path, fault));
            }
            Ok(path)
        };
        names.into_iter().map(resolve).collect()
    }

    /// Compares the index with what the shards hold.
    pub(super) fn check(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut listed = vec![false; checkpoint.tensors.len()];
        for (name, shard) in &self.weight_map {
            let found = checkpoint.find(name).filter(|&i| {
                let file = checkpoint.tensors.get(i).map(|tensor| tensor.file);
                let file = file.and_then(|file| checkpoint.files.get(file));
                file.is_some_and(|file| file_name(&file.path) == *shard)
            });
            let Some(mark) = found.and_then(|i| listed.get_mut(i)) else {
                let fault = Fault::NotInShard(shard.clone());
                return Err(Error::of_tensor(&self.path, name, fault));
            };
            *mark = true;
        }
        let unlisted = checkpoint.tensors.iter().zip(listed).find(|(_, on)| !on);
        match unlisted {
            None => Ok(()),
            Some((tensor, _)) => {
                let file = checkpoint.files.get(tensor.file);
                let path = file.map_or(self.path.as_path(), |file| &file.path);
                Err(Error::of_tensor(path, &tensor.name, Fault::NotInIndex))
            }
        }
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
