//! `cargo xtask bench local`: loads to owned host memory and saves, warm, against a raw read into
//! fresh huge-page memory, a raw write, the reference and safetensors.
//!
//! Before each sample a process touches as much memory as a load takes and gives it back, so that all contenders
//! find the machine's free memory alike (see `raw::settle`).
//!
//! The same work everywhere: all bytes end in memory that the process owns, except where the name
//! says mapped. Python rows count the call alone, not the import of torch; our own rows count from
//! opening the file. Saving is more work for us: the reference has the tensors in memory already,
//! we read the checkpoint too.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::outcome::Outcome;
use super::processes::{self, loaded, ran};
use super::rounds::{Contender, Sample, Series, Target, alternate_after};
use super::{Common, cold, raw, raw_write};
use crate::interop::Python;
use crate::product::{self, Product, Transfer};
use crate::report::parse_size;
use crate::workspace;

/// Where the bytes are, in titles.
pub(super) const WARM: &str = "warm page cache";

/// The reference that we are measured against.
pub(super) const REFERENCE: &str = "2.12.1";

const MEMORY_LIMIT: &str = "256MiB";
/// What `serialize` may take beyond its limit: the program itself, stacks, the tensor table.
const MEMORY_SLACK: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// About how large the model is
    #[arg(long, default_value = "2GiB", value_parser = parse_size)]
    size: u64,
    /// Where the files go [default: the target folder, on disk]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Time fastsafetensors and the Run:ai Model Streamer too; installs them into the environment first
    #[arg(long)]
    peers: bool,
    /// Load from a cold page cache, and nothing else
    #[arg(long)]
    cold: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let python = Python::ready()?;
    let product = Product::build()?;
    let parent = args.dir.clone().map_or_else(workspace::target, Ok)?;
    let outcome = Outcome::expected(&parent, if args.cold { "cold page cache" } else { WARM });
    let folder = tempfile::Builder::new().prefix("tz-bench-").tempdir_in(&parent)?;
    let files = Files::make(&product, &python, folder.path(), args.size)?;

    let mut contenders = loads(&product, &python, &files);
    contenders.extend(saves(&product, &python, &files));
    if args.peers {
        python.add_peers()?;
        contenders.extend(peers(&python, &files));
    }
    let (rounds, settled) = (args.common.rounds, 2 * files.bytes);
    let sources = [&*files.tensors, &*files.checkpoint];
    if args.cold {
        contenders.retain(|load| COLD.contains(&&*load.name) || is_peer(&load.name));
    }
    let series = alternate_after(&contenders, rounds, || {
        raw::settle(settled)?;
        if args.cold { cold::forget(&sources) } else { Ok(()) }
    })?;
    let targets = if args.cold { cold_targets(&series) } else { targets(&series) }?;
    outcome.publish(&args.common, files.bytes, series, targets)
}

/// The model in both forms, and where saves go.
struct Files {
    checkpoint: PathBuf,
    tensors: PathBuf,
    /// The same tensors as the reference writes them: unaligned, with CRC-32 and SHA-256.
    theirs: PathBuf,
    saved: PathBuf,
    bytes: u64,
}

impl Files {
    fn make(product: &Product, python: &Python, folder: &Path, size: u64) -> Result<Self> {
        let checkpoint = folder.join("checkpoint");
        let tensors = folder.join("model.tensors");
        let theirs = folder.join("theirs.tensors");
        let arguments = product::synth(size, &checkpoint);
        product::succeeded(product.run(&arguments)?, &arguments)?;
        let arguments = ["serialize".as_ref(), checkpoint.as_os_str(), tensors.as_os_str()];
        product::succeeded(product.run(&arguments)?, &arguments)?;
        let arguments = ["deserialize".as_ref(), tensors.as_os_str(), "--json".as_ref()];
        let load: Transfer = product.json(&arguments)?;
        timed(python, load.bytes, &joined(&SAVE, &[&checkpoint, &theirs]))?;
        // What the kernel still has to write would take time from the first contenders.
        for file in [&tensors, &theirs] {
            fs::File::open(file)?.sync_all()?;
        }
        let saved = folder.join("saved.tensors");
        Ok(Self { checkpoint, tensors, theirs, saved, bytes: load.bytes })
    }
}

const OURS: &str = "tz-cli deserialize --no-verify";
const OURS_VERIFIED: &str = "tz-cli deserialize";
const OURS_ON_THEIRS: &str = "tz-cli deserialize, reference's file";
const THEIRS: &str = "tensorizer, ";
const THEIRS_VERIFIED: &str = "tensorizer, verified, ";
const THEIRS_ON_THEIRS: &str = "tensorizer, verified, reference's file, ";
const MAPPED: &str = "safetensors, mapped, every page touched";
const OURS_MAPPED: &str = "tz-cli deserialize --mmap, every page touched";
const OURS_SAVED: &str = "tz-cli serialize --no-fsync";
const OURS_SYNCED: &str = "tz-cli serialize";
const OURS_LIMITED: &str = "tz-cli serialize --memory-limit 256MiB";
const RAW_WRITE: &str = "raw write, 2 threads";
const RAW_SYNCED: &str = "raw write, 2 threads, fsync";
const THEIRS_SAVED: &str = "tensorizer save";
const CLONED: &str = "safetensors, cloned";
const PEERS: [(&str, &str); 2] =
    [("fastsafetensors, CPU", "fastsafetensors"), ("Run:ai Model Streamer, cloned", "runai")];
/// What is loaded from a cold cache, too.
const COLD: [&str; 8] = [
    raw::NAME,
    OURS,
    OURS_VERIFIED,
    OURS_MAPPED,
    "tensorizer, 2 readers",
    "tensorizer, default readers",
    MAPPED,
    CLONED,
];
const SAVE: [&str; 3] = ["save", "--reference", REFERENCE];

fn loads<'a>(product: &'a Product, python: &'a Python, files: &'a Files) -> Vec<Contender<'a>> {
    let ours = |file: &'a Path, options: &'static [&'static str]| {
        move || {
            let mut arguments = vec!["deserialize".as_ref(), file.as_os_str()];
            arguments.push("--json".as_ref());
            arguments.extend(options.iter().map(OsStr::new));
            loaded(product, files.bytes, &arguments)
        }
    };
    let mut contenders = vec![
        raw::contender(&files.tensors),
        Contender::new(OURS, ours(&files.tensors, &["--no-verify"])),
        Contender::new(OURS_VERIFIED, ours(&files.tensors, &[])),
        Contender::new(OURS_ON_THEIRS, ours(&files.theirs, &[])),
        Contender::new(OURS_MAPPED, ours(&files.tensors, &["--mmap"])),
    ];
    for (prefix, verify, file) in [
        (THEIRS, None, &files.tensors),
        (THEIRS_VERIFIED, Some("--verify"), &files.tensors),
        (THEIRS_ON_THEIRS, Some("--verify"), &files.theirs),
    ] {
        for readers in ["2", "4", "default"] {
            let mut arguments = vec!["load", "--reference", REFERENCE];
            arguments.extend(verify);
            if readers != "default" {
                arguments.extend(["--readers", readers]);
            }
            let name = format!("{prefix}{readers} readers");
            let arguments = joined(&arguments, &[file]);
            contenders.push(Contender::new(&name, move || timed(python, files.bytes, &arguments)));
        }
    }
    for (name, options) in [(MAPPED, &["safetensors"][..]), (CLONED, &["safetensors", "--clone"])] {
        let arguments = joined(options, &[&files.checkpoint]);
        contenders.push(Contender::new(name, move || timed(python, files.bytes, &arguments)));
    }
    contenders
}

/// Loaders of safetensors that serve other engines, both at their defaults.
fn peers<'a>(python: &'a Python, files: &'a Files) -> Vec<Contender<'a>> {
    let peer = |(name, peer): (&str, &str)| {
        let arguments = joined(&["peer", peer], &[&files.checkpoint]);
        Contender::new(name, move || timed(python, files.bytes, &arguments))
    };
    PEERS.map(peer).into()
}

fn is_peer(name: &str) -> bool {
    PEERS.iter().any(|(peer, _)| *peer == name)
}

fn saves<'a>(product: &'a Product, python: &'a Python, files: &'a Files) -> Vec<Contender<'a>> {
    let ours = |options: &'static [&'static str]| {
        move || {
            remove(&files.saved)?;
            let mut arguments = vec!["serialize".as_ref(), files.checkpoint.as_os_str()];
            arguments.push(files.saved.as_os_str());
            arguments.extend(options.iter().map(OsStr::new));
            arguments.push("--json".as_ref());
            let sample = ran(product, &arguments, |save: &Transfer| Ok(save.seconds));
            remove(&files.saved)?;
            sample
        }
    };
    let arguments = joined(&SAVE, &[&files.checkpoint, &files.saved]);
    vec![
        raw_write::contender(RAW_WRITE, &files.saved, files.bytes, false),
        Contender::new(OURS_SAVED, ours(&["--no-fsync"])),
        Contender::new(THEIRS_SAVED, move || {
            remove(&files.saved)?;
            let sample = timed(python, files.bytes, &arguments)?;
            remove(&files.saved)?;
            Ok(sample)
        }),
        raw_write::contender(RAW_SYNCED, &files.saved, files.bytes, true),
        Contender::new(OURS_SYNCED, ours(&[])),
        Contender::new(OURS_LIMITED, ours(&["--memory-limit", MEMORY_LIMIT])),
    ]
}

/// One run of `timing.py`, which must have handled all bytes.
pub(super) fn timed(python: &Python, bytes: u64, arguments: &[OsString]) -> Result<Sample> {
    processes::timed(&python.run("timing.py", arguments)?, bytes).context("timing.py")
}

fn targets(series: &[Series]) -> Result<Vec<Target>> {
    let best = |prefix: &str| {
        let readers = ["2", "4", "default"].map(|readers| format!("{prefix}{readers} readers"));
        let times = series
            .iter()
            .filter(|series| readers.contains(&series.name))
            .map(Series::median_seconds);
        times.reduce(f64::min).with_context(|| format!("no contender {prefix}"))
    };
    let one = |name: &str| {
        let found = series.iter().find(|series| series.name == name);
        found.with_context(|| format!("no contender {name}"))
    };
    let median = |name: &str| anyhow::Ok(one(name)?.median_seconds());
    let process = |name: &str| anyhow::Ok(one(name)?.median_process_seconds());
    let (ours, verified) = (median(OURS)?, median(OURS_VERIFIED)?);
    let their_file = best(THEIRS_ON_THEIRS)? / median(OURS_ON_THEIRS)?;
    let default = format!("{THEIRS}default readers");
    let limit = parse_size(MEMORY_LIMIT).map_err(anyhow::Error::msg)? + MEMORY_SLACK;
    let peak = one(OURS_LIMITED)?.peak_bytes();
    Ok(vec![
        Target::at_least("load: speed as a share of the raw read", 0.9, median(raw::NAME)? / ours),
        Target::at_least("load: times the reference's best setting", 3.5, best(THEIRS)? / ours),
        Target::at_least("verified load: times the reference's, on its file", 8.0, their_file),
        Target::at_least(
            "verified load: times the reference's, on our file (CRC-32 alone)",
            8.0,
            best(THEIRS_VERIFIED)? / verified,
        ),
        Target::at_most("verified load: times the unverified one's time", 1.05, verified / ours),
        Target::at_most(
            "mapped and touched: times safetensors' time",
            1.05,
            median(OURS_MAPPED)? / median(MAPPED)?,
        ),
        Target::at_least(
            "whole process: times the Python process",
            10.0,
            process(&default)? / process(OURS_VERIFIED)?,
        ),
        Target::at_least(
            "save: times the reference, neither with fsync",
            3.0,
            median(THEIRS_SAVED)? / median(OURS_SAVED)?,
        ),
        Target::at_least(
            "save with fsync: speed as a share of the raw write with fsync",
            0.85,
            median(RAW_SYNCED)? / median(OURS_SYNCED)?,
        ),
        Target::at_most_mebibytes("save: peak memory at 256MiB", limit, peak),
    ])
}

fn cold_targets(series: &[Series]) -> Result<Vec<Target>> {
    let best = |prefix: &str| {
        let of_prefix = series.iter().filter(|series| series.name.starts_with(prefix));
        let best = of_prefix.map(Series::median_seconds).reduce(f64::min);
        best.with_context(|| format!("no contender {prefix}"))
    };
    let ours = best(OURS)?;
    Ok(vec![
        Target::at_least("load: speed as a share of the raw read", 0.9, best(raw::NAME)? / ours),
        Target::at_least("load: times the reference's best setting", 1.0, best(THEIRS)? / ours),
    ])
}

fn joined(words: &[&str], paths: &[&Path]) -> Vec<OsString> {
    let words = words.iter().map(OsString::from);
    words.chain(paths.iter().map(|path| path.as_os_str().to_owned())).collect()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
