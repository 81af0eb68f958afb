//! What to read, in which pieces: a pure value made from the index. Owns [`LoadPlan`].
//!
//! A plan cuts large tensors and joins small ones, so that readers share the work evenly whatever the sizes of the
//! tensors. Cuts within a tensor stand at multiples of one length from the tensor's start: encryption chunks that
//! divide that length are never split. A tensor header is never split.

use std::ops::Range;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tz_format::TensorEntry;

use crate::error::IoError;

/// Room for some small tensors, or a header with its padding, beside a piece.
const JOIN_SLACK: u64 = 64 << 10;
/// Shortest piece of a plan for short buffers: below it a plan takes more memory than the bytes it describes.
const MIN_PIECE: u64 = 512;

/// How the plan cuts and joins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Longest data piece in bytes. Larger pieces mean fewer requests; smaller ones less memory in flight and
    /// hashing while the bytes are still in cache.
    pub piece_len: u64,
    /// Unwanted bytes between two wanted ranges that are read through rather than skipped.
    pub max_gap: u64,
    /// Read tensor headers too: for verification and decryption.
    pub headers: bool,
    /// How far a fetch may exceed the piece length, so that a header and the first piece after it are one fetch.
    pub join_slack: u64,
}

impl PlanOptions {
    /// Pieces for positioned reads of a local file: 2 MiB stay in a core's cache between read and hash.
    #[must_use]
    pub fn local() -> Self {
        Self { piece_len: 2 << 20, max_gap: 64 << 10, headers: true, join_slack: JOIN_SLACK }
    }

    /// Pieces for servers: 8 MiB pay for a request, and a gap of 1 MiB costs less than another one.
    #[must_use]
    pub fn object_storage() -> Self {
        Self { piece_len: 8 << 20, max_gap: 1 << 20, headers: true, join_slack: JOIN_SLACK }
    }

    /// The same with pieces that fit, header and slack included, into buffers of `buffer_len` bytes. A header that is
    /// longer than that does not, nor does anything into buffers of less than 512 bytes.
    #[must_use]
    pub fn staged(self, buffer_len: usize) -> Self {
        let buffer_len = buffer_len as u64;
        let join_slack = JOIN_SLACK.min(buffer_len / 2);
        let piece_len = self.piece_len.min(buffer_len - join_slack).max(MIN_PIECE);
        Self { piece_len, join_slack: join_slack.min(buffer_len.saturating_sub(piece_len)), ..self }
    }
}

/// One part of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Position of the tensor in the file's index.
    pub tensor: usize,
    /// Header or data.
    pub kind: PartKind,
    /// Where the part begins in its header or data.
    pub offset: u64,
    /// Where the part begins in the fetch.
    pub at: usize,
    /// Length in bytes.
    pub len: usize,
}

/// What a part holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// The whole tensor header.
    Header,
    /// A piece of the data.
    Data,
}

/// One contiguous range of the file and what it holds; bytes between parts are read and dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Range in the file.
    pub range: Range<u64>,
    /// Parts in file order.
    pub parts: Vec<Part>,
}

impl Fetch {
    /// Length in bytes. Planned lengths fit in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX)
    }

    /// Whether the fetch holds nothing; a plan has none such.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// Most memory that a plan may take. A file or a server states sizes before a byte of them has proven to be there.
const MAX_PLAN_BYTES: u64 = 512 << 20;
/// Memory of one piece, from the plan to the place where it is loaded.
const BYTES_PER_PIECE: u64 = 200;

/// Fetches in file order that together hold the selected tensors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadPlan {
    /// Selected tensors, positions in the index, ascending.
    pub tensors: Vec<usize>,
    /// Fetches, ascending; none overlap.
    pub fetches: Vec<Fetch>,
}

impl LoadPlan {
    /// Plans reading `tensors` (positions in `entries`, ascending).
    #[must_use]
    pub fn new(entries: &[TensorEntry], tensors: Vec<usize>, options: &PlanOptions) -> Self {
        let mut fetches: Vec<Fetch> = Vec::new();
        let piece_len = options.piece_len.max(1);
        for &tensor in &tensors {
            let Some(entry) = entries.get(tensor) else {
                continue;
            };
            if options.headers {
                let range = entry.header_offset..entry.data_offset;
                push(&mut fetches, range, (tensor, PartKind::Header, 0), options);
            }
            let mut offset = 0;
            while offset < entry.data_len {
                let end = entry.data_len.min(offset.saturating_add(piece_len));
                let range = entry.data_offset + offset..entry.data_offset + end;
                push(&mut fetches, range, (tensor, PartKind::Data, offset), options);
                offset = end;
            }
        }
        Self { tensors, fetches }
    }

    /// As [`Self::new`], of what a file states.
    ///
    /// # Errors
    /// [`IoError::MemoryLimit`] where the plan itself would take too much memory: more than 5 TiB in pieces of 2 MiB.
    pub(crate) fn of_file(
        entries: &[TensorEntry],
        tensors: Vec<usize>,
        options: &PlanOptions,
        location: &str,
    ) -> Result<Self, IoError> {
        // Tensors that are one piece or none are in the index, whose bytes are there.
        let pieces = |entry: &TensorEntry| entry.data_len / options.piece_len.max(1);
        let pieces = tensors.iter().filter_map(|&tensor| entries.get(tensor)).map(pieces);
        let needed = pieces.fold(0, u64::saturating_add).saturating_mul(BYTES_PER_PIECE);
        if needed > MAX_PLAN_BYTES {
            return Err(IoError::MemoryLimit {
                location: location.to_owned(),
                what: "a plan of that many pieces",
                needed,
                limit: MAX_PLAN_BYTES,
            });
        }
        Ok(Self::new(entries, tensors, options))
    }

    /// Bytes that the fetches cover.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.fetches.iter().map(|fetch| fetch.range.end - fetch.range.start).sum()
    }

    /// Length of the longest fetch: what one buffer must hold.
    #[must_use]
    pub fn longest_fetch(&self) -> usize {
        self.fetches.iter().map(Fetch::len).max().unwrap_or(0)
    }
}

fn push(
    fetches: &mut Vec<Fetch>,
    range: Range<u64>,
    (tensor, kind, offset): (usize, PartKind, u64),
    options: &PlanOptions,
) {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if let Some(last) = fetches.last_mut() {
        let near = range.start - last.range.end <= options.max_gap;
        if near
            && range.end - last.range.start <= options.piece_len.saturating_add(options.join_slack)
        {
            let at = usize::try_from(range.start - last.range.start).unwrap_or(usize::MAX);
            last.range.end = range.end;
            last.parts.push(Part { tensor, kind, offset, at, len });
            return;
        }
    }
    fetches.push(Fetch { range, parts: vec![Part { tensor, kind, offset, at: 0, len }] });
}

/// Which tensors are wanted: all, or those whose name matches one of some globs.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    globs: Option<(GlobSet, Vec<String>)>,
}

impl Selection {
    /// Every tensor.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Tensors whose name matches any of `globs`; `*` does not stop at dots or slashes. No globs select all.
    ///
    /// # Errors
    /// The glob's own error text, where one cannot be read.
    pub fn globs<S: AsRef<str>>(globs: &[S]) -> Result<Self, String> {
        if globs.is_empty() {
            return Ok(Self::all());
        }
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(GlobBuilder::new(glob.as_ref()).build().map_err(|error| error.to_string())?);
        }
        let names = globs.iter().map(|glob| glob.as_ref().to_owned()).collect();
        Ok(Self { globs: Some((set.build().map_err(|error| error.to_string())?, names)) })
    }

    /// Positions of the selected tensors, ascending.
    ///
    /// # Errors
    /// [`IoError::NoSuchTensor`] where a glob matches nothing.
    pub fn select(&self, entries: &[TensorEntry], location: &str) -> Result<Vec<usize>, IoError> {
        self.select_names(entries.iter().map(|entry| entry.path.to_string()), location)
    }

    /// Positions of the selected ones of `candidates`, ascending: for tensors that are not in a `.tensors` file.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub fn select_names(
        &self,
        candidates: impl ExactSizeIterator<Item = String>,
        location: &str,
    ) -> Result<Vec<usize>, IoError> {
        let Some((set, names)) = &self.globs else {
            return Ok((0..candidates.len()).collect());
        };
        let mut matched = vec![false; names.len()];
        let mut selected = Vec::new();
        for (i, candidate) in candidates.enumerate() {
            let by = set.matches(candidate);
            if !by.is_empty() {
                selected.push(i);
            }
            for glob in by {
                if let Some(matched) = matched.get_mut(glob) {
                    *matched = true;
                }
            }
        }
        match names.iter().zip(matched).find(|(_, matched)| !matched) {
            Some((pattern, _)) => Err(IoError::NoSuchTensor {
                location: location.to_owned(),
                pattern: pattern.clone(),
            }),
            None => Ok(selected),
        }
    }
}
