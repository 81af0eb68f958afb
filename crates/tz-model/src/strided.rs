//! Reads tensors whose elements do not lie in C order: transposes, slices of columns, views of larger storages.
//! Owns [`Strided`].
//!
//! A wanted range is cut into boxes. A box is read either whole, gaps included, into scratch memory and sorted there,
//! or run by run where the gaps are larger than the cost of separate reads.

use crate::error::Error;

/// Scratch memory of one read at most: small enough to stay in the cache while it is sorted.
const SCRATCH_BYTES: u64 = 1 << 20;

/// Bytes of gaps that cost as much as one more system call: about a microsecond of copying.
const RUN_COST_BYTES: u64 = 4096;

/// A view of elements: which element of the underlying bytes stands at which index. All counts are in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strided {
    /// First element.
    pub(crate) first: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    /// Bytes of one element.
    pub(crate) element: u64,
}

/// Fetches bytes of the underlying data.
pub(crate) type Fetch<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), Error>;

#[derive(Debug, Clone, Copy)]
struct Axis {
    len: u64,
    source: u64,
    target: u64,
}

impl Strided {
    /// Whether the elements follow each other without a gap, dimensions of one element aside.
    pub(crate) fn is_contiguous(shape: &[u64], strides: &[u64]) -> bool {
        if shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        for (&dim, &stride) in shape.iter().zip(strides).rev() {
            if dim > 1 && stride != expected {
                return false;
            }
            expected = dim.saturating_mul(expected);
        }
        true
    }

    /// Number of elements from the first to the last one, both included; `None` on overflow.
    pub(crate) fn span(shape: &[u64], strides: &[u64]) -> Option<u64> {
        if shape.contains(&0) {
            return Some(0);
        }
        let steps = shape.iter().zip(strides);
        steps
            .map(|(&dim, &stride)| (dim - 1).checked_mul(stride))
            .try_fold(1_u64, |sum, step| sum.checked_add(step?))
    }

    /// Fills `out` with the bytes from byte `offset` of the view, as if it were in C order. The caller has checked
    /// that the view has them and that `fetch` has every byte of the view.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8], fetch: Fetch<'_>) -> Result<(), Error> {
        let mut out = out;
        let mut index = offset / self.element;
        let skip = offset % self.element;
        if skip > 0 {
            let take = (self.element - skip).min(out.len() as u64);
            let (head, rest) = split(out, take);
            self.part(index, skip, head, fetch)?;
            out = rest;
            index += 1;
        }
        let count = out.len() as u64 / self.element;
        let (body, tail) = split(out, count * self.element);
        self.rows(0, self.first, index..index + count, body, fetch)?;
        self.part(index + count, 0, tail, fetch)
    }

    /// Less than one element.
    fn part(&self, index: u64, skip: u64, out: &mut [u8], fetch: Fetch<'_>) -> Result<(), Error> {
        if out.is_empty() {
            return Ok(());
        }
        let mut whole = vec![0; to_usize(self.element)];
        self.rows(0, self.first, index..index + 1, &mut whole, fetch)?;
        let from = whole.iter().skip(to_usize(skip));
        for (byte, &value) in out.iter_mut().zip(from) {
            *byte = value;
        }
        Ok(())
    }

    /// The elements with these indices among the dimensions from `dim` on: a partial first row, a box of whole rows,
    /// a partial last row.
    fn rows(
        &self,
        dim: usize,
        source: u64,
        range: std::ops::Range<u64>,
        out: &mut [u8],
        fetch: Fetch<'_>,
    ) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        let shape = self.shape.get(dim..).unwrap_or_default();
        let strides = self.strides.get(dim..).unwrap_or_default();
        let (Some((_, inner_shape)), Some((&stride, _))) =
            (shape.split_first(), strides.split_first())
        else {
            return fetch(source * self.element, out);
        };
        if Self::is_contiguous(shape, strides) {
            return fetch((source + range.start) * self.element, out);
        }
        let inner: u64 = inner_shape.iter().product();
        let (mut first, last) = (range.start / inner, range.end / inner);
        let (skip, rest) = (range.start % inner, range.end % inner);
        let row = |index: u64| source + index * stride;
        if first == last {
            return self.rows(dim + 1, row(first), skip..rest, out, fetch);
        }
        let mut out = out;
        if skip > 0 {
            let (head, tail) = split(out, (inner - skip) * self.element);
            self.rows(dim + 1, row(first), skip..inner, head, fetch)?;
            out = tail;
            first += 1;
        }
        let (body, tail) = split(out, (last - first) * inner * self.element);
        if first < last {
            let axes = self.axes(dim, last - first);
            self.read_box(&axes, row(first), 0, body, fetch)?;
        }
        self.rows(dim + 1, row(last), 0..rest, tail, fetch)
    }

    /// The dimensions from `dim` on, the first one cut to `len`.
    fn axes(&self, dim: usize, len: u64) -> Vec<Axis> {
        let mut target = 1;
        let mut axes = Vec::new();
        for (i, (&own, &source)) in self.shape.iter().zip(&self.strides).enumerate().rev() {
            if i < dim {
                break;
            }
            let len = if i == dim { len } else { own };
            if len > 1 {
                axes.push(Axis { len, source, target });
            }
            target *= len;
        }
        axes.reverse();
        axes
    }

    fn read_box(
        &self,
        axes: &[Axis],
        source: u64,
        target: u64,
        out: &mut [u8],
        fetch: Fetch<'_>,
    ) -> Result<(), Error> {
        let widest = axes.iter().enumerate().max_by_key(|(_, axis)| axis.source);
        let Some((widest, axis)) = widest else {
            return fetch(source * self.element, self.target(out, target, 1));
        };
        if let [Axis { len, source: 1, target: 1 }] = axes {
            return fetch(source * self.element, self.target(out, target, *len));
        }
        let without: Vec<Axis> = axes
            .iter()
            .enumerate()
            .filter_map(|(i, axis)| (i != widest).then_some(*axis))
            .collect();
        match self.group(&without, *axis) {
            None => {
                for i in 0..axis.len {
                    let (source, target) = (source + i * axis.source, target + i * axis.target);
                    self.read_box(&without, source, target, out, fetch)?;
                }
            }
            Some(group) => {
                let mut scratch = Vec::new();
                let mut i = 0;
                while i < axis.len {
                    let len = group.min(axis.len - i);
                    let mut part = axes.to_vec();
                    if let Some(axis) = part.get_mut(widest) {
                        axis.len = len;
                    }
                    let span = span(&without) + (len - 1) * axis.source;
                    scratch.resize(to_usize(span * self.element), 0);
                    fetch((source + i * axis.source) * self.element, &mut scratch)?;
                    let out = self.target(out, target + i * axis.target, 0);
                    scatter(&part, self.element, &scratch, out);
                    i += len;
                }
            }
        }
        Ok(())
    }

    /// How many steps along `axis` are read at once with their gaps; `None` where separate reads are cheaper.
    fn group(&self, without: &[Axis], axis: Axis) -> Option<u64> {
        let room = SCRATCH_BYTES / self.element;
        let left = room.checked_sub(span(without))?;
        let fits = left.checked_div(axis.source).unwrap_or(axis.len - 1) + 1;
        let group = fits.min(axis.len);
        let elements: u64 = without.iter().map(|axis| axis.len).product::<u64>() * group;
        let unit = without.iter().find(|axis| axis.source == 1);
        let run = match unit {
            Some(unit) => unit.len,
            None if axis.source == 1 => group,
            None => 1,
        };
        let bytes = (span(without) + (group - 1) * axis.source) * self.element;
        let separate = elements * self.element + elements / run * RUN_COST_BYTES;
        (bytes <= separate).then_some(group)
    }

    /// The output from element `target` on: `len` elements, or all that follow for 0.
    fn target<'a>(&self, out: &'a mut [u8], target: u64, len: u64) -> &'a mut [u8] {
        let (_, rest) = split(out, target * self.element);
        match len {
            0 => rest,
            len => split(rest, len * self.element).0,
        }
    }
}

fn span(axes: &[Axis]) -> u64 {
    axes.iter().map(|axis| (axis.len - 1) * axis.source).sum::<u64>() + 1
}

fn split(out: &mut [u8], at: u64) -> (&mut [u8], &mut [u8]) {
    let at = to_usize(at).min(out.len());
    out.split_at_mut(at)
}

/// Counts of bytes in memory fit; the largest value makes a slice operation fail instead of wrapping.
fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn scatter(axes: &[Axis], element: u64, scratch: &[u8], out: &mut [u8]) {
    match element {
        1 => scatter_elements::<1>(axes, 0, 0, scratch, out),
        2 => scatter_elements::<2>(axes, 0, 0, scratch, out),
        4 => scatter_elements::<4>(axes, 0, 0, scratch, out),
        8 => scatter_elements::<8>(axes, 0, 0, scratch, out),
        _ => scatter_elements::<16>(axes, 0, 0, scratch, out),
    }
}

fn scatter_elements<const N: usize>(
    axes: &[Axis],
    source: usize,
    target: usize,
    scratch: &[u8],
    out: &mut [u8],
) {
    let Some((axis, inner)) = axes.split_first() else {
        return;
    };
    let (from_step, to_step) = (to_usize(axis.source) * N, to_usize(axis.target) * N);
    let (mut from, mut to) = (source, target);
    for _ in 0..axis.len {
        if inner.is_empty() {
            let (value, place) = (scratch.get(from..from + N), out.get_mut(to..to + N));
            if let (Some(value), Some(place)) = (value, place) {
                place.copy_from_slice(value);
            }
        } else {
            scatter_elements::<N>(inner, from, to, scratch, out);
        }
        from += from_step;
        to += to_step;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// Element by element, straight from the definition.
    fn slow(view: &Strided, data: &[u8]) -> Vec<u8> {
        let count: u64 = view.shape.iter().product();
        let mut out = Vec::new();
        for index in 0..count {
            let (mut rest, mut at) = (index, view.first);
            for (&dim, &stride) in view.shape.iter().zip(&view.strides).rev() {
                at += rest % dim * stride;
                rest /= dim;
            }
            let from = to_usize(at * view.element);
            out.extend_from_slice(&data[from..from + to_usize(view.element)]);
        }
        out
    }

    fn painted(len: u64) -> Vec<u8> {
        (0..to_usize(len)).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    /// Reads `range` of the view and returns the number of fetches.
    #[track_caller]
    fn check(view: &Strided, data: &[u8], range: std::ops::Range<usize>) -> u32 {
        let fetches = Cell::new(0);
        let fetch = |offset: u64, buf: &mut [u8]| {
            fetches.set(fetches.get() + 1);
            let from = to_usize(offset);
            buf.copy_from_slice(&data[from..from + buf.len()]);
            Ok(())
        };
        let mut out = vec![0xee; range.len()];
        view.read(range.start as u64, &mut out, &fetch).expect("read");
        assert!(out == slow(view, data)[range], "{view:?}");
        fetches.get()
    }

    fn view(first: u64, shape: &[u64], strides: &[u64], element: u64) -> Strided {
        Strided { first, shape: shape.to_vec(), strides: strides.to_vec(), element }
    }

    #[test]
    fn transposes_are_read_in_few_fetches() {
        let data = painted(768 * 2304 * 2);
        let transposed = view(0, &[2304, 768], &[1, 2304], 2);
        let fetches = check(&transposed, &data, 0..data.len());
        assert!(fetches <= 8, "{fetches}");
        // One chunk in the middle, which begins and ends within a row and an element.
        check(&transposed, &data, 100_001..1_100_000);
    }

    #[test]
    fn columns_are_read_run_by_run_where_gaps_are_large() {
        let data = painted(64 * 8192 * 2);
        let narrow = view(100, &[64, 16], &[8192, 1], 2);
        assert_eq!(check(&narrow, &data, 0..64 * 16 * 2), 64);
        let wide = view(4096, &[64, 4096], &[8192, 1], 2);
        assert_eq!(check(&wide, &data, 0..64 * 4096 * 2), 64);
        let dense = view(10, &[64, 8000], &[8192, 1], 2);
        assert!(check(&dense, &data, 0..64 * 8000 * 2) <= 2);
    }

    proptest! {
        #[test]
        fn any_view_and_range(
            dims in prop::collection::vec((1..7_u64, 0..9_u64), 0..5),
            element in prop::sample::select(vec![1_u64, 2, 4, 8, 16]),
            first in 0..5_u64,
            ends in (0.0..1.0_f64, 0.0..1.0_f64),
        ) {
            let (shape, strides): (Vec<u64>, Vec<u64>) = dims.into_iter().unzip();
            let view = view(first, &shape, &strides, element);
            let span = Strided::span(&shape, &strides).expect("small");
            let data = painted((first + span) * element);
            let len = shape.iter().product::<u64>() * element;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "fractions of a small length")]
            let at = |fraction: f64| (fraction * len as f64) as usize;
            let (a, b) = (at(ends.0), at(ends.1));
            check(&view, &data, a.min(b)..a.max(b));
            check(&view, &data, 0..to_usize(len));
        }
    }

    #[test]
    fn contiguity() {
        for (shape, strides, expect) in [
            (&[2, 3][..], &[3, 1][..], true),
            (&[2, 3], &[1, 2], false),
            (&[1, 3], &[99, 1], true),
            (&[3, 1], &[1, 7], true),
            (&[0, 3], &[5, 5], true),
            (&[3], &[2], false),
            (&[], &[], true),
        ] {
            assert_eq!(Strided::is_contiguous(shape, strides), expect, "{shape:?}");
        }
        assert_eq!(Strided::span(&[3, 2], &[1 << 63, 1]), None);
    }
}
