//! Runs `tz-cli` in a folder of its own. Owns [`tz`] and [`Ran`].

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Expects this exit code; otherwise shows what was said.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// The binary in `folder`, with an environment that the machine's own settings do not reach.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tz-cli"));
    command.current_dir(folder).stdin(Stdio::null());
    forget_settings(&mut command);
    command
}

fn forget_settings(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TZ_") {
            command.env_remove(name);
        }
    }
    command
}

/// Puts the binary first on the path of another program that will call it by its name.
pub(crate) fn on_path(program: &mut Command) -> &mut Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_tz-cli")).parent().expect("a folder");
    let mut path = folder.as_os_str().to_owned();
    if let Some(more) = std::env::var_os("PATH") {
        path.push(":");
        path.push(more);
    }
    forget_settings(program).env("PATH", path).stdin(Stdio::null())
}

/// Runs it to its end with no standard input.
pub(crate) fn tz<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> Ran {
    finish(command(folder).args(arguments))
}

/// Runs it with `input` as a pipe on standard input.
pub(crate) fn tz_on<S: AsRef<OsStr>>(folder: &Path, arguments: &[S], input: &[u8]) -> Ran {
    let mut command = command(folder);
    finish_on(command.args(arguments), input)
}

/// Runs a command to its end with `input` as a pipe on standard input.
pub(crate) fn finish_on(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start");
    let mut stdin = child.stdin.take().expect("pipe");
    std::thread::scope(|scope| {
        // A program that has read enough closes the pipe.
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        ran(child.wait_with_output().expect("run"))
    })
}

pub(crate) fn finish(command: &mut Command) -> Ran {
    ran(command.output().expect("run"))
}

pub(crate) fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("text on standard output"),
        stderr: String::from_utf8(output.stderr).expect("text on standard error"),
    }
}

/// Files of the reference with their manifest.
pub(crate) fn foreign() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/foreign")
}

/// Every file and folder below `folder`, with its path from there; folders end in a slash.
pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    list(folder, "", &mut names);
    names.sort();
    names
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("list") {
        let entry = entry.expect("entry");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("type").is_dir() {
            names.push(format!("{name}/"));
            list(&entry.path(), &format!("{name}/"), names);
        } else {
            names.push(name);
        }
    }
}
