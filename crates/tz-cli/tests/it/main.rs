//! Tests of the binary, as a user runs it.

mod case;
mod commands;
mod crash;
mod deploy;
mod fixtures;
#[cfg(feature = "cuda")]
mod gpu;
mod help;
#[cfg(feature = "hub")]
mod hub;
mod interruptions;
mod keys;
mod lora;
mod made;
mod memory;
mod readme;
mod rewrap;
mod run;
mod s3;
mod vllm;
mod waits;
