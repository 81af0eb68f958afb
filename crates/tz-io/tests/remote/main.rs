//! Remote reads, uploads and copies against servers on 127.0.0.1.

mod model;
mod server;

mod changed;
mod faults;
mod one_percent;
mod requests;
