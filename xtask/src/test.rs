//! `cargo xtask test`: runs the tests, with `--busy` where they are slow: next to busy loops, then on one core. A test
//! whose verdict depends on speed or on the order of threads fails there.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::report::table;
use crate::workspace;

/// Busy loops of `--busy`: twice as many as our smallest machine has cores.
const LOOPS: usize = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run the tests next to four busy loops, then once more on one core
    #[arg(long)]
    busy: bool,
    /// Run only the tests whose name contains this; may be repeated
    #[arg(long, value_name = "FILTER")]
    only: Vec<String>,
    /// Repeat everything so many times, also after a failure
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Test only this package; may be repeated
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// Test only this integration test of the packages, for example `remote`; may be repeated
    #[arg(long, value_name = "TARGET")]
    test: Vec<String>,
}

/// Where a run takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Surroundings {
    Quiet,
    BusyLoops,
    OneCore,
}

impl Surroundings {
    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "undisturbed",
            Self::BusyLoops => "next to busy loops",
            Self::OneCore => "on one core",
        }
    }
}

/// Runs the tests as often as asked for; fails if any run did, or if a filter names no test.
pub(crate) fn run(args: &Args) -> Result<()> {
    // Compiled first, so that a run takes the time of its tests.
    let mut build = args.cargo_test(workspace::cargo());
    let status = build.arg("--no-run").status().context("starting cargo test")?;
    if !status.success() {
        bail!("cargo test --no-run: {status}");
    }
    let places: &[Surroundings] = match args.busy {
        true => &[Surroundings::BusyLoops, Surroundings::OneCore],
        false => &[Surroundings::Quiet],
    };
    let mut summary = Summary::default();
    let rounds = 1..=args.times;
    for (round, place) in rounds.flat_map(|round| places.iter().map(move |place| (round, *place))) {
        eprintln!("\n== round {round} of {}, {}", args.times, place.name());
        let start = Instant::now();
        let outcome = args.run_once(place)?;
        summary.add(round, place, start.elapsed().as_secs_f64(), outcome);
    }
    summary.finish(&args.only)
}

impl Args {
    /// `cargo test` of what was asked for, by this cargo.
    fn cargo_test(&self, mut command: Command) -> Command {
        command.args(["test", "--all-features"]);
        if self.package.is_empty() {
            command.arg("--workspace");
        }
        for package in &self.package {
            command.args(["--package", package]);
        }
        for target in &self.test {
            command.args(["--test", target]);
        }
        if self.test.is_empty() && !self.only.is_empty() {
            // Filters are for names of functions, which doctests lack; rustdoc takes long to find that out.
            command.arg("--tests");
        }
        command
    }

    fn run_once(&self, place: Surroundings) -> Result<Outcome> {
        let cargo = match place {
            Surroundings::OneCore => on_one_core(&workspace::cargo())?,
            _ => workspace::cargo(),
        };
        let _loops = (place == Surroundings::BusyLoops).then(|| BusyLoops::start(LOOPS));
        let mut command = self.cargo_test(cargo);
        command.arg("--no-fail-fast").arg("--").args(&self.only);
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo test")?;
        let mut outcome = Outcome::default();
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout);
            let mut line = Vec::new();
            // What a test prints need not be text.
            while lines.read_until(b'\n', &mut line).context("reading from cargo test")? > 0 {
                let text = String::from_utf8_lossy(&line);
                if outcome.take(text.trim_end()) {
                    print!("{text}");
                }
                line.clear();
            }
        }
        outcome.succeeded = child.wait().context("waiting for cargo test")?.success();
        Ok(outcome)
    }
}

/// The same command with everything that it starts on the first core that this process may use.
fn on_one_core(command: &Command) -> Result<Command> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let core = first_core(&status).context("no Cpus_allowed_list in /proc/self/status")?;
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", core]).arg(command.get_program()).args(command.get_args());
    pinned.current_dir(workspace::root());
    Ok(pinned)
}

/// The first of the cores in `/proc/PID/status`.
fn first_core(status: &str) -> Option<&str> {
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    cores.trim().split([',', '-']).next().filter(|core| !core.is_empty())
}

/// Threads that keep cores busy until this is dropped. Threads cannot outlive the command, whatever ends it.
#[derive(Debug)]
struct BusyLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyLoops {
    fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut work = 1_u64;
                while !stop.load(Ordering::Relaxed) {
                    work = black_box(work.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            })
        };
        let threads = (0..count).map(spin).collect();
        Self { stop, threads }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // The loops cannot panic.
            let _ = thread.join();
        }
    }
}

/// What one run of the tests said.
#[derive(Debug, Default)]
struct Outcome {
    succeeded: bool,
    passed: Vec<String>,
    failed: Vec<String>,
}

impl Outcome {
    /// Notes a line of the tests' output; says whether a person wants to see it.
    fn take(&mut self, line: &str) -> bool {
        let verdict = line.strip_prefix("test ").and_then(|test| test.rsplit_once(" ... "));
        match verdict {
            Some((name, "ok")) => {
                self.passed.push(name.to_owned());
                false
            }
            Some((name, "FAILED")) => {
                self.failed.push(name.to_owned());
                true
            }
            _ => {
                let noise = ["running ", "test result: ok"];
                !line.is_empty() && !noise.iter().any(|start| line.starts_with(start))
            }
        }
    }
}

/// All runs.
#[derive(Debug, Default)]
struct Summary {
    rows: Vec<[String; 5]>,
    runs: usize,
    failed_runs: usize,
    /// How often each test failed.
    failures: BTreeMap<String, usize>,
    names: Vec<String>,
}

impl Summary {
    fn add(&mut self, round: u32, place: Surroundings, seconds: f64, outcome: Outcome) {
        let Outcome { succeeded, passed, failed } = outcome;
        let verdict = if succeeded { "passed" } else { "FAILED" };
        let tests = (passed.len() + failed.len()).to_string();
        let round = round.to_string();
        let row = [round, place.name().to_owned(), tests, verdict.to_owned()];
        eprintln!("{}, {}: {} tests {verdict}, {seconds:.0} s", row[0], row[1], row[2]);
        let [round, place, tests, verdict] = row;
        self.rows.push([round, place, tests, verdict, format!("{seconds:.0}")]);
        self.runs += 1;
        self.failed_runs += usize::from(!succeeded);
        for name in &failed {
            *self.failures.entry(name.clone()).or_default() += 1;
        }
        self.names.extend(passed.into_iter().chain(failed));
    }

    /// Prints the runs, then the tests that failed.
    fn finish(self, filters: &[String]) -> Result<()> {
        let mut runs = table(&["round", "where", "tests", "verdict", "seconds"]);
        for row in &self.rows {
            runs.add_row(row);
        }
        println!("{runs}");
        for (name, times) in &self.failures {
            println!("failed in {times} of {} runs: {name}", self.runs);
        }
        if self.failed_runs > 0 {
            bail!("{} of {} runs failed", self.failed_runs, self.runs);
        }
        let ran = |filter: &&String| self.names.iter().any(|name| name.contains(&***filter));
        if let Some(unknown) = filters.iter().find(|filter| !ran(filter)) {
            bail!("no test has {unknown:?} in its name");
        }
        if self.names.is_empty() {
            bail!("no test ran");
        }
        println!("{0} of {0} runs passed", self.runs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> (Outcome, Vec<String>) {
        let mut outcome = Outcome { succeeded: true, ..Outcome::default() };
        let shown = lines.iter().filter(|line| outcome.take(line)).map(|line| (*line).to_owned());
        let shown = shown.collect();
        (outcome, shown)
    }

    #[test]
    fn busy_loops_end_with_what_started_them() {
        let loops = BusyLoops::start(3);
        let shared = Arc::clone(&loops.stop);
        assert_eq!(Arc::strong_count(&shared), 2 + 3);
        drop(loops);
        assert_eq!(Arc::strong_count(&shared), 1, "every thread has ended");
    }

    #[test]
    fn only_failures_are_shown() {
        let lines = [
            "",
            "running 3 tests",
            "test a::good ... ok",
            "test b - should panic ... ok",
            "test a::bad ... FAILED",
            "failures:",
            "thread 'a::bad' panicked at tests/a.rs:1:1:",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored",
            "test result: ok. 9 passed; 0 failed",
        ];
        let (outcome, shown) = outcome(&lines);
        assert_eq!(outcome.passed, ["a::good", "b - should panic"]);
        assert_eq!(outcome.failed, ["a::bad"]);
        assert_eq!(shown, &lines[4..8]);
    }

    #[test]
    fn one_failed_run_of_many_fails_and_so_does_a_filter_without_a_test() {
        let good = || outcome(&["test a::good ... ok"]).0;
        let bad = || Outcome { succeeded: false, ..Outcome::default() };
        for (outcomes, filters, passes) in [
            (vec![good(), good()], &["good"][..], true),
            (vec![good(), bad()], &[], false),
            (vec![good()], &["good", "other"], false),
            (vec![outcome(&[]).0], &[], false),
            (vec![], &[], false),
        ] {
            let mut summary = Summary::default();
            let what = format!("{outcomes:?} {filters:?}");
            for outcome in outcomes {
                summary.add(1, Surroundings::Quiet, 0.0, outcome);
            }
            let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
            assert_eq!(summary.finish(&filters).is_ok(), passes, "{what}");
        }
    }

    #[test]
    fn the_first_core_is_one_that_may_be_used() {
        for (list, first) in [("0-1", Some("0")), ("3", Some("3")), ("2,5-7", Some("2"))] {
            let status = format!("Name:\txtask\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n");
            assert_eq!(first_core(&status), first);
        }
        assert_eq!(first_core("Name:\txtask\n"), None);
    }
}
