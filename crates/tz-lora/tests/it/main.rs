//! One binary: refusals, round trips, what is published and when, loading.

mod loading;
mod publishing;
mod refusals;
mod round_trip;
mod support;
