//! Any bytes as an extension block of a file of as many tensors as the first byte says.
#![no_main]
use tz_format::testing::{decode_extension, encode_extension};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&tensors, block)) = data.split_first() else { return };
    let Ok(mut extension) = decode_extension(block, tensors.into()) else { return };
    extension.unknown.clear();
    let again = decode_extension(&encode_extension(&extension), tensors.into());
    assert_eq!(again, Ok(extension));
});
