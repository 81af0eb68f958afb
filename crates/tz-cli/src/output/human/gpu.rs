//! Loads onto a device, for people.

use std::io::{self, Write};

use super::{align_right, binary, measured, plain, spent, table};
use crate::report::{DeviceBenchmark, DeviceFacts, Loading, rate};

/// The lines on memory and time.
pub(super) fn loading(
    out: &mut dyn Write,
    report: &Loading,
    facts: &DeviceFacts,
) -> io::Result<()> {
    memory(out, report.peak_host_bytes, &report.device, facts)?;
    writeln!(out, "{}", spent(&report.phases))
}

fn memory(out: &mut dyn Write, host: u64, device: &str, facts: &DeviceFacts) -> io::Result<()> {
    let name = facts.device_name.as_ref().map(|name| format!(" ({})", plain(name)));
    writeln!(
        out,
        "peak memory {} of the host, {} on {device}{}; {} of the host pinned",
        binary(host),
        binary(facts.peak_device_bytes),
        name.unwrap_or_default(),
        binary(facts.pinned_bytes),
    )
}

pub(super) fn benchmark(out: &mut dyn Write, report: &DeviceBenchmark) -> io::Result<()> {
    let heads =
        ["round", "load s", "GB/s", "ring pinned s", "GB/s", "pinned copy s", "GB/s", "ratio"];
    let mut rounds = table(&heads);
    let gb = |seconds: f64| format!("{:.2}", rate(report.bytes, seconds) / 1e9);
    let mut row = |name: String, load: f64, again: f64, copy: f64| {
        let ratio = if load > 0.0 { copy / load } else { 0.0 };
        let mut cells = vec![name];
        for seconds in [load, again, copy] {
            cells.extend([format!("{seconds:.4}"), gb(seconds)]);
        }
        cells.push(format!("{ratio:.2}"));
        rounds.add_row(cells);
    };
    for (i, round) in report.rounds.iter().enumerate() {
        let name = (i + 1).to_string();
        row(name, round.seconds, round.seconds_ring_pinned, round.pinned_copy_seconds);
    }
    row(
        "median".to_owned(),
        report.median_seconds,
        report.median_seconds_ring_pinned,
        report.median_pinned_copy_seconds,
    );
    align_right(&mut rounds, &[1, 2, 3, 4, 5, 6, 7]);
    let DeviceBenchmark { location, tensors, bytes, readers, verified, .. } = report;
    measured(out, location, (*tensors, *bytes, *readers, *verified))?;
    writeln!(out, "{}", rounds.trim_fmt())?;
    if let Some(last) = report.rounds.last() {
        writeln!(out, "last round: {}", spent(&last.phases))?;
    }
    match &report.facts {
        Some(facts) => memory(out, report.peak_host_bytes, &report.device, facts),
        None => Ok(()),
    }
}
