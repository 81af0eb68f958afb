//! Jobs that need an environment, a peak of memory or an end of their own run in a child process: this test binary
//! again. Owns [`Job`].

use std::collections::HashMap;
use std::env;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tz_io::testing::threads;
use tz_io::{
    Addressing, HeapPool, OpenOptions, Piece, ReadOptions, RemoteOptions, Selection, TensorFile,
    WriteOptions, copy, write,
};

use crate::model::{location, tensors};

/// What marks the one line in which a child reports.
const MARK: &str = "job: ";

/// A job to be done by a child.
pub(crate) struct Job {
    command: Command,
    home: TempDir,
}

/// What a child reported, and what it logged.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: String,
    pub(crate) log: String,
}

impl Outcome {
    /// A number that it reported.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        let fields = self.report.split_whitespace().filter_map(|field| field.split_once('='));
        let mut values = fields.filter(|(key, _)| *key == name).map(|(_, value)| value);
        let value = values.next().and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect_ok(self) -> Self {
        assert!(self.report.starts_with("ok"), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn expect_error(&self, text: &str) {
        assert!(self.report.starts_with("error") && self.report.contains(text), "{self:?}");
    }
}

impl Job {
    /// A job with nothing in its environment, an empty home, and no metadata service.
    pub(crate) fn new(name: &str, from: &str, to: &str) -> Self {
        let home = tempfile::tempdir().expect("folder");
        let mut command = Command::new(env::current_exe().expect("this binary"));
        command
            .args(["child::a_child_does_the_job_it_is_given", "--exact", "--nocapture"])
            .env_clear()
            .env("HOME", home.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs([("TZ_JOB", name), ("TZ_FROM", from), ("TZ_TO", to)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { command, home }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Puts a file into the child's home.
    pub(crate) fn home_file(self, path: &str, text: &str) -> Self {
        let path = self.home.path().join(path);
        std::fs::create_dir_all(path.parent().expect("in the home")).expect("folder");
        std::fs::write(path, text).expect("written");
        self
    }

    /// Starts it and leaves it to itself.
    pub(crate) fn spawn(mut self) -> Child {
        self.command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a child")
    }

    pub(crate) fn run(mut self) -> Outcome {
        let output = self.command.output().expect("a child");
        let out = String::from_utf8(output.stdout).expect("UTF-8");
        let log = String::from_utf8(output.stderr).expect("UTF-8");
        let report = out.lines().find_map(|line| Some(line.split_once(MARK)?.1.to_owned()));
        let report = report.unwrap_or_else(|| panic!("no report: {out} {log}"));
        Outcome { report, log }
    }
}

#[test]
fn a_child_does_the_job_it_is_given() {
    match env::var("TZ_JOB") {
        Ok(job) => {
            if env::var("TZ_LOG").is_ok() {
                let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
                log.with_writer(std::io::stderr).with_ansi(false).init();
            }
            let report = match run(&job) {
                Ok(report) => format!("ok {report}"),
                Err(error) => format!("error {error}"),
            };
            // Not captured, and in one piece.
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n{MARK}{}", report.replace('\n', " ")).expect("a parent that listens");
        }
        Err(_) => {
            let outcome = Job::new("echo", "this", "that").run();
            assert_eq!(outcome.report, "ok from=this to=that");
            Job::new("nothing", "", "").run().expect_error("unknown job");
        }
    }
}

type Failed = Box<dyn std::error::Error>;

fn run(job: &str) -> Result<String, Failed> {
    let (from, to) = (env::var("TZ_FROM")?, env::var("TZ_TO")?);
    match job {
        "echo" => Ok(format!("from={from} to={to}")),
        "load" => load(&from),
        "stream" => stream(&from),
        "share" => share(&from),
        "again" => again(&from),
        "copy" => {
            let report = copy(&location(&from), &location(&to), &writing())?;
            Ok(format!("bytes={} tensors={}", report.bytes, report.tensors_checked))
        }
        "save" => {
            let before = status("VmRSS");
            let lens: Result<Vec<u64>, _> = from.split(',').map(str::parse).collect();
            let stats = write(&tensors(&lens?), &location(&to), &writing())?;
            Ok(format!("bytes={} memory={}", stats.file_bytes, status("VmHWM") - before))
        }
        _ => Err("unknown job".into()),
    }
}

fn variables() -> HashMap<String, String> {
    env::vars().collect()
}

fn remote() -> RemoteOptions {
    let mut vars = variables();
    let mut take = |name| vars.remove(name);
    let mut options = RemoteOptions::default();
    options.s3.access_key_id = take("TZ_KEY_ID");
    options.s3.secret_access_key = take("TZ_SECRET");
    options.s3.session_token = take("TZ_TOKEN");
    options.s3.endpoint = take("TZ_ENDPOINT");
    options.s3.config_path = take("TZ_CONFIG").map(Into::into);
    options.s3.anonymous = take("TZ_ANONYMOUS").is_some();
    options.ca_bundle = take("TZ_CA").map(Into::into);
    options.direct = take("TZ_LIBRARY").is_none_or(|value| value.is_empty());
    if take("TZ_VIRTUAL").is_some() {
        options.s3.addressing = Addressing::Virtual;
    }
    if let Some(retries) = take("TZ_RETRIES") {
        options.retries = retries.parse().expect("a number");
    }
    options
}

fn limit() -> Option<u64> {
    Some(variables().remove("TZ_LIMIT")?.parse().expect("a number"))
}

fn writing() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.remote = remote();
    options.memory_limit = limit();
    options.fsync = false;
    options.create_only = env::var("TZ_CREATE").is_ok();
    options
}

fn open(uri: &str) -> Result<TensorFile, Failed> {
    let mut options = OpenOptions::default();
    options.remote = remote();
    Ok(TensorFile::open_with(&location(uri), &options)?)
}

fn load(uri: &str) -> Result<String, Failed> {
    let file = open(uri)?;
    let tensors = file.load(&Selection::all(), &ReadOptions::default())?;
    let bytes: usize = tensors.iter().map(|tensor| tensor.bytes().len()).sum();
    Ok(format!("bytes={bytes} requests={}", file.source().counters().requests))
}

/// Streams through a pool of as many buffers as the limit allows.
fn stream(uri: &str) -> Result<String, Failed> {
    let before = status("VmRSS");
    let file = open(uri)?;
    let buffer = tz_io::PlanOptions::object_storage().piece_len + (64 << 10);
    let limit = limit().ok_or("no limit")?;
    let pool = HeapPool::new(usize::try_from(buffer)?, usize::try_from(limit / buffer)?)?;
    let drop_it = |piece: Piece| {
        drop(piece);
        Ok(())
    };
    let stats = file.stream(&Selection::all(), &ReadOptions::default(), &pool, &drop_it)?;
    Ok(format!("bytes={} memory={}", stats.bytes_delivered, status("VmHWM") - before))
}

/// Streams eight times at once through one pool of as many buffers as the limit allows.
fn share(uri: &str) -> Result<String, Failed> {
    let before = status("VmRSS");
    let buffer = tz_io::PlanOptions::object_storage().piece_len + (64 << 10);
    let limit = limit().ok_or("no limit")?;
    let pool = HeapPool::new(usize::try_from(buffer)?, usize::try_from(limit / buffer)?)?;
    let load = |share: HeapPool| {
        let drop_it = |piece: Piece| {
            drop(piece);
            Ok(())
        };
        let stats =
            open(uri)?.stream(&Selection::all(), &ReadOptions::default(), &share, &drop_it)?;
        Ok::<u64, Failed>(stats.bytes_delivered)
    };
    let bytes = std::thread::scope(|scope| {
        let loads = [(); 8].map(|()| {
            let share = pool.share();
            scope.spawn(move || load(share).map_err(|error| error.to_string()))
        });
        let each = loads.into_iter().map(|load| load.join().expect("no panic"));
        each.sum::<Result<u64, String>>()
    })?;
    Ok(format!("bytes={bytes} memory={}", status("VmHWM") - before))
}

/// A thousand loads that end well, are cancelled, or fail in one way or another; what the process had before and after.
fn again(uri: &str) -> Result<String, Failed> {
    let mut loads = 0;
    let mut round = || -> Result<(), Failed> {
        let file = open(&format!("{uri}/good"))?;
        let mut options = ReadOptions::default();
        options.readers = Some(2);
        file.load(&Selection::all(), &options)?;
        let pool = HeapPool::new(128 << 10, 2)?;
        let cancel = |piece: Piece| {
            drop(piece);
            options.cancel.cancel();
            Ok(())
        };
        let cancelled = file.stream(&Selection::all(), &options, &pool, &cancel);
        let absent = open(&format!("{uri}/absent"));
        let broken = open(&format!("{uri}/broken"));
        let damaged = open(&format!("{uri}/damaged"))?;
        let damaged = damaged.load(&Selection::all(), &ReadOptions::default());
        if cancelled.is_ok() || absent.is_ok() || broken.is_ok() || damaged.is_ok() {
            return Err("a load ended well that must not".into());
        }
        loads += 5;
        Ok(())
    };
    for _ in 0..20 {
        round()?;
    }
    let before = counts(usize::MAX);
    for _ in 0..200 {
        round()?;
    }
    let after = counts(before[0]);
    let mut report = format!("loads={}", loads - 100);
    for (name, (before, after)) in
        ["threads", "descriptors", "mappings"].iter().zip(before.into_iter().zip(after))
    {
        report.push_str(&format!(" {name}_before={before} {name}_after={after}"));
    }
    Ok(report)
}

/// Threads, open descriptors and memory mappings of this process, once it has no more threads than `most_threads`.
fn counts(most_threads: usize) -> [usize; 3] {
    let threads = threads(most_threads).expect("/proc");
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    [threads, descriptors, maps.lines().count()]
}

/// A line of this process's memory, in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a line");
    let kibibytes = line.split_whitespace().nth(1).and_then(|value| value.parse::<u64>().ok());
    kibibytes.expect("a number") << 10
}
