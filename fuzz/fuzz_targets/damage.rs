//! `fuzz_harness::DAMAGE` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::DAMAGE.hold(data);
});
