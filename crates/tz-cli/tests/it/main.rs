//! Tests of the binary, as a user runs it.

mod case;
mod commands;
mod fixtures;
mod help;
mod interruptions;
mod keys;
mod lora;
mod made;
mod memory;
mod rewrap;
mod run;
mod s3;
mod vllm;
