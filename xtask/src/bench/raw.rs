//! The raw baseline: threads read a file with positioned reads into fresh memory.
//!
//! A process of its own (the hidden `cargo xtask raw-read`), so that no earlier allocation warms
//! it. The clock covers what a load cannot avoid: mapping the memory, faulting it in, reading.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::processes::{Timing, timed};
use super::rounds::{Contender, Sample};
use crate::sys::{self, FreshMemory};

/// Its name in tables.
pub(super) const NAME: &str = "raw read, 2 threads, huge pages";

/// Bytes of one positioned read: large enough that a system call costs nothing, small enough to
/// share a file evenly. The measurements that the targets come from used it.
const PIECE: usize = 4 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    file: PathBuf,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Reads once and prints the [`Timing`].
pub(crate) fn run(args: &Args) -> Result<()> {
    let (seconds, bytes) = read(args).with_context(|| args.file.display().to_string())?;
    println!("{}", serde_json::to_string(&Timing { seconds, bytes })?);
    Ok(())
}

fn read(args: &Args) -> Result<(f64, u64)> {
    let start = Instant::now();
    let file = File::open(&args.file)?;
    let bytes = file.metadata()?.len();
    let mut memory = FreshMemory::new(usize::try_from(bytes)?)?;
    let pieces = Mutex::new(memory.as_mut_slice().chunks_mut(PIECE).zip((0..).step_by(PIECE)));
    std::thread::scope(|scope| {
        let reader = || -> Result<()> {
            loop {
                let next = pieces.lock().map_or(None, |mut pieces| pieces.next());
                let Some((piece, offset)) = next else {
                    return Ok(());
                };
                file.read_exact_at(piece, offset)?;
            }
        };
        let threads: Vec<_> = (0..args.threads.max(1)).map(|_| scope.spawn(reader)).collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a reader panicked"),
            }
        }
        Ok(())
    })?;
    Ok((start.elapsed().as_secs_f64(), bytes))
}

#[derive(Debug, clap::Args)]
pub(crate) struct TouchArgs {
    bytes: u64,
}

/// Takes memory, touches every page of it and gives it back.
pub(crate) fn touch(args: &TouchArgs) -> Result<()> {
    let mut memory = FreshMemory::new(usize::try_from(args.bytes)?)?;
    for page in memory.as_mut_slice().chunks_mut(4096) {
        page[0] = 1;
    }
    Ok(())
}

/// Has a process of its own touch so much memory: what is free on this machine is then there. On a virtual machine it
/// may not be: the host takes free memory away after seconds, and gives it back page by page, at a cost that would
/// fall on whoever runs next and that swings by a factor of ten.
pub(super) fn settle(bytes: u64) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("this program")?);
    let finished = sys::run_measured(command.arg("raw-touch").arg(bytes.to_string()))?;
    if !finished.status.success() {
        bail!("raw-touch: {}", finished.stderr.trim());
    }
    Ok(())
}

/// The baseline: two threads into huge pages.
pub(crate) fn contender(file: &Path) -> Contender<'_> {
    Contender::new(NAME, || fresh_process(file))
}

fn fresh_process(file: &Path) -> Result<Sample> {
    let mut command = Command::new(std::env::current_exe().context("this program")?);
    let bytes = file.metadata().with_context(|| file.display().to_string())?.len();
    timed(&sys::run_measured(command.arg("raw-read").arg(file))?, bytes).context("raw-read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        touch(&TouchArgs { bytes: 5000 }).unwrap();
        for len in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let file = folder.path().join(len.to_string());
            std::fs::write(&file, vec![7; len]).unwrap();
            for threads in [1, 2] {
                let args = Args { file: file.clone(), threads };
                assert_eq!(read(&args).unwrap().1, len as u64);
            }
        }
        let missing = Args { file: folder.path().join("no"), threads: 2 };
        assert!(read(&missing).is_err());
    }
}
