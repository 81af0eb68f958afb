//! Says results and failures: data on standard output, words on standard error. Owns [`Output`].

mod human;
mod json;

use std::io::{self, Write};

use crate::error::Failure;
use crate::exit::Exit;
use crate::job::Speech;
use crate::report::Report;

/// Where and how to speak.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    speech: Speech,
}

impl Output {
    pub(crate) fn new(speech: Speech) -> Self {
        Self { speech }
    }

    /// Prints a result.
    pub(crate) fn report(self, report: &Report) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        match report {
            Report::Text(text) => out.write_all(text.as_bytes())?,
            _ if self.speech.json => json::report(&mut out, report)?,
            _ => human::report(&mut out, report)?,
        }
        out.flush()?;
        if let Some(words) = human::summary(report, self.speech.verbose)
            && !self.speech.quiet
            && !self.speech.json
        {
            say(&words);
        }
        Ok(())
    }

    /// Prints a failure, and gives the exit that it asks for.
    pub(crate) fn failure(self, failure: &Failure) -> Exit {
        if failure.exit == Exit::Done {
            return Exit::Done;
        }
        say(&human::failure(failure));
        if self.speech.json {
            // Words are out; if nobody takes the JSON, the exit code still tells.
            let _ = json::failure(&mut io::stdout().lock(), failure);
        }
        failure.exit
    }
}

/// A command line that cannot be parsed, or a call for help.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    // Help goes to standard output, where a reader may have had enough of it.
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let failure = Failure::usage(first.strip_prefix("error: ").unwrap_or(first));
        let _ = json::failure(&mut io::stdout().lock(), &failure);
    }
    Exit::Usage
}

/// Words for a person. Nobody may be listening, which is no reason to fail.
pub(crate) fn say(words: &str) {
    let _ = writeln!(io::stderr().lock(), "{words}");
}
