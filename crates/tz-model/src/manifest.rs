//! What a published directory holds and what it was made from: `manifest.toml`. Owns [`Manifest`].
//!
//! The manifest is the last file of a publication, after the tensors, because it carries their digests; a directory
//! that has one is whole. vLLM ignores it; [`Manifest::check`] finds what is missing, changed, or was never listed.

mod check;
mod moment;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tz_io::{IoError, Location, RemoteOptions};

use crate::artifacts::{ArtifactDir, LayoutName};
use crate::error::Error;

pub use check::{FileFault, ManifestCheck, Wrong};
pub use moment::Moment;

/// Name of the manifest in its directory.
pub const MANIFEST_NAME: &str = "manifest.toml";

/// Longest manifest that is read: room for tens of thousands of files.
const MAX_MANIFEST_LEN: u64 = 8 << 20;

/// The form that this version writes and reads.
const SCHEMA: u32 = 1;

/// The contents of `manifest.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Manifest {
    /// The form of the manifest: 1.
    pub schema: u32,
    /// Program and version that wrote the directory.
    pub tool: String,
    /// When.
    pub created: toml::value::Datetime,
    /// Id of the model.
    pub model: String,
    /// How tensors are named.
    pub layout: LayoutName,
    /// Releases of vLLM that the tensors are laid out for, as Python packages state requirements.
    pub vllm: String,
    /// Number of ranks that share the model; each has a file of its own.
    pub tensor_parallel_size: u32,
    /// Whether the model's tensors are encrypted.
    pub encrypted: bool,
    /// What the directory was made from.
    pub source: Source,
    /// Every file of the directory but this one.
    pub files: Vec<FileEntry>,
}

/// What a directory was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Source {
    /// The checkpoint's directory or file when it was read.
    pub path: String,
    /// The commit of a model from Hugging Face.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The files that tensors came from, by their path in the checkpoint.
    pub files: Vec<FileEntry>,
}

impl Source {
    /// A checkpoint at `path`, made of these files.
    #[must_use]
    pub fn new(path: String, revision: Option<String>, files: Vec<FileEntry>) -> Self {
        Self { path, revision, files }
    }
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileEntry {
    /// Path below the directory, with slashes.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// Digest of the contents.
    pub blake3: Blake3,
}

impl FileEntry {
    /// A file of this length and digest.
    #[must_use]
    pub fn new(path: impl Into<String>, bytes: u64, blake3: [u8; 32]) -> Self {
        Self { path: path.into(), bytes, blake3: Blake3(blake3) }
    }
}

/// A digest that is written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blake3(pub [u8; 32]);

impl fmt::Display for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&tz_format::hex(&self.0))
    }
}

impl Serialize for Blake3 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Blake3 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            let hex = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(pair, 16).ok().filter(|_| hex)
        });
        let bytes: Option<Vec<u8>> = digits.collect();
        let bytes = bytes.filter(|_| text.len() == 64).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| D::Error::custom("a digest has 64 hexadecimal digits"))
    }
}

/// What a manifest says beside the list of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Id of the model.
    pub model: String,
    /// How tensors are named.
    pub layout: LayoutName,
    /// Releases of vLLM that the tensors are laid out for.
    pub vllm: String,
    /// Number of ranks.
    pub tensor_parallel_size: u32,
    /// Whether the tensors are encrypted.
    pub encrypted: bool,
    /// What the directory was made from.
    pub source: Source,
    /// When it was made.
    pub created: Moment,
}

impl Manifest {
    /// A manifest of these files, in order of their paths.
    #[must_use]
    pub fn new(facts: Facts, mut files: Vec<FileEntry>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let Facts { model, layout, vllm, tensor_parallel_size, encrypted, source, created } = facts;
        Self {
            schema: SCHEMA,
            tool: concat!("tz ", env!("CARGO_PKG_VERSION")).to_owned(),
            created: created.into(),
            model,
            layout,
            vllm,
            tensor_parallel_size,
            encrypted,
            source,
            files,
        }
    }

    /// The manifest of a directory; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Config`] where the file is no manifest, and what the place gives.
    pub fn read(dir: &ArtifactDir, remote: &RemoteOptions) -> Result<Option<Self>, Error> {
        let location = dir.join(MANIFEST_NAME)?;
        let Some(bytes) = read_small(&location, remote, MAX_MANIFEST_LEN)? else {
            return Ok(None);
        };
        Self::parse(&bytes)
            .map(Some)
            .map_err(|reason| Error::Config { path: location.to_string().into(), reason })
    }

    /// Reads the text of a manifest.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        /// Read first, so that a newer form is told as one.
        #[derive(Deserialize)]
        struct Form {
            schema: u32,
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
        let first_line = |error: toml::de::Error| error.message().to_owned();
        match toml::from_str::<Form>(text).map_err(first_line)?.schema {
            SCHEMA => {}
            other => return Err(format!("schema {other} is not known to this version")),
        }
        let manifest: Self = toml::from_str(text).map_err(first_line)?;
        let mut seen = std::collections::HashSet::new();
        for file in &manifest.files {
            crate::artifacts::relative("file", &file.path).map_err(|error| error.to_string())?;
            if !seen.insert(&file.path) {
                return Err(format!("file {:?} stands twice", file.path));
            }
        }
        Ok(manifest)
    }

    /// The text of the manifest.
    ///
    /// # Errors
    /// Where a number is beyond what TOML holds.
    pub fn to_text(&self) -> Result<String, Error> {
        const HEAD: &str = "# `tz-cli verify DIR` checks this directory against this list.\n";
        let text = toml::to_string(self).map_err(|error| Error::Config {
            path: MANIFEST_NAME.into(),
            reason: error.to_string(),
        })?;
        Ok(format!("{HEAD}{text}"))
    }
}

/// The bytes of a small file; `None` where there is none.
pub(crate) fn read_small(
    location: &Location,
    remote: &RemoteOptions,
    limit: u64,
) -> Result<Option<Vec<u8>>, Error> {
    let source = match location.open(remote) {
        Ok(source) => source,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let len = source.len().unwrap_or(u64::MAX);
    if len > limit {
        let reason = format!("{len} bytes are more than any real one has");
        return Err(Error::Config { path: location.to_string().into(), reason });
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_into(0, &mut [std::io::IoSliceMut::new(&mut bytes)])?;
    Ok(Some(bytes))
}

/// Whether there is nothing at the place that was asked.
pub(crate) fn is_missing(error: &IoError) -> bool {
    matches!(error, IoError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |path: &str, byte| FileEntry::new(path, 7, [byte; 32]);
        let source = Source::new("/models/m".into(), None, vec![file("model.safetensors", 9)]);
        let facts = Facts {
            model: "org/m".into(),
            layout: LayoutName::Vllm,
            vllm: ">=0.30.0".into(),
            tensor_parallel_size: 1,
            encrypted: false,
            source,
            created: Moment::at(0),
        };
        Manifest::new(facts, vec![file("model.tensors", 2), file("config.json", 1)])
    }

    #[test]
    fn the_text_says_all_of_it() {
        let text = manifest().to_text().unwrap();
        for line in [
            "schema = 1",
            concat!("tool = \"tz ", env!("CARGO_PKG_VERSION"), "\""),
            "created = 1970-01-01T00:00:00Z",
            "model = \"org/m\"",
            "layout = \"vllm\"",
            "vllm = \">=0.30.0\"",
            "tensor-parallel-size = 1",
            "encrypted = false",
            "[source]",
            "path = \"/models/m\"",
            "[[source.files]]",
            "path = \"model.safetensors\"",
            "[[files]]",
            "bytes = 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains(&format!("blake3 = \"{}\"", "01".repeat(32))));
        assert!(text.find("config.json") < text.find("model.tensors"), "in order of path");
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest()));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let text = manifest().to_text().unwrap();
        for (from, to, says) in [
            ("schema = 1", "schema = 2", "schema 2"),
            ("schema = 1\n", "", "schema"),
            ("config.json", "../config.json", "single slashes"),
            ("config.json", "/etc/passwd", "single slashes"),
            ("config.json", "model.tensors", "stands twice"),
            ("bytes = 7", "bytes = -7", "-7"),
            ("0101", "010", "64 hexadecimal digits"),
            ("0101", "01+1", "64 hexadecimal digits"),
            ("layout = \"vllm\"", "layout = \"other\"", "other"),
            ("created", "# created", "created"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let why = Manifest::parse(changed.as_bytes()).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        assert!(Manifest::parse(b"\xff").is_err());
    }
}
