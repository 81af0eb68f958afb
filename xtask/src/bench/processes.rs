//! Runs of processes as samples: what each must have done, and what it says that it took.

use std::ffi::OsStr;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::rounds::Sample;
use crate::product::{self, Product, Transfer};
use crate::sys::Finished;

/// What a baseline or a script prints of its one run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Timing {
    pub(super) seconds: f64,
    pub(super) bytes: u64,
}

/// The figures that a process printed as a [`Timing`]; it must have moved all bytes.
pub(super) fn timed(finished: &Finished, bytes: u64) -> Result<Sample> {
    if !finished.status.success() {
        bail!("{}: {}", finished.status, finished.stderr.trim());
    }
    let timing: Timing = serde_json::from_str(&finished.stdout).context("its figures")?;
    if timing.bytes != bytes {
        bail!("handled {} bytes of {bytes}", timing.bytes);
    }
    let (process_seconds, peak_bytes) = (finished.wall.as_secs_f64(), finished.peak_bytes);
    Ok(Sample { seconds: timing.seconds, process_seconds, peak_bytes })
}

/// One run of tz-cli that prints JSON, from which `seconds` takes the figure after it has checked what was done.
pub(super) fn ran<T: DeserializeOwned, S: AsRef<OsStr>>(
    product: &Product,
    arguments: &[S],
    seconds: impl FnOnce(&T) -> Result<f64>,
) -> Result<Sample> {
    let finished = product.run(arguments)?;
    let (wall, peak_bytes) = (finished.wall, finished.peak_bytes);
    let seconds = seconds(&product::parse(finished, arguments)?)?;
    Ok(Sample { seconds, process_seconds: wall.as_secs_f64(), peak_bytes })
}

/// One load by us, which must have kept all bytes.
pub(super) fn loaded<S: AsRef<OsStr>>(
    product: &Product,
    bytes: u64,
    arguments: &[S],
) -> Result<Sample> {
    ran(product, arguments, |load: &Transfer| {
        if load.bytes != bytes || load.streamed {
            bail!("not all {bytes} bytes in memory: {load:?}");
        }
        Ok(load.seconds)
    })
}
