//! Which files of a model are needed. Pure: names in, names out.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::options::HubFiles;
use crate::checkpoint::index::{Choice, choose, discover};

const CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// In order of preference.
const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Endings of what no server of a model reads: other forms of the weights, what vLLM leaves out when it copies a
/// model's small files, and pictures.
const NEVER_NEEDED: &[&str] = &[
    // weights; those that are needed are named one by one
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".ot",
    ".tflite",
    ".mlmodel",
    ".gguf",
    ".ggml",
    ".npz",
    ".npy",
    ".pkl",
    ".pickle",
    ".tensors",
    // vLLM's own list
    ".cache",
    ".gitattributes",
    ".md", //
    // bundles, data, pictures
    ".zip",
    ".tar",
    ".gz",
    ".7z",
    ".parquet",
    ".pdf",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".svg",
    ".mp4",
];

/// What to download, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needed {
    /// Small files.
    pub(super) first: Vec<String>,
    /// An index, small as well, whose shards are the weights.
    pub(super) index: Option<String>,
    /// The weights, where no index names them.
    pub(super) weights: Vec<String>,
}

impl HubFiles {
    /// Chooses among the names in a model's listing; `None` where there are no weights.
    pub(super) fn choose(self, listing: &[String]) -> Option<Needed> {
        let names: BTreeSet<String> =
            listing.iter().filter(|name| is_plain(name)).cloned().collect();
        match self {
            Self::Model => {
                let (index, weights) = match choose(&names)? {
                    Choice::Index(index) => (Some(index), Vec::new()),
                    Choice::Files(weights) => (None, weights),
                };
                let small = |name: &&String| {
                    let lower = name.to_ascii_lowercase();
                    !NEVER_NEEDED.iter().any(|end| lower.ends_with(end))
                        && !lower.ends_with(".index.json")
                };
                let first = names.iter().filter(small).cloned().collect();
                Some(Needed { first, index, weights })
            }
            Self::Adapter => {
                let weights = ADAPTER_WEIGHTS.into_iter().find(|name| names.contains(*name))?;
                let first = names.get(ADAPTER_CONFIG).cloned();
                let weights = vec![weights.to_owned()];
                Some(Needed { first: first.into_iter().collect(), index: None, weights })
            }
        }
    }

    /// What the weights are called, for a model without any.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Self::Model => "*.safetensors, *.bin, *.pt or *.pth file",
            Self::Adapter => "adapter_model.safetensors or adapter_model.bin",
        }
    }

    /// Whether a directory holds what loading needs: the configuration and all of the weights.
    pub(super) fn are_in(self, dir: &Path) -> bool {
        match self {
            Self::Model => {
                let whole = |(files, index): (Vec<_>, Option<_>)| {
                    // Shards whose index has not come yet say nothing of those that are still to come.
                    index.is_some() || !files.iter().any(|path: &std::path::PathBuf| is_shard(path))
                };
                dir.join(CONFIG).is_file() && discover(dir).is_ok_and(whole)
            }
            Self::Adapter => {
                let has = |name: &&str| dir.join(name).is_file();
                has(&ADAPTER_CONFIG) && ADAPTER_WEIGHTS.iter().any(has)
            }
        }
    }
}

/// Whether this is the name of a file in the top folder, and no path to anywhere else.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(own)), None) if own == name);
    one && !name.chars().any(char::is_control)
}

/// Whether a name counts its kind: `model-00001-of-00002.safetensors`.
fn is_shard(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.rsplit_once("-of-").is_some_and(|(before, count)| {
        number(count) && before.rsplit_once('-').is_some_and(|(_, part)| number(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: HubFiles, listing: &[&str], expect: Option<(&[&str], Option<&str>, &[&str])>) {
        let listing: Vec<String> = listing.iter().map(|&name| name.to_owned()).collect();
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let expect = expect.map(|(first, index, weights)| Needed {
            first: owned(first),
            index: index.map(str::to_owned),
            weights: owned(weights),
        });
        assert_eq!(files.choose(&listing), expect);
    }

    #[test]
    fn one_form_of_the_weights_and_the_small_files() {
        let opt = [
            ".gitattributes",
            "LICENSE.md",
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "generation_config.json",
            "merges.txt",
            "pytorch_model.bin",
            "special_tokens_map.json",
            "tf_model.h5",
            "tokenizer_config.json",
            "vocab.json",
        ];
        let small = [
            "config.json",
            "generation_config.json",
            "merges.txt",
            "special_tokens_map.json",
            "tokenizer_config.json",
            "vocab.json",
        ];
        check(HubFiles::Model, &opt, Some((&small, None, &["pytorch_model.bin"])));
        let both = [
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "model.gguf",
        ];
        check(HubFiles::Model, &both, Some((&["config.json"], None, &["model.safetensors"])));
    }

    #[test]
    fn an_index_names_the_shards() {
        let sharded = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "original/consolidated.00.pth",
        ];
        check(
            HubFiles::Model,
            &sharded,
            Some((&["config.json"], Some("model.safetensors.index.json"), &[])),
        );
    }

    #[test]
    fn adapters_have_two_files() {
        let adapter = ["README.md", "adapter_config.json", "adapter_model.bin", "tokenizer.json"];
        let needed = Some((&["adapter_config.json"][..], None, &["adapter_model.bin"][..]));
        check(HubFiles::Adapter, &adapter, needed);
        check(HubFiles::Adapter, &["adapter_config.json", "model.safetensors"], None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_files() {
        let hostile =
            ["../config.json", "/model.safetensors", "a/model.safetensors", "..", "x\n.json"];
        check(HubFiles::Model, &hostile, None);
    }

    #[test]
    fn shards_count_their_kind() {
        assert!(is_shard(Path::new("model-00001-of-00002.safetensors")));
        assert!(!is_shard(Path::new("model.safetensors")));
        assert!(!is_shard(Path::new("state-of-2.bin")));
    }
}
