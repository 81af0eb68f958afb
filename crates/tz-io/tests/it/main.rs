//! One binary of every test that goes through the public API.
