//! The raw baseline of saving: threads write a new file at positions, out of memory that they have.
//!
//! A process of its own (the hidden `cargo xtask raw-write`). The clock covers what no save can avoid: making the
//! file, reserving its blocks, writing, waiting for the disk where that is asked for, closing. The file is then removed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::rounds::{Contender, Sample};
use crate::sys;

/// Bytes of one positioned write; the buffer stays in the core's cache.
const PIECE: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    file: PathBuf,
    #[arg(long)]
    bytes: u64,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Wait until the disk has it
    #[arg(long)]
    fsync: bool,
}

/// What one raw write took.
#[derive(Debug, Serialize, Deserialize)]
struct Timing {
    seconds: f64,
}

/// Writes once and prints the [`Timing`].
pub(crate) fn run(args: &Args) -> Result<()> {
    let written = write(args);
    let removed = fs::remove_file(&args.file);
    let seconds = written.with_context(|| args.file.display().to_string())?;
    removed.with_context(|| args.file.display().to_string())?;
    println!("{}", serde_json::to_string(&Timing { seconds })?);
    Ok(())
}

fn write(args: &Args) -> Result<f64> {
    let start = Instant::now();
    let file = File::create(&args.file)?;
    sys::reserve(&file, args.bytes)?;
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = || -> Result<()> {
            let buffer = vec![7; usize::try_from(PIECE)?];
            loop {
                let offset = next.fetch_add(PIECE, Ordering::Relaxed);
                if offset >= args.bytes {
                    return Ok(());
                }
                let len = usize::try_from(PIECE.min(args.bytes - offset))?;
                file.write_all_at(&buffer[..len], offset)?;
            }
        };
        let threads: Vec<_> = (0..args.threads.max(1)).map(|_| scope.spawn(writer)).collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a writer panicked"),
            }
        }
        Ok(())
    })?;
    if args.fsync {
        file.sync_all()?;
    }
    drop(file);
    Ok(start.elapsed().as_secs_f64())
}

/// A raw write of so many bytes to `file`, in a fresh process.
pub(super) fn contender<'a>(name: &str, file: &'a Path, bytes: u64, fsync: bool) -> Contender<'a> {
    Contender::new(name, move || {
        let mut command = Command::new(std::env::current_exe().context("this program")?);
        command.arg("raw-write").arg(file).args(["--bytes", &bytes.to_string()]);
        command.args(fsync.then_some("--fsync"));
        let finished = sys::run_measured(&mut command)?;
        if !finished.status.success() {
            bail!("raw-write: {}", finished.stderr.trim());
        }
        let timing: Timing = serde_json::from_str(&finished.stdout).context("raw-write")?;
        let process_seconds = finished.wall.as_secs_f64();
        Ok(Sample { seconds: timing.seconds, process_seconds, peak_bytes: finished.peak_bytes })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_written_whole_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("raw");
        for (bytes, fsync) in [(1, false), (PIECE + 1, true), (3 * PIECE, false)] {
            let args = Args { file: file.clone(), bytes, threads: 2, fsync };
            write(&args).unwrap();
            assert_eq!(fs::metadata(&file).unwrap().len(), bytes);
            run(&args).unwrap();
            assert!(!file.exists());
        }
    }
}
