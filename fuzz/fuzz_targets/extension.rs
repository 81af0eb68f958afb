//! `fuzz_harness::EXTENSION` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::EXTENSION.hold(data);
});
