//! Reads one tensor of a file: two small reads, however large the model.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use tz_format::{Element, Limits, TensorSpec};
use tz_io::{Location, MemorySource, ReadOptions, TensorFile, WriteOptions, write};

// `pub(crate)`, because the test `examples_run` calls it too.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let location = Location::File(folder.path().join("model.tensors")); // or Location::parse("https://…")
    let data: Vec<u8> = (0..6_u16).flat_map(u16::to_le_bytes).collect();
    let mut source = MemorySource::new();
    source.push(TensorSpec::new("layers.0.weight", Element::Int16, vec![2, 3]), &data)?;
    source.push(TensorSpec::new("layers.1.weight", Element::Uint8, vec![4]), &[1, 2, 3, 4])?;
    write(&source, &location, &WriteOptions::default())?;

    // Opening reads the front: names, dtypes, shapes, places.
    let file = TensorFile::open(&location, &Limits::default())?;
    let tensor = file.load_one("layers.0.weight", &ReadOptions::default())?;
    let entry = tensor.entry();
    println!("{} {} {:?}", entry.path, entry.dtype, entry.shape);
    assert_eq!(tensor.bytes(), data);

    // A slice of one, without the rest: row 1 of the 2 × 3 above.
    let position = file.position("layers.0.weight").ok_or("no such tensor")?;
    let mut row = [0; 6];
    file.read_at(position, 6, &mut row)?;
    assert_eq!(data.get(6..), Some(&row[..]));
    Ok(())
}
