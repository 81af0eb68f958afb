//! `fuzz_harness::ADAPTER` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::ADAPTER.hold(data);
});
