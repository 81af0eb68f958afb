//! `cargo xtask gpu-test`: builds everything that a GPU machine without Rust needs, packed as one file that travels with
//! the checkout, and says how to run it there. With `--run` it runs it here.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::report::{mebibytes, table};
use crate::workspace;

/// Most bytes of checkout and packed kit together: 64 MiB may travel to a machine on loan, and names of files count too.
const MAX_BYTES: u64 = 60 << 20;

/// Most seconds that the steps may be expected to take together, and after which none starts.
const MAX_SECONDS: u64 = 440;

/// Python packages that the kit measures against or that those need, without what such machines have: PyTorch, NumPy,
/// safetensors, and everything in the list of the device tool's `KINDS.md`.
const WHEELS: &[&str] = &[
    "boto3",
    "botocore",
    "hiredis",
    "jmespath",
    "libnacl",
    "redis",
    "s3transfer",
    "tensorizer==2.12.1",
];

/// Python of the machines seen so far.
const PYTHON: &str = "312";

/// What the kit holds of `crates/tz-gpu/tests/gpu/kit`.
const SCRIPTS: &[&str] = &["run.py", "dlpack_check.py", "compare.py"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the Python packages of the comparison out
    #[arg(long)]
    no_wheels: bool,
    /// Print sizes, steps and limits; build and run nothing. The size of the kit is that of the last one built
    #[arg(long)]
    dry_run: bool,
    /// Run the kit here, on this machine's GPU; arguments for it follow, for example `--run --only facts bus`
    #[arg(long, value_name = "ARGUMENT", num_args = 0.., allow_hyphen_values = true)]
    run: Option<Vec<OsString>>,
    /// Run the short form of the kit here, on a driver in host memory
    #[arg(long, conflicts_with_all = ["run", "dry_run"])]
    fake: bool,
}

/// Builds the kit; runs it if that is asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    print_plan()?;
    let kit = workspace::target()?.join("gpu-kit");
    if args.dry_run {
        return check_size(&kit.with_extension("tar.xz"));
    }
    if kit.exists() {
        std::fs::remove_dir_all(&kit).with_context(|| kit.display().to_string())?;
    }
    std::fs::create_dir_all(&kit).with_context(|| kit.display().to_string())?;

    println!("Building the suite, the measurements, the C interface and tz-cli.");
    // One set of features, so that nothing is compiled twice.
    let features = "--features=cuda,testing,capi";
    let tests = ["test", "--release", "--no-run", "-p", "tz-gpu", "--test=gpu", "--bench=copy"];
    let example = ["build", "--release", "-p", "tz-gpu", "--example=dlpack"];
    let mut built = build(&tests, &[features])?;
    built.extend(build(&example, &[features])?);
    built.extend(build(&["build", "--release", "-p", "tz-cli"], &[])?);
    for (target, name) in
        [("gpu", "gpu"), ("copy", "copy"), ("dlpack", "libdlpack.so"), ("tz-cli", "tz-cli")]
    {
        let found = built.iter().find(|artifact| artifact.target == target);
        let path = found.with_context(|| format!("cargo built no {target}"))?;
        copy(&path.file, &kit.join(name))?;
    }
    for name in SCRIPTS {
        copy(&sources().join(name), &kit.join(name))?;
    }
    if !args.no_wheels {
        wheels(&kit.join("wheels"))?;
    }

    let packed = pack(&kit)?;
    check_size(&packed)?;
    if args.fake {
        return run_fake(&packed);
    }
    if let Some(arguments) = &args.run {
        return run_here(&packed, arguments, &[]);
    }
    println!(
        "On a GPU machine, in the checkout: python3 -m tarfile -e {} /tmp && python3 /tmp/gpu-kit/run.py OUT; docs/GPU.md \
         explains the figures.",
        packed.display()
    );
    Ok(())
}

fn sources() -> PathBuf {
    workspace::root().join("crates/tz-gpu/tests/gpu/kit")
}

/// Prints the steps of the kit, as the kit itself lists them, and checks that they fit the time of a machine on loan.
fn print_plan() -> Result<()> {
    #[derive(Deserialize)]
    struct Plan {
        start_limit_s: u64,
        expected_s: u64,
        steps: Vec<Step>,
    }
    #[derive(Deserialize)]
    struct Step {
        step: String,
        limit_s: u64,
        expected_s: u64,
    }
    let output = Command::new("python3")
        .arg(sources().join("run.py"))
        .arg("--plan")
        .output()
        .context("starting python3")?;
    if !output.status.success() {
        bail!("run.py --plan: {}", String::from_utf8_lossy(&output.stderr));
    }
    let plan: Plan = serde_json::from_slice(&output.stdout).context("the plan of run.py")?;
    let mut rows = table(&["step", "limit, s", "expected, s"]);
    for step in &plan.steps {
        rows.add_row([&step.step, &step.limit_s.to_string(), &step.expected_s.to_string()]);
    }
    println!("{rows}");
    println!(
        "Expected {} s in all, of {MAX_SECONDS}; no step starts after {} s.",
        plan.expected_s, plan.start_limit_s
    );
    if plan.expected_s > MAX_SECONDS || plan.start_limit_s > MAX_SECONDS {
        bail!("the steps of the kit take longer than {MAX_SECONDS} s");
    }
    Ok(())
}

/// Checks that checkout and kit can travel together.
fn check_size(packed: &Path) -> Result<()> {
    let tree = workspace::travelling_bytes()?;
    let kit = packed.metadata().map(|meta| meta.len()).unwrap_or(0);
    println!("Checkout {}, kit {}, of {}.", mebibytes(tree), mebibytes(kit), mebibytes(MAX_BYTES));
    if tree + kit > MAX_BYTES {
        bail!(
            "checkout and kit are too large to travel together: leave the Python packages out with --no-wheels"
        );
    }
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

/// Runs the short form on the fake driver of `tz-cuda-shim`.
fn run_fake(packed: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the driver")?;
    let driver = folder.path().join("libfake.so");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&driver);
    compiler.arg(workspace::root().join("crates/tz-cuda-shim/src/testing/fake_driver.c"));
    succeeded(&mut compiler)?;
    // Device and pinned memory for the model of the short form and for everything that is measured with it.
    let bytes = (4_u64 << 30).to_string();
    run_here(
        packed,
        // However busy this machine is: only a machine on loan has limits to keep.
        &["--short".into(), "--limits".into(), "20".into()],
        &[
            ("TZ_CUDA_DRIVER", driver.as_os_str()),
            ("FAKE_CUDA_MEMORY", bytes.as_ref()),
            ("FAKE_CUDA_PINNED", bytes.as_ref()),
        ],
    )
}

/// Unpacks the kit as a GPU machine does, and runs it.
fn run_here(packed: &Path, arguments: &[OsString], environment: &[(&str, &OsStr)]) -> Result<()> {
    let folder = tempfile::tempdir().context("a folder to unpack into")?;
    succeeded(
        Command::new("python3").args(["-m", "tarfile", "-e"]).arg(packed).arg(folder.path()),
    )?;
    let mut kit = Command::new("python3");
    kit.arg(folder.path().join("gpu-kit/run.py"))
        .arg(folder.path().join("out"))
        .arg("--dir")
        .arg(folder.path());
    succeeded(kit.args(arguments).envs(environment.iter().copied()).current_dir(workspace::root()))
}

fn succeeded(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Runs the kit with these programs instead of ours; gives whether it succeeded, and what it published.
    fn run_with(programs: &[(&str, &str)], arguments: &[&str]) -> (bool, serde_json::Value, usize) {
        let kit = tempfile::tempdir().unwrap();
        for name in SCRIPTS {
            copy(&sources().join(name), &kit.path().join(name)).unwrap();
        }
        for (name, script) in programs {
            let path = kit.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let out = kit.path().join("out");
        let status = Command::new("python3")
            .arg(kit.path().join("run.py"))
            .arg(&out)
            .arg("--dir")
            .arg(kit.path())
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        let summary = std::fs::read(out.join("summary.json")).unwrap();
        let files = std::fs::read_dir(&out).unwrap().count();
        (status.success(), serde_json::from_slice(&summary).unwrap(), files)
    }

    const BUS: &str = r#"echo '{"what": "pinned", "copy_mib": 2, "streams": 2, "gb_s": 50.0}'"#;

    #[test]
    fn a_step_beyond_its_limit_is_ended_and_the_next_one_runs() {
        let programs =
            [("copy", "sleep 100000 & wait"), ("gpu", "echo '74 GPU tests ran, 0 failed'")];
        let (succeeded, summary, _) =
            run_with(&programs, &["--only", "bus", "suite", "--limits", "0.1"]);
        assert!(!succeeded);
        let states = |at: usize| (&summary["steps"][at]["step"], &summary["steps"][at]["state"]);
        assert_eq!(states(0), (&"bus".into(), &"FAILED".into()));
        assert_eq!(states(1), (&"suite".into(), &"passed".into()));
    }

    #[test]
    fn a_step_that_fails_does_not_lose_the_figures_of_others() {
        let programs = [("copy", BUS), ("gpu", "echo 'FAILED something'; exit 1")];
        let (succeeded, summary, files) = run_with(&programs, &["--only", "bus", "suite"]);
        assert!(!succeeded);
        assert_eq!(summary["figures"]["pinned, best"], 50.0);
        assert!(files <= 8, "{files} files come back from a machine on loan");
    }

    #[test]
    fn the_steps_fit_the_time_of_a_machine_on_loan() {
        print_plan().unwrap();
    }
}
