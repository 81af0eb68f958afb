//! What to read, in which pieces: a pure value made from the index. Owns [`LoadPlan`].
//!
//! A plan cuts large tensors and joins small ones, so that readers share the work evenly whatever the sizes of the
//! tensors. For local files, cuts within a tensor stand at multiples of one length from the tensor's start: encryption
//! chunks that divide that length are never split. For servers they stand where the store's blocks end. A tensor
//! header is never split.

use std::ops::Range;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tz_format::TensorEntry;

use crate::error::IoError;

/// Room for some small tensors, or a header with its padding, beside a piece.
const JOIN_SLACK: u64 = 64 << 10;
/// Cuts within a tensor stand at multiples of this: no element is split.
const WORD: u64 = 64;
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
    /// Cut what is longer than a piece where the position in the file is a multiple of the piece length, across
    /// tensors. Stores keep objects in blocks and read whole ones: a request that lies across two costs them both.
    pub aligned: bool,
}

impl PlanOptions {
    /// Pieces for positioned reads of a local file: 2 MiB stay in a core's cache between read and hash.
    #[must_use]
    pub fn local() -> Self {
        let (piece_len, max_gap) = (2 << 20, 64 << 10);
        Self { piece_len, max_gap, headers: true, join_slack: JOIN_SLACK, aligned: false }
    }

    /// Pieces for servers: 16 MiB pay for a request and are the parts in which objects are uploaded; a gap of 1 MiB
    /// costs less than another request.
    #[must_use]
    pub fn object_storage() -> Self {
        let (piece_len, max_gap) = (16 << 20, 1 << 20);
        Self { piece_len, max_gap, headers: true, join_slack: JOIN_SLACK, aligned: true }
    }

    /// The same with pieces that fit, header and slack included, into buffers of `buffer_len` bytes. A header that is
    /// longer than that does not, nor does anything into buffers of less than 512 bytes.
    #[must_use]
    pub fn staged(self, buffer_len: usize) -> Self {
        let buffer_len = buffer_len as u64;
        let join_slack = JOIN_SLACK.min(buffer_len / 2);
        let piece_len = self.piece_len.min(buffer_len - join_slack) / WORD * WORD;
        let piece_len = piece_len.max(MIN_PIECE);
        Self { piece_len, join_slack: join_slack.min(buffer_len.saturating_sub(piece_len)), ..self }
    }

    /// The same with pieces that fill buffers of `buffer_len` bytes, also where [`Self::staged`] would leave room:
    /// whoever made the buffers chose their length. Pieces of servers end where blocks do, and stay as they are.
    #[must_use]
    pub fn filling(self, buffer_len: usize) -> Self {
        let piece_len = if self.aligned { self.piece_len } else { u64::MAX };
        Self { piece_len, ..self }.staged(buffer_len)
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
        let run_ends = run_ends(entries, &tensors, options);
        for (&tensor, &run_end) in tensors.iter().zip(&run_ends) {
            let Some(entry) = entries.get(tensor) else {
                continue;
            };
            let cuts = Cuts { options, run_end };
            if options.headers {
                let range = entry.header_offset..entry.data_offset;
                push(&mut fetches, range, (tensor, PartKind::Header, 0), &cuts);
            }
            let mut offset = 0;
            while offset < entry.data_len {
                let end = cuts.data_end(&fetches, entry, offset);
                let range = entry.data_offset + offset..entry.data_offset + end;
                push(&mut fetches, range, (tensor, PartKind::Data, offset), &cuts);
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

/// Where the fetches of one tensor end.
struct Cuts<'a> {
    options: &'a PlanOptions,
    /// End of what is wanted without a gap worth skipping.
    run_end: u64,
}

impl Cuts<'_> {
    /// How far a fetch that begins at `start` may go.
    fn limit(&self, start: u64) -> u64 {
        let PlanOptions { piece_len, join_slack, aligned, .. } = *self.options;
        let longest = start.saturating_add(piece_len).saturating_add(join_slack);
        if !aligned || self.run_end <= longest {
            return longest;
        }
        let beyond = start.saturating_add(join_slack).saturating_add(1);
        beyond.checked_next_multiple_of(piece_len.max(1)).unwrap_or(longest).min(longest)
    }

    /// Where the piece of a tensor's data that begins at `offset` ends.
    fn data_end(&self, fetches: &[Fetch], entry: &TensorEntry, offset: u64) -> u64 {
        let piece_len = self.options.piece_len.max(1);
        let plain = entry.data_len.min(offset.saturating_add(piece_len));
        if !self.options.aligned {
            return plain;
        }
        let position = entry.data_offset.saturating_add(offset);
        let under_way = fetches.last().filter(|last| self.is_near(last, position));
        let under_way = under_way.map(|last| self.limit(last.range.start));
        let room = |limit: &u64| *limit >= position.saturating_add(WORD);
        let limit = under_way.filter(room).unwrap_or_else(|| self.limit(position));
        let end = limit.saturating_sub(entry.data_offset) / WORD * WORD;
        if end > offset { end.min(entry.data_len) } else { plain }
    }

    fn is_near(&self, last: &Fetch, position: u64) -> bool {
        position.saturating_sub(last.range.end) <= self.options.max_gap
    }
}

/// For every selected tensor, where that ends which is wanted without a gap worth skipping.
fn run_ends(entries: &[TensorEntry], tensors: &[usize], options: &PlanOptions) -> Vec<u64> {
    let mut ends = vec![0; tensors.len()];
    let (mut next_start, mut next_end) = (u64::MAX, 0);
    for (&tensor, end) in tensors.iter().zip(&mut ends).rev() {
        let Some(entry) = entries.get(tensor) else { continue };
        let near = next_start.saturating_sub(entry.data_end()) <= options.max_gap;
        next_end = if near { next_end } else { entry.data_end() };
        next_start = if options.headers { entry.header_offset } else { entry.data_offset };
        *end = next_end;
    }
    ends
}

fn push(
    fetches: &mut Vec<Fetch>,
    range: Range<u64>,
    (tensor, kind, offset): (usize, PartKind, u64),
    cuts: &Cuts<'_>,
) {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if let Some(last) = fetches.last_mut()
        && cuts.is_near(last, range.start)
        && range.end <= cuts.limit(last.range.start)
    {
        let at = usize::try_from(range.start - last.range.start).unwrap_or(usize::MAX);
        last.range.end = range.end;
        last.parts.push(Part { tensor, kind, offset, at, len });
        return;
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

    /// Whether every tensor is selected, whatever there is.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.globs.is_none()
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Tensors of these lengths, each after a header of 100 bytes, from `start` on.
    fn entries(start: u64, lens: &[u64]) -> Vec<TensorEntry> {
        let mut at = start;
        let specs = lens.iter().enumerate().map(|(i, &len)| {
            let element = tz_format::Element::Uint8;
            tz_format::TensorSpec::new(format!("t{i}"), element, vec![len])
        });
        let mut options = tz_format::LayoutOptions::default();
        options.alignment = 1;
        let layout = tz_format::Layout::plan(specs.collect(), options).unwrap();
        let mut entries = layout.entries().to_vec();
        for entry in &mut entries {
            (entry.header_offset, entry.data_offset) = (at, at + 100);
            at = entry.data_end();
        }
        entries
    }

    /// Fetches of all of them, checked to hold every byte once.
    #[track_caller]
    fn ranges(start: u64, lens: &[u64], options: &PlanOptions) -> Vec<Range<u64>> {
        let entries = entries(start, lens);
        let plan = LoadPlan::new(&entries, (0..lens.len()).collect(), options);
        let mut at = start;
        for fetch in &plan.fetches {
            let len = fetch.range.end - fetch.range.start;
            assert!(len <= options.piece_len + options.join_slack, "{fetch:?}");
            for part in &fetch.parts {
                let entry = &entries[part.tensor];
                let base = match part.kind {
                    PartKind::Header => entry.header_offset,
                    PartKind::Data => entry.data_offset + part.offset,
                };
                assert_eq!((base, fetch.range.start + part.at as u64), (at, at));
                at += part.len as u64;
                assert!(part.offset.is_multiple_of(WORD), "{part:?}");
            }
            assert_eq!(fetch.range.end, at);
        }
        assert_eq!(at, entries.last().map_or(start, TensorEntry::data_end));
        plan.fetches.into_iter().map(|fetch| fetch.range).collect()
    }

    #[test]
    fn long_runs_are_cut_where_blocks_end_whatever_the_tensors() {
        let options = PlanOptions::object_storage();
        let lens = [5 * MIB, 40 * MIB, 1000, 30 * MIB, 17 * MIB, 3 * MIB];
        // Data that begins at odd places is cut up to a word before the block's end.
        for start in [0, 4096, 3_000_000, 16 * MIB - 10] {
            let ranges = ranges(start, &lens, &options);
            let (last, cut) = ranges.split_last().unwrap();
            for range in cut {
                let over = range.end % (16 * MIB);
                assert!(!(200..=16 * MIB - WORD).contains(&over), "{ranges:?}");
            }
            assert!(ranges.len() <= 8 && !last.is_empty(), "{ranges:?}");
        }
    }

    #[test]
    fn what_fits_into_a_piece_is_one_fetch_wherever_it_lies() {
        let options = PlanOptions::object_storage();
        for start in [0, 5 * MIB, 15 * MIB, 16 * MIB - 1, 16 * MIB - 50] {
            for lens in [&[3 * MIB][..], &[16 * MIB], &[5 * MIB, 1000, 10 * MIB]] {
                assert_eq!(ranges(start, lens, &options).len(), 1, "{start} {lens:?}");
            }
        }
    }

    #[test]
    fn pieces_of_local_files_fill_the_buffers_and_those_of_servers_end_where_blocks_do() {
        for buffer_len in [(9 << 20) + 1, 64 << 20] {
            let local = PlanOptions::local().filling(buffer_len);
            let lens = [100 << 20, 10, 5 << 20];
            let longest = ranges(777, &lens, &local).iter().map(|r| r.end - r.start).max();
            let wanted = buffer_len as u64 - JOIN_SLACK - WORD..=buffer_len as u64;
            assert!(longest.is_some_and(|longest| wanted.contains(&longest)), "{longest:?}");
            let store = PlanOptions::object_storage();
            assert_eq!(store.clone().filling(buffer_len), store.staged(buffer_len));
        }
    }

    #[test]
    fn short_buffers_shorten_the_pieces() {
        for buffer_len in [512, 4096, 100_000, 100_001, 1 << 20, 9 << 20, 64 << 20] {
            let options = PlanOptions::object_storage().staged(buffer_len);
            let lens = [1 << 20, 10, 0, 300_000, 65_536, 65_537];
            let ranges = ranges(777, &lens, &options);
            let longest = ranges.iter().map(|range| range.end - range.start).max();
            assert!(longest.is_some_and(|longest| longest <= buffer_len as u64), "{buffer_len}");
        }
    }
}
