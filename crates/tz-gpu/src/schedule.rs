//! Decides where things go, without touching any: tensors on the device, buffers in the ring, parts in a buffer.
//! Owns [`Layout`], [`Ring`] and [`Staging`]. Pure.

use std::ops::Range;

use crate::device::ALIGNMENT;

/// Parts up to this length are moved together in their buffer, so that many small tensors travel as one copy: starting
/// a copy takes the CPU microseconds, moving this much a few. Chosen by that arithmetic, not measured on a GPU.
const PACK_LIMIT: usize = 64 << 10;

/// Most bytes between tensors of an arena; nobody reads them.
pub(crate) const PADDING: u64 = ALIGNMENT - 1;

/// The first allocation of a ring: small, so that readers start soon.
const FIRST_SLAB: usize = 16 << 20;
/// All later ones, of the default ring: few, because each may hold up the device and every thread that talks to it.
const LATER_SLAB: usize = 48 << 20;
/// Most allocations of a ring after the first.
const LATER_SLABS: usize = 5;

/// How tensors share device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// One allocation for all: a single call to the driver and no gaps but those of alignment. It is freed when the
    /// last tensor is dropped.
    #[default]
    Arena,
    /// One allocation for each tensor, freed with it.
    PerTensor,
}

/// A tensor's place on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which allocation.
    pub(crate) memory: usize,
    /// Where in it.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) len: u64,
}

/// Places of all tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// One per tensor.
    pub(crate) places: Vec<Place>,
    /// Length of every allocation.
    pub(crate) memories: Vec<u64>,
}

impl Layout {
    /// Places tensors of these lengths; `None` where they are more than 64 bits can count.
    #[must_use]
    pub(crate) fn new(lens: &[u64], placement: Placement) -> Option<Self> {
        let mut places = Vec::with_capacity(lens.len());
        let memories = match placement {
            Placement::Arena => {
                let mut end = 0_u64;
                for &len in lens {
                    let offset = end.checked_next_multiple_of(ALIGNMENT)?;
                    end = offset.checked_add(len)?;
                    places.push(Place { memory: 0, offset, len });
                }
                vec![end]
            }
            Placement::PerTensor => {
                let place = |(memory, &len)| Place { memory, offset: 0, len };
                places.extend(lens.iter().enumerate().map(place));
                lens.to_vec()
            }
        };
        Some(Self { places, memories })
    }

    /// Bytes of device memory that the layout takes.
    #[must_use]
    pub(crate) fn device_bytes(&self) -> u64 {
        self.memories.iter().copied().fold(0, u64::saturating_add)
    }
}

/// Size of the staging ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Length of every buffer.
    pub(crate) buffer_len: usize,
    /// How many buffers.
    pub(crate) buffers: usize,
}

impl Ring {
    /// As many buffers of `buffer_len` as `limit` bytes allow, or a single shorter one. `slack` bytes of each buffer
    /// are for headers; the rest is a multiple of `granule`, so that no element is ever cut. `None` where not even a
    /// granule fits.
    #[must_use]
    pub(crate) fn within(
        limit: u64,
        buffer_len: usize,
        slack: usize,
        granule: usize,
    ) -> Option<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let payload = buffer_len.min(limit).checked_sub(slack)?;
        let payload = payload - payload % granule.max(1);
        let buffer_len = payload + slack;
        (payload > 0).then(|| Self { buffer_len, buffers: limit / buffer_len })
    }

    /// How many buffers the next allocation is for, once there are `have`: six allocations make any ring.
    #[must_use]
    pub(crate) fn next_slab(self, have: usize) -> usize {
        let holds = |len: usize| len.div_ceil(self.buffer_len.max(1));
        let first = holds(FIRST_SLAB).min(self.buffers);
        let later = (self.buffers - first).div_ceil(LATER_SLABS).max(holds(LATER_SLAB));
        let slab = if have == 0 { first } else { later };
        slab.min(self.buffers.saturating_sub(have))
    }
}

/// Data of one tensor in a filled buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// Where it stands in the buffer.
    pub(crate) from: Range<usize>,
    /// Its length once converted.
    pub(crate) out_len: usize,
    /// Which allocation it goes to.
    pub(crate) memory: usize,
    /// Where in it.
    pub(crate) offset: u64,
}

/// One copy to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Range of the buffer.
    pub from: Range<usize>,
    /// Which allocation.
    pub memory: usize,
    /// Where in it.
    pub offset: u64,
}

/// What happens to a filled buffer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Staging {
    /// Conversions to do in this order: input, and where its result begins in the buffer. Results never reach input
    /// that is still to be read.
    pub(crate) moves: Vec<(usize, usize)>,
    /// Copies to start when the moves are done.
    pub(crate) copies: Vec<Copy>,
}

impl Staging {
    /// Plans for `inputs`, in the order they stand in a buffer of `buffer_len` bytes. Where results are longer than
    /// inputs, the buffer must be longer than its filled part by the same factor.
    ///
    /// Neighbours on the device travel as one copy if they are at most `gap` bytes apart, and the bytes between them
    /// are written, with anything. So it is [`PADDING`] in an arena of our own, and 0 in memory of others.
    #[must_use]
    pub(crate) fn new(inputs: &[Input], buffer_len: usize, gap: u64) -> Self {
        if inputs.iter().any(|input| input.out_len > input.from.len()) {
            Self::from_the_end(inputs, buffer_len)
        } else {
            Self::from_the_start(inputs, gap)
        }
    }

    /// Nothing grows: front to back, each result at or before its input, small neighbours drawn together.
    fn from_the_start(inputs: &[Input], gap: u64) -> Self {
        let mut staging = Self::default();
        for (i, input) in inputs.iter().enumerate() {
            if let Some(last) = staging.copies.last_mut()
                && let Some(to) = adjacent(last, input, gap)
            {
                // The bytes between are whatever was read there.
                last.from.end = to + input.out_len;
                staging.moves.push((i, to));
                continue;
            }
            staging.moves.push((i, input.from.start));
            staging.copies.push(Copy {
                from: input.from.start..input.from.start + input.out_len,
                memory: input.memory,
                offset: input.offset,
            });
        }
        staging
    }

    /// Something grows: back to front, results packed against the end of the buffer. With a buffer `k` times as long
    /// as what was read, and no result longer than `k` times its input, they stay behind all unread input.
    fn from_the_end(inputs: &[Input], buffer_len: usize) -> Self {
        let mut staging = Self::default();
        let mut end = buffer_len;
        for (i, input) in inputs.iter().enumerate().rev() {
            let to = end.saturating_sub(input.out_len);
            staging.moves.push((i, to));
            staging.copies.push(Copy { from: to..end, memory: input.memory, offset: input.offset });
            end = to;
        }
        staging
    }
}

/// Where in the buffer `input` would extend the copy `last`, if it belongs right behind it on the device and can be
/// had there cheaply.
fn adjacent(last: &Copy, input: &Input, gap: u64) -> Option<usize> {
    let copied = last.from.len() as u64;
    let apart = input.offset.checked_sub(last.offset.checked_add(copied)?)?;
    let to = last.from.end.checked_add(usize::try_from(apart).ok()?)?;
    let cheap = to == input.from.start || input.from.len() <= PACK_LIMIT;
    (last.memory == input.memory && apart <= gap && to <= input.from.start && cheap).then_some(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tensors_of_an_arena_are_aligned_and_apart() {
        let lens = [0, 1, 255, 256, 257, 0, 4096];
        let layout = Layout::new(&lens, Placement::Arena).unwrap();
        let mut end = 0;
        for (place, len) in layout.places.iter().zip(lens) {
            assert_eq!((place.memory, place.len, place.offset % ALIGNMENT), (0, len, 0));
            assert!(place.offset >= end && place.offset < end + ALIGNMENT);
            end = place.offset + place.len;
        }
        assert_eq!(layout.memories, [end]);
        assert!(layout.device_bytes() < lens.iter().sum::<u64>() + ALIGNMENT * lens.len() as u64);
    }

    #[test]
    fn tensors_apart_have_allocations_of_their_own() {
        let layout = Layout::new(&[3, 0, 5], Placement::PerTensor).unwrap();
        assert_eq!(layout.memories, [3, 0, 5]);
        let places = layout.places.iter().map(|place| (place.memory, place.offset));
        assert_eq!(Vec::from_iter(places), [(0, 0), (1, 0), (2, 0)]);
    }

    #[test]
    fn sums_beyond_64_bits_are_refused() {
        assert_eq!(Layout::new(&[u64::MAX, 1], Placement::Arena), None);
    }

    #[track_caller]
    fn check_ring(limit: u64, expect: Option<(usize, usize)>) {
        let ring = Ring::within(limit, 1000 + 64, 64, 100);
        assert_eq!(ring.map(|ring| (ring.buffer_len, ring.buffers)), expect);
    }

    #[test]
    fn the_ring_fits_the_limit() {
        check_ring(10_640, Some((1064, 10)));
        check_ring(10_639, Some((1064, 9)));
        check_ring(1064, Some((1064, 1)));
        check_ring(1063, Some((964, 1)));
        check_ring(164, Some((164, 1)));
        check_ring(163, None);
        check_ring(0, None);
    }

    fn input(from: Range<usize>, out_len: usize, offset: u64) -> Input {
        Input { from, out_len, memory: 0, offset }
    }

    #[test]
    fn small_neighbours_travel_together() {
        let inputs = [input(40..140, 100, 0), input(200..300, 100, 256)];
        let staging = Staging::new(&inputs, 1000, PADDING);
        assert_eq!(
            staging.moves,
            [(0, 40), (1, 200)],
            "256 apart on both sides would need a move to the right"
        );
        let inputs = [input(40..140, 100, 0), input(400..500, 100, 256)];
        let staging = Staging::new(&inputs, 1000, PADDING);
        assert_eq!(staging.moves, [(0, 40), (1, 296)]);
        let together = Copy { from: 40..396, memory: 0, offset: 0 };
        assert_eq!(staging.copies, [together]);
    }

    #[test]
    fn large_neighbours_stay_where_they_are() {
        let long = PACK_LIMIT + 1;
        let inputs = [input(0..256, 256, 0), input(300..300 + long, long, 256)];
        assert_eq!(Staging::new(&inputs, 1 << 20, PADDING).copies.len(), 2);
        let touching = [input(0..256, 256, 0), input(256..256 + long, long, 256)];
        assert_eq!(Staging::new(&touching, 1 << 20, PADDING).copies.len(), 1, "no move is needed");
    }

    #[test]
    fn six_allocations_make_any_ring() {
        for (buffer_len, buffers, first) in [
            (2_162_688, 124, 8),
            (2_162_688, 5, 5),
            (2_162_688, 496, 8),
            (8_454_144, 31, 2),
            (8_454_144, 4000, 2),
            (100, 5, 5),
            (100, 10_000_000, 167_773),
            (1 << 30, 9, 1),
            (64 << 20, 3, 1),
        ] {
            let ring = Ring { buffer_len, buffers };
            let (mut have, mut slabs) = (0, Vec::new());
            while have < buffers {
                slabs.push(ring.next_slab(have));
                have += slabs.last().copied().filter(|&slab| slab > 0).unwrap();
            }
            assert!(have == buffers && slabs.len() <= 6, "{ring:?}: {slabs:?}");
            assert_eq!(slabs.first(), Some(&first), "{ring:?}");
            assert_eq!(ring.next_slab(have), 0, "{ring:?}");
        }
    }

    #[test]
    fn neighbours_in_memory_of_others_travel_together_only_where_they_touch() {
        let inputs = [input(40..140, 100, 0), input(400..500, 100, 256), input(600..700, 100, 356)];
        let staging = Staging::new(&inputs, 1000, 0);
        assert_eq!(staging.moves, [(0, 40), (1, 400), (2, 500)]);
        let apart = Copy { from: 40..140, memory: 0, offset: 0 };
        assert_eq!(staging.copies, [apart, Copy { from: 400..600, memory: 0, offset: 256 }]);
    }

    /// Inputs with gaps between them, and how much longer than the filled part the buffer is.
    fn inputs() -> impl Strategy<Value = (Vec<Input>, usize)> {
        let part = (0..40_usize, 0..300_usize, 0..3_usize, 0..3_usize, any::<bool>());
        (prop::collection::vec(part, 0..20), 1..=4_usize).prop_map(|(parts, factor)| {
            let (mut at, mut offset) = (0, 0_u64);
            let mut inputs = Vec::new();
            for (gap, len, memory, kind, touching) in parts {
                let from = at + gap..at + gap + len;
                at = from.end;
                let out_len = [len * factor, len, len / 2][kind];
                inputs.push(Input { from, out_len, memory, offset });
                offset += out_len as u64;
                if !touching {
                    offset = offset.next_multiple_of(ALIGNMENT);
                }
            }
            (inputs, factor)
        })
    }

    proptest! {
        /// Following the plan byte by byte brings every input, and nothing else, to its place.
        #[test]
        fn the_plan_delivers_every_input(
            (inputs, factor) in inputs(),
            gap in prop::sample::select(vec![PADDING, 0]),
        ) {
            let filled = inputs.last().map_or(0, |input| input.from.end);
            let buffer_len = filled * factor;
            let staging = Staging::new(&inputs, buffer_len, gap);
            // Each byte of the buffer carries the input it belongs to, if any.
            let mut buffer = vec![None; buffer_len];
            for (i, input) in inputs.iter().enumerate() {
                buffer[input.from.clone()].fill(Some(i));
            }
            for &(i, to) in &staging.moves {
                let input = &inputs[i];
                prop_assert!(buffer[input.from.clone()].iter().all(|&byte| byte == Some(i)), "read too late");
                buffer[to..to + input.out_len].fill(Some(i));
            }
            for (i, input) in inputs.iter().enumerate() {
                let range = input.offset..input.offset + input.out_len as u64;
                let covering = staging.copies.iter().filter(|copy| {
                    let end = copy.offset + copy.from.len() as u64;
                    copy.memory == input.memory && copy.offset <= range.start && range.end <= end
                });
                let arrived = covering.filter(|copy| {
                    let at = copy.from.start + usize::try_from(range.start - copy.offset).unwrap();
                    buffer[at..at + input.out_len].iter().all(|&byte| byte == Some(i))
                });
                prop_assert!(arrived.count() >= 1, "input {} of {:?}", i, staging);
            }
            let copied: usize = staging.copies.iter().map(|copy| copy.from.len()).sum();
            let wanted: usize = inputs.iter().map(|input| input.out_len).sum();
            let padding = usize::try_from(gap).unwrap() * inputs.len();
            prop_assert!(copied <= wanted + padding);
            // In memory of others, every byte outside the targets stays what it was.
            let stray = staging.copies.iter().flat_map(|copy| {
                let targets = || inputs.iter().filter(|input| input.memory == copy.memory);
                let within = move |at: u64| {
                    targets().any(|input| (input.offset..input.offset + input.out_len as u64).contains(&at))
                };
                (copy.offset..copy.offset + copy.from.len() as u64).filter(move |&at| !within(at))
            });
            prop_assert!(gap > 0 || stray.count() == 0, "{:?}", staging);
        }
    }
}
