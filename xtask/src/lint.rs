//! `cargo xtask lint`: what no compiler reads: workflows, the Dockerfile and Kubernetes objects of the examples. The
//! linters come from PyPI into a folder of the user's cache that is named after their pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::workspace;

const REQUIREMENTS: &str = "xtask/lint/requirements.txt";
/// Written last: the environment is whole.
const MARKER: &str = ".tz-complete";

/// A linter, its arguments, and folders whose files with this ending it reads.
struct Linter {
    program: &'static str,
    arguments: &'static [&'static str],
    folders: &'static [&'static str],
    ending: &'static str,
}

const LINTERS: &[Linter] = &[
    Linter {
        program: "yamllint",
        arguments: &["--strict", "--config-file", "xtask/lint/yamllint.yml"],
        folders: &[".github/workflows", "docs/examples", "docs/examples/kubernetes"],
        ending: "ml",
    },
    Linter {
        program: "check-jsonschema",
        arguments: &["--builtin-schema", "vendor.github-workflows"],
        folders: &[".github/workflows", "docs/examples"],
        ending: ".yml",
    },
    Linter {
        program: "kubernetes-validate",
        arguments: &["--strict", "--quiet"],
        folders: &["docs/examples/kubernetes"],
        ending: ".yaml",
    },
    Linter {
        program: "hadolint",
        arguments: &[],
        folders: &["docs/examples"],
        ending: "Dockerfile",
    },
];

/// Runs every linter on every file of its kind; a linter without a file is an error.
pub(crate) fn run() -> Result<()> {
    let programs = environment()?.join("bin");
    let mut failed = Vec::new();
    for linter in LINTERS {
        let files = linter.files(workspace::root())?;
        if files.is_empty() {
            bail!("{}: no file ends in {}", linter.program, linter.ending);
        }
        let mut command = Command::new(programs.join(linter.program));
        command.args(linter.arguments).args(&files).current_dir(workspace::root());
        let status = command.status().context(linter.program)?;
        println!("{}: {} files, {status}", linter.program, files.len());
        if !status.success() {
            failed.push(linter.program);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{} found faults", failed.join(", ")) }
}

impl Linter {
    /// The files in the folders themselves, in order of name.
    fn files(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for folder in self.folders {
            let entries = fs::read_dir(root.join(folder)).with_context(|| (*folder).to_owned())?;
            for entry in entries {
                let name = entry?.file_name();
                if name.to_string_lossy().ends_with(self.ending) {
                    files.push(Path::new(folder).join(name));
                }
            }
        }
        files.sort();
        Ok(files)
    }
}

/// The Python environment with the linters; made if the cache has none.
fn environment() -> Result<PathBuf> {
    let pins = fs::read(workspace::root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let digest = Sha256::digest(&pins);
    let key: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let cache = workspace::cache()?;
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let folder = cache.join(format!("lint-{key}"));
    let lock = fs::File::create(folder.with_extension("lock"))?;
    lock.lock().context("waiting for another run that makes the environment")?;
    if !folder.join(MARKER).exists() {
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        succeed(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder))?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
        succeed(pip.arg(workspace::root().join(REQUIREMENTS)))?;
        fs::write(folder.join(MARKER), &pins)?;
    }
    Ok(folder)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?}: {status}", command.get_program());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_examples_has_a_reader() {
        let root = workspace::root();
        let read: Vec<PathBuf> = LINTERS
            .iter()
            .flat_map(|linter| linter.files(root).expect("folders"))
            // A test of tz-cli runs the scripts; Docker alone reads what it leaves out.
            .chain(
                ["publish.sh", "fetch.sh", "Dockerfile.dockerignore"]
                    .map(|name| Path::new("docs/examples").join(name)),
            )
            .collect();
        for folder in ["docs/examples", "docs/examples/kubernetes", ".github/workflows"] {
            for entry in fs::read_dir(root.join(folder)).expect("folder") {
                let entry = entry.expect("entry");
                let path = Path::new(folder).join(entry.file_name());
                let is_folder = entry.file_type().expect("type").is_dir();
                assert!(is_folder || read.contains(&path), "nothing reads {}", path.display());
            }
        }
    }
}
