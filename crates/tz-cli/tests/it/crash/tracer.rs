//! The binary under `tracer.c`: its steps, and an end at one of them. Owns [`traced`] and [`Step`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::run::{Ran, command, finish};

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing: the run goes to its end.
    None,
    /// The process ends by SIGKILL before step N.
    Kill(usize),
    /// Step N gives this error instead.
    Fail(usize, i32),
}

/// A system call that changes files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// `create`, `reserve`, `truncate`, `chmod`, `write`, `sync`, `rename`, `link`, `mkdir` or `remove`.
    pub(super) name: String,
    /// `done`, `failed`, or `instead`: the event came in its place.
    pub(super) outcome: String,
    pub(super) path: PathBuf,
    /// The new name of a rename.
    pub(super) to: Option<PathBuf>,
}

/// A run with its steps.
#[derive(Debug)]
pub(super) struct Traced {
    pub(super) ran: Ran,
    pub(super) steps: Vec<Step>,
}

impl Traced {
    /// The step in whose place the event came, if the run got there.
    pub(super) fn instead(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.outcome == "instead")
    }
}

/// Compiled once: whoever builds Rust has a C compiler, because it links.
static TRACER: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crash/tracer.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tracer");
    // Another process of tests may be running the old one.
    let fresh = program.with_extension(std::process::id().to_string());
    let mut cc = Command::new("cc");
    let compiled = cc.args(["-O1", "-Wall", "-Werror", "-o"]).arg(&fresh).arg(source).output();
    let compiled = compiled.expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::rename(&fresh, &program).expect("rename");
    program
});

/// Runs `line` in `folder` on one thread of work, with `event` at a step below `watched`, which must be absolute.
pub(super) fn traced(folder: &Path, watched: &Path, line: &str, event: Event) -> Traced {
    let log = folder.join("steps.log");
    let (step, effect) = match event {
        Event::None => (0, "kill".to_owned()),
        Event::Kill(step) => (step, "kill".to_owned()),
        Event::Fail(step, errno) => (step, errno.to_string()),
    };
    let program = command(folder);
    let mut tracer = Command::new(&*TRACER);
    tracer.current_dir(folder).args([&log, watched]).args([step.to_string(), effect]);
    tracer.arg(program.get_program()).args(line.split_whitespace());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => tracer.env(name, value),
            None => tracer.env_remove(name),
        };
    }
    tracer.env("TZ_LIMIT_CPU_CONCURRENCY", "1").env("TZ_NUM_READERS", "1");
    tracer.stdin(std::process::Stdio::null());
    let ran = finish(&mut tracer);
    assert_ne!(ran.code, 125, "{}", ran.stderr);
    let log = std::fs::read_to_string(log).expect("the log");
    Traced { ran, steps: log.lines().map(step_of).collect() }
}

fn step_of(line: &str) -> Step {
    let mut fields = line.split_whitespace().map(str::to_owned);
    let mut field = || fields.next().unwrap_or_else(|| panic!("a field: {line}"));
    let (name, outcome, path) = (field(), field(), field().into());
    Step { name, outcome, path, to: fields.next().map(PathBuf::from) }
}
