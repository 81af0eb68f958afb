//! `cargo xtask roundtrip`: the whole main job on this machine, with nothing but Rust installed.
//!
//! A synthetic checkpoint is saved as `.tensors`, loaded back over every transport and device there
//! is, written out again and compared tensor for tensor. Each row of the table is one [`Route`].

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bench::{Contender, Sample, Series, alternate, raw_read_of};
use crate::product::{self, Product, Transfer};
use crate::report::{gigabytes_per_second, parse_size, table};
use crate::servers::Azurite;
use crate::sys::Finished;
use crate::workspace;

mod azure;
mod stores;

use stores::Stores;

/// Enough for a median, so that one slow first touch of memory does not stand for the rate.
const ROUNDS: u32 = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// About how large the synthetic checkpoint is
    #[arg(long, default_value = "256MiB", value_parser = parse_size)]
    size: u64,
    /// Keep the files and say where they are
    #[arg(long)]
    keep: bool,
    /// S3 by Garage, built first if the cache has none (ten minutes), never by s3s-fs; Azure by Azurite or not at all
    #[arg(long)]
    servers: bool,
}

/// One way from the file to memory.
struct Route {
    transport: &'static str,
    device: &'static str,
    readers: &'static str,
    verified: bool,
}

const ROUTES: &[Route] = &[
    Route { transport: "file", device: "cpu", readers: "1", verified: true },
    Route { transport: "file", device: "cpu", readers: "auto", verified: true },
    Route { transport: "file", device: "cpu", readers: "auto", verified: false },
    Route { transport: "stdin", device: "cpu", readers: "1", verified: true },
    Route { transport: "http", device: "cpu", readers: "auto", verified: true },
    Route { transport: "http", device: "cpu", readers: "1", verified: true },
    Route { transport: "s3", device: "cpu", readers: "auto", verified: true },
    Route { transport: "s3", device: "cpu", readers: "1", verified: true },
];

pub(crate) fn run(args: &Args) -> Result<()> {
    println!("Building tz-cli; the first build takes a few minutes.");
    let product = Product::build()?;
    let parent = workspace::target()?;
    let folder = tempfile::Builder::new().prefix("roundtrip-").tempdir_in(&parent)?;
    let stores = Stores::start(folder.path(), args.servers)?;
    let product = product.with_environment(stores.s3.environment());

    let checkpoint = folder.path().join("checkpoint");
    let saved = folder.path().join(stores::FILE);
    println!("\n1. A synthetic checkpoint with random weights, as safetensors:");
    told(&product, &product::synth(args.size, &checkpoint))?;
    println!("\n2. Saved as one .tensors file and as an S3 object, then verified:");
    let object = PathBuf::from(stores.s3.uri(stores::FILE));
    told(&product, &words(["serialize"], [&checkpoint, &saved]))?;
    told(&product, &words(["verify"], [&saved]))?;
    told(&product, &words(["serialize"], [&checkpoint, &object]))?;
    told(&product, &words(["verify"], [&object]))?;

    println!("\n3. Loaded over every route, written out again, compared with the checkpoint:");
    let (routes, absent): (Vec<&Route>, Vec<&Route>) =
        ROUTES.iter().partition(|route| stores.source(route.transport, &saved).is_some());
    let series = timed(&product, &routes, &stores, &saved)?;
    let rates: Vec<f64> = series
        .iter()
        .map(|(bytes, series)| gigabytes_per_second(*bytes, series.median_seconds()))
        .collect();
    let (raw, rates) = rates.split_last().context("nothing was timed")?;
    let heads = ["from", "server", "to", "readers", "verified", "GB/s", "of raw read", "tensors"];
    let mut table = table(&heads);
    for (route, rate) in routes.iter().zip(rates) {
        compare(&product, route, &stores, &checkpoint, &saved, folder.path())?;
        table.add_row([
            route.transport,
            stores.server(route.transport),
            route.device,
            route.readers,
            if route.verified { "yes" } else { "no" },
            &format!("{rate:.2}"),
            &format!("{:.0} %", 100.0 * rate / raw),
            "all equal",
        ]);
    }
    for route in absent {
        let server = stores.server(route.transport);
        let (device, readers) = (route.device, route.readers);
        table.add_row([route.transport, server, device, readers, "-", "-", "-", "-"]);
    }
    table.add_row(["raw read", "-", "cpu", "2", "-", &format!("{raw:.2}"), "100 %", "-"]);
    println!("{table}");
    println!("\n4. Copied from store to store:");
    for copied in stores.copy_around(&product, &saved, folder.path())? {
        println!("     {copied}: every byte equal");
    }
    println!("\n5. Over Azure's interface, served by Azurite:");
    match Azurite::start() {
        Ok(azurite) => {
            for line in azure::check(&azurite, &product, &checkpoint, &saved, folder.path())? {
                println!("     {line}");
            }
        }
        Err(error) if !args.servers => println!("     left out: {error:#}"),
        Err(error) => return Err(error.context("Azurite")),
    }
    println!(
        "Every tensor came back equal over {} routes. Rates are medians of {ROUNDS} fresh processes; \
         `cargo xtask bench` measures with care.",
        routes.len(),
    );
    if args.keep {
        println!("Files are in {}", folder.keep().display());
    }
    Ok(())
}

/// Times every route and, last, the raw read; with each the bytes that it moves.
fn timed(
    product: &Product,
    routes: &[&Route],
    stores: &Stores,
    saved: &Path,
) -> Result<Vec<(u64, Series)>> {
    let bytes = Cell::new(0);
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for route in routes {
        let bytes = &bytes;
        contenders.push(Contender::new(route.transport, move || {
            let mut arguments = route.load(stores, saved)?;
            arguments.push("--json".into());
            let finished = route.run(product, &arguments, saved)?;
            let (wall, peak_bytes) = (finished.wall, finished.peak_bytes);
            let load: Transfer = product::parse(finished, &arguments)?;
            bytes.set(load.bytes);
            let process_seconds = wall.as_secs_f64();
            Ok(Sample { seconds: load.seconds, process_seconds, peak_bytes })
        }));
    }
    let file_bytes = saved.metadata().context("the saved file")?.len();
    contenders.push(raw_read_of(saved));
    let series = alternate(&contenders, ROUNDS)?;
    let moved = routes.iter().map(|_| bytes.get()).chain([file_bytes]);
    Ok(moved.zip(series).collect())
}

/// Loads over one route once more, writes the tensors out and compares them with the checkpoint.
fn compare(
    product: &Product,
    route: &Route,
    stores: &Stores,
    checkpoint: &Path,
    saved: &Path,
    folder: &Path,
) -> Result<()> {
    let back = folder.join("back.safetensors");
    let mut arguments = route.load(stores, saved)?;
    arguments.extend(["--to".into(), back.clone().into_os_string()]);
    product::succeeded(route.run(product, &arguments, saved)?, &arguments)?;
    let diff = words(["diff"], [checkpoint, &back]);
    product::succeeded(product.run(&diff)?, &diff)?;
    std::fs::remove_file(&back).context("removing the tensors written back")
}

impl Route {
    /// The command that loads over it.
    fn load(&self, stores: &Stores, saved: &Path) -> Result<Vec<OsString>> {
        let source = stores.source(self.transport, saved).context("no server")?;
        let mut arguments = words(["deserialize"], [source]);
        arguments.extend(["--device", self.device].map(OsString::from));
        if self.readers != "auto" {
            arguments.extend(["--num-readers", self.readers].map(OsString::from));
        }
        if !self.verified {
            arguments.push("--no-verify".into());
        }
        Ok(arguments)
    }

    fn run(&self, product: &Product, arguments: &[OsString], saved: &Path) -> Result<Finished> {
        if self.is_stream() { product.run_on(arguments, saved) } else { product.run(arguments) }
    }

    fn is_stream(&self) -> bool {
        self.transport == "stdin"
    }
}

/// Runs a command that must succeed, as a user would type it, and passes its words on.
fn told<S: AsRef<OsStr>>(product: &Product, arguments: &[S]) -> Result<()> {
    println!("   $ {}", product::line(arguments));
    let finished = product::succeeded(product.run(arguments)?, arguments)?;
    for line in finished.stderr.lines().chain(finished.stdout.lines()) {
        println!("     {line}");
    }
    Ok(())
}

fn words<const A: usize, const B: usize, P: Into<PathBuf>>(
    names: [&str; A],
    paths: [P; B],
) -> Vec<OsString> {
    let paths = paths.map(|path| Into::<PathBuf>::into(path).into_os_string());
    names.map(OsString::from).into_iter().chain(paths).collect()
}
