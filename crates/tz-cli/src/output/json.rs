//! Reports as JSON, one object on one line. The shapes are those of `report.rs`.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::Failure;
use crate::report::Report;

pub(super) fn report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    out.write_all(b"\n")
}

/// The one key of an object that tells of a failure.
#[derive(Serialize)]
struct Failed<'a> {
    error: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    /// The exit code.
    code: u8,
    message: &'a str,
    location: Option<&'a str>,
}

pub(super) fn failure(out: &mut dyn Write, failure: &Failure) -> io::Result<()> {
    let Failure { exit, message, location, .. } = failure;
    let error = Told { code: exit.code(), message, location: location.as_deref() };
    serde_json::to_writer(&mut *out, &Failed { error })?;
    out.write_all(b"\n")
}
