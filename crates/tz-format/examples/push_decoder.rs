//! Decodes a file that arrives in pieces of any size, with the sans-I/O decoder driven by hand: no files, no threads,
//! no `tz-io`. Works the same in a browser, on a socket, in an asynchronous task.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use tz_format::{
    Element, FrontDecoder, Layout, LayoutOptions, Limits, Step, TensorHash, TensorHeader,
    TensorSpec,
};

/// A file of one tensor, as a server would send it.
fn file() -> Result<Vec<u8>, Box<dyn Error>> {
    let specs = vec![TensorSpec::new("bias", Element::Float32, vec![2])];
    let layout = Layout::plan(specs, LayoutOptions::default())?;
    let data: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let entry = layout.entries().first().ok_or("one tensor")?;
    // The hash covers the header with zeros in its place, then the data.
    let blank = layout.encode_header(0, &layout.zero_hashes(), None)?;
    let hash = TensorHash::Crc32(crc32fast::hash(&[&*blank, &data].concat()));
    let mut bytes = layout.encode_front(&layout.options().extension)?;
    bytes.resize(usize::try_from(entry.header_offset)?, 0);
    bytes.extend(layout.encode_header(0, &[hash], None)?);
    bytes.extend(data);
    Ok(bytes)
}

// `pub(crate)`, because the test `examples_run` calls it too.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let file = file()?;
    let mut pieces = file.chunks(100);
    let mut received = Vec::new();
    let mut receive = |until: u64| -> Result<Vec<u8>, Box<dyn Error>> {
        while (received.len() as u64) < until {
            received.extend(pieces.next().ok_or("the file ends early")?);
        }
        Ok(received.clone())
    };

    // The decoder says how much it needs; how that comes is our business.
    let decoder = FrontDecoder::new(Limits::default());
    let mut prefix = Vec::new();
    let front = loop {
        match decoder.step(&prefix)? {
            Step::Need(range) => prefix = receive(range.end)?,
            Step::Done(front) => break front,
        }
    };
    for entry in &front.entries {
        let bytes = receive(entry.data_end())?;
        let (start, middle) = (entry.header_offset, entry.data_offset);
        let header =
            bytes.get(usize::try_from(start)?..usize::try_from(middle)?).ok_or("header")?;
        let data = bytes.get(usize::try_from(middle)?..).ok_or("data")?;
        let data = data.get(..usize::try_from(entry.data_len)?).ok_or("data")?;
        let decoded = TensorHeader::decode(header, entry, front.header.flags)?;
        let hash = crc32fast::hash(&[&*decoded.hashed_bytes(header), data].concat());
        assert_eq!(decoded.hashes, [TensorHash::Crc32(hash)]);
        println!(
            "{} {} {:?}: {} bytes, verified",
            entry.path,
            entry.dtype,
            entry.shape,
            data.len()
        );
    }
    Ok(())
}
