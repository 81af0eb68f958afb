//! One binary: Hugging Face ids against a hub on 127.0.0.1.

mod cached;
mod downloads;
mod environment;
mod faults;
mod lies;
mod refusals;
mod reply;
mod server;
mod support;
