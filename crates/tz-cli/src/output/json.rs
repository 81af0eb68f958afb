//! Reports as JSON, one object on one line. The shapes are those of `report.rs`.

use std::io::{self, Write};

use serde_json::json;

use crate::error::Failure;
use crate::report::Report;

pub(super) fn report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    out.write_all(b"\n")
}

pub(super) fn failure(out: &mut dyn Write, failure: &Failure) -> io::Result<()> {
    let Failure { exit, message, location, .. } = failure;
    let error =
        json!({ "error": { "code": exit.code(), "message": message, "location": location } });
    serde_json::to_writer(&mut *out, &error)?;
    out.write_all(b"\n")
}
