//! `cargo xtask gpu-test`: builds everything that a GPU machine without Rust needs, as one folder and packed as one
//! file, and says how to run it there. With `--run` it runs it here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::report::mebibytes;
use crate::workspace;

/// Most bytes of the packed kit: a checkout that travels to a machine on loan may have 64 MiB, and sources and fixtures
/// take some 17 of them.
const MAX_BYTES: u64 = 46 << 20;

/// Python packages that the kit measures against or that those need, without what such machines have (PyTorch, NumPy,
/// safetensors).
const WHEELS: &[&str] = &[
    "boto3",
    "botocore",
    "hiredis",
    "jmespath",
    "libnacl",
    "protobuf",
    "psutil",
    "python-dateutil",
    "redis",
    "s3transfer",
    "six",
    "tensorizer==2.12.1",
    "urllib3",
];

/// Python of the machines seen so far.
const PYTHON: &str = "312";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the Python packages of the comparison out
    #[arg(long)]
    no_wheels: bool,
    /// Run the kit here, all of it or these stages: facts, suite, dlpack, sanitizer, cli, bus, model, warm, disk
    #[arg(long, value_name = "STAGE", num_args = 0.., value_delimiter = ',')]
    run: Option<Vec<String>>,
}

/// Builds the kit; runs it if that is asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    let kit = workspace::target()?.join("gpu-kit");
    if kit.exists() {
        std::fs::remove_dir_all(&kit).with_context(|| kit.display().to_string())?;
    }
    std::fs::create_dir_all(&kit).with_context(|| kit.display().to_string())?;

    println!("Building the suite, the measurements, the C interface, tz-cli and xtask.");
    // One set of features, so that nothing is compiled twice.
    let features = "--features=cuda,testing,capi";
    let tests = ["test", "--release", "--no-run", "-p", "tz-gpu", "--test=gpu", "--bench=copy"];
    let example = ["build", "--release", "-p", "tz-gpu", "--example=dlpack"];
    let product = ["build", "--release", "-p", "tz-cli", "-p", "xtask"];
    let mut built = build(&tests, &[features])?;
    built.extend(build(&example, &[features])?);
    built.extend(build(&product, &[])?);
    for (target, name) in [
        ("gpu", "gpu"),
        ("copy", "copy"),
        ("dlpack", "libdlpack.so"),
        ("tz-cli", "tz-cli"),
        ("xtask", "xtask"),
    ] {
        let found = built.iter().find(|artifact| artifact.target == target);
        let path = found.with_context(|| format!("cargo built no {target}"))?;
        copy(&path.file, &kit.join(name))?;
    }
    let sources = workspace::root().join("crates/tz-gpu/tests/gpu/kit");
    for name in ["run.sh", "dlpack_check.py", "compare.py"] {
        copy(&sources.join(name), &kit.join(name))?;
    }
    for folder in ["valid", "foreign", "sealed"] {
        copy_files(
            &workspace::root().join("fixtures").join(folder),
            &kit.join("fixtures").join(folder),
        )?;
    }
    if !args.no_wheels {
        wheels(&kit.join("wheels"))?;
    }

    if let Some(stages) = &args.run {
        return run_here(&kit, stages);
    }
    let packed = pack(&kit)?;
    let bytes = packed.metadata().with_context(|| packed.display().to_string())?.len();
    println!(
        "{} holds {}, packed {} of {}.",
        kit.display(),
        mebibytes(size(&kit)?),
        mebibytes(bytes),
        mebibytes(MAX_BYTES)
    );
    if bytes > MAX_BYTES {
        bail!("the kit is too large to carry: leave the Python packages out with --no-wheels");
    }
    println!(
        "On a GPU machine: python3 -m tarfile -e {} /tmp && /tmp/gpu-kit/run.sh OUT; docs/GPU.md says what comes of it.",
        packed.display()
    );
    Ok(())
}

/// Packs the folder as a file beside it, for Python's `tarfile`, which every machine that runs the kit has.
fn pack(kit: &Path) -> Result<PathBuf> {
    let packed = kit.with_extension("tar.xz");
    let (Some(folder), Some(name)) = (kit.parent(), kit.file_name()) else {
        bail!("{} is no folder", kit.display());
    };
    let mut tar = Command::new("tar");
    tar.arg("-cJf").arg(&packed).arg("-C").arg(folder).arg(name);
    let status = tar.status().context("starting tar")?;
    if !status.success() {
        bail!("tar: {status}");
    }
    Ok(packed)
}

/// Something that cargo built.
struct Artifact {
    target: String,
    file: PathBuf,
}

/// Runs cargo and gives its executables and shared libraries.
fn build(arguments: &[&str], more: &[&str]) -> Result<Vec<Artifact>> {
    #[derive(Deserialize)]
    struct Message {
        target: Option<Target>,
        #[serde(default)]
        filenames: Vec<PathBuf>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let output = workspace::cargo()
        .args(arguments)
        .args(more)
        .arg("--message-format=json-render-diagnostics")
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), output.status);
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages")?;
    let mut built = Vec::new();
    for line in text.lines() {
        let message: Message = serde_json::from_str(line).context("cargo's messages")?;
        let library = |path: &&PathBuf| path.extension().is_some_and(|end| end == "so");
        let file = message.executable.or_else(|| message.filenames.iter().find(library).cloned());
        if let (Some(target), Some(file)) = (message.target, file) {
            built.push(Artifact { target: target.name, file });
        }
    }
    Ok(built)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// Copies the files of a folder, not the folders in it.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Fetches packages as the GPU machine's Python takes them.
fn wheels(folder: &Path) -> Result<()> {
    println!("Fetching the Python packages that the kit compares with.");
    let status = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--python-version", PYTHON])
        .args(["--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"])
        .arg("--dest")
        .arg(folder)
        .args(WHEELS)
        .status()
        .context("starting pip")?;
    if !status.success() {
        bail!("pip download: {status}; without the packages: --no-wheels");
    }
    Ok(())
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            size(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}

fn run_here(kit: &Path, stages: &[String]) -> Result<()> {
    let out = kit.with_file_name("gpu-report");
    let status = Command::new(kit.join("run.sh"))
        .arg(&out)
        .args(stages)
        .status()
        .context("starting run.sh")?;
    if !status.success() {
        bail!("run.sh: {status}");
    }
    Ok(())
}
