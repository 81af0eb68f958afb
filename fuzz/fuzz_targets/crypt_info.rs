//! `fuzz_harness::CRYPT_INFO` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::CRYPT_INFO.hold(data);
});
