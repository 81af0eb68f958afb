//! `cargo xtask ci`: the ordered list that continuous integration runs, quickest first, each step
//! with its time. `.ci/run` calls it after the tests of the README.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::report::table;
use crate::workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave a step out, for example because it has just run; may be repeated
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
}

/// One step: its name for `--skip`, the program, its arguments, and a variable for its environment.
struct Step {
    name: &'static str,
    command: &'static [&'static str],
    environment: Option<(&'static str, &'static str)>,
}

const fn step(name: &'static str, command: &'static [&'static str]) -> Step {
    Step { name, command, environment: None }
}

/// nextest where it is installed: faster, but blind to doctests, which are a part of the same step.
const TESTS_NEXTEST: &[Step] = &[
    step("test", &["cargo", "nextest", "run", "--workspace", "--all-features"]),
    step("test", &["cargo", "test", "--workspace", "--all-features", "--doc"]),
];
const TESTS_CARGO: &[Step] = &[step("test", &["cargo", "test", "--workspace", "--all-features"])];

const BEFORE_TESTS: &[Step] = &[
    step("fmt", &["cargo", "fmt", "--all", "--check"]),
    step("layers", &["xtask", "layers"]),
    step("tidy", &["xtask", "tidy"]),
    step("lint", &["xtask", "lint"]),
    step(
        "clippy",
        &[
            "cargo",
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ],
    ),
    // What only GPU machines run is compiled by no other step.
    step(
        "clippy-gpu",
        &[
            "cargo",
            "clippy",
            "-p",
            "tz-gpu",
            "--all-features",
            "--test",
            "gpu",
            "--bench",
            "copy",
            "--",
            "-D",
            "warnings",
        ],
    ),
];

const PACKAGE: &str =
    r#"t=${CARGO_TARGET_DIR:-target}; .ci/package "$t/release/tz-cli" local "$t/dist""#;

const AFTER_TESTS: &[Step] = &[
    // The tests with the most threads and timers, on a machine that is slow on purpose.
    step("busy", &["xtask", "test", "--busy", "--package", "tz-io", "--test", "remote"]),
    // Each row of each criterion bench once, with what the tests have built; nothing is measured. The bench `copy` of
    // tz-gpu needs a device.
    step(
        "benches",
        &[
            "cargo",
            "test",
            "--workspace",
            "--all-features",
            "--bench",
            "codec",
            "--bench",
            "hash",
            "--bench",
            "chunk",
            "--bench",
            "plan",
        ],
    ),
    Step {
        name: "doc",
        command: &[
            "cargo",
            "doc",
            "--workspace",
            "--all-features",
            "--no-deps",
            "--document-private-items",
        ],
        environment: Some(("RUSTDOCFLAGS", "-D warnings")),
    },
    step("no-default-features", &["cargo", "check", "--workspace", "--no-default-features"]),
    step("fixtures", &["xtask", "fixtures", "--check"]),
    step("roundtrip", &["xtask", "roundtrip"]),
    // Packs what `roundtrip` has built, as a release does.
    step("package", &["sh", "-c", PACKAGE]),
    // The kit for GPU machines, on the fake driver.
    step("gpu-kit", &["xtask", "gpu-test", "--fake", "--no-wheels"]),
    // What a registry would be sent, in the order it would be sent in; the code has been built already.
    step(
        "publish",
        &["cargo", "publish", "--workspace", "--dry-run", "--no-verify", "--allow-dirty"],
    ),
    step("candle", &["xtask", "candle"]),
    step("interop", &["xtask", "interop"]),
    step("unchanged", &["git", "diff", "--exit-code"]),
];

/// Runs the steps until one fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let tests = if has_nextest() { TESTS_NEXTEST } else { TESTS_CARGO };
    let steps = || BEFORE_TESTS.iter().chain(tests).chain(AFTER_TESTS);
    if let Some(unknown) = args.skip.iter().find(|name| steps().all(|step| step.name != **name)) {
        let names: Vec<_> = steps().map(|step| step.name).collect();
        bail!("no step {unknown}; there are {}", names.join(", "));
    }
    let mut times = table(&["step", "seconds"]);
    for step in steps().filter(|step| !args.skip.iter().any(|name| name == step.name)) {
        eprintln!("\n== {}: {}", step.name, step.command.join(" "));
        let start = Instant::now();
        let result = run_step(step);
        times.add_row([step.name, &format!("{:.1}", start.elapsed().as_secs_f64())]);
        if let Err(error) = result {
            println!("{times}");
            return Err(error.context(step.name));
        }
    }
    println!("{times}\nci: every step passed");
    Ok(())
}

fn run_step(step: &Step) -> Result<()> {
    let (program, arguments) = step.command.split_first().context("an empty step")?;
    let mut command = match *program {
        "cargo" => workspace::cargo(),
        "xtask" => Command::new(std::env::current_exe().context("this program")?),
        other => Command::new(other),
    };
    command.args(arguments).envs(step.environment).current_dir(workspace::root());
    let status = command.status().with_context(|| step.command.join(" "))?;
    if !status.success() {
        bail!("{}: {status}", step.command.join(" "));
    }
    Ok(())
}

fn has_nextest() -> bool {
    let mut command = workspace::cargo();
    command.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bench_that_needs_no_device_is_run() {
        let metadata = workspace::metadata(&["--no-deps"]).unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
        let targets = metadata["packages"].as_array().unwrap().iter();
        let targets = targets.flat_map(|package| package["targets"].as_array().unwrap());
        let benches = targets.filter(|target| target["kind"][0] == "bench");
        let mut benches: BTreeSet<&str> =
            benches.map(|bench| bench["name"].as_str().unwrap()).collect();
        assert!(benches.remove("copy"), "the bench of tz-gpu");

        let step = AFTER_TESTS.iter().find(|step| step.name == "benches").unwrap();
        let run = step.command.windows(2).filter(|words| words[0] == "--bench");
        assert_eq!(run.map(|words| words[1]).collect::<BTreeSet<_>>(), benches);
    }
}
