//! `cargo xtask bench limits`: what must hold over a network whatever the speed. A tensor far larger
//! than the memory limit is loaded from nginx within it, and an upload that is killed leaves no object.
//!
//! Slow and large, so it stands beside the benchmarks and not in continuous integration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::hollow;
use crate::interop::Python;
use crate::product::{self, Product};
use crate::report::{Checks, mebibytes, parse_size};
use crate::servers::{BUCKET, Nginx, S3};
use crate::workspace;

const MEMORY_LIMIT: &str = "64MiB";
/// What the whole process may take at that limit.
const MOST_MEMORY: u64 = 128 << 20;
const KEY: &str = "large.tensors";
/// How long an upload may take to show itself on the server before it is killed.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How large the one tensor is
    #[arg(long, default_value = "4GiB", value_parser = parse_size)]
    size: u64,
    /// Where files and objects go; two or three times the tensor
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What the bucket holds under a key.
#[derive(Debug, Deserialize)]
struct State {
    objects: Vec<String>,
    uploads: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let python = Python::ready()?;
    let product = Product::build()?;
    let parent = args.dir.clone().map_or_else(workspace::target, Ok)?;
    let folder = tempfile::Builder::new().prefix("tz-limits-").tempdir_in(&parent)?;
    let (source, file) = (folder.path().join("large.safetensors"), folder.path().join(KEY));
    one_tensor(&source, args.size)?;
    let arguments = ["serialize".as_ref(), source.as_os_str(), file.as_os_str()];
    product::succeeded(product.run(&arguments)?, &arguments)?;

    let nginx = Nginx::start(folder.path())?.context("nginx is not installed")?;
    let mut checks = Checks::default();
    let url = nginx.url(KEY);
    let limit = ["--memory-limit", MEMORY_LIMIT];
    let size = mebibytes(args.size);
    checks.check(format!("a tensor of {size} over HTTP at {MEMORY_LIMIT}, to nothing"), || {
        within_limit(&product, &["deserialize", &url, limit[0], limit[1]])
    });
    let back = folder.path().join("back.safetensors");
    checks.check(format!("a tensor of {size} over HTTP at {MEMORY_LIMIT}, to a file"), || {
        let to = back.to_str().context("a path in UTF-8")?;
        let seen = within_limit(&product, &["deserialize", &url, "--to", to, limit[0], limit[1]])?;
        let written = fs::metadata(&back)?.len();
        if written < args.size {
            bail!("{written} bytes written");
        }
        fs::remove_file(&back)?;
        Ok(seen)
    });

    let s3 = S3::start_garage(folder.path())?;
    let product = product.with_environment(s3.environment());
    let python = python.with_environment(s3.environment());
    let uri = s3.uri(KEY);
    checks.check("kill -9 in an upload leaves no object", || {
        killed(&product, &python, &nginx.slow_url(KEY), &uri)
    });
    checks.check("the next run removes or names the unfinished upload", || {
        let before = state(&python)?;
        let id = before.uploads.first().context("there is none to be named")?;
        fs::write(&source, [])?;
        one_tensor(&source, 1 << 20)?;
        let arguments = ["serialize".as_ref(), source.as_os_str(), uri.as_ref()];
        let finished = product::succeeded(product.run(&arguments)?, &arguments)?;
        let named = finished.stderr.contains(&**id);
        let removed = !state(&python)?.uploads.contains(id);
        match (named, removed) {
            (true, _) => Ok("named".into()),
            // Garage drops uploads that are older than a complete object; other servers may not.
            (false, true) => Ok("gone afterwards, but tz-cli did not name it".into()),
            (false, false) => bail!("{id} is still there and was not named"),
        }
    });
    checks.finish()
}

/// A safetensors file of one tensor of zeros, which takes no space on disk.
fn one_tensor(path: &Path, bytes: u64) -> Result<()> {
    hollow::safetensors(path, &[("large".to_owned(), vec![bytes / 2])]).map(drop)
}

/// Runs a command that must succeed in little memory, by the kernel's count.
fn within_limit(product: &Product, arguments: &[&str]) -> Result<String> {
    let finished = product::succeeded(product.run(arguments)?, arguments)?;
    let peak = mebibytes(finished.peak_bytes);
    if finished.peak_bytes > MOST_MEMORY {
        bail!("peak {peak}, more than {}", mebibytes(MOST_MEMORY));
    }
    Ok(format!("peak {peak}, {:.1} s", finished.wall.as_secs_f64()))
}

/// Kills an upload as soon as the server knows of it; its source is slow enough to outlast that.
fn killed(product: &Product, python: &Python, source: &str, uri: &str) -> Result<String> {
    let arguments = ["copy", source, uri];
    let mut command = product.command(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("starting tz-cli")?;
    let start = Instant::now();
    let seen = loop {
        let seen = state(python);
        let waiting = matches!(&seen, Ok(state) if state.uploads.is_empty());
        if !waiting || start.elapsed() > PATIENCE || child.try_wait()?.is_some() {
            break seen;
        }
    };
    // SIGKILL: nothing of the process runs after it.
    child.kill()?;
    let status = child.wait()?;
    if seen?.uploads.is_empty() || status.success() {
        bail!("it ended before it could be killed: {status}");
    }
    let state = state(python)?;
    if !state.objects.is_empty() {
        bail!("the object is visible");
    }
    Ok(format!("no object, {} unfinished upload", state.uploads.len()))
}

fn state(python: &Python) -> Result<State> {
    python.json("bucket.py", &["state", BUCKET, KEY])
}
