//! Which files of a directory are the checkpoint. Owns the rules of `*.index.json`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Fault};
use crate::json::{UniqueMap, parse, read_bounded};

/// Longest index that is read: as for headers, far above any real one.
const MAX_INDEX_LEN: u64 = 100_000_000;

/// How the files of one kind are called.
struct Kind {
    /// transformers' name of the index.
    index: &'static str,
    /// transformers' name of a single file.
    single: &'static str,
    /// Ending of any library's index.
    index_suffix: &'static str,
    suffixes: &'static [&'static str],
}

/// In order of preference: what is in safetensors is never read from a pickle.
const KINDS: &[Kind] = &[
    Kind {
        index: "model.safetensors.index.json",
        single: "model.safetensors",
        index_suffix: ".safetensors.index.json",
        suffixes: &[".safetensors"],
    },
    Kind {
        index: "pytorch_model.bin.index.json",
        single: "pytorch_model.bin",
        index_suffix: ".bin.index.json",
        suffixes: &[".bin", ".pt", ".pth"],
    },
];

/// What training scripts leave beside the model.
const NOT_WEIGHTS: &[&str] =
    &["training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"];

/// What an index says: which shard holds which tensor.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    weight_map: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Wire {
    weight_map: UniqueMap<String>,
}

/// What decides which files of a directory are the checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This index.
    Index(String),
    /// Nothing but their names, in order.
    Files(Vec<String>),
}

/// Chooses among the names of a directory's files; `None` where there are no weights.
pub(crate) fn choose(names: &BTreeSet<String>) -> Option<Choice> {
    KINDS.iter().find_map(|kind| kind.choose(names))
}

/// The files of a checkpoint directory, in the order in which they are read.
pub(crate) fn discover(dir: &Path) -> Result<(Vec<PathBuf>, Option<Index>), Error> {
    match choose(&file_names(dir)?) {
        Some(Choice::Index(name)) => {
            let index = Index::read(&dir.join(name))?;
            let shards = index.shards(dir)?;
            Ok((shards, Some(index)))
        }
        Some(Choice::Files(names)) => Ok((names.iter().map(|name| dir.join(name)).collect(), None)),
        None => Err(Error::NotACheckpoint {
            path: dir.to_owned(),
            reason: "no *.safetensors, *.bin, *.pt or *.pth file in the directory",
        }),
    }
}

/// Names of the shards that an index lists, sorted.
#[cfg(feature = "hub")]
pub(crate) fn shard_names(index: &Path) -> Result<BTreeSet<String>, Error> {
    Index::read(index)?.shard_names()
}

impl Kind {
    fn choose(&self, names: &BTreeSet<String>) -> Option<Choice> {
        let indices: Vec<&String> =
            names.iter().filter(|name| name.ends_with(self.index_suffix)).collect();
        let index = match indices.as_slice() {
            _ if names.contains(self.index) => Some(self.index),
            // Without a file of transformers' usual name, another library's single index decides.
            [other] if !names.contains(self.single) => Some(other.as_str()),
            _ => None,
        };
        if let Some(name) = index {
            return Some(Choice::Index(name.to_owned()));
        }
        if names.contains(self.single) {
            return Some(Choice::Files(vec![self.single.to_owned()]));
        }
        let own = |name: &&String| {
            self.suffixes.iter().any(|suffix| name.ends_with(suffix))
                && !NOT_WEIGHTS.contains(&name.as_str())
        };
        let all: Vec<String> = names.iter().filter(own).cloned().collect();
        if all.is_empty() { None } else { Some(Choice::Files(all)) }
    }
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
        Ok(Self { path: path.to_owned(), weight_map })
    }

    fn shard_names(&self) -> Result<BTreeSet<String>, Error> {
        let names: BTreeSet<String> =
            self.weight_map.iter().map(|(_, shard)| shard.clone()).collect();
        if names.is_empty() {
            return Err(Error::NotACheckpoint {
                path: self.path.clone(),
                reason: "the index lists no tensors",
            });
        }
        // A name with folders in it could lead out of the directory.
        let plain = |name: &&String| {
            let mut parts = Path::new(name.as_str()).components();
            matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(own)), None) if own == name.as_str()
            )
        };
        match names.iter().find(|name| !plain(name)) {
            Some(name) => Err(Error::malformed(&self.path, Fault::BadShardName(name.clone()))),
            None => Ok(names),
        }
    }

    fn shards(&self, dir: &Path) -> Result<Vec<PathBuf>, Error> {
        let resolve = |name: String| {
            let path = dir.join(&name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(Error::malformed(&self.path, Fault::MissingShard(name)))
            }
        };
        self.shard_names()?.into_iter().map(resolve).collect()
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
    path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
