//! Measures a real device: what its bus can do, and how near loading a file comes to that. For GPU machines;
//! `docs/GPU.md` says how to run it. Figures come as one JSON object a line on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports figures")]

mod bandwidth;
mod loads;
mod resident;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use tz_gpu::{CudaDevice, CudaInfo};

/// What is measured.
struct Job {
    device: u32,
    /// A file to load; without one only the bus is measured.
    file: Option<PathBuf>,
    /// Measurements of each kind; the median is reported.
    repeats: usize,
    /// Leave out the variations of every setting.
    quick: bool,
    /// Measure the bus at two points instead of a grid of lengths and streams.
    no_grid: bool,
    /// Measure pinning only.
    pin: bool,
    /// MiB of rings to load through; with any, nothing else is varied.
    rings: Vec<u32>,
}

const USAGE: &str = "copy [--device N] [--repeats N] [--quick] [--no-grid] [--pin] [--ring MIB,MIB,...] [FILE.tensors]";

fn main() -> ExitCode {
    let job = match parse(std::env::args().skip(1)) {
        Ok(job) => job,
        Err(why) => {
            eprintln!("{why}\nusage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Job, String> {
    let mut job = Job {
        device: 0,
        file: None,
        repeats: 5,
        quick: false,
        no_grid: false,
        pin: false,
        rings: Vec::new(),
    };
    let parsed = |text: &str| -> Result<u32, String> {
        text.parse().map_err(|_| format!("{text:?} is not a number"))
    };
    while let Some(word) = words.next() {
        let mut text = || words.next().ok_or_else(|| format!("{word} needs a number"));
        let mut number = || parsed(&text()?);
        match word.as_str() {
            "--device" => job.device = number()?,
            "--repeats" => job.repeats = number()?.max(1) as usize,
            "--quick" => job.quick = true,
            "--no-grid" => job.no_grid = true,
            "--pin" => job.pin = true,
            "--ring" => job.rings = text()?.split(',').map(parsed).collect::<Result<_, _>>()?,
            // What `cargo bench` adds.
            "--bench" => {}
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            file => job.file = Some(file.into()),
        }
    }
    Ok(job)
}

fn run(job: &Job) -> Result<(), Box<dyn std::error::Error>> {
    let info = CudaInfo::read()?;
    let device = CudaDevice::open(job.device)?;
    let name = info.devices.get(job.device as usize).map(|(name, _)| name.as_str());
    let (major, minor) = info.version;
    emit("device", json!({"name": name, "driver": format!("{major}.{minor}")}));
    if job.pin {
        return bandwidth::pinning(&device, job);
    }
    let best = match job.rings.is_empty() {
        true => bandwidth::run(&device, job)?,
        false => bandwidth::bus(&device, job)?,
    };
    if let Some(file) = &job.file {
        loads::run(&device, job, file, best)?;
    }
    Ok(())
}

/// Prints one figure.
fn emit(what: &str, mut facts: Value) {
    if let Some(facts) = facts.as_object_mut() {
        facts.insert("what".to_owned(), what.into());
    }
    println!("{facts}");
}

/// Billions of bytes a second, the median of several runs of `work`, after one that does not count.
fn rate(
    bytes: u64,
    repeats: usize,
    mut work: impl FnMut() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<f64, Box<dyn std::error::Error>> {
    work()?;
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(gigabytes(bytes) / median(seconds))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "figures of three digits")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
