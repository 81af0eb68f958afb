//! `fuzz_harness::MANIFEST` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::MANIFEST.hold(data);
});
