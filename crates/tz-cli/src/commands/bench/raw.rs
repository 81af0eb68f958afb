//! The raw read: the same bytes, as many threads, fresh memory, and nothing else done. Owns [`Baseline`].

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tz_io::{BufferPool as _, HeapPool};

use crate::error::Failure;
use crate::job::Job;
use crate::parallel;
use crate::source::Source;

/// Bytes of one positioned read: a system call costs nothing beside it, and threads share evenly.
const PIECE: usize = 4 << 20;
/// Ranges closer than this are read as one: what stands between costs less than another call.
const GAP: u64 = 64 << 10;

/// Which bytes of which files hold the tensors.
#[derive(Debug)]
pub(super) struct Baseline {
    files: Vec<PathBuf>,
    ranges: Vec<(usize, Range<u64>)>,
    pub(super) bytes: u64,
}

impl Baseline {
    pub(super) fn new(source: &Source, tensors: &[usize]) -> Result<Self, Failure> {
        let (files, ranges): (Vec<PathBuf>, Vec<_>) = match source {
            Source::Tensors(file) => {
                if file.source().local_file().is_none() {
                    return Err(Failure::usage("bench is about local files"));
                }
                let entries = tensors.iter().filter_map(|&tensor| file.entries().get(tensor));
                let ranges = entries.map(|entry| (0, entry.data_offset..entry.data_end()));
                (vec![file.location().into()], ranges.collect())
            }
            Source::Checkpoint(checkpoint, _) => {
                let files = checkpoint.files().iter().map(|file| file.path().to_owned());
                let rows = tensors.iter().filter_map(|&tensor| checkpoint.tensors().get(tensor));
                let ranges = rows.filter_map(|row| {
                    // Views in PyTorch files may reach beyond as many bytes as they have elements.
                    let end = checkpoint.files().get(row.file)?.byte_len();
                    Some((row.file, row.offset..row.offset.saturating_add(row.byte_len).min(end)))
                });
                (files.collect(), ranges.collect())
            }
        };
        let ranges = join(ranges);
        let bytes = ranges.iter().map(|(_, range)| range.end - range.start).sum();
        Ok(Self { files, ranges, bytes })
    }

    /// Seconds of one read, opening files and taking memory included, giving it back not.
    pub(super) fn read(&self, job: &Job) -> Result<f64, Failure> {
        let start = Instant::now();
        let name = |file: usize| {
            self.files.get(file).map_or(Path::new(""), PathBuf::as_path).display().to_string()
        };
        let open = |path: &PathBuf| {
            File::open(path)
                .map_err(|error| Failure::io(&path.display().to_string(), "open", &error))
        };
        let files = self.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let len = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let memory =
            HeapPool::new(len, 1).map_err(|error| Failure::io("memory", "reserve", &error))?;
        let mut buffer = memory.acquire(&job.read.cancel).ok_or_else(Failure::cancelled)?;
        let mut pieces = Vec::new();
        let mut rest = &mut *buffer;
        for (file, range) in &self.ranges {
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let Some((own, left)) = std::mem::take(&mut rest).split_at_mut_checked(len) else {
                break;
            };
            rest = left;
            let offsets = (range.start..).step_by(PIECE);
            let own = own.chunks_mut(PIECE).zip(offsets);
            pieces.extend(own.map(|(piece, offset)| (*file, offset, Mutex::new(piece))));
        }
        parallel::for_each(pieces.len(), job.threads, &job.read.cancel, |i| {
            let Some((file, offset, piece)) = pieces.get(i) else {
                return Ok(());
            };
            let mut piece = piece.lock().unwrap_or_else(PoisonError::into_inner);
            match files.get(*file) {
                Some(handle) => handle
                    .read_exact_at(&mut piece, *offset)
                    .map_err(|error| Failure::io(&name(*file), "read", &error)),
                None => Ok(()),
            }
        })?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Joins ranges that nearly touch or overlap.
fn join(mut ranges: Vec<(usize, Range<u64>)>) -> Vec<(usize, Range<u64>)> {
    ranges.sort_by_key(|(file, range)| (*file, range.start));
    let mut joined: Vec<(usize, Range<u64>)> = Vec::new();
    for (file, range) in ranges.into_iter().filter(|(_, range)| !range.is_empty()) {
        match joined.last_mut() {
            Some((last_file, last))
                if *last_file == file && range.start.saturating_sub(last.end) <= GAP =>
            {
                last.end = last.end.max(range.end);
            }
            _ => joined.push((file, range)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_nearly_touch_are_one() {
        let ranges = vec![
            (1, 0..5),
            (0, 10..25),
            (0, 12..20),
            (0, 20..20),
            (0, 30..40),
            (0, 40 + GAP + 1..GAP + 50),
        ];
        assert_eq!(join(ranges), [(0, 10..40), (0, 41 + GAP..50 + GAP), (1, 0..5)]);
    }
}
