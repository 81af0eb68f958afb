//! Ours -> theirs: checkpoints that `tz-cli serialize` saved are read by both versions of the
//! reference, with one reader and several, its hash verification on.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::tensors::{Tensor, same};
use super::{Bench, REFERENCES};
use crate::product::{self, Inspection};
use crate::report::Checks;

/// What the native profile promises about where data starts.
const ALIGNMENT: u64 = 4096;

/// Small: contents, not speed, are compared here.
const SYNTHETIC_BYTES: u64 = 16 << 20;

/// More than the reference's fixed 256 KiB index holds.
const MANY: &str = "6000";

/// How many readers the reference is told to use: the plain path and the parallel one.
const READERS: [&str; 2] = ["1", "4"];

/// One reading of one file by `read.py`.
#[derive(Debug, Deserialize)]
struct Reading {
    readers: u32,
    #[serde(default)]
    tensors: Vec<Tensor>,
    error: Option<String>,
}

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    let synthetic = bench.folder.join("synthetic");
    checks.check("ours: a synthetic checkpoint is made", || {
        bench.product.synthesise(SYNTHETIC_BYTES, &synthetic)
    });
    serialized(bench, checks, "synthetic", &synthetic);

    let many = bench.folder.join("many.safetensors");
    checks.check(
        format!("ours: a checkpoint of {MANY} tensors is made by safetensors"),
        || {
            let arguments = [
                "write".as_ref(),
                "--count".as_ref(),
                MANY.as_ref(),
                many.as_os_str(),
            ];
            let finished = bench.python.run("checkpoint.py", &arguments)?;
            if !finished.status.success() {
                bail!("{}", finished.stderr.trim());
            }
            Ok("every dtype that both sides have, scalars, empty tensors".into())
        },
    );
    for version in REFERENCES {
        checks.check(format!("ours: {version} itself cannot save it"), || {
            overflows(bench, version, &many)
        });
    }
    serialized(bench, checks, "many", &many);
}

/// The rows for one checkpoint: saved by us, its data aligned, read by them.
fn serialized(bench: &Bench<'_>, checks: &mut Checks, name: &str, source: &Path) {
    let file = bench.folder.join(format!("{name}.tensors"));
    checks.check(format!("ours: {name}: serialize, verify"), || {
        for arguments in [
            vec!["serialize".as_ref(), source.as_os_str(), file.as_os_str()],
            vec!["verify".as_ref(), file.as_os_str()],
        ] {
            product::succeeded(bench.product.run(&arguments)?, &arguments)?;
        }
        Ok(format!("{} bytes", std::fs::metadata(&file)?.len()))
    });
    checks.check(
        format!("ours: {name}: data starts at multiples of {ALIGNMENT}"),
        || {
            let arguments = ["inspect".as_ref(), file.as_os_str(), "--json".as_ref()];
            aligned(&bench.product.json(&arguments)?)
        },
    );

    let expected: Result<Vec<Tensor>> = bench
        .python
        .json("checkpoint.py", &["digests".as_ref(), source.as_os_str()]);
    checks.check(
        format!("ours: {name}: digests of the source by safetensors"),
        || Ok(format!("{} tensors", lent(&expected)?.len())),
    );
    for version in REFERENCES {
        let readings = read(bench, version, &file);
        for readers in READERS {
            checks.check(
                format!("ours: {name}: read by {version}, {readers} readers"),
                || {
                    let mut readings = lent(&readings)?.iter();
                    let reading = readings.find(|reading| reading.readers.to_string() == readers);
                    let reading = reading.context("this reading is missing")?;
                    if let Some(error) = &reading.error {
                        bail!("{error}");
                    }
                    same(lent(&expected)?, &reading.tensors)
                },
            );
        }
    }
}

/// A result that several rows depend on; each of them fails with its words.
fn lent<T>(result: &Result<T>) -> Result<&T> {
    result.as_ref().map_err(|error| anyhow!("{error:#}"))
}

/// Reads a file with the reference, hash verification on, once with each number of readers.
fn read(bench: &Bench<'_>, version: &str, file: &Path) -> Result<Vec<Reading>> {
    let mut arguments = vec!["--reference", version];
    arguments.extend(READERS.iter().flat_map(|readers| ["--readers", *readers]));
    let mut arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
    arguments.push(file.as_os_str());
    bench.python.json("read.py", &arguments)
}

fn aligned(table: &Inspection) -> Result<String> {
    let with_data = table.tensors.iter().filter(|tensor| tensor.data_bytes > 0);
    let mut count = 0;
    for tensor in with_data {
        if tensor.data_offset % ALIGNMENT != 0 {
            bail!("{:?} starts at {}", tensor.path, tensor.data_offset);
        }
        count += 1;
    }
    if count == 0 {
        bail!("no tensor has data");
    }
    Ok(format!(
        "{count} of {} tensors have data, version {}",
        table.tensor_count, table.version
    ))
}

/// The reason for our exact index: the reference's own writer gives up on this checkpoint.
fn overflows(bench: &Bench<'_>, version: &str, source: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Outcome {
        error: Option<String>,
    }
    let outcome: Outcome = bench.python.json(
        "checkpoint.py",
        &[
            "overflow".as_ref(),
            "--reference".as_ref(),
            version.as_ref(),
            source.as_os_str(),
            bench.folder.join("overflow.tensors").as_os_str(),
        ],
    )?;
    match outcome.error {
        Some(error) if error.contains("Metadata overflow") => Ok(error),
        Some(error) => bail!("failed for another reason: {error}"),
        None => bail!("it saved {MANY} tensors"),
    }
}
