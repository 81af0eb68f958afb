//! `fuzz_harness::SAFETENSORS` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::SAFETENSORS.hold(data);
});
