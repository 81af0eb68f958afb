//! `fuzz_harness::READ` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::READ.hold(data);
});
