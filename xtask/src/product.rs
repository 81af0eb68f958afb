//! `tz-cli`, the product, as xtask sees it: built once, run as a user would run it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::sys::{self, Finished};
use crate::workspace;

/// A built `tz-cli`.
#[derive(Debug)]
pub(crate) struct Product {
    exe: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Product {
    /// Builds the release binary, saying so: the first build takes minutes. The variable `TZ_CLI`
    /// names one to use instead, for example an older release.
    pub(crate) fn build() -> Result<Self> {
        if let Some(exe) = std::env::var_os("TZ_CLI").map(PathBuf::from) {
            eprintln!("using {}", exe.display());
            return Ok(Self { exe, environment: Vec::new() });
        }
        eprintln!("$ cargo build --release -p tz-cli");
        let status = workspace::cargo()
            .args(["build", "--release", "-p", "tz-cli"])
            .status()
            .context("starting cargo build")?;
        if !status.success() {
            bail!("tz-cli does not build");
        }
        let exe = workspace::target()?.join("release/tz-cli");
        Ok(Self { exe, environment: Vec::new() })
    }

    /// The same binary run with these variables, which lead it to a server.
    pub(crate) fn with_environment(&self, environment: Vec<(&'static str, String)>) -> Self {
        Self { exe: self.exe.clone(), environment }
    }

    /// Runs it with these arguments and an empty standard input, whatever the outcome.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Finished> {
        self.run_with(arguments, Stdio::null())
    }

    /// Runs it with a file as standard input.
    pub(crate) fn run_on<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: &Path,
    ) -> Result<Finished> {
        let file = File::open(input).with_context(|| input.display().to_string())?;
        self.run_with(arguments, file.into())
    }

    fn run_with<S: AsRef<OsStr>>(&self, arguments: &[S], input: Stdio) -> Result<Finished> {
        sys::run_measured(self.command(arguments).stdin(input))
    }

    /// The command, for who wants to start it without waiting for its end.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it and takes its standard output as JSON; anything but exit 0 is an error.
    pub(crate) fn json<T: DeserializeOwned, S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<T> {
        parse(self.run(arguments)?, arguments)
    }
}

/// The command that makes a synthetic checkpoint of about this size.
pub(crate) fn synth(size: u64, checkpoint: &Path) -> [&OsStr; 4] {
    let preset = match size >> 20 {
        0..100 => "mixtral-tiny",
        100..380 => "opt-125m",
        380..700 => "gpt2",
        700..1500 => "qwen2-0.5b",
        1500..8000 => "llama-1b",
        _ => "llama-8b",
    };
    ["synth".as_ref(), checkpoint.as_os_str(), "--preset".as_ref(), preset.as_ref()]
}

/// The JSON on the standard output of a run that must have succeeded.
pub(crate) fn parse<T: DeserializeOwned, S: AsRef<OsStr>>(
    finished: Finished,
    arguments: &[S],
) -> Result<T> {
    let finished = succeeded(finished, arguments)?;
    serde_json::from_str(&finished.stdout)
        .with_context(|| format!("{}: unexpected JSON", line(arguments)))
}

/// The run, if it exited with 0; otherwise an error with its words.
pub(crate) fn succeeded<S: AsRef<OsStr>>(finished: Finished, arguments: &[S]) -> Result<Finished> {
    if finished.status.success() {
        return Ok(finished);
    }
    bail!("{}: {}: {}", line(arguments), finished.status, finished.stderr.trim())
}

/// The command as a user would type it, for messages.
pub(crate) fn line<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let mut line = String::from("tz-cli");
    for argument in arguments {
        line.push(' ');
        line.push_str(&argument.as_ref().to_string_lossy());
    }
    line
}

/// What `inspect --json` prints, as far as the checks need it.
#[derive(Debug, Deserialize)]
pub(crate) struct Inspection {
    pub(crate) version: u32,
    pub(crate) tensor_count: u64,
    pub(crate) tensors: Vec<InspectedTensor>,
}

/// One row of the tensor table.
#[derive(Debug, Deserialize)]
pub(crate) struct InspectedTensor {
    pub(crate) path: Vec<Value>,
    pub(crate) kind: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) data_offset: u64,
    pub(crate) data_bytes: u64,
}

/// What `checksum --json` prints.
#[derive(Debug, Deserialize)]
pub(crate) struct Checksums {
    pub(crate) tensors: Vec<Checksum>,
}

/// One tensor's digest.
#[derive(Debug, Deserialize)]
pub(crate) struct Checksum {
    pub(crate) path: Vec<Value>,
    pub(crate) name: String,
    pub(crate) digest: String,
}

/// What `verify --json` prints, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(crate) struct Verification {
    pub(crate) failures: Vec<Failure>,
}

/// One tensor that failed.
#[derive(Debug, Deserialize)]
pub(crate) struct Failure {
    pub(crate) name: String,
}

/// What `deserialize --json` and `serialize --json` print, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(crate) struct Transfer {
    /// Bytes of the tensors.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Whether a load let tensors pass through bounded memory instead of keeping them.
    #[serde(default)]
    pub(crate) streamed: bool,
}
