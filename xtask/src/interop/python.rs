//! The Python environment with the reference package, in the user's cache folder.
//!
//! Its folder is named after the digest of the pinned requirements, so every checkout with the same
//! pins shares it. A marker file, written last, says that it is whole; a folder lock keeps two
//! runs from making it at once.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::sys::{self, Finished};
use crate::workspace;

/// The newest reference, and what the environment itself is made of.
const REQUIREMENTS: &str = "xtask/interop/requirements.txt";
/// The older reference, in a folder of its own that scripts put first on their path.
const OLDER: (&str, &str) = ("tensorizer-2.10.1", "xtask/interop/requirements-2.10.1.txt");
/// Other loaders, for benchmarks alone: likewise.
const PEERS: (&str, &str) = ("peers", "xtask/interop/requirements-peers.txt");
const MARKER: &str = ".tz-complete";

/// A complete environment.
#[derive(Debug)]
pub(crate) struct Python {
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Python {
    /// Opens the environment; makes it if the cache has none (5 GB, once).
    pub(crate) fn ready() -> Result<Self> {
        let pins = fs::read(workspace::root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
        let digest = Sha256::digest(&pins);
        let key: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let cache = workspace::cache()?;
        fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        let folder = cache.join(format!("interop-{key}"));
        let python = Self { folder, environment: Vec::new() };

        let _lock = python.lock()?;
        if !python.folder.join(MARKER).exists() {
            if !python.works() {
                python.make()?;
            }
            fs::write(python.folder.join(MARKER), &pins).context("marking the environment")?;
        }
        python.add(OLDER)?;
        Ok(python)
    }

    /// Adds the other loaders that `timing.py` can time.
    pub(crate) fn add_peers(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.add(PEERS)
    }

    /// Held while the environment is changed.
    fn lock(&self) -> Result<File> {
        let lock = File::create(self.folder.with_extension("lock"))?;
        lock.lock().context("waiting for another run that makes the environment")?;
        Ok(lock)
    }

    /// The same environment with these variables, which lead its scripts to a server.
    pub(crate) fn with_environment(&self, environment: Vec<(&'static str, String)>) -> Self {
        Self { folder: self.folder.clone(), environment }
    }

    /// Runs one of the scripts beside this xtask, whatever the outcome.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, script: &str, arguments: &[S]) -> Result<Finished> {
        let mut command = self.interpreter();
        command.arg(workspace::root().join("xtask/interop").join(script));
        command.args(arguments).stdin(Stdio::null());
        sys::run_measured(&mut command)
    }

    /// Runs a script that must succeed and takes its standard output as JSON.
    pub(crate) fn json<T: DeserializeOwned, S: AsRef<OsStr>>(
        &self,
        script: &str,
        arguments: &[S],
    ) -> Result<T> {
        let finished = self.run(script, arguments)?;
        if !finished.status.success() {
            bail!("{script}: {}: {}", finished.status, finished.stderr.trim());
        }
        serde_json::from_str(&finished.stdout).with_context(|| format!("{script}: bad JSON"))
    }

    /// `-B`: no bytecode folders in the checkout. The variable that would lead Python to other
    /// packages is dropped.
    pub(crate) fn interpreter(&self) -> Command {
        let mut command = Command::new(self.folder.join("bin/python"));
        command.arg("-B").env_remove("PYTHONPATH");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn works(&self) -> bool {
        let mut command = self.interpreter();
        command.args(["-c", "import torch, tensorizer, safetensors"]);
        sys::run_measured(&mut command).is_ok_and(|finished| finished.status.success())
    }

    fn make(&self) -> Result<()> {
        if self.folder.exists() {
            eprintln!("{}: incomplete, made anew", self.folder.display());
            fs::remove_dir_all(&self.folder)?;
        }
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        step(Command::new(python).args(["-m", "venv"]).arg(&self.folder))
            .context("needs Python 3.11 or newer with venv (Debian: python3-venv)")?;
        step(self.pip().arg("-r").arg(workspace::root().join(REQUIREMENTS)))?;
        if !self.works() {
            bail!("{}: its packages do not import", self.folder.display());
        }
        Ok(())
    }

    /// Installs beside the final folder and renames: either it is whole or it is not there.
    fn add(&self, (name, requirements): (&str, &str)) -> Result<()> {
        let folder = self.folder.join(name);
        if folder.exists() {
            return Ok(());
        }
        let partial = self.folder.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        let requirements = workspace::root().join(requirements);
        let mut pip = self.pip();
        step(pip.args(["--no-deps", "--target"]).arg(&partial).arg("-r").arg(requirements))?;
        fs::rename(&partial, &folder).with_context(|| folder.display().to_string())
    }

    fn pip(&self) -> Command {
        let mut command = self.interpreter();
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        command
    }
}

/// Runs one visible step of making the environment.
fn step(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| shown(command))?;
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| Path::new(word).display().to_string()).collect::<Vec<_>>().join(" ")
}
