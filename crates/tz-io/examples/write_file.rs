//! Writes tensors that are in memory, with a word about the model, to a file that appears whole or not at all.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use tz_format::{Element, TensorSpec};
use tz_io::{Location, MemorySource, WriteOptions, write};

// `pub(crate)`, because the test `examples_run` calls it too.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    // Bytes as they are in memory, little-endian. Large models implement `TensorSource` instead, which is asked for
    // pieces and need not hold anything.
    let embedding = vec![0_u8; 16 * 8 * 2];
    let bias: Vec<u8> = [0.5_f32, -1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut source = MemorySource::new();
    source.push(TensorSpec::new("embed.weight", Element::Bfloat16, vec![16, 8]), &embedding)?;
    source.push(TensorSpec::new("head.bias", Element::Float32, vec![2]), &bias)?;

    let mut options = WriteOptions::default();
    options.blake3 = true; // digests in the front, where they are seen without reading the data
    options.user_metadata = Some([("run".to_owned(), "7f3a".into())].into_iter().collect());

    let location = Location::File(folder.path().join("model.tensors")); // or Location::parse("s3://…")
    let stats = write(&source, &location, &options)?;
    println!("{stats:?}");
    Ok(())
}
