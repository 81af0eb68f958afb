//! Ours -> theirs: checkpoints that `tz-cli serialize` saved are read by both versions of the
//! reference, with one reader and several, its hash verification on.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Result, bail};
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

    let expected = std::cell::OnceCell::new();
    let digests = || -> Result<Vec<Tensor>> {
        bench
            .python
            .json("checkpoint.py", &["digests".as_ref(), source.as_os_str()])
    };
    checks.check(
        format!("ours: {name}: digests of the source by safetensors"),
        || {
            let tensors = digests()?;
            let seen = format!("{} tensors", tensors.len());
            expected.get_or_init(|| tensors);
            Ok(seen)
        },
    );
    for version in REFERENCES {
        let readings = read(bench, version, &file);
        for readers in [1, 4] {
            checks.check(
                format!("ours: {name}: read by {version}, {readers} readers"),
                || {
                    let readings = readings
                        .as_ref()
                        .map_err(|error| anyhow::anyhow!("{error:#}"))?;
                    let Some(reading) = readings.iter().find(|reading| reading.readers == readers)
                    else {
                        bail!("no reading with {readers} readers");
                    };
                    match (&reading.error, expected.get()) {
                        (Some(error), _) => bail!("{error}"),
                        (None, None) => bail!("the source has no digests to compare with"),
                        (None, Some(expected)) => same(expected, &reading.tensors),
                    }
                },
            );
        }
    }
}

/// Reads a file with the reference, hash verification on, with one reader and with four.
fn read(bench: &Bench<'_>, version: &str, file: &Path) -> Result<Vec<Reading>> {
    let options = ["--reference", version, "--readers", "1", "--readers", "4"].map(OsStr::new);
    let arguments: Vec<&OsStr> = options.into_iter().chain([file.as_os_str()]).collect();
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
