//! Reports as text for people. Owns tables, units and the two lines of a failure.

mod gpu;
mod lora;
mod vllm;

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::error::Failure;
use crate::report::{
    Benchmark, Checksums, Copied, Difference, Differences, Encryption, FailedTensor,
    InspectedTensor, Inspection, KdfFacts, Loading, ModelLoaded, Phases, Report, Rewrapped, Slot,
    Synthesised, Verification, What, Written, as_f64, rate,
};

/// The data of a report, for standard output.
pub(super) fn report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    match report {
        Report::Serialize(_) | Report::Synth(_) | Report::Copy(_) | Report::Done(_) => Ok(()),
        Report::Rewrap(report) => report
            .slots
            .iter()
            .try_for_each(|slot| writeln!(out, "slot {}: {}", slot.number, key_slot(slot))),
        Report::Deserialize(report) => loading(out, report),
        Report::Inspect(report) => inspection(out, report),
        Report::Verify(report) => {
            report.failures.iter().try_for_each(|one| writeln!(out, "{}", failed_tensor(one)))
        }
        Report::VerifyDirectory(report) => vllm::directory(out, report),
        Report::VllmSerialize(report) => vllm::published(out, report),
        Report::VllmDeserialize(report) => vllm::loaded(out, report),
        Report::Checksum(Checksums { tensors, .. }) => {
            tensors.iter().try_for_each(|row| writeln!(out, "{}  {}", row.digest, plain(&row.name)))
        }
        Report::Diff(report) => report.differences.iter().try_for_each(|one| difference(out, one)),
        Report::Bench(report) => benchmark(out, report),
        Report::BenchDevice(report) => gpu::benchmark(out, report),
        Report::Lora(report) => lora::report(out, report),
        Report::Text(text) => out.write_all(text.as_bytes()),
    }
}

/// The words of a report, for standard error.
pub(super) fn summary(report: &Report, verbose: bool) -> Option<String> {
    let words = match report {
        Report::Serialize(report) => written(report, verbose),
        Report::Synth(Synthesised { destination, preset, tensors, bytes, seconds, .. }) => format!(
            "made {}: {preset}, {}, {} in {seconds:.2} s",
            plain(destination),
            counted(*tensors, "tensor"),
            decimal(*bytes),
        ),
        Report::Copy(report) => copied(report),
        Report::Done(report) => plain(&report.words),
        Report::Rewrap(report) => rewrapped(report),
        Report::Verify(report) => verdict(report),
        Report::VerifyDirectory(report) => vllm::directory_words(report),
        Report::VllmSerialize(report) => vllm::published_words(report, verbose),
        Report::VllmDeserialize(ModelLoaded { phases, .. }) if verbose => spent(phases),
        Report::Diff(Differences { equal: true, compared, bytes, .. }) => {
            format!("equal: {}, {}", counted(*compared, "tensor"), decimal(*bytes))
        }
        Report::Diff(Differences { differences, .. }) => counted(differences.len(), "difference"),
        Report::Deserialize(Loading { phases, .. }) if verbose => spent(phases),
        Report::Lora(report) => return lora::summary(report),
        _ => return None,
    };
    Some(words)
}

/// `error (layer): …`, then what to try.
pub(super) fn failure(failure: &Failure) -> String {
    format!("error ({}): {}\ntry: {}", failure.layer, plain(&failure.message), failure.hint)
}

fn written(report: &Written, verbose: bool) -> String {
    let Written { destination, tensors, bytes, file_bytes, seconds, bytes_per_second, .. } = report;
    let mut words = format!(
        "wrote {}: {}, {} in a file of {}, {seconds:.2} s, {}",
        plain(destination),
        counted(*tensors, "tensor"),
        decimal(*bytes),
        decimal(*file_bytes),
        speed(*bytes_per_second),
    );
    if verbose {
        words = format!(
            "{words}\n{}\npeak memory {}",
            spent(&report.phases),
            binary(report.peak_host_bytes)
        );
    }
    words
}

fn copied(report: &Copied) -> String {
    let Copied { destination, bytes, tensors_checked, seconds, bytes_per_second } = report;
    let checked = match tensors_checked {
        0 => "no stored hashes to check".to_owned(),
        some => format!("{} checked", counted(*some, "tensor")),
    };
    let (bytes, speed) = (decimal(*bytes), speed(*bytes_per_second));
    format!("copied to {}: {bytes}, {checked}, {seconds:.2} s, {speed}", plain(destination))
}

fn rewrapped(report: &Rewrapped) -> String {
    let name = plain(&report.location);
    let recovered = match report.earlier_rewrap {
        Some("done") => "; an earlier change was interrupted, and is done",
        Some(_) => "; an earlier change was interrupted, and did not happen",
        None => "",
    };
    let slots = counted(report.slots.len(), "key slot");
    match report.changed {
        true => format!("{name}: changed, {slots} now{recovered}"),
        false => format!("{name}: {slots}{recovered}"),
    }
}

fn failed_tensor(failed: &FailedTensor) -> String {
    let FailedTensor { name, checks, data_offset } = failed;
    let checks = checks.join(", ");
    format!("{}: {checks} does not match the data at offset {data_offset}", plain(name))
}

fn verdict(report: &Verification) -> String {
    let Verification { location, tensors, bytes, unhashed, seconds, failures, .. } = report;
    let (name, all) = (plain(location), counted(*tensors, "tensor"));
    if !failures.is_empty() {
        return format!("{name}: {} of {all} failed", failures.len());
    }
    let unhashed = match unhashed {
        Some(0) | None => String::new(),
        Some(some) => {
            format!("; {some} without a stored hash, of which only the structure was checked")
        }
    };
    format!(
        "{name}: verified {all}, {} in {seconds:.2} s, {}{unhashed}",
        decimal(*bytes),
        speed(rate(*bytes, *seconds))
    )
}

fn loading(out: &mut dyn Write, report: &Loading) -> io::Result<()> {
    let Loading { tensors, bytes, seconds, bytes_per_second, peak_host_bytes, device, .. } = report;
    let verified = if report.verified { "verified" } else { "not verified" };
    writeln!(out, "{}, {}, {verified}", counted(*tensors, "tensor"), decimal(*bytes))?;
    writeln!(
        out,
        "{seconds:.3} s, {}, {}",
        speed(*bytes_per_second),
        counted(report.readers, "reader")
    )?;
    match &report.gpu {
        Some(facts) => gpu::loading(out, report, facts)?,
        None => writeln!(out, "peak memory {}, device {device}", binary(*peak_host_bytes))?,
    }
    match &report.destination {
        Some(destination) => writeln!(out, "written to {}", plain(destination)),
        None if report.streamed => writeln!(
            out,
            "streamed: the tensors exceed the memory limit, so each was read and dropped"
        ),
        None => Ok(()),
    }
}

fn inspection(out: &mut dyn Write, report: &Inspection) -> io::Result<()> {
    let file_bytes = report.file_bytes.map_or_else(|| "unknown".to_owned(), decimal);
    let flags = if report.flags.is_empty() { "none".to_owned() } else { report.flags.join(", ") };
    let mut facts = vec![
        ("file", plain(&report.location)),
        ("size", file_bytes),
        ("version", report.version.to_string()),
        ("profile", report.profile.to_owned()),
        ("flags", flags),
        ("index", decimal(report.index_bytes)),
        ("tensors", format!("{}, {}", report.tensor_count, decimal(report.tensor_bytes))),
    ];
    let extension = &report.extension;
    facts.extend(extension.writer.as_ref().map(|writer| ("writer", plain(writer))));
    if extension.blake3 {
        facts.push(("digests", "BLAKE3 of every tensor".to_owned()));
    }
    if let Some(metadata) = &extension.metadata {
        let entries = metadata.iter().map(|(key, value)| match value.as_str() {
            Some(text) => format!("{}={}", plain(key), plain(text)),
            None => format!("{}={value}", plain(key)),
        });
        facts.push(("metadata", entries.collect::<Vec<_>>().join(", ")));
    }
    let slots = report.encryption.iter().flat_map(|encryption| &encryption.slots);
    let slots: Vec<_> =
        slots.map(|slot| (format!("slot {}", slot.number), key_slot(slot))).collect();
    if let Some(encryption) = &report.encryption {
        facts.push(("cipher", cipher(encryption)));
        if encryption.slots.is_empty() {
            let kdf = encryption.key_derivation.as_ref();
            facts.push(("opened by", kdf.map_or_else(|| "a key".to_owned(), passphrase)));
        }
    }
    facts.extend(slots.iter().map(|(name, words)| (name.as_str(), words.clone())));
    if !extension.unknown.is_empty() {
        facts.push(("unknown", format!("extension records of types {:?}", extension.unknown)));
    }
    for (name, value) in facts {
        writeln!(out, "{name:<9} {value}")?;
    }
    writeln!(out, "\n{}", tensor_table(&report.tensors).trim_fmt())
}

fn cipher(encryption: &Encryption) -> String {
    let name = match encryption.cipher {
        "aes-256-gcm" => "AES-256-GCM",
        _ => "XSalsa20-Poly1305",
    };
    match encryption.chunk_bytes {
        Some(bytes) => format!("{name}, chunks of {}", binary(bytes)),
        None => name.to_owned(),
    }
}

fn key_slot(slot: &Slot) -> String {
    let id = slot.key_id.as_deref().unwrap_or("unknown");
    match &slot.key_derivation {
        Some(kdf) => format!("{}, id {id}", passphrase(kdf)),
        None => format!("{}, id {id}", slot.kind),
    }
}

fn passphrase(kdf: &KdfFacts) -> String {
    let passes = if kdf.passes == 1 { "pass" } else { "passes" };
    format!("passphrase, Argon2id, {} {passes} over {}", kdf.passes, binary(kdf.memory_bytes))
}

fn tensor_table(tensors: &[InspectedTensor]) -> Table {
    let hashes = tensors.iter().any(|tensor| !tensor.hashes.is_empty());
    let mut heads = vec!["name", "kind", "dtype", "shape", "bytes", "data at"];
    if hashes {
        heads.push("hashes");
    }
    let mut table = table(&heads);
    for tensor in tensors {
        let bytes = if tensor.meta { "meta".to_owned() } else { tensor.data_bytes.to_string() };
        let mut row = vec![
            plain(&tensor.name),
            tensor.kind.to_owned(),
            tensor.dtype.to_owned(),
            format!("{:?}", tensor.shape),
            bytes,
            tensor.data_offset.to_string(),
        ];
        if hashes {
            let list = tensor.hashes.iter().map(|(name, value)| format!("{name} {value}"));
            row.push(list.collect::<Vec<_>>().join(" "));
        }
        table.add_row(row);
    }
    align_right(&mut table, &[4, 5]);
    table
}

fn difference(out: &mut dyn Write, one: &Difference) -> io::Result<()> {
    let name = plain(&one.name);
    match &one.what {
        What::OnlyInA => writeln!(out, "{name}: only in the first"),
        What::OnlyInB => writeln!(out, "{name}: only in the second"),
        What::Dtype { a, b } => writeln!(out, "{name}: dtype {a} and {b}"),
        What::Shape { a, b } => writeln!(out, "{name}: shape {a:?} and {b:?}"),
        What::Contents { offset } => {
            writeln!(out, "{name}: contents differ from byte {offset} on")
        }
    }
}

fn benchmark(out: &mut dyn Write, report: &Benchmark) -> io::Result<()> {
    let mut rounds = table(&["round", "load s", "GB/s", "raw read s", "GB/s", "ratio"]);
    let gb = |seconds: f64| format!("{:.2}", rate(report.bytes, seconds) / 1e9);
    let mut row = |name: String, seconds: f64, raw: f64| {
        let ratio = if seconds > 0.0 { raw / seconds } else { 0.0 };
        let (load, raw_read) = (format!("{seconds:.4}"), format!("{raw:.4}"));
        rounds.add_row([name, load, gb(seconds), raw_read, gb(raw), format!("{ratio:.2}")]);
    };
    for (i, round) in report.rounds.iter().enumerate() {
        row((i + 1).to_string(), round.seconds, round.raw_seconds);
    }
    row("median".to_owned(), report.median_seconds, report.median_raw_seconds);
    row("best".to_owned(), report.best_seconds, report.best_raw_seconds);
    align_right(&mut rounds, &[1, 2, 3, 4, 5]);
    let Benchmark { location, tensors, bytes, readers, verified, .. } = report;
    measured(out, location, (*tensors, *bytes, *readers, *verified))?;
    writeln!(out, "{}", rounds.trim_fmt())?;
    if let Some(last) = report.rounds.last() {
        writeln!(out, "last round: {}", spent(&last.phases))?;
    }
    writeln!(out, "peak memory {}", binary(report.peak_host_bytes))
}

/// The line over a table of rounds: what was loaded, and how.
fn measured(
    out: &mut dyn Write,
    location: &str,
    (tensors, bytes, readers, verified): (usize, u64, usize, bool),
) -> io::Result<()> {
    let (location, bytes) = (plain(location), decimal(bytes));
    let (tensors, readers) = (counted(tensors, "tensor"), counted(readers, "reader"));
    let verified = if verified { "verified" } else { "not verified" };
    writeln!(out, "{location}: {tensors}, {bytes}, {readers}, {verified}")
}

fn spent(phases: &Phases) -> String {
    let phases = phases.iter().map(|(name, seconds)| format!("{name} {seconds:.3} s"));
    format!("{} (summed over threads)", phases.collect::<Vec<_>>().join(", "))
}

/// An empty table. It has no lines and wraps nothing, so that it reads the same on a terminal, in a file and in a pipe.
fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// `1 tensor`, `2 tensors`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Names come from files: a control character in one must not reach a terminal, nor break a line.
fn plain(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Bytes in powers of ten, as disks and networks count.
fn decimal(bytes: u64) -> String {
    units(bytes, 1000.0, &["bytes", "kB", "MB", "GB", "TB"])
}

/// Bytes in powers of two, as memory counts.
fn binary(bytes: u64) -> String {
    units(bytes, 1024.0, &["bytes", "KiB", "MiB", "GiB", "TiB"])
}

fn units(bytes: u64, step: f64, names: &[&str]) -> String {
    let mut value = as_f64(bytes);
    let mut unit = 0;
    // 999.95 would be shown as 1000.0.
    while value >= step - 0.05 && unit + 1 < names.len() {
        value /= step;
        unit += 1;
    }
    let name = names.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes} {name}") } else { format!("{value:.1} {name}") }
}

fn speed(bytes_per_second: f64) -> String {
    format!("{:.2} GB/s", bytes_per_second / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_read_well() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_960, "1.0 MB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(decimal(bytes), expected);
        }
        assert_eq!(binary(3 << 19), "1.5 MiB");
        assert_eq!(decimal(u64::MAX), "18446744.1 TB");
    }

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(plain("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(plain("名前.weight"), "名前.weight");
    }
}
