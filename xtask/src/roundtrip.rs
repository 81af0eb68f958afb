//! `cargo xtask roundtrip`: the whole main job on this machine, with nothing but Rust installed.
//!
//! A synthetic checkpoint is saved as `.tensors`, loaded back over every transport and device there
//! is, written out again and compared tensor for tensor. Each row of the table is one [`Route`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bench::raw_read_here;
use crate::product::{self, Product, Transfer};
use crate::report::{gigabytes_per_second, mebibytes, parse_size, table};
use crate::workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// About how large the synthetic checkpoint is
    #[arg(long, default_value = "256MiB", value_parser = parse_size)]
    size: u64,
    /// Keep the files and say where they are
    #[arg(long)]
    keep: bool,
}

/// One way from the file to memory.
struct Route {
    transport: &'static str,
    device: &'static str,
    readers: &'static str,
    verified: bool,
}

const ROUTES: &[Route] = &[
    Route {
        transport: "file",
        device: "cpu",
        readers: "1",
        verified: true,
    },
    Route {
        transport: "file",
        device: "cpu",
        readers: "auto",
        verified: true,
    },
    Route {
        transport: "file",
        device: "cpu",
        readers: "auto",
        verified: false,
    },
    Route {
        transport: "stdin",
        device: "cpu",
        readers: "1",
        verified: true,
    },
];

pub(crate) fn run(args: &Args) -> Result<()> {
    println!("Building tz-cli; the first build takes a few minutes.");
    let product = Product::build()?;
    let parent = workspace::target()?;
    let folder = tempfile::Builder::new()
        .prefix("roundtrip-")
        .tempdir_in(&parent)?;

    let checkpoint = folder.path().join("checkpoint");
    let saved = folder.path().join("model.tensors");
    println!("\n1. A synthetic checkpoint with random weights, as safetensors:");
    println!("   $ {}", product.synthesise(args.size, &checkpoint)?);
    println!("\n2. Saved as one .tensors file, then verified:");
    told(&product, &words(["serialize"], [&checkpoint, &saved]))?;
    told(&product, &words(["verify"], [&saved]))?;
    let bytes = std::fs::metadata(&saved).context("the saved file")?.len();
    println!("   {} on disk", mebibytes(bytes));

    println!("\n3. Loaded over every route, written out again, compared with the checkpoint:");
    let raw = raw_read_here(&saved)?;
    let raw_rate = gigabytes_per_second(raw.bytes, raw.seconds);
    let mut table = table(&[
        "from",
        "to",
        "readers",
        "verified",
        "GB/s",
        "of raw read",
        "tensors",
    ]);
    for route in ROUTES {
        let load = travel(&product, route, &checkpoint, &saved, folder.path())?;
        let rate = gigabytes_per_second(load.bytes, load.seconds);
        table.add_row([
            route.transport,
            route.device,
            route.readers,
            if route.verified { "yes" } else { "no" },
            &format!("{rate:.2}"),
            &format!("{:.0} %", 100.0 * rate / raw_rate),
            "all equal",
        ]);
    }
    table.add_row([
        "raw read",
        "cpu",
        "2",
        "-",
        &format!("{raw_rate:.2}"),
        "100 %",
        "-",
    ]);
    println!("{table}");
    println!("Every tensor came back equal over {} routes.", ROUTES.len());
    if args.keep {
        println!("Files are in {}", folder.keep().display());
    }
    Ok(())
}

/// Loads over one route, then writes the tensors out and compares them with the checkpoint.
fn travel(
    product: &Product,
    route: &Route,
    checkpoint: &Path,
    saved: &Path,
    folder: &Path,
) -> Result<Transfer> {
    let from_stdin = route.transport == "stdin";
    let source = if from_stdin { Path::new("-") } else { saved };
    let mut load = words(["deserialize"], [source]);
    load.extend(["--device", route.device].map(OsString::from));
    if route.readers != "auto" {
        load.extend(["--num-readers", route.readers].map(OsString::from));
    }
    if !route.verified {
        load.push("--no-verify".into());
    }
    let run = |arguments: &[OsString]| {
        let finished = if from_stdin {
            product.run_on(arguments, saved)
        } else {
            product.run(arguments)
        };
        product::succeeded(finished?, arguments)
    };
    let mut timed = load.clone();
    timed.push("--json".into());
    let report = product::parse(run(&timed)?, &timed)?;

    let back = folder.join("back.safetensors");
    load.extend(["--to".into(), back.clone().into_os_string()]);
    run(&load)?;
    let diff = words(["diff"], [checkpoint, &back]);
    product::succeeded(product.run(&diff)?, &diff)?;
    std::fs::remove_file(&back).context("removing the tensors written back")?;
    Ok(report)
}

/// Runs a command that must succeed, after showing it as a user would type it.
fn told(product: &Product, arguments: &[OsString]) -> Result<()> {
    println!("   $ {}", product::line(arguments));
    product::succeeded(product.run(arguments)?, arguments)?;
    Ok(())
}

fn words<const A: usize, const B: usize, P: Into<PathBuf>>(
    names: [&str; A],
    paths: [P; B],
) -> Vec<OsString> {
    let paths = paths.map(|path| Into::<PathBuf>::into(path).into_os_string());
    names.map(OsString::from).into_iter().chain(paths).collect()
}
