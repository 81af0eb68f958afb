//! What was meant: options, environment, settings file and defaults resolved into one value. Owns [`Session`], which
//! every command has, and [`Job`], which those have that read tensors.

use std::time::Duration;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt as _;
use tz_format::Element;
use tz_io::{Cancel, DEFAULT_MAX_READERS, Progress, ReadOptions, Selection, default_staging_bytes};

use crate::access::{Access, AccessArgs};
use crate::args::{DtypeArgs, EffortArgs, FilterArgs, OutputArgs, VerifyArgs};
use crate::config::Config;
use crate::error::Failure;
use crate::progress::Bar;

/// How to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speech {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
}

impl Speech {
    /// What the command line alone says.
    pub(crate) fn typed(args: &OutputArgs) -> Self {
        Self { json: args.json, quiet: args.quiet, verbose: args.verbose }
    }
}

impl Speech {
    /// Says on standard error what our libraries note: warnings, and with `-v` where credentials came from, what was
    /// tried again and the like. They never note secrets. What others note is for `-v` too: a failure is two lines.
    fn listen(self) {
        let most = match self {
            Self { quiet: true, .. } => LevelFilter::ERROR,
            Self { verbose: true, .. } => LevelFilter::INFO,
            _ => LevelFilter::WARN,
        };
        let wanted = move |note: &Metadata<'_>| self.verbose || note.target().starts_with("tz_");
        let writer = std::io::stderr.with_filter(wanted);
        let notes = tracing_subscriber::fmt().with_max_level(most).with_writer(writer);
        // A second session of one process, as in tests, keeps the first one's ear.
        let _ = notes.without_time().with_target(false).with_ansi(false).try_init();
    }
}

/// What every command of this process shares.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) speech: Speech,
    pub(crate) cancel: Cancel,
    pub(crate) progress: Progress,
    pub(crate) access: Access,
    /// Most time for the whole command.
    pub(crate) deadline: Option<Duration>,
    config: Config,
}

impl Session {
    pub(crate) fn new(
        args: &OutputArgs,
        access: &AccessArgs,
        cancel: Cancel,
    ) -> Result<Self, Failure> {
        let config = args.config.as_deref().map(Config::load).transpose()?.unwrap_or_default();
        let typed = Speech::typed(args);
        let speech = Speech {
            json: typed.json || config.json,
            quiet: (typed.quiet || config.quiet) && !typed.verbose,
            ..typed
        };
        speech.listen();
        let access = Access::new(access, &config, speech.quiet, cancel.clone())?;
        let deadline = args.deadline.or(config.deadline);
        Ok(Self { speech, cancel, progress: Progress::default(), access, deadline, config })
    }

    /// A bar on standard error while it lives, where a person is looking.
    pub(crate) fn bar(&self, what: &'static str, total_bytes: u64) -> Bar {
        Bar::start(what, total_bytes, self.progress.clone(), self.speech)
    }

    /// Cores to keep busy.
    pub(crate) fn cores(&self, args: &EffortArgs) -> usize {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        self.core_limit(args).unwrap_or_else(available).max(1)
    }

    /// Readers that were asked for.
    pub(crate) fn readers(&self, args: &EffortArgs) -> Option<usize> {
        args.num_readers.or(self.config.num_readers)
    }

    pub(crate) fn memory_limit(&self, args: &EffortArgs) -> Option<u64> {
        args.memory_limit.or(self.config.memory_limit)
    }

    pub(crate) fn selection(&self, args: &FilterArgs) -> Result<Selection, Failure> {
        Self::select(self.globs(args))
    }

    /// The globs themselves; none select everything.
    pub(crate) fn globs<'a>(&'a self, args: &'a FilterArgs) -> &'a [String] {
        if args.filter.is_empty() { &self.config.filter } else { &args.filter }
    }

    pub(crate) fn select(globs: &[String]) -> Result<Selection, Failure> {
        Selection::globs(globs).map_err(|why| {
            Failure::usage(format!("--filter: {why}"))
                .hint("in a GLOB, `*` and `?` stand for any characters, `[ab]` for one of some")
        })
    }

    pub(crate) fn dtype(&self, args: DtypeArgs) -> Option<Element> {
        args.dtype.or(self.config.dtype)
    }

    /// `--verify`, `--no-verify`, `TZ_VERIFY`, the file, yes.
    fn verify(&self, args: VerifyArgs) -> Result<bool, Failure> {
        let variable = || match std::env::var("TZ_VERIFY").as_deref() {
            Err(_) | Ok("") => Ok(None),
            Ok("true" | "1") => Ok(Some(true)),
            Ok("false" | "0") => Ok(Some(false)),
            Ok(other) => Err(Failure::usage(format!("TZ_VERIFY is {other:?}"))
                .hint("set it to true or false, or unset it")),
        };
        let chosen = match args.choice() {
            None => variable()?,
            typed => typed,
        };
        Ok(chosen.or(self.config.verify).unwrap_or(true))
    }

    /// Everything about reading tensors. A command that has no say in verification reads unverified.
    pub(crate) fn job(
        &self,
        filter: &FilterArgs,
        effort: &EffortArgs,
        verify: Option<VerifyArgs>,
    ) -> Result<Job, Failure> {
        let cores = self.cores(effort);
        let readers =
            match (effort.num_readers.or(self.config.num_readers), self.core_limit(effort)) {
                // Readers hash what they read, so the limit on cores holds for them too.
                (Some(readers), Some(limit)) => Some(readers.min(limit)),
                (readers, limit) => readers.or(limit),
            };
        let threads = readers.unwrap_or(cores.min(DEFAULT_MAX_READERS));
        let mut read = ReadOptions::default();
        read.readers = readers;
        read.verify = verify.map(|args| self.verify(args)).transpose()?.unwrap_or(false);
        read.memory_limit = self.memory_limit(effort);
        read.cancel = self.cancel.clone();
        read.progress = self.progress.clone();
        Ok(Job { selection: self.selection(filter)?, threads, read })
    }

    fn core_limit(&self, args: &EffortArgs) -> Option<usize> {
        args.limit_cpu_concurrency.or(self.config.limit_cpu_concurrency)
    }
}

/// How one command reads tensors.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) selection: Selection,
    /// Threads for work of our own. `tz_io` picks its own number unless `read` says one.
    pub(crate) threads: usize,
    pub(crate) read: ReadOptions,
}

impl Job {
    /// Bytes of tensor data that may be on their way.
    pub(crate) fn staging_bytes(&self) -> u64 {
        self.read.memory_limit.unwrap_or_else(default_staging_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(config: Config) -> Session {
        let mut session =
            Session::new(&OutputArgs::default(), &AccessArgs::default(), Cancel::default())
                .unwrap();
        session.config = config;
        session
    }

    fn job(config: Config, effort: &EffortArgs) -> Job {
        let verify = Some(VerifyArgs::default());
        session(config).job(&FilterArgs::default(), effort, verify).unwrap()
    }

    #[test]
    fn the_file_is_weaker_than_an_option() {
        let config = Config {
            num_readers: Some(3),
            memory_limit: Some(5 << 20),
            verify: Some(false),
            ..Config::default()
        };
        let by_file = job(config.clone(), &EffortArgs::default());
        assert_eq!((by_file.threads, by_file.read.memory_limit), (3, Some(5 << 20)));
        assert!(!by_file.read.verify);
        let effort = EffortArgs {
            num_readers: Some(7),
            memory_limit: Some(1 << 20),
            ..EffortArgs::default()
        };
        let by_option = job(config, &effort);
        assert_eq!((by_option.threads, by_option.read.memory_limit), (7, Some(1 << 20)));
    }

    #[test]
    fn a_limit_on_cores_holds_for_readers() {
        let mut effort = EffortArgs { num_readers: Some(8), ..EffortArgs::default() };
        assert_eq!(job(Config::default(), &effort).threads, 8);
        effort.limit_cpu_concurrency = Some(2);
        assert_eq!(job(Config::default(), &effort).threads, 2);
        effort.num_readers = None;
        assert_eq!(job(Config::default(), &effort).threads, 2);
    }

    #[test]
    fn what_has_no_say_in_verification_reads_unverified() {
        let session = session(Config::default());
        let job = session.job(&FilterArgs::default(), &EffortArgs::default(), None).unwrap();
        assert!(!job.read.verify);
    }
}
