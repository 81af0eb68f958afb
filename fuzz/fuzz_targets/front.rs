//! `fuzz_harness::FRONT` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::FRONT.hold(data);
});
