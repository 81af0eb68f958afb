//! One binary of every test that goes through the public API.

mod agreement;
mod examples;
mod files;
mod fixtures;
mod hostile;
mod limits;
mod manifest;
mod promises;
mod reference;
mod round_trip;
mod step;
