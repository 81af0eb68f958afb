//! Readings of files by the reference package: what was read, how it compares.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::python::Python;
use super::tensors::{Tensor, same};

/// How many readers it is told to use: the plain path and the parallel one.
const READERS: [&str; 2] = ["1", "4"];

/// What a reader says of a hash that does not match.
const MISMATCH: &str = "HashMismatchError";

/// One reading of one file by `read.py`.
#[derive(Debug, Deserialize)]
pub(super) struct Reading {
    pub(super) file: PathBuf,
    readers: u32,
    verified: bool,
    #[serde(default)]
    tensors: Vec<Tensor>,
    pub(super) error: Option<String>,
}

/// Reads files with this version, hash verification on, once with each number of readers.
pub(super) fn read(python: &Python, version: &str, files: &[PathBuf]) -> Result<Vec<Reading>> {
    read_with(python, version, files, &[])
}

/// As [`read`], with the secret that the files need as options of the script.
pub(super) fn read_with(
    python: &Python,
    version: &str,
    files: &[PathBuf],
    secret: &[&str],
) -> Result<Vec<Reading>> {
    let mut arguments = vec!["--reference", version];
    arguments.extend(READERS.iter().flat_map(|readers| ["--readers", *readers]));
    arguments.extend(secret);
    let mut arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
    arguments.extend(files.iter().map(|file| file.as_os_str()));
    python.json("read.py", &arguments)
}

/// Expects every reading of a file to have given these tensors.
pub(super) fn all_equal<'a>(
    expected: &[Tensor],
    readings: impl IntoIterator<Item = &'a Reading>,
) -> Result<String> {
    let (mut seen, mut count) = (String::new(), 0);
    for reading in readings {
        let context = || format!("with {} readers", reading.readers);
        match &reading.error {
            Some(error) => bail!("{}: {error}", context()),
            None if !reading.verified => bail!("{}: hashes were not checked", context()),
            None => seen = same(expected, &reading.tensors).with_context(context)?,
        }
        count += 1;
    }
    if count != READERS.len() {
        bail!("{count} readings, expected {}", READERS.len());
    }
    Ok(format!("{seen} with {} readers", READERS.join(" and ")))
}

/// Expects every reading to have failed over a hash.
pub(super) fn all_refused(readings: &[Reading]) -> Result<()> {
    if readings.len() != READERS.len() {
        bail!("{} readings, expected {}", readings.len(), READERS.len());
    }
    for reading in readings {
        match &reading.error {
            Some(error) if error.starts_with(MISMATCH) => {}
            other => bail!("with {} readers: {other:?}, not {MISMATCH}", reading.readers),
        }
    }
    Ok(())
}
