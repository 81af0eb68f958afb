//! Any bytes as the header of a known tensor; the first chooses plain, encrypted or sealed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((flavour, bytes)) = data.split_first() {
        tz_fuzz::decode_header(*flavour, bytes.to_vec());
    }
});
