//! `fuzz_harness::SHARD_INDEX` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::SHARD_INDEX.hold(data);
});
