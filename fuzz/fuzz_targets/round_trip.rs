//! `fuzz_harness::ROUND_TRIP` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::ROUND_TRIP.hold(data);
});
