//! `cargo xtask bench gpu`: loads onto a GPU, against a copy of as many bytes from pinned memory, which is what the bus
//! can do, and against the reference and safetensors, where PyTorch sees the GPU too.
//!
//! The same work everywhere: all bytes end on the device. Python rows count the call alone, with CUDA started; ours count
//! from opening the file and the device. The kit of `gpu-test` measures the same on machines without Rust. `TZ_CLI`,
//! `--python`, `--model` and `--checkpoint` name what lies there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;

use super::outcome::Outcome;
use super::processes::{loaded, ran, timed};
use super::rounds::{Contender, Series, Target, alternate_after};
use super::{Common, cold, raw};
use crate::interop::Python;
use crate::product::{self, Product, Transfer};
use crate::report::parse_size;
use crate::{sys, workspace};

/// Times one load by another loader; the kit has it as a file, too.
const COMPARE: &str = include_str!("../../../crates/tz-gpu/tests/gpu/kit/compare.py");

const PINNED: &str = "pinned copy of as many bytes";
const RING_PINNED: &str = "tz-cli bench, its ring pinned before";
const UNVERIFIED: &str = "tz-cli deserialize --no-verify";
const VERIFIED: &str = "tz-cli deserialize";
const SAFETENSORS: &str = "safetensors load_file";
const REFERENCE: &str = "tensorizer, ";

/// Most memory of the host that is made present before a sample: rings and what Python takes, not the model.
const MOST_SETTLED: u64 = 2 << 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// About how large the model is
    #[arg(long, default_value = "2GiB", value_parser = parse_size)]
    size: u64,
    /// Where the files go [default: the target folder, on disk]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Load this .tensors file instead of one made for the purpose
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    model: Option<PathBuf>,
    /// The folder with the same tensors as safetensors
    #[arg(long, value_name = "FOLDER", requires = "model")]
    checkpoint: Option<PathBuf>,
    /// Which GPU
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// A Python with torch, safetensors and tensorizer, instead of the environment of `interop`
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Load it sealed, and encrypted as the reference does it, too
    #[arg(long)]
    encrypted: bool,
    /// From a cold page cache
    #[arg(long)]
    cold: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let product = Product::build()?;
    let parent = args.dir.clone().map_or_else(workspace::target, Ok)?;
    let how = if args.cold { "cold page cache" } else { "warm page cache" };
    let how = format!("to cuda:{}, {how}", args.device);
    let outcome = Outcome::expected(&parent, &how);
    let folder = tempfile::Builder::new().prefix("tz-bench-gpu-").tempdir_in(&parent)?;
    probe(&product, folder.path(), args.device)?;
    let python = python(args)?;
    let bench = Bench::make(product, folder, args)?;

    let mut contenders = bench.ours();
    if let Some(python) = &python {
        contenders.extend(bench.theirs(python));
    }
    let series = alternate_after(&contenders, args.common.rounds, || {
        raw::settle(bench.bytes.min(MOST_SETTLED))?;
        if args.cold {
            cold::forget(&bench.read())?;
        }
        Ok(())
    })?;
    let targets = targets(&series)?;
    outcome.publish(&args.common, bench.bytes, series, targets)
}

/// Loads a model of a few hundred KB, to learn before all the work whether there is a GPU.
fn probe(product: &Product, folder: &Path, device: u32) -> Result<()> {
    let (checkpoint, file) = (folder.join("tiny"), folder.join("tiny.tensors"));
    let device = format!("cuda:{device}");
    let synth =
        ["synth".as_ref(), checkpoint.as_os_str(), "--preset".as_ref(), "llama-tiny".as_ref()];
    product::succeeded(product.run(&synth)?, &synth)?;
    let serialize = ["serialize".as_ref(), checkpoint.as_os_str(), file.as_os_str()];
    product::succeeded(product.run(&serialize)?, &serialize)?;
    let load = ["deserialize".as_ref(), file.as_os_str(), "--device".as_ref(), device.as_ref()];
    let finished = product.run(&load)?;
    if !finished.status.success() {
        let why = finished.stderr.lines().next().unwrap_or("it does not say why");
        bail!("nothing can be loaded to {device}: {why}");
    }
    Ok(())
}

/// The command of a Python whose PyTorch sees a GPU; `None`, with a word about it, where there is none.
fn python(args: &Args) -> Result<Option<Interpreter>> {
    let interpreter = match &args.python {
        Some(program) => Interpreter::Program(program.clone()),
        None => Interpreter::Environment(Python::ready()?),
    };
    let script = "import torch, sys; sys.exit(not torch.cuda.is_available())";
    let finished = sys::run_measured(interpreter.command().args(["-c", script]))?;
    if finished.status.success() {
        return Ok(Some(interpreter));
    }
    println!("PyTorch sees no GPU here: no rows of Python packages");
    Ok(None)
}

/// Whose Python it is.
enum Interpreter {
    Environment(Python),
    Program(PathBuf),
}

impl Interpreter {
    fn command(&self) -> Command {
        match self {
            Self::Environment(python) => python.interpreter(),
            Self::Program(program) => Command::new(program),
        }
    }
}

/// What every contender needs.
struct Bench {
    product: Product,
    device: String,
    checkpoint: PathBuf,
    tensors: PathBuf,
    /// Encrypted forms of the file, by what they are called, and the key of both.
    encrypted: Vec<(&'static str, PathBuf)>,
    key: PathBuf,
    bytes: u64,
    _folder: TempDir,
}

impl Bench {
    fn make(product: Product, folder: TempDir, args: &Args) -> Result<Self> {
        let path = |name: &str| folder.path().join(name);
        let run = |arguments: &[OsString]| product::succeeded(product.run(arguments)?, arguments);
        let (tensors, checkpoint) = match (&args.model, &args.checkpoint) {
            (Some(tensors), Some(checkpoint)) => (tensors.clone(), checkpoint.clone()),
            _ => {
                let (tensors, checkpoint) = (path("model.tensors"), path("checkpoint"));
                run(&product::synth(args.size, &checkpoint).map(OsString::from))?;
                run(&["serialize".into(), checkpoint.clone().into(), tensors.clone().into()])?;
                (tensors, checkpoint)
            }
        };
        let key = path("key");
        let mut encrypted = Vec::new();
        if args.encrypted {
            run(&["keygen".into(), key.clone().into()])?;
            for profile in ["sealed", "compat"] {
                let file = path(&format!("{profile}.tensors"));
                let words = ["--profile", profile, "--keyfile"].map(OsString::from);
                let mut arguments = vec!["encrypt".into(), tensors.clone().into()];
                arguments.push(file.clone().into());
                arguments.extend(words);
                arguments.push(key.clone().into());
                run(&arguments)?;
                encrypted.push((profile, file));
            }
        }
        let device = format!("cuda:{}", args.device);
        let mut bench = Self {
            product,
            device,
            checkpoint,
            tensors,
            encrypted,
            key,
            bytes: 0,
            _folder: folder,
        };
        let load: Transfer = bench.product.json(&bench.load(&bench.tensors, &[]))?;
        bench.bytes = load.bytes;
        Ok(bench)
    }

    /// The command that loads a file onto the device.
    fn load(&self, file: &Path, options: &[OsString]) -> Vec<OsString> {
        let mut arguments = vec!["deserialize".into(), file.into(), "--json".into()];
        arguments.extend(["--device".into(), self.device.clone().into()]);
        arguments.extend_from_slice(options);
        arguments
    }

    fn ours(&self) -> Vec<Contender<'_>> {
        let loads = |name: &str, file: &Path, options: &[OsString]| {
            let arguments = self.load(file, options);
            Contender::new(name, move || loaded(&self.product, self.bytes, &arguments))
        };
        let mut contenders = vec![
            self.benched(PINNED, |run| run.median_pinned_copy_seconds),
            self.benched(RING_PINNED, |run| run.median_seconds_ring_pinned),
            loads(UNVERIFIED, &self.tensors, &["--no-verify".into()]),
            loads(VERIFIED, &self.tensors, &[]),
        ];
        for (profile, file) in &self.encrypted {
            let key = ["--keyfile".into(), self.key.clone().into()];
            contenders.push(loads(&format!("{VERIFIED}, {profile}"), file, &key));
        }
        contenders
    }

    /// A figure of `tz-cli bench`, of a single round: what a process cannot do before it has started the device.
    fn benched(&self, name: &str, figure: fn(&Benched) -> f64) -> Contender<'_> {
        let mut arguments: Vec<OsString> = vec!["bench".into(), self.tensors.clone().into()];
        arguments.extend(["--device".into(), self.device.clone().into()]);
        arguments.extend(["--rounds", "1", "--no-verify", "--json"].map(OsString::from));
        Contender::new(name, move || {
            ran(&self.product, &arguments, |run: &Benched| {
                if run.bytes != self.bytes {
                    bail!("{} bytes of {}", run.bytes, self.bytes);
                }
                Ok(figure(run))
            })
        })
    }

    fn theirs<'a>(&'a self, python: &'a Interpreter) -> Vec<Contender<'a>> {
        let compared = |name: &str, loader: &str, source: &Path, more: &[&str]| {
            let mut arguments: Vec<OsString> = vec!["-c".into(), COMPARE.into(), loader.into()];
            arguments.extend([source.into(), self.device.clone().into()]);
            arguments.extend(more.iter().map(OsString::from));
            Contender::new(name, move || {
                timed(&sys::run_measured(python.command().args(&arguments))?, self.bytes)
            })
        };
        let tensorizer = |readers: &str, more: &[&str]| {
            compared(&format!("{REFERENCE}{readers} readers"), "tensorizer", &self.tensors, more)
        };
        vec![
            tensorizer("default", &[]),
            tensorizer("8", &["8"]),
            compared(SAFETENSORS, "safetensors", &self.checkpoint, &[]),
        ]
    }

    /// Everything that is read by somebody.
    fn read(&self) -> Vec<&Path> {
        let encrypted = self.encrypted.iter().map(|(_, file)| file.as_path());
        [&*self.tensors, &*self.checkpoint].into_iter().chain(encrypted).collect()
    }
}

/// What `bench --device --json` says that is used here.
#[derive(Debug, Deserialize)]
struct Benched {
    bytes: u64,
    median_seconds_ring_pinned: f64,
    median_pinned_copy_seconds: f64,
}

fn targets(series: &[Series]) -> Result<Vec<Target>> {
    let best = |name: &str| {
        let found = series
            .iter()
            .filter(|s| s.name == name || name.ends_with(' ') && s.name.starts_with(name));
        found.map(Series::median_seconds).reduce(f64::min)
    };
    let median = |name: &str| best(name).with_context(|| format!("no contender {name}"));
    let (pinned, ours) = (median(PINNED)?, median(UNVERIFIED)?);
    let mut targets = vec![
        Target::at_least("load: speed as a share of the pinned copy", 0.9, pinned / ours),
        Target::at_least(
            "load, ring pinned before: speed as a share of the pinned copy",
            0.9,
            pinned / median(RING_PINNED)?,
        ),
    ];
    if let Some(theirs) = best(REFERENCE) {
        targets.push(Target::at_least(
            "load: times the reference's best setting",
            1.0,
            theirs / ours,
        ));
    }
    if let Some(theirs) = best(SAFETENSORS) {
        targets.push(Target::at_least("load: times safetensors' speed", 1.0, theirs / ours));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::super::rounds::Sample;
    use super::*;

    fn series(name: &str, seconds: f64) -> Series {
        let sample = Sample { seconds, process_seconds: seconds, peak_bytes: 0 };
        Series { name: name.to_owned(), samples: vec![sample] }
    }

    #[test]
    fn targets_are_those_of_the_rows_that_are_there() {
        let mut rows = vec![series(PINNED, 0.9), series(RING_PINNED, 1.0), series(UNVERIFIED, 2.0)];
        let measured = |rows: &[Series]| {
            targets(rows).unwrap().iter().map(|target| target.measured).collect::<Vec<_>>()
        };
        assert_eq!(measured(&rows), [0.45, 0.9]);
        rows.extend([
            series("tensorizer, default readers", 8.0),
            series("tensorizer, 8 readers", 6.0),
        ]);
        rows.push(series(SAFETENSORS, 1.0));
        assert_eq!(measured(&rows), [0.45, 0.9, 3.0, 0.5]);
        assert!(targets(&rows[1..]).is_err());
    }
}
