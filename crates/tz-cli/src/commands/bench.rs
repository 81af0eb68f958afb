//! `bench`: repeated loads beside a raw read of the same bytes.

mod gpu;
mod raw;

use std::time::Instant;

use tz_gpu::DeviceId;

use crate::args::{DtypeArgs, EffortArgs, FilterArgs, VerifyArgs, count};
use crate::error::Failure;
use crate::job::{Job, Session};
use crate::load::load;
use crate::process;
use crate::report::{Benchmark, Report, Round, phases, rate};
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli bench model.tensors
  tz-cli bench model.tensors --rounds 20 --num-readers 4 --no-verify
  tz-cli bench checkpoint/ --json | jq .ratio
  tz-cli bench model.tensors --device cuda:0 --no-verify";

/// Load a model again and again, beside a raw read of the same bytes
///
/// Every round loads all tensors into fresh memory, and reads the same bytes of the same files into fresh memory with
/// as many threads and nothing else done; which of the two comes first alternates. Phases are summed over threads. The
/// first round may find the file outside the page cache.
///
/// With --device cuda:N every round loads twice onto the GPU, the second time with the ring of pinned memory that the
/// first one made, beside copies of as many bytes from pinned memory: what the bus can do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .tensors file, or a safetensors file or directory
    #[arg(value_name = "URI")]
    source: String,
    /// How often
    #[arg(long, value_name = "N", value_parser = count, default_value = "5")]
    rounds: usize,
    /// Where the tensors go: cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceId,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Report, Failure> {
    match args.device {
        DeviceId::Cuda(ordinal) => {
            gpu::run(args, ordinal, session).map(|report| Report::BenchDevice(report.into()))
        }
        _ => load_to_memory(args, session).map(Report::Bench),
    }
}

/// A stream can be read only once.
fn refuse_stream(source: &Source) -> Result<(), Failure> {
    if source.is_stream() {
        let failure = Failure::usage("a stream can be read only once");
        return Err(failure.hint("write the stream to a file first"));
    }
    Ok(())
}

fn load_to_memory(args: &Args, session: &Session) -> Result<Benchmark, Failure> {
    let job = session.job(&args.filter, &args.effort, Some(args.verify))?;
    let source = Source::open(&args.source, &job.selection, session)?;
    refuse_stream(&source)?;
    source.require_unlocked()?;
    let selected = source.select(&job.selection)?;
    let baseline = raw::Baseline::new(&source, &selected)?;
    let mut report = Benchmark {
        location: source.location().to_owned(),
        tensors: selected.len(),
        bytes: 0,
        readers: job.threads,
        verified: job.read.verify && matches!(source, Source::Tensors(_)),
        rounds: Vec::with_capacity(args.rounds),
        median_seconds: 0.0,
        median_raw_seconds: 0.0,
        best_seconds: 0.0,
        best_raw_seconds: 0.0,
        bytes_per_second: 0.0,
        raw_bytes_per_second: 0.0,
        ratio: 0.0,
        peak_host_bytes: 0,
    };
    drop(source);
    let bar = session.bar("loading", 0);
    for number in 0..args.rounds {
        let mut raw_seconds = 0.0;
        if number % 2 == 0 {
            raw_seconds = baseline.read(&job)?;
        }
        let (bytes, mut round) = one(args, session, &job)?;
        if number % 2 == 1 {
            raw_seconds = baseline.read(&job)?;
        }
        round.raw_seconds = raw_seconds;
        report.bytes = bytes;
        report.rounds.push(round);
    }
    drop(bar);
    let loads: Vec<f64> = report.rounds.iter().map(|round| round.seconds).collect();
    let raw_reads: Vec<f64> = report.rounds.iter().map(|round| round.raw_seconds).collect();
    let best = |values: &[f64]| values.iter().copied().reduce(f64::min).unwrap_or_default();
    (report.best_seconds, report.best_raw_seconds) = (best(&loads), best(&raw_reads));
    (report.median_seconds, report.median_raw_seconds) = (median(loads), median(raw_reads));
    report.bytes_per_second = rate(report.bytes, report.median_seconds);
    report.raw_bytes_per_second = rate(baseline.bytes, report.median_raw_seconds);
    report.ratio = if report.median_seconds > 0.0 {
        report.median_raw_seconds / report.median_seconds
    } else {
        0.0
    };
    report.peak_host_bytes = process::peak_bytes();
    Ok(report)
}

/// One load, from opening the file to the last byte checked; giving the memory back is not part of it.
fn one(args: &Args, session: &Session, job: &Job) -> Result<(u64, Round), Failure> {
    let start = Instant::now();
    let source = Source::open(&args.source, &job.selection, session)?;
    let selected = source.select(&job.selection)?;
    let open = start.elapsed();
    let loaded = load(&source, &selected, job, session.dtype(args.dtype))?;
    let seconds = start.elapsed().as_secs_f64();
    let round = Round { seconds, raw_seconds: 0.0, phases: phases(open, &loaded.stats) };
    Ok((loaded.bytes, round))
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle.saturating_sub(1)..=middle) {
        Some([low, high]) if values.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        Some([.., value]) => *value,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, expected) in [
            (vec![3.0], 3.0),
            (vec![4.0, 1.0], 2.5),
            (vec![9.0, 1.0, 2.0], 2.0),
            (vec![4.0, 1.0, 2.0, 3.0], 2.5),
        ] {
            assert!((median(values) - expected).abs() < 1e-12);
        }
    }
}
