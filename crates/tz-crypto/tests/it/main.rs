//! Everything that can be seen from outside: one binary.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where clippy.toml allows it, are tests")]

mod aead;
mod boundaries;
mod journal;
mod keys;
mod rewrap;
mod support;
mod tamper;
mod tamper_chunks;
mod tamper_metadata;
mod vectors;
mod writer;
