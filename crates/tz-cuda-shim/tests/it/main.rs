//! The shim against a driver in host memory, against none, and its list against `cust`'s sources.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod drivers;
mod generated;
