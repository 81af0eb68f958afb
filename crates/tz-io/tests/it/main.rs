//! One binary of every test that goes through the public API.

mod model;

mod budget;
mod conformance;
mod encrypted;
mod examples;
mod faults;
mod foreign;
mod hostile;
mod io_pattern;
mod round_trip;
mod shared_budget;
mod verify;
mod write;
mod write_contents;
