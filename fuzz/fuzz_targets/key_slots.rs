//! `fuzz_harness::KEY_SLOTS` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::KEY_SLOTS.hold(data);
});
