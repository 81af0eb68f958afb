//! `cargo xtask bench scaling`: what a load costs by the number of tensors, the size of one, readers and memory limit.
//!
//! Every load stands beside a raw read of the same file. The time to open a file is the program's own: from opening
//! to a decoded index.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::local::WARM;
use super::outcome::Outcome;
use super::processes::ran;
use super::rounds::{Contender, Series, Target, alternate_after, render};
use super::{Common, hollow, raw};
use crate::product::{self, Product};
use crate::report::{mebibytes, parse_size};
use crate::workspace;

/// Bytes of the models that differ in the number of their tensors.
const MODEL: u64 = 256 << 20;
const COUNTS: [u64; 5] = [10, 100, 1_000, 10_000, 100_000];
const READERS: [&str; 4] = ["1", "2", "4", "8"];
const LIMITS: [&str; 3] = ["16MiB", "64MiB", "256MiB"];
/// What the task asks for, of the largest number of tensors.
const OPEN_SECONDS: f64 = 0.050;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How large the model of one tensor is
    #[arg(long, default_value = "8GiB", value_parser = parse_size)]
    largest: u64,
    /// Where the files go; twice the largest, at most [default: the target folder, on disk]
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// What `deserialize --json` says that is used here.
#[derive(Debug, Deserialize)]
struct Load {
    seconds: f64,
    phases: Phases,
}

#[derive(Debug, Deserialize)]
struct Phases {
    open: f64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let product = Product::build()?;
    let parent = args.dir.clone().map_or_else(workspace::target, Ok)?;
    let outcome = Outcome::expected(&parent, WARM);
    let folder = tempfile::Builder::new().prefix("tz-bench-").tempdir_in(&parent)?;
    let make = |name: &str, tensors: u64, bytes: u64| {
        model(&product, &folder.path().join(name), tensors, bytes)
    };

    let counted = COUNTS
        .iter()
        .map(|&count| Ok((count, make(&format!("{count}.tensors"), count, MODEL)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut contenders = Vec::new();
    for (count, file) in &counted {
        contenders
            .push(loaded(&product, format!("{count} tensors"), file, &[], |load| load.seconds));
        contenders.push(raw::contender(file).named(format!("{count} tensors: raw read")));
    }
    let (most, file) = counted.last().context("a number of tensors")?;
    let opened = format!("{most} tensors: open");
    contenders
        .push(loaded(&product, opened.clone(), file, &["--no-verify"], |load| load.phases.open));
    let by_count = alternate_after(&contenders, args.common.rounds, || raw::settle(4 * MODEL))?;
    println!("{} in so many tensors\n{}", mebibytes(MODEL), render(&by_count, MODEL));
    drop(contenders);
    for (_, file) in counted {
        fs::remove_file(file)?;
    }

    let large = make("large.tensors", 1, args.largest)?;
    let mut contenders = vec![
        loaded(&product, "one tensor".into(), &large, &[], |load| load.seconds),
        raw::contender(&large).named("one tensor: raw read".into()),
    ];
    for readers in READERS {
        let options = ["--num-readers", readers];
        let name = format!("one tensor, {readers} readers");
        contenders.push(loaded(&product, name, &large, &options, |load| load.seconds));
    }
    for limit in LIMITS {
        let name = format!("one tensor, streamed through {limit}");
        let options = ["--memory-limit", limit];
        contenders.push(loaded(&product, name, &large, &options, |load| load.seconds));
    }
    let settled = || raw::settle(args.largest + args.largest / 8);
    let by_size = alternate_after(&contenders, args.common.rounds, settled)?;

    let share = median(&by_size, "one tensor: raw read")? / median(&by_size, "one tensor")?;
    let targets = vec![
        Target::at_most(&format!("{opened}, seconds"), OPEN_SECONDS, median(&by_count, &opened)?),
        Target::at_least("one tensor: speed as a share of the raw read", 0.9, share),
    ];
    outcome.publish(&args.common, args.largest, by_size, targets)
}

fn median(series: &[Series], name: &str) -> Result<f64> {
    let found = series.iter().find(|series| series.name == name);
    Ok(found.with_context(|| format!("no contender {name}"))?.median_seconds())
}

/// Serializes a model of so many tensors of one size.
fn model(product: &Product, file: &Path, tensors: u64, bytes: u64) -> Result<PathBuf> {
    let source = file.with_extension("safetensors");
    let shape = vec![bytes / 2 / tensors];
    let tensors: Vec<_> =
        (0..tensors).map(|i| (format!("layers.{i}.weight"), shape.clone())).collect();
    hollow::safetensors(&source, &tensors)?;
    let arguments = ["serialize".as_ref(), source.as_os_str(), file.as_os_str()];
    product::succeeded(product.run(&arguments)?, &arguments)?;
    fs::remove_file(source)?;
    Ok(file.to_owned())
}

fn loaded<'a>(
    product: &'a Product,
    name: String,
    file: &'a Path,
    options: &[&'a str],
    seconds: impl Fn(&Load) -> f64 + 'a,
) -> Contender<'a> {
    let options = options.to_vec();
    Contender::new(&name, move || {
        let mut arguments = vec!["deserialize".as_ref(), file.as_os_str(), "--json".as_ref()];
        arguments.extend(options.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
        ran(product, &arguments, |load: &Load| Ok(seconds(load)))
    })
}
