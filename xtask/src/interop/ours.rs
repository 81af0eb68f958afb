//! Ours -> theirs: checkpoints that `tz-cli serialize` saved are read by both versions of the
//! reference, with one reader and several, its hash verification on.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::reference::{all_equal, all_refused, read};
use super::tensors::Tensor;
use super::{Bench, REFERENCES, lent};
use crate::product::{self, Inspection, Product};
use crate::report::Checks;

/// What the native profile promises about where data starts.
const ALIGNMENT: u64 = 4096;

/// Small: contents, not speed, are compared here.
const SYNTHETIC_BYTES: u64 = 16 << 20;

/// More than the reference's fixed 256 KiB index holds.
const MANY: &str = "6000";

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    let synthetic = bench.folder.join("synthetic");
    checks.check("ours: a synthetic checkpoint is made", || {
        let arguments = product::synth(SYNTHETIC_BYTES, &synthetic);
        product::succeeded(bench.product.run(&arguments)?, &arguments)?;
        Ok(product::line(&arguments))
    });
    serialized(bench, checks, "synthetic", &synthetic);

    let many = bench.folder.join("many.safetensors");
    checks.check(format!("ours: a checkpoint of {MANY} tensors is made by safetensors"), || {
        let arguments = ["write".as_ref(), "--count".as_ref(), MANY.as_ref(), many.as_os_str()];
        let finished = bench.python.run("checkpoint.py", &arguments)?;
        if !finished.status.success() {
            bail!("{}", finished.stderr.trim());
        }
        Ok("every dtype that both sides have, scalars, empty tensors".into())
    });
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
    checks.check(format!("ours: {name}: data starts at multiples of {ALIGNMENT}"), || {
        let arguments = ["inspect".as_ref(), file.as_os_str(), "--json".as_ref()];
        aligned(&bench.product.json(&arguments)?)
    });

    let expected: Result<Vec<Tensor>> =
        bench.python.json("checkpoint.py", &["digests".as_ref(), source.as_os_str()]);
    checks.check(format!("ours: {name}: digests of the source by safetensors"), || {
        Ok(format!("{} tensors", lent(&expected)?.len()))
    });
    for version in REFERENCES {
        checks.check(format!("ours: {name}: read by {version}"), || {
            let readings = read(bench.python, version, std::slice::from_ref(&file))?;
            all_equal(lent(&expected)?, &readings)
        });
    }
    let broken = bench.folder.join(format!("{name}-broken.tensors"));
    checks.check(format!("ours: {name}: a flipped bit is refused by both versions"), || {
        flip_a_bit_of_the_data(bench.product, &file, &broken)?;
        for version in REFERENCES {
            all_refused(&read(bench.python, version, std::slice::from_ref(&broken))?)?;
        }
        Ok("HashMismatchError from every reading".into())
    });
}

/// Proof that the reference checks what we stored: copies the file with one bit changed.
fn flip_a_bit_of_the_data(product: &Product, file: &Path, broken: &Path) -> Result<()> {
    let arguments = ["inspect".as_ref(), file.as_os_str(), "--json".as_ref()];
    let table: Inspection = product.json(&arguments)?;
    let last = table.tensors.iter().rfind(|tensor| tensor.data_bytes > 0);
    let at = usize::try_from(last.context("no tensor has data")?.data_offset)?;
    let mut bytes = std::fs::read(file)?;
    *bytes.get_mut(at).context("the data lies outside of the file")? ^= 1;
    Ok(std::fs::write(broken, bytes)?)
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
    Ok(format!("{count} of {} tensors have data, version {}", table.tensor_count, table.version))
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
