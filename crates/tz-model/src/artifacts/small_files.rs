//! Which files of a checkpoint directory stand beside the tensors. Owns [`SmallFiles`].
//!
//! vLLM's script copies the regular files at the top of the model's repository, but for `*.pt`, `*.safetensors`,
//! `*.bin`, `*.cache`, `*.gitattributes` and `*.md`. So do we, with three exceptions. Weights in yet other formats
//! (`tf_model.h5`, `consolidated.00.pth`) stay behind: nothing reads them, they are as large as the model, and beside
//! encrypted tensors they would be the model in clear. So do hidden files, which in a local directory may be anything,
//! and the names that this program gives to its own files.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Endings that vLLM's script leaves out.
const NOT_COPIED: &[&str] = &[".pt", ".safetensors", ".bin", ".cache", ".gitattributes", ".md"];

/// Endings of weights that nobody reads beside tensors.
const WEIGHTS: &[&str] = &[
    ".pth",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".ckpt",
    ".ot",
    ".tflite",
    ".npz",
    ".nemo",
    ".mlmodel",
];

/// The small files of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SmallFiles {
    /// To be copied, in order of name.
    pub copied: Vec<PathBuf>,
    /// Names that vLLM's script would copy and this program does not.
    pub left_out: Vec<String>,
}

impl SmallFiles {
    /// Chooses among the files of `dir`. `never` are files that must not be copied whatever their name, such as a key.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be listed.
    pub fn choose(dir: &Path, never: &[PathBuf]) -> Result<Self, Error> {
        let failed = |error| Error::io(dir, "list", error);
        let never: Vec<PathBuf> =
            never.iter().filter_map(|path| path.canonicalize().ok()).collect();
        let mut chosen = Self::default();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // In Hugging Face's cache every file is a link.
            if !path.is_file() {
                continue;
            }
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            match kind(name) {
                _ if path.canonicalize().is_ok_and(|path| never.contains(&path)) => {
                    chosen.left_out.push(name.to_owned());
                }
                Kind::Copied => chosen.copied.push(path),
                Kind::LeftOut => chosen.left_out.push(name.to_owned()),
                Kind::Ignored => {}
            }
        }
        chosen.copied.sort();
        chosen.left_out.sort();
        Ok(chosen)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Copied,
    /// vLLM's script ignores it too.
    Ignored,
    LeftOut,
}

fn kind(name: &str) -> Kind {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(NOT_COPIED) {
        Kind::Ignored
    } else if name.starts_with('.')
        || ends(WEIGHTS)
        || name.ends_with(".tensors")
        || name == crate::manifest::MANIFEST_NAME
    {
        Kind::LeftOut
    } else {
        Kind::Copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_by_name() {
        for (name, expected) in [
            ("config.json", Kind::Copied),
            ("tokenizer.model", Kind::Copied),
            ("merges.txt", Kind::Copied),
            ("chat_template.jinja", Kind::Copied),
            ("modeling_own.py", Kind::Copied),
            ("LICENSE", Kind::Copied),
            ("model.safetensors.index.json", Kind::Copied),
            ("pytorch_model.bin", Kind::Ignored),
            ("model-00001-of-00002.safetensors", Kind::Ignored),
            ("training_args.bin", Kind::Ignored),
            ("README.md", Kind::Ignored),
            (".gitattributes", Kind::Ignored),
            ("tf_model.h5", Kind::LeftOut),
            ("flax_model.msgpack", Kind::LeftOut),
            ("consolidated.00.pth", Kind::LeftOut),
            (".env", Kind::LeftOut),
            ("model.tensors", Kind::LeftOut),
            ("manifest.toml", Kind::LeftOut),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }

    #[test]
    fn regular_files_at_the_top_and_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("onnx")).unwrap();
        for name in ["onnx/config.json", "tokenizer.json", "config.json", "my.key", "tf_model.h5"] {
            std::fs::write(path(name), name).unwrap();
        }
        std::os::unix::fs::symlink("config.json", path("linked.json")).unwrap();
        std::os::unix::fs::symlink("my.key", path("also-the-key")).unwrap();
        std::os::unix::fs::symlink("nothing", path("dangling.json")).unwrap();
        let chosen = SmallFiles::choose(dir.path(), &[path("my.key")]).unwrap();
        assert_eq!(chosen.copied, ["config.json", "linked.json", "tokenizer.json"].map(path));
        assert_eq!(chosen.left_out, ["also-the-key", "my.key", "tf_model.h5"]);
    }
}
