//! Cases as data: `tests/cmd/<command>/<name>.toml`. Owns their shape, the runner, and the wildcard `[..]`.
//!
//! A case is a list of steps in one empty folder. `$FIXTURES` in an argument is the folder of the reference's files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::run::{self, Ran};

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows, in words.
    shows: String,
    step: Vec<Step>,
}

/// One run of `tz-cli`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    args: Vec<String>,
    /// Files to write first.
    #[serde(default)]
    write: BTreeMap<String, String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// A file that is standard input, as a pipe.
    stdin: Option<String>,
    #[serde(default)]
    status: i32,
    /// All of standard output, line by line; `[..]` stands for anything within a line.
    stdout: Option<String>,
    stderr: Option<String>,
    /// Parts of standard output.
    #[serde(default)]
    stdout_has: Vec<String>,
    #[serde(default)]
    stderr_has: Vec<String>,
    /// JSON pointers into standard output, and the values that stand there.
    #[serde(default)]
    json: BTreeMap<String, Value>,
    /// A file to keep standard output in.
    save: Option<String>,
    /// Everything that is in the folder afterwards.
    files: Option<Vec<String>>,
}

/// Runs every case of one command.
#[track_caller]
pub(crate) fn run_all(command: &str) {
    let folder = folder().join(command);
    let mut cases: Vec<PathBuf> =
        fs::read_dir(&folder).expect("cases").map(|entry| entry.expect("entry").path()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} holds no cases", folder.display());
    let faults: Vec<String> = cases.iter().filter_map(|case| run_one(case).err()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// Where the cases are, one folder for each command.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd")
}

fn run_one(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).expect("case");
    let case: Case =
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let sandbox = tempfile::tempdir().expect("sandbox");
    for (number, step) in case.step.iter().enumerate() {
        let ran = step.run(sandbox.path());
        step.check(&ran, sandbox.path()).map_err(|fault| {
            format!(
                "{} ({}), step {}: tz-cli {}\n{fault}\nexit {}\nstdout:\n{}\nstderr:\n{}",
                path.display(),
                case.shows,
                number + 1,
                step.args.join(" "),
                ran.code,
                ran.stdout,
                ran.stderr
            )
        })?;
    }
    Ok(())
}

impl Step {
    fn run(&self, sandbox: &Path) -> Ran {
        for (name, text) in &self.write {
            fs::write(sandbox.join(name), text).expect("write");
        }
        let fixtures = run::foreign().display().to_string();
        let arguments = self.args.iter().map(|argument| argument.replace("$FIXTURES", &fixtures));
        let arguments: Vec<String> = arguments.collect();
        let ran = match &self.stdin {
            Some(file) => {
                let input = fs::read(sandbox.join(file.replace("$FIXTURES", &fixtures)));
                run::tz_on(sandbox, &arguments, &input.expect("standard input"))
            }
            None => run::finish(run::command(sandbox).args(&arguments).envs(&self.env)),
        };
        if let Some(file) = &self.save {
            fs::write(sandbox.join(file), &ran.stdout).expect("save");
        }
        ran
    }

    fn check(&self, ran: &Ran, sandbox: &Path) -> Result<(), String> {
        if ran.code != self.status {
            return Err(format!("exit {}, expected {}", ran.code, self.status));
        }
        for (name, expected, found) in
            [("stdout", &self.stdout, &ran.stdout), ("stderr", &self.stderr, &ran.stderr)]
        {
            if let Some(expected) = expected {
                lines_match(expected, found).map_err(|fault| format!("{name}: {fault}"))?;
            }
        }
        for (name, parts, found) in
            [("stdout", &self.stdout_has, &ran.stdout), ("stderr", &self.stderr_has, &ran.stderr)]
        {
            if let Some(missing) = parts.iter().find(|part| !found.contains(*part)) {
                return Err(format!("{name} lacks {missing:?}"));
            }
        }
        if !self.json.is_empty() {
            let found: Value =
                serde_json::from_str(&ran.stdout).map_err(|error| error.to_string())?;
            for (pointer, expected) in &self.json {
                match found.pointer(pointer) {
                    Some(value) if value == expected => {}
                    other => return Err(format!("{pointer} is {other:?}, expected {expected}")),
                }
            }
        }
        match &self.files {
            Some(expected) if *expected != run::listing(sandbox) => {
                Err(format!("the folder holds {:?}", run::listing(sandbox)))
            }
            _ => Ok(()),
        }
    }
}

fn lines_match(expected: &str, found: &str) -> Result<(), String> {
    let (expected, found): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), found.lines().collect());
    for (number, line) in expected.iter().enumerate() {
        match found.get(number) {
            Some(other) if matches(line, other) => {}
            other => {
                return Err(format!("line {} is {other:?}, expected {line:?}", number + 1));
            }
        }
    }
    match found.get(expected.len()) {
        Some(more) => Err(format!("there is more: {more:?}")),
        None => Ok(()),
    }
}

/// Whether `text` fits `pattern`, in which `[..]` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut last_is_wild = false;
    let tail: Vec<&str> = parts.collect();
    for (i, part) in tail.iter().enumerate() {
        if i + 1 == tail.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last_is_wild = true;
    }
    !last_is_wild && rest.is_empty()
}

#[test]
fn wildcards() {
    for (pattern, text, expected) in [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("a[..]c", "abbc", true),
        ("a[..]c", "ac", true),
        ("a[..]c", "abd", false),
        ("[..]", "", true),
        ("a[..]b[..]c", "a1b2c", true),
        ("a[..]b[..]c", "a1c2b", false),
        ("a[..]", "b", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
    }
}
