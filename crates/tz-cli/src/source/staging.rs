//! Tensors streamed piece by piece through memory of a fixed size. Owns [`Staging`]: how that memory is cut.

use std::io;

use tz_io::{BufferPool as _, Counter, HeapPool, Piece, ReadStats};

use super::Source;
use crate::error::Failure;
use crate::job::Job;
use crate::parallel;

/// Takes bytes of a tensor: its position, where in it they stand, the bytes. Several threads call at once.
pub(crate) type Sink<'a> = dyn Fn(usize, u64, &[u8]) -> io::Result<()> + Sync + 'a;

/// Buffers are multiples of this, so that pieces are too and no element is ever split.
const UNIT: u64 = 64 << 10;
/// Shortest buffer: one unit for headers and gaps, one for the piece.
const MIN_BUFFER: u64 = 2 * UNIT;
/// Longest piece of a checkpoint: longer ones gain nothing on a disk.
const CHECKPOINT_PIECE: u64 = 4 << 20;

/// A number of equal buffers, one for each thread that reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Staging {
    buffer_len: usize,
    buffers: usize,
}

/// What a source wants of its buffers.
#[derive(Debug, Clone, Copy)]
struct Wishes {
    threads: usize,
    piece_len: u64,
    longest_header: u64,
}

impl Staging {
    /// Cuts `limit` bytes; every buffer holds the longest header.
    fn new(limit: u64, wishes: Wishes, location: &str) -> Result<Self, Failure> {
        let header = wishes.longest_header.checked_next_multiple_of(UNIT).unwrap_or(u64::MAX);
        let least = MIN_BUFFER.max(header);
        if limit < least {
            let what = "one buffer";
            let (needed, location) = (least, location.to_owned());
            return Err(tz_io::IoError::MemoryLimit { location, what, needed, limit }.into());
        }
        let affordable = usize::try_from(limit / least).unwrap_or(usize::MAX);
        let buffers = wishes.threads.min(affordable).max(1);
        let share = limit / buffers as u64 / UNIT * UNIT;
        let buffer_len = share.min(least.max(wishes.piece_len.saturating_add(UNIT)));
        Ok(Self { buffer_len: usize::try_from(buffer_len).unwrap_or(usize::MAX), buffers })
    }

    fn pool(self, location: &str) -> Result<HeapPool, Failure> {
        let failed = |error| Failure::io(location, "reserve memory", &error);
        HeapPool::new(self.buffer_len, self.buffers).map_err(failed)
    }
}

impl Source {
    fn staging(&self, tensors: &[usize], job: &Job) -> Result<Staging, Failure> {
        let wishes = match self {
            Self::Tensors(file) => {
                let entries = tensors.iter().filter_map(|&tensor| file.entries().get(tensor));
                Wishes {
                    threads: self.readers(job),
                    piece_len: file.source().plan_options().piece_len,
                    longest_header: entries.map(|entry| entry.header_len()).max().unwrap_or(0),
                }
            }
            Self::Checkpoint(..) => {
                let (threads, piece_len) = (job.threads, CHECKPOINT_PIECE);
                Wishes { threads, piece_len, longest_header: 0 }
            }
        };
        Staging::new(job.staging_bytes(), wishes, self.location())
    }

    /// Hands every byte of the tensors at these positions, which `job` selects, to `sink`. Hashes are checked on the
    /// way where `job` says so, and the verdict is part of the result. Meta tensors have no bytes.
    pub(crate) fn stream(
        &self,
        tensors: &[usize],
        job: &Job,
        sink: &Sink<'_>,
    ) -> Result<ReadStats, Failure> {
        let staging = self.staging(tensors, job)?;
        let file = match self {
            Self::Checkpoint(..) => return self.stream_checkpoint(tensors, job, staging, sink),
            Self::Tensors(file) => file,
        };
        let pool = staging.pool(self.location())?;
        let consumer = |piece: Piece| {
            piece.parts().try_for_each(|(part, bytes)| sink(part.tensor, part.offset, bytes))
        };
        Ok(file.stream(&job.selection, &job.read, &pool, &consumer)?)
    }

    fn stream_checkpoint(
        &self,
        tensors: &[usize],
        job: &Job,
        staging: Staging,
        sink: &Sink<'_>,
    ) -> Result<ReadStats, Failure> {
        let piece_len = staging.buffer_len as u64;
        let mut pieces = Vec::new();
        for &tensor in tensors {
            let len = self.row(tensor).map_or(0, |row| row.byte_len);
            let starts = (0..len.div_ceil(piece_len)).map(|i| i * piece_len);
            pieces.extend(starts.map(|at| (tensor, at, (len - at).min(piece_len))));
        }
        let pool = staging.pool(self.location())?;
        let [fetch, consume, bytes] = std::array::from_fn(|_| Counter::default());
        parallel::for_each(pieces.len(), staging.buffers, &job.read.cancel, |i| {
            let (Some(&(tensor, at, len)), Some(mut buffer)) =
                (pieces.get(i), pool.acquire(&job.read.cancel))
            else {
                return Ok(());
            };
            let piece = usize::try_from(len).ok().and_then(|len| buffer.get_mut(..len));
            let piece = piece.unwrap_or_default();
            let failed = |error| self.failed(tensor, error);
            fetch.time(|| self.read_at(tensor, at, piece)).map_err(failed)?;
            bytes.add(len);
            consume.time(|| sink(tensor, at, piece)).map_err(failed)
        })?;
        let mut stats = ReadStats::default();
        stats.requests = pieces.len() as u64;
        stats.bytes_fetched = bytes.value();
        stats.bytes_delivered = stats.bytes_fetched;
        (stats.fetch, stats.consume) = (fetch.duration(), consume.duration());
        Ok(stats)
    }

    /// A failure in the middle of a tensor.
    pub(crate) fn failed(&self, tensor: usize, source: io::Error) -> Failure {
        let tensor = self.row(tensor).map_or_else(String::new, |row| row.path.to_string());
        tz_io::IoError::Tensor { tensor, source }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limit: u64, threads: usize, longest_header: u64, expected: Option<(u64, usize)>) {
        let wishes = Wishes { threads, piece_len: 4 << 20, longest_header };
        let staging = Staging::new(limit, wishes, "x").ok();
        let found = staging.map(|staging| (staging.buffer_len as u64, staging.buffers));
        assert_eq!(found, expected);
        if let Some(staging) = staging {
            assert!(staging.buffer_len as u64 * staging.buffers as u64 <= limit);
            assert!(staging.buffer_len as u64 >= longest_header);
            assert_eq!(staging.buffer_len as u64 % UNIT, 0);
        }
    }

    #[test]
    fn memory_is_cut_within_the_limit() {
        check(256 << 20, 2, 4096, Some(((4 << 20) + UNIT, 2)));
        check(1 << 20, 2, 4096, Some((512 << 10, 2)));
        check(256 << 10, 16, 0, Some((128 << 10, 2)));
        check(MIN_BUFFER, 16, 0, Some((MIN_BUFFER, 1)));
        check(MIN_BUFFER - 1, 1, 0, None);
        check(64 << 20, 8, 9 << 20, Some((9 << 20, 7)));
        check(8 << 20, 8, 9 << 20, None);
    }
}
