//! `fuzz_harness::TORCH` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::TORCH.hold(data);
});
