//! A directory against its manifest. Owns [`ManifestCheck`].

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use tz_io::{ReadOptions, RemoteOptions, digest};

use super::{Blake3, MANIFEST_NAME, Manifest, is_missing};
use crate::artifacts::ArtifactDir;
use crate::error::Error;

/// How deep folders are searched for files that the manifest does not list.
const MAX_DEPTH: usize = 16;

/// In which respect a file differs from the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Wrong {
    /// It is not there.
    Missing,
    /// It has another length.
    Length {
        /// By the manifest.
        expected: u64,
        /// In the directory.
        found: u64,
    },
    /// It has other contents.
    Contents,
    /// It is there and the manifest does not know it.
    Extra,
}

/// A file that is not as the manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileFault {
    /// Path below the directory.
    pub path: String,
    /// What is wrong with it.
    #[serde(flatten)]
    pub wrong: Wrong,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestCheck {
    /// Files that differ, in order of path.
    pub faults: Vec<FileFault>,
    /// Bytes that were read.
    pub bytes: u64,
    /// Whether files that the manifest does not list would have been seen: an object store is not listed.
    pub listed: bool,
}

impl Manifest {
    /// Compares every file of `dir` with the manifest: length first, then contents.
    ///
    /// In a folder of this machine, files that the manifest does not list are faults too: what lies beside a model may
    /// change how it is served. Hidden ones are not: volumes and editors keep theirs there.
    ///
    /// # Errors
    /// What the place gives, but for a file that is missing.
    pub fn check(
        &self,
        dir: &ArtifactDir,
        remote: &RemoteOptions,
        options: &ReadOptions,
    ) -> Result<ManifestCheck, Error> {
        let mut check = ManifestCheck { faults: Vec::new(), bytes: 0, listed: false };
        for file in &self.files {
            let location = dir.join(&file.path)?;
            let wrong = match location.open(remote) {
                Err(error) if is_missing(&error) => Some(Wrong::Missing),
                Err(error) => return Err(error.into()),
                Ok(source) => match source.len() {
                    Some(found) if found != file.bytes => {
                        Some(Wrong::Length { expected: file.bytes, found })
                    }
                    _ => {
                        drop(source);
                        let (bytes, found) = digest(&location, remote, options)?;
                        check.bytes += bytes;
                        (Blake3(found) != file.blake3).then_some(Wrong::Contents)
                    }
                },
            };
            check.faults.extend(wrong.map(|wrong| FileFault { path: file.path.clone(), wrong }));
        }
        if let Some(folder) = dir.local() {
            let known: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
            let mut found = Vec::new();
            list(folder, "", MAX_DEPTH, &mut found)?;
            let extra = found.into_iter().filter(|path| !known.contains(path.as_str()));
            check.faults.extend(extra.map(|path| FileFault { path, wrong: Wrong::Extra }));
            check.listed = true;
        }
        check.faults.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(check)
    }
}

/// Every file below `folder` that is neither hidden nor the manifest.
fn list(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) -> Result<(), Error> {
    let failed = |error| Error::io(folder, "list", error);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if name.starts_with('.') || path == MANIFEST_NAME {
            continue;
        }
        // A link to a folder is a file here: following it could lead anywhere.
        if depth > 0 && entry.file_type().map_err(failed)?.is_dir() {
            list(&entry.path(), &format!("{path}/"), depth - 1, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
