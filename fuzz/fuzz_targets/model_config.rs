//! `fuzz_harness::MODEL_CONFIG` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::MODEL_CONFIG.hold(data);
});
