//! `fuzz_harness::HTTP_ANSWER` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::HTTP_ANSWER.hold(data);
});
