//! Goes through every tensor of a model in memory that does not grow with it: 8 MiB of tensors through 1 MiB.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use tz_format::{Element, Limits, TensorSpec};
use tz_io::{
    HeapPool, Location, MemorySource, Piece, ReadOptions, Selection, TensorFile, WriteOptions,
    write,
};

const MIB: usize = 1 << 20;

// `pub(crate)`, because the test `examples_run` calls it too.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let location = Location::File(folder.path().join("model.tensors"));
    let data = vec![1_u8; 8 * MIB];
    let mut source = MemorySource::new();
    source.push(TensorSpec::new("weight", Element::Uint8, vec![8, MIB as u64]), &data)?;
    write(&source, &location, &WriteOptions::default())?;

    let file = TensorFile::open(&location, &Limits::default())?;
    // The pool is the limit. A piece that is kept keeps its buffer, and readers wait: that is the backpressure.
    let pool = HeapPool::new(MIB / 4, 4)?;
    let sum = AtomicU64::new(0);
    let consume = |piece: Piece| {
        for (part, bytes) in piece.parts() {
            // `part.tensor` and `part.offset` say where these bytes belong: a device, another file, a hash.
            let ones: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
            sum.fetch_add(ones, Ordering::Relaxed);
            assert_eq!(part.tensor, 0);
        }
        Ok(())
    };
    // Hashes are checked on the way; what was consumed counts only once this returns.
    let stats = file.stream(&Selection::all(), &ReadOptions::default(), &pool, &consume)?;
    assert_eq!(sum.into_inner(), data.len() as u64);
    println!("{stats:?}");
    Ok(())
}
