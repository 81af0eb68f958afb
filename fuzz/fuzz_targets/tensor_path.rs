//! `fuzz_harness::TENSOR_PATH` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::TENSOR_PATH.hold(data);
});
