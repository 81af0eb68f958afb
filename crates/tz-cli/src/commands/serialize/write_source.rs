//! A source as the writer wants it: specs, and bytes on demand. Owns [`WriteSource`].

use std::io;

use tz_format::{Element, TensorSpec};
use tz_io::TensorSource;

use crate::convert::Conversion;
use crate::error::Failure;
use crate::source::Source;

/// Bytes of elements that are cast at a time: they stay in cache.
const BLOCK: usize = 64 << 10;

/// The selected tensors of a source, cast where that was asked for. What is not cast keeps its byte order.
#[derive(Debug)]
pub(super) struct WriteSource<'a> {
    source: &'a Source,
    tensors: &'a [usize],
    specs: Vec<TensorSpec>,
    conversions: Vec<Conversion>,
}

impl<'a> WriteSource<'a> {
    pub(super) fn new(
        source: &'a Source,
        tensors: &'a [usize],
        dtype: Option<Element>,
    ) -> Result<Self, Failure> {
        let (mut specs, mut conversions) = (Vec::new(), Vec::new());
        for (row, &tensor) in source.rows(tensors).zip(tensors) {
            let conversion = match Conversion::new(row.dtype, dtype) {
                Conversion::Swap(_) => Conversion::Keep,
                other => other,
            };
            let module_index = match source {
                Source::Tensors(file) => file.header(tensor)?.module_index,
                Source::Checkpoint(..) => 0,
            };
            specs.push(TensorSpec {
                path: row.path.clone(),
                kind: row.kind,
                module_index,
                dtype: if conversion == Conversion::Keep {
                    row.dtype
                } else {
                    conversion.dtype(row.dtype)
                },
                shape: row.shape.to_vec(),
                // A scalar cannot be written as meta; its zeros can.
                meta: row.is_meta && !row.shape.is_empty(),
            });
            conversions.push(conversion);
        }
        Ok(Self { source, tensors, specs, conversions })
    }

    /// Bytes of data to write.
    pub(super) fn bytes(&self) -> u64 {
        let rows = self.source.rows(self.tensors).zip(&self.conversions);
        rows.map(|(row, conversion)| if row.is_meta { 0 } else { conversion.offset(row.byte_len) })
            .sum()
    }
}

impl TensorSource for WriteSource<'_> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = self.tensors.get(index).zip(self.conversions.get(index));
        let (&tensor, &conversion) = at.ok_or(io::ErrorKind::InvalidInput)?;
        let Conversion::Cast { from, to } = conversion else {
            return self.source.read_at(tensor, offset, buf);
        };
        let (from, to) = (from.size(), tz_format::Dtype::from(to).size());
        if !offset.is_multiple_of(to) || !(buf.len() as u64).is_multiple_of(to) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut at = offset / to * from;
        let mut block = Vec::new();
        for piece in buf.chunks_mut(BLOCK) {
            let len = piece.len() as u64 / to * from;
            block.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
            self.source.read_at(tensor, at, &mut block)?;
            conversion.apply(&block, piece);
            at += len;
        }
        Ok(())
    }
}
