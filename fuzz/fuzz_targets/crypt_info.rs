//! Any bytes as the crypt block of an otherwise valid header; the first chooses the flavour.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((flavour, block)) = data.split_first() else { return };
    let flavour = 1 + flavour % 3;
    let (_, _, valid) = tz_fuzz::header(flavour);
    // Name, dtype and one dimension of four bytes, then an empty hash list.
    let (before, after) = (&valid[..8 + 2 + 1 + 4 + 4 + 5 + 3], &valid[valid.len() - 8..]);
    tz_fuzz::decode_header(flavour, [before, block, after].concat());
});
