//! Which bytes of the checkpoint one of vLLM's tensors is, for one rank. Owns [`Slicer`], which reads a table's row, and
//! [`Part`], which reads the bytes.

use tz_format::{Dtype, TensorKind, TensorSpec};

use super::proof::Proven;
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::family::{Axis, ModelConfig, Row, Size};
use crate::strided::Strided;

/// A piece of a tensor; the pieces follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Elements of one of the checkpoint's tensors.
    Copy { tensor: usize, view: Strided, byte_len: u64 },
    /// Rows of the vocabulary that no token has.
    Zeros { byte_len: u64 },
}

impl Part {
    pub(super) fn byte_len(&self) -> u64 {
        match self {
            Self::Copy { byte_len, .. } | Self::Zeros { byte_len } => *byte_len,
        }
    }

    pub(super) fn read(
        &self,
        checkpoint: &Checkpoint,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), Error> {
        match self {
            Self::Zeros { .. } => {
                buf.fill(0);
                Ok(())
            }
            Self::Copy { tensor, view, .. } => {
                view.read(offset, buf, &|from, buf| checkpoint.read_at(*tensor, from, buf))
            }
        }
    }
}

/// A range of one dimension.
#[derive(Debug, Clone, Copy)]
struct Slice {
    from: u64,
    len: u64,
    /// Elements of zeros behind it.
    padding: u64,
}

/// Cuts rows of the tables for one rank. The checkpoint was proven to have the shapes that the configuration gives, and
/// every division to leave no remainder, so no sum here can overflow.
#[derive(Debug)]
pub(super) struct Slicer<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) proven: &'a Proven,
    pub(super) dtype: Dtype,
    pub(super) degree: u64,
    pub(super) rank: u64,
}

impl Slicer<'_> {
    /// vLLM's tensors of a row: its weight and its bias, as far as the configuration has them.
    pub(super) fn tensors(&self, row: &Row, layer: u64) -> Vec<(TensorSpec, Vec<Part>)> {
        let mut tensors = Vec::new();
        if self.config.has(row.weight) {
            tensors.push(self.tensor(row, layer, "weight", row.input));
        }
        if self.config.has(row.bias) {
            tensors.push(self.tensor(row, layer, "bias", None));
        }
        tensors
    }

    fn tensor(
        &self,
        row: &Row,
        layer: u64,
        kind: &str,
        input: Option<Axis>,
    ) -> (TensorSpec, Vec<Part>) {
        let named = |name: &str| format!("{}.{kind}", name.replace("{}", &layer.to_string()));
        let element = self.dtype.size();
        let columns = input.map(|axis| self.slice(axis));
        let width = input.map_or(1, |axis| self.config.size(axis.size()));
        let columns_len = columns.map_or(1, |slice| slice.len);
        let mut rows = 0;
        let mut parts = Vec::new();
        for source in row.sources {
            let sizes = source.pieces.iter().map(|piece| self.config.size(piece.size()));
            let height: u64 = sizes.sum();
            let mut start = 0;
            for &piece in source.pieces {
                let slice = self.slice(piece);
                let (from, first_column) = (start + slice.from, columns.map_or(0, |c| c.from));
                let (first, strides) = if row.transposed && input.is_some() {
                    (first_column * height + from, vec![1, height])
                } else {
                    (from * width + first_column, vec![width, 1])
                };
                let mut view =
                    Strided { first, shape: vec![slice.len, columns_len], strides, element };
                if input.is_none() {
                    view.shape.truncate(1);
                    view.strides = vec![1];
                }
                let byte_len = slice.len * columns_len * element;
                // Every source of every row was looked for in the proof.
                if let Some(tensor) = self.proven.find(&named(source.name)) {
                    parts.push(Part::Copy { tensor, view, byte_len });
                }
                if slice.padding > 0 {
                    parts.push(Part::Zeros { byte_len: slice.padding * columns_len * element });
                }
                rows += slice.len + slice.padding;
                start += self.config.size(piece.size());
            }
        }
        let mut shape = vec![rows];
        shape.extend(columns.map(|slice| slice.len));
        let mut spec = TensorSpec::new(named(row.target), self.dtype, shape);
        spec.kind = TensorKind::Parameter;
        (spec, parts)
    }

    /// The part of a dimension that this rank has.
    fn slice(&self, axis: Axis) -> Slice {
        let (ranks, rank) = (self.degree, self.rank);
        let whole = self.config.size(axis.size());
        let plain = |from, len| Slice { from, len, padding: 0 };
        match axis {
            Axis::Whole(_) => plain(0, whole),
            Axis::Split(Size::Vocab) => {
                // Padded first, then divided: the zeros are the last rank's, or the last few ranks'.
                let per_rank = self.config.padded_vocab() / ranks;
                let from = (rank * per_rank).min(whole);
                let len = ((rank + 1) * per_rank).min(whole) - from;
                Slice { from, len, padding: per_rank - len }
            }
            Axis::Split(Size::KeyValue) if self.config.kv_heads < ranks => {
                // Several neighbouring ranks have the same head.
                let head = rank / (ranks / self.config.kv_heads);
                plain(head * self.config.head_dim, self.config.head_dim)
            }
            Axis::Split(_) => plain(rank * (whole / ranks), whole / ranks),
        }
    }
}
