//! Painted inputs and boundary sizes that the tests of several crates share. Feature `testing`.

use crate::wire::{Reader, Writer};
use crate::{
    Element, Extension, FormatError, Front, Layout, LayoutOptions, Limits, TensorEntry,
    TensorHeader, TensorSpec,
};

/// Lengths around a chunk of 1,024 bytes and a page of 4,096: where off-by-one errors live.
pub const CASES: &[u64] =
    &[0, 1, 63, 64, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 10_000];

/// `len` bytes of which byte *i* is *i* mod 251, so that a shifted or swapped range shows.
#[must_use]
pub fn paint(len: u64) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect()
}

/// Specs of one `uint8` tensor per entry of [`CASES`], named `t0`, `t1`, ….
#[must_use]
pub fn specs() -> Vec<TensorSpec> {
    let spec =
        |(i, &len): (usize, &u64)| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![len]);
    CASES.iter().enumerate().map(spec).collect()
}

/// A small plain file of three painted tensors with zeroed hashes: for decoders, not for verification.
///
/// # Panics
/// Never: the specs are valid.
#[must_use]
pub fn file() -> Vec<u8> {
    let specs = specs().into_iter().take(3).collect();
    build(specs, LayoutOptions { alignment: 64, ..LayoutOptions::default() })
}

/// Encodes `specs` with painted data and zeroed hashes.
///
/// # Panics
/// Where the specs cannot be written: a test that passes such specs is wrong.
#[must_use]
pub fn build(specs: Vec<TensorSpec>, options: LayoutOptions) -> Vec<u8> {
    let layout = Layout::plan(specs, options).expect("writable specs");
    let mut file = layout.encode_front(&layout.options().extension).expect("planned extension");
    for (i, entry) in layout.entries().iter().enumerate() {
        let header =
            layout.encode_header(i, &layout.zero_hashes(), layout.crypt_template(i).as_ref());
        file.extend(header.expect("planned header"));
        file.extend(paint(entry.data_len));
    }
    file.extend([0; 8]);
    file
}

/// The front's bytes, written again from what was decoded: equal to the file's where its writer spelled every field
/// as this crate does and left zeros after the last entry.
#[must_use]
pub fn encode_front(front: &Front) -> Vec<u8> {
    let mut w = Writer::default();
    front.header.write(&mut w);
    for entry in &front.entries {
        entry.write(&mut w, front.header.flags);
    }
    w.bytes(&front.extension.to_wire());
    w.pad_to(usize::try_from(front.header.front_len()).unwrap_or(usize::MAX));
    w.into_bytes()
}

/// The header's bytes, written again from what was decoded.
///
/// # Errors
/// Where this crate spells name or dtype longer than the file's writer did, so that the header has no room for it.
pub fn encode_header(header: &TensorHeader, entry: &TensorEntry) -> Result<Vec<u8>, FormatError> {
    TensorHeader::encode(entry, header.module_index, &header.hashes, header.crypt.as_ref())
}

/// An extension block by itself.
#[must_use]
pub fn encode_extension(extension: &Extension) -> Vec<u8> {
    extension.to_wire()
}

/// Decodes an extension block by itself, as of a file of `tensors` tensors.
///
/// # Errors
/// As [`crate::FrontDecoder::step`].
pub fn decode_extension(bytes: &[u8], tensors: usize) -> Result<Extension, FormatError> {
    Extension::read(Reader::new(bytes, 0), tensors, &Limits::default())
        .map(|(extension, _)| extension)
}
