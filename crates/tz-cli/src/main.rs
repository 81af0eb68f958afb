//! Command line of tz: parse, run, report, exit. Decides nothing itself.
#![forbid(unsafe_code)]

mod access;
mod args;
mod commands;
mod config;
mod convert;
mod error;
mod exit;
mod folders;
mod gpu;
mod job;
mod load;
mod output;
mod parallel;
mod process;
mod progress;
mod report;
mod signals;
mod source;
mod stdin;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;

use crate::args::Cli;
use crate::error::Failure;
use crate::exit::Exit;
use crate::job::{Session, Speech};
use crate::output::Output;
use crate::signals::Signals;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error).into(),
    };
    let start = Instant::now();
    let signals = Signals::install();
    let session = Session::new(&cli.output, &cli.access, signals.cancel());
    let speech =
        session.as_ref().map_or_else(|_| Speech::typed(&cli.output), |session| session.speech);
    let output = Output::new(speech);
    if let Ok(Session { deadline: Some(deadline), .. }) = &session {
        signals.end_after(*deadline, start, output);
    }
    let result =
        session.and_then(|session| commands::run(cli.command, &session)).and_then(|report| {
            output.report(&report).map_err(Failure::stdout)?;
            Ok(report.exit())
        });
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => signals.exit().unwrap_or_else(|| output.failure(&failure)),
    };
    exit.into()
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
