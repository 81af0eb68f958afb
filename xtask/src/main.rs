//! Dispatch of `cargo xtask`: one subcommand a file, nothing else here.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod candle;
mod ci;
mod fixtures;
mod gpu_test;
mod interop;
mod layers;
mod lint;
mod product;
mod report;
mod roundtrip;
mod servers;
mod sys;
mod test;
mod tidy;
mod workspace;

/// Automation of the tz workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up and show the main job: a synthetic checkpoint saved, loaded every way, compared
    Roundtrip(roundtrip::Args),
    /// Check both directions against the reference Python package, 2.10.1 and 2.12.1
    Interop(interop::Args),
    /// Run the example on candle with weights from disk and from S3
    Candle,
    /// Measure us, the raw baseline and the peers in one run
    Bench(bench::Args),
    /// Build a kit that tests and measures a GPU machine
    GpuTest(gpu_test::Args),
    /// Make our published files, or check that they have not changed
    Fixtures(fixtures::Args),
    /// Check that crates depend only on the layers below them
    Layers,
    /// Check workflows and the examples for Docker and Kubernetes
    Lint,
    /// Check what the compiler does not: file sizes, unsafe, promises and their tests
    Tidy,
    /// Run the tests; with `--busy`, next to busy loops and on one core
    Test(test::Args),
    /// Run everything that continuous integration runs, in its order
    Ci(ci::Args),
    /// Read a file into fresh memory and print the time as JSON (the baseline of `bench`)
    #[command(hide = true)]
    RawRead(bench::RawReadArgs),
    /// Touch so much memory and give it back, so that the next process finds it there
    #[command(hide = true)]
    RawTouch(bench::TouchArgs),
    /// Write a new file and print the time as JSON
    #[command(hide = true)]
    RawWrite(bench::RawWriteArgs),
    /// Download a URL in ranges into fresh memory and print the time as JSON
    #[command(hide = true)]
    RawDownload(bench::DownloadArgs),
    /// Upload a file in parts and print the time as JSON
    #[command(hide = true)]
    RawUpload(bench::UploadArgs),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Roundtrip(args) => roundtrip::run(&args),
        Command::Interop(args) => interop::run(&args),
        Command::Candle => candle::run(),
        Command::Bench(args) => bench::run(&args),
        Command::GpuTest(args) => gpu_test::run(&args),
        Command::Fixtures(args) => fixtures::run(&args),
        Command::Layers => layers::run(),
        Command::Lint => lint::run(),
        Command::Tidy => tidy::run(),
        Command::Test(args) => test::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::RawRead(args) => bench::raw_read(&args),
        Command::RawTouch(args) => bench::raw_touch(&args),
        Command::RawWrite(args) => bench::raw_write(&args),
        Command::RawDownload(args) => bench::download(&args),
        Command::RawUpload(args) => bench::upload(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
