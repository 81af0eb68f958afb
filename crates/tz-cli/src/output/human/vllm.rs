//! Words and figures of the `vllm` commands, and of directories that were verified.

use std::io::{self, Write};

use tz_model::{FileFault, LayoutName, Wrong};

use super::{binary, counted, decimal, failed_tensor, plain, speed, spent, verdict};
use crate::report::{DirectoryVerification, ModelLoaded, ModelPublished, rate};

/// The file of every rank as vLLM's script tells it, then how to serve them.
pub(super) fn published(out: &mut dyn Write, report: &ModelPublished) -> io::Result<()> {
    for rank in &report.ranks {
        writeln!(out, "Successfully serialized model to {}", plain(&rank.location))?;
    }
    writeln!(
        out,
        "\nServe it with vLLM {}:\n\n{}",
        report.vllm_version,
        plain_lines(&report.serve.serve)
    )?;
    writeln!(out, "\nOr in Python:\n\n{}", plain_lines(&report.serve.python))?;
    if !report.serve.notes.is_empty() {
        writeln!(out)?;
    }
    report.serve.notes.iter().try_for_each(|note| writeln!(out, "Note: {}", plain(note)))
}

pub(super) fn published_words(report: &ModelPublished, verbose: bool) -> String {
    let ModelPublished { directory, ranks, files, bytes, seconds, bytes_per_second, .. } = report;
    let mut words = format!(
        "made {}: {}, {}, {} in {}, {seconds:.2} s, {}",
        plain(directory),
        layout(report.layout),
        counted(ranks.len(), "rank"),
        decimal(*bytes),
        counted(*files, "file"),
        speed(*bytes_per_second),
    );
    if let (Some(keyfile), true) = (&report.keyfile, report.key_is_new) {
        words = format!("made the key {}: keep it safe\n{words}", plain(keyfile));
    }
    if verbose {
        let peak = binary(report.peak_host_bytes);
        words = format!("{words}\n{}\npeak memory {peak}", spent(&report.phases));
    }
    words
}

pub(super) fn loaded(out: &mut dyn Write, report: &ModelLoaded) -> io::Result<()> {
    let ModelLoaded { ranks, tensors, bytes, seconds, bytes_per_second, .. } = report;
    let verified = if report.verified { "verified" } else { "not verified" };
    writeln!(
        out,
        "{}, {}, {}, {}, {verified}",
        layout(report.layout),
        counted(ranks.len(), "rank"),
        counted(*tensors, "tensor"),
        decimal(*bytes)
    )?;
    writeln!(
        out,
        "{seconds:.3} s, {}, {}",
        speed(*bytes_per_second),
        counted(report.readers, "reader")
    )?;
    let peak = binary(report.peak_host_bytes);
    writeln!(out, "peak memory {peak}, device {}", report.device)?;
    if report.streamed {
        writeln!(
            out,
            "streamed: the tensors exceed the memory limit, so each was read and dropped"
        )?;
    }
    Ok(())
}

pub(super) fn directory(out: &mut dyn Write, report: &DirectoryVerification) -> io::Result<()> {
    for FileFault { path, wrong, .. } in &report.file_failures {
        let words = match wrong {
            Wrong::Missing => "missing".to_owned(),
            Wrong::Length { expected, found } => {
                format!("changed: {found} bytes, the manifest says {expected}")
            }
            Wrong::Contents => "changed: its contents are not those of the manifest".to_owned(),
            Wrong::Extra => "not in the manifest".to_owned(),
        };
        writeln!(out, "{}: {words}", plain(path))?;
    }
    for file in &report.tensors {
        for failed in &file.failures {
            writeln!(out, "{}: {}", plain(&file.location), failed_tensor(failed))?;
        }
    }
    Ok(())
}

pub(super) fn directory_words(report: &DirectoryVerification) -> String {
    let DirectoryVerification { location, files, bytes, seconds, file_failures, .. } = report;
    let (name, all) = (plain(location), counted(*files, "file"));
    let mut words = if file_failures.is_empty() {
        let speed = speed(rate(*bytes, *seconds));
        format!("{name}: {all} as in the manifest, {} in {seconds:.2} s, {speed}", decimal(*bytes))
    } else {
        format!(
            "{name}: {} differ from the manifest of {all}",
            counted(file_failures.len(), "file")
        )
    };
    if !report.listed {
        words.push_str("; files that the manifest does not list were not looked for");
    }
    for locked in &report.locked {
        words = format!(
            "{words}\n{}: encrypted, and no key was given: compared as stored",
            plain(locked)
        );
    }
    report.tensors.iter().fold(words, |words, file| format!("{words}\n{}", verdict(file)))
}

fn layout(layout: LayoutName) -> &'static str {
    match layout {
        LayoutName::Vllm => "vLLM's layout",
        LayoutName::Hf => "the checkpoint's layout",
    }
}

/// As [`plain`], line by line.
fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}
