//! Remote reads, uploads and copies against servers on 127.0.0.1.

mod child;
mod model;
mod server;

mod cancel;
mod changed;
mod clouds;
mod concurrency;
mod copies;
mod credentials;
mod edges;
mod faults;
mod killed;
mod lies;
mod many_loads;
mod memory;
mod one_percent;
mod origins;
mod proxies;
mod requests;
mod rewrap;
mod secrets;
mod tls;
mod untrue_reads;
mod upload;
mod upload_faults;
