//! `cargo xtask bench crypto`: one model loaded plain, sealed and encrypted as the reference does it, and that last
//! file by the reference too, warm.
//!
//! The same work everywhere: all bytes end, in the clear, in memory that the process owns. Our plain row checks
//! stored hashes as it does by default, since encrypted loads authenticate every byte; one row without is for context.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Common;
use super::local::{REFERENCE, WARM, timed};
use super::outcome::Outcome;
use super::processes::loaded;
use super::raw;
use super::rounds::{Contender, Series, Target, alternate_after};
use crate::interop::Python;
use crate::product::{self, Product, Transfer};
use crate::report::parse_size;
use crate::workspace;

const PLAIN: &str = "tz-cli deserialize, plain";
const PLAIN_UNVERIFIED: &str = "tz-cli deserialize --no-verify, plain";
const SEALED: &str = "tz-cli deserialize, sealed";
const COMPAT: &str = "tz-cli deserialize, compat";
const THEIRS: &str = "tensorizer, compat, ";

/// As the targets were set: sealed against our own plain load, compat against the reference.
const SEALED_TIME: f64 = 1.15;
const COMPAT_SPEED: f64 = 3.5;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// About how large the model is
    #[arg(long, default_value = "2GiB", value_parser = parse_size)]
    size: u64,
    /// Where the files go [default: the target folder, on disk]
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let python = Python::ready()?;
    let product = Product::build()?;
    let parent = args.dir.clone().map_or_else(workspace::target, Ok)?;
    let outcome = Outcome::expected(&parent, WARM);
    let folder = tempfile::Builder::new().prefix("tz-bench-").tempdir_in(&parent)?;
    let files = Files::make(&product, folder.path().to_owned(), args.size)?;
    let settled = || raw::settle(2 * files.bytes);
    let contenders = contenders(&product, &python, &files);
    let series = alternate_after(&contenders, args.common.rounds, settled)?;
    let targets = targets(&series)?;
    outcome.publish(&args.common, files.bytes, series, targets)
}

/// The model three times, and the key of two of them.
struct Files {
    folder: PathBuf,
    bytes: u64,
}

impl Files {
    fn make(product: &Product, folder: PathBuf, size: u64) -> Result<Self> {
        let mut files = Self { folder, bytes: 0 };
        let (checkpoint, plain, key) =
            (files.path("checkpoint"), files.path("plain.tensors"), files.path("key"));
        let (checkpoint, plain, key) = (checkpoint.as_os_str(), plain.as_os_str(), key.as_os_str());
        let run = |arguments: &[&OsStr]| {
            product::succeeded(product.run(arguments)?, arguments)?;
            anyhow::Ok(())
        };
        run(&product::synth(size, checkpoint.as_ref()))?;
        run(&["serialize".as_ref(), checkpoint, plain])?;
        // Room in the page cache for the encrypted files.
        std::fs::remove_dir_all(checkpoint).context("removing the checkpoint")?;
        run(&["keygen".as_ref(), key])?;
        for profile in ["compat", "sealed"] {
            let file = files.path(&format!("{profile}.tensors"));
            let options = ["--profile".as_ref(), profile.as_ref(), "--keyfile".as_ref(), key];
            run(&[&["encrypt".as_ref(), plain, file.as_os_str()][..], &options].concat())?;
        }
        let load: Transfer = product.json(&["deserialize".as_ref(), plain, "--json".as_ref()])?;
        files.bytes = load.bytes;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn contenders<'a>(
    product: &'a Product,
    python: &'a Python,
    files: &'a Files,
) -> Vec<Contender<'a>> {
    let key = files.path("key").into_os_string();
    let mut contenders = Vec::new();
    for (name, file, options) in [
        (PLAIN_UNVERIFIED, "plain.tensors", vec!["--no-verify".into()]),
        (PLAIN, "plain.tensors", Vec::new()),
        (SEALED, "sealed.tensors", vec!["--keyfile".into(), key.clone()]),
        (COMPAT, "compat.tensors", vec!["--keyfile".into(), key.clone()]),
    ] {
        let mut arguments: Vec<OsString> = vec!["deserialize".into(), files.path(file).into()];
        arguments.push("--json".into());
        arguments.extend(options);
        contenders.push(Contender::new(name, move || loaded(product, files.bytes, &arguments)));
    }
    for readers in ["1", "2", "4", "default"] {
        let mut arguments: Vec<OsString> =
            ["load", "--reference", REFERENCE, "--keyfile"].map(OsString::from).into();
        arguments.push(key.clone());
        if readers != "default" {
            arguments.extend(["--readers".into(), readers.into()]);
        }
        arguments.push(files.path("compat.tensors").into());
        let name = format!("{THEIRS}{readers} readers");
        contenders.push(Contender::new(&name, move || timed(python, files.bytes, &arguments)));
    }
    contenders
}

fn targets(series: &[Series]) -> Result<Vec<Target>> {
    let fastest = |prefix: &str| {
        let of_prefix = series.iter().filter(|series| series.name.starts_with(prefix));
        let best = of_prefix.map(Series::median_seconds).reduce(f64::min);
        best.with_context(|| format!("no contender {prefix}"))
    };
    let (plain, sealed, compat) = (fastest(PLAIN)?, fastest(SEALED)?, fastest(COMPAT)?);
    let theirs = fastest(THEIRS)?;
    Ok(vec![
        Target::at_most("sealed load: times the plain load's time", SEALED_TIME, sealed / plain),
        Target::at_least("compat load: times the reference's speed", COMPAT_SPEED, theirs / compat),
    ])
}
