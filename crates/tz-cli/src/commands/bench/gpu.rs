//! `bench --device cuda:N`: loads onto a device, beside copies of as many bytes from pinned memory.

use std::time::Instant;

use tz_gpu::Bus;

use super::{Args, median};
use crate::convert::Conversion;
use crate::error::Failure;
use crate::gpu::Gpu;
use crate::job::{Job, Session};
use crate::process;
use crate::report::{DeviceBenchmark, DeviceFacts, DeviceRound, device_phases, rate};
use crate::source::Source;

pub(super) fn run(
    args: &Args,
    ordinal: u32,
    session: &Session,
) -> Result<DeviceBenchmark, Failure> {
    let job = session.job(&args.filter, &args.effort, Some(args.verify))?;
    let gpu = Gpu::open(ordinal)?;
    let source = Source::open(&args.source, &job.selection, session)?;
    super::refuse_stream(&source)?;
    source.require_unlocked()?;
    source.tensors("--device")?;
    let selected = source.select(&job.selection)?;
    let dtype = session.dtype(args.dtype);
    let rows = source.rows(&selected);
    let bytes = rows.map(|row| Conversion::new(row.dtype, dtype).offset(row.byte_len)).sum();
    let (location, readers) = (source.location().to_owned(), source.readers(&job));
    drop(source);

    let mut rounds = Vec::with_capacity(args.rounds);
    let (mut peak_host_bytes, mut facts) = (0, None);
    let bar = session.bar("loading", 0);
    for number in 0..args.rounds {
        // Which of the two comes first alternates.
        let first = if number % 2 == 0 { Some(pinned_copy(&gpu, bytes)?) } else { None };
        let (mut round, peak, found) = one(args, session, &job, &gpu)?;
        round.pinned_copy_seconds = match first {
            Some(seconds) => seconds,
            None => pinned_copy(&gpu, bytes)?,
        };
        rounds.push(round);
        peak_host_bytes = peak.max(peak_host_bytes);
        facts = Some(found);
    }
    drop(bar);
    let middle = |of: fn(&DeviceRound) -> f64| median(rounds.iter().map(of).collect());
    let load = middle(|round| round.seconds);
    let again = middle(|round| round.seconds_ring_pinned);
    let copy = middle(|round| round.pinned_copy_seconds);
    let over = |seconds: f64| if seconds > 0.0 { copy / seconds } else { 0.0 };
    Ok(DeviceBenchmark {
        location,
        tensors: selected.len(),
        bytes,
        readers,
        verified: job.read.verify,
        device: args.device.to_string(),
        rounds,
        median_seconds: load,
        median_seconds_ring_pinned: again,
        median_pinned_copy_seconds: copy,
        bytes_per_second: rate(bytes, load),
        bytes_per_second_ring_pinned: rate(bytes, again),
        pinned_copy_bytes_per_second: rate(bytes, copy),
        ratio: over(load),
        ratio_ring_pinned: over(again),
        peak_host_bytes,
        facts,
    })
}

/// Two loads with one ring: the first one pins it.
fn one(
    args: &Args,
    session: &Session,
    job: &Job,
    gpu: &Gpu,
) -> Result<(DeviceRound, u64, DeviceFacts), Failure> {
    process::forget_peak();
    let start = Instant::now();
    let mut loader = gpu.loader(&args.source, job, session.dtype(args.dtype))?;
    let source = Source::open(&args.source, &job.selection, session)?;
    let file = source.tensors("--device")?;
    let open = start.elapsed();
    let loaded = loader.load(file, &job.selection, &job.read)?;
    let seconds = start.elapsed().as_secs_f64();
    let (peak, facts) = (process::peak_bytes(), gpu.facts(loaded.stats()));
    let phases = device_phases(open, None, loaded.stats());
    drop(loaded);
    let again = loader.load(file, &job.selection, &job.read)?;
    let seconds_ring_pinned = again.stats().wall.as_secs_f64();
    let round = DeviceRound { seconds, seconds_ring_pinned, pinned_copy_seconds: 0.0, phases };
    Ok((round, peak, facts))
}

/// Seconds that a copy of as many bytes takes. Its memory is given back, so that the loads find what they would find.
fn pinned_copy(gpu: &Gpu, bytes: u64) -> Result<f64, Failure> {
    let bus = Bus::new(gpu.device.clone(), bytes)?;
    // The first copies after a pause find the bus asleep.
    bus.copy(bytes.min(1 << 30))?;
    Ok(bus.copy(bytes)?.as_secs_f64())
}
