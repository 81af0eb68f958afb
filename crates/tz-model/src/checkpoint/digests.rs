//! Digests of a checkpoint's files, made of the bytes on their way elsewhere. Owns [`FileDigests`].
//!
//! A conversion reads almost every byte of its source once; reading all of it again for a digest would cost as much as
//! the conversion. So what is read is hashed when it comes, each byte once, and only the rest is read at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tz_io::{Cancel, FileDigest};

use super::SourceFile;
use crate::error::Error;

/// Shorter reads are left for the end: scattered ones would leave more unmerged hashes than the memory is worth.
const SHORTEST: usize = 64 << 10;
/// Bytes read at a time at the end.
const PIECE: u64 = 1 << 20;

/// What is known of one file.
#[derive(Debug)]
struct Known {
    digest: FileDigest,
    /// Ranges that were hashed, by their start.
    covered: Mutex<BTreeMap<u64, u64>>,
}

/// What is known of every file of a checkpoint.
#[derive(Debug)]
pub(super) struct FileDigests(Vec<Known>);

impl FileDigests {
    pub(super) fn new(files: &[SourceFile]) -> Self {
        let known = |file: &SourceFile| Known {
            digest: FileDigest::new(file.byte_len),
            covered: Mutex::default(),
        };
        Self(files.iter().map(known).collect())
    }

    /// Hashes what was read at `offset` of a file, as far as nobody has yet.
    pub(super) fn saw(&self, file: usize, offset: u64, bytes: &[u8]) {
        let Some(known) = self.0.get(file).filter(|_| bytes.len() >= SHORTEST) else { return };
        let range = offset..offset.saturating_add(bytes.len() as u64);
        for own in known.claim(range) {
            let at = |place: u64| usize::try_from(place - offset).unwrap_or(usize::MAX);
            known.digest.add(own.start, bytes.get(at(own.start)..at(own.end)).unwrap_or_default());
        }
    }

    /// Reads what is missing, on several threads, and gives every file's digest.
    pub(super) fn finish(
        &self,
        files: &[SourceFile],
        threads: usize,
        cancel: &Cancel,
    ) -> Result<Vec<[u8; 32]>, Error> {
        let mut pieces = Vec::new();
        for (known, file) in self.0.iter().zip(files) {
            for gap in known.claim(0..file.byte_len) {
                let starts =
                    (0..(gap.end - gap.start).div_ceil(PIECE)).map(|i| gap.start + i * PIECE);
                pieces.extend(starts.map(|start| (known, file, start..gap.end.min(start + PIECE))));
            }
        }
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            let mut buffer = Vec::new();
            while let Some((known, file, range)) = pieces.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let read = match cancel.is_cancelled() {
                    true => Err(Error::Cancelled),
                    false => add(&known.digest, &file.file, range, &mut buffer)
                        .map_err(|error| Error::io(&file.path, "read", error)),
                };
                if let Err(error) = read {
                    next.store(pieces.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(pieces.len()) {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        // Every byte was claimed, by a read or here.
        Ok(self.0.iter().map(|known| known.digest.finish().unwrap_or_default()).collect())
    }
}

fn add(
    digest: &FileDigest,
    file: &File,
    range: &Range<u64>,
    buffer: &mut Vec<u8>,
) -> std::io::Result<()> {
    buffer.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
    file.read_exact_at(buffer, range.start)?;
    digest.add(range.start, buffer);
    Ok(())
}

impl Known {
    /// The parts of `range` that nobody had; they are the caller's now.
    fn claim(&self, range: Range<u64>) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let mut covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = Vec::new();
        let mut whole = range.clone();
        // Neighbours that touch the range become one with it.
        let before = covered.range(..=range.start).next_back().map(|(&start, &end)| start..end);
        let mut touching: Vec<Range<u64>> =
            before.into_iter().filter(|other| other.end >= range.start).collect();
        let later = covered.range((range.start.saturating_add(1))..=range.end);
        touching.extend(later.map(|(&start, &end)| start..end));
        let mut at = range.start;
        for other in touching {
            if at < other.start {
                own.push(at..other.start);
            }
            at = at.max(other.end);
            whole = whole.start.min(other.start)..whole.end.max(other.end);
            covered.remove(&other.start);
        }
        if at < range.end {
            own.push(at..range.end);
        }
        covered.insert(whole.start, whole.end);
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { digest: FileDigest::new(100), covered: Mutex::default() }
    }

    #[test]
    fn every_byte_is_claimed_once() {
        let known = known();
        type Pair = (u64, u64);
        let rows: [(Range<u64>, &[Pair]); 11] = [
            (10..20, &[(10, 20)]),
            (10..20, &[]),
            (5..12, &[(5, 10)]),
            (30..40, &[(30, 40)]),
            (0..50, &[(0, 5), (20, 30), (40, 50)]),
            (50..50, &[]),
            (49..51, &[(50, 51)]),
            (60..61, &[(60, 61)]),
            (51..60, &[(51, 60)]),
            (0..100, &[(61, 100)]),
            (0..100, &[]),
        ];
        for (range, own) in rows {
            let claimed = known.claim(range.clone());
            let claimed: Vec<Pair> = claimed.into_iter().map(|own| (own.start, own.end)).collect();
            assert_eq!(claimed, own, "{range:?}");
        }
        assert_eq!(known.covered.lock().unwrap().len(), 1);
    }

    #[test]
    fn digests_are_those_of_the_files_whatever_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for (i, len) in [0, 10, 300_000, 3 << 20].into_iter().enumerate() {
            let path = dir.path().join(i.to_string());
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            std::fs::write(&path, &bytes).unwrap();
            let file = File::open(&path).unwrap();
            files.push(SourceFile::new(&path, file, bytes.len() as u64, Vec::new()));
        }
        let expected: Vec<[u8; 32]> = files
            .iter()
            .map(|file| {
                let location = tz_io::Location::File(file.path.clone());
                tz_io::digest(&location, &Default::default(), &Default::default()).unwrap().1
            })
            .collect();
        for reads in [&[][..], &[(3, 5, 70_000), (3, 40_000, 200_000), (2, 0, 299_999), (1, 2, 3)]]
        {
            let digests = FileDigests::new(&files);
            for &(file, offset, len) in reads {
                let mut buffer = vec![0; len];
                files[file].file.read_exact_at(&mut buffer, offset).unwrap();
                digests.saw(file, offset, &buffer);
            }
            assert_eq!(digests.finish(&files, 3, &Cancel::default()).unwrap(), expected);
        }
        let stopped = Cancel::default();
        stopped.cancel();
        let cancelled = FileDigests::new(&files).finish(&files, 1, &stopped);
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    }
}
