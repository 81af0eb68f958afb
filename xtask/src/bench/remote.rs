//! `cargo xtask bench remote`: loads from nginx and from Garage and uploads to Garage, against plain
//! transfers of the same object over N connections and against the reference.
//!
//! Every load ends with all bytes in memory of the process. The best number of connections counts as
//! the baseline, and the reference's best setting as its figure. The servers run on the same cores as
//! the clients, so ratios matter here and rates do not.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::outcome::Outcome;
use super::processes::{ran, timed};
use super::rounds::{Contender, Sample, Series, Target, alternate_after};
use super::wire::Plan;
use super::{Common, raw};
use crate::interop::Python;
use crate::product::{self, Product, Transfer};
use crate::report::parse_size;
use crate::servers::{BUCKET, Nginx, S3};
use crate::{sys, workspace};

mod peers;

use peers::Shards;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// About how large the model is
    #[arg(long, default_value = "2GiB", value_parser = parse_size)]
    size: u64,
    /// Where files and objects go
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only these: a machine may have less time than all of them take
    #[arg(long, value_enum, value_delimiter = ',', default_value = "http,s3,upload")]
    rows: Vec<Rows>,
    /// Time loaders of safetensors too; installs them into the environment first
    #[arg(long)]
    peers: bool,
    #[command(flatten)]
    common: Common,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Rows {
    /// Loads from nginx
    Http,
    /// Loads from Garage
    S3,
    /// Uploads to Garage
    Upload,
}

/// Connections of the plain downloads; the quickest of them is the baseline.
const CONNECTIONS: [&str; 3] = ["2", "4", "8"];
/// Part length and parts in flight of the plain upload: those of tz-cli at its default limits, which are three
/// quarters of 256 MiB in parts of 16 MiB.
const PART_BYTES: u64 = 16 << 20;
const PARTS_IN_FLIGHT: &str = "12";

const HOW: &str = "nginx and Garage on the same machine";

const HTTP: &str = "HTTP";
const S3_READS: &str = "S3";
const OBJECT: &str = "model.tensors";
const UPLOADED: &str = "uploaded.tensors";

/// What every contender needs.
struct Bench {
    product: Product,
    python: Python,
    checkpoint: PathBuf,
    tensors: PathBuf,
    file_bytes: u64,
    bytes: u64,
    plan: PathBuf,
    object: String,
    uploaded: String,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let python = Python::ready()?;
    let product = Product::build()?;
    let parent = args.dir.clone().map_or_else(workspace::target, Ok)?;
    let outcome = Outcome::expected(&parent, HOW);
    let folder = tempfile::Builder::new().prefix("tz-bench-").tempdir_in(&parent)?;
    let nginx = Nginx::start(folder.path())?.context("nginx is not installed")?;
    let s3 = S3::start_garage(folder.path())?;
    let bench = Bench::make(&product, &python, &s3, folder.path(), args.size)?;

    let signed: String = bench.python.json("bucket.py", &["signed-read", BUCKET, OBJECT])?;
    let (http, s3_uri) = (nginx.url(OBJECT), bench.object.clone());
    let shards = args.peers.then(|| Shards::publish(&bench, &nginx, &s3)).transpose()?;
    let mut contenders = Vec::new();
    for rows in &args.rows {
        contenders.extend(match rows {
            Rows::Http => bench.downloads(HTTP, &http, &http),
            Rows::S3 => bench.downloads(S3_READS, &s3_uri, &signed),
            Rows::Upload => bench.uploads(),
        });
        contenders.extend(match (rows, &shards) {
            (Rows::Http, Some(shards)) => shards.over_http(&bench),
            (Rows::S3, Some(shards)) => shards.over_s3(&bench),
            _ => Vec::new(),
        });
    }
    let settled = || {
        written_back()?;
        raw::settle(2 * bench.bytes)
    };
    let series = alternate_after(&contenders, args.common.rounds, settled)?;
    let targets = targets(&series, &args.rows)?;
    outcome.publish(&args.common, bench.bytes, series, targets)
}

impl Bench {
    fn make(product: &Product, python: &Python, s3: &S3, folder: &Path, size: u64) -> Result<Self> {
        let product = product.with_environment(s3.environment());
        let python = python.with_environment(s3.environment());
        let (checkpoint, tensors) = (folder.join(peers::FOLDER), folder.join(OBJECT));
        let object = s3.uri(OBJECT);
        let arguments = product::synth(size, &checkpoint);
        product::succeeded(product.run(&arguments)?, &arguments)?;
        for arguments in [
            ["serialize".as_ref(), checkpoint.as_os_str(), tensors.as_os_str()],
            ["copy".as_ref(), tensors.as_os_str(), object.as_ref()],
        ] {
            product::succeeded(product.run(&arguments)?, &arguments)?;
        }
        let arguments = ["deserialize".as_ref(), tensors.as_os_str(), "--json".as_ref()];
        let load: Transfer = product.json(&arguments)?;
        let file_bytes = fs::metadata(&tensors)?.len();
        let (plan, uploaded) = (folder.join("plan.json"), s3.uri(UPLOADED));
        let bytes = load.bytes;
        Ok(Self { product, python, checkpoint, tensors, file_bytes, bytes, plan, object, uploaded })
    }

    /// Loads of one object: `uri` as users name it, `url` as plain HTTP takes it.
    fn downloads<'a>(&'a self, server: &str, uri: &'a str, url: &'a str) -> Vec<Contender<'a>> {
        let mut contenders = Vec::new();
        for connections in CONNECTIONS {
            let name = format!("{server}: plain download, {connections} connections");
            contenders.push(Contender::new(&name, move || {
                let mut command = this_program()?;
                command.args(["raw-download", url, "--connections", connections, "--bytes"]);
                plain(command.arg(self.file_bytes.to_string()), self.file_bytes)
            }));
        }
        for (words, option) in [("", None), (" --no-verify", Some("--no-verify"))] {
            let name = format!("{server}: tz-cli deserialize{words}");
            contenders.push(Contender::new(&name, move || {
                let mut arguments = vec!["deserialize", uri, "--json"];
                arguments.extend(option);
                self.ours(&arguments)
            }));
        }
        for readers in ["1", "2", "4", "default"] {
            let name = format!("{server}: tensorizer, {readers} readers");
            contenders.push(Contender::new(&name, move || {
                let mut arguments = vec!["load", uri];
                if readers != "default" {
                    arguments.extend(["--readers", readers]);
                }
                self.theirs(&arguments)
            }));
        }
        contenders
    }

    fn uploads(&self) -> Vec<Contender<'_>> {
        let ours = |job: &'static str, source: &Path| {
            let arguments: Vec<OsString> = vec![
                job.into(),
                source.as_os_str().to_owned(),
                self.uploaded.clone().into(),
                "--json".into(),
            ];
            Contender::new(&format!("upload: tz-cli {job}"), move || self.ours(&arguments))
        };
        vec![
            Contender::new("upload: plain multipart", || {
                let parts = self.file_bytes.div_ceil(PART_BYTES).to_string();
                let arguments = ["signed-upload", BUCKET, UPLOADED, "--parts", &parts];
                let plan: Plan = self.python.json("bucket.py", &arguments)?;
                fs::write(&self.plan, serde_json::to_vec(&plan)?)?;
                let mut command = this_program()?;
                command.arg("raw-upload").arg(&self.tensors).arg(&self.plan);
                command.args(["--connections", PARTS_IN_FLIGHT, "--part-bytes"]);
                plain(command.arg(PART_BYTES.to_string()), self.file_bytes)
            }),
            ours("copy", &self.tensors),
            ours("serialize", &self.checkpoint),
            Contender::new("upload: tensorizer", || {
                let source = &self.checkpoint;
                self.theirs(&[OsStr::new("save"), source.as_ref(), self.uploaded.as_ref()])
            }),
        ]
    }

    fn ours<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Sample> {
        ran(&self.product, arguments, |done: &Transfer| {
            if done.bytes < self.bytes || done.streamed {
                bail!("not all {} bytes: {done:?}", self.bytes);
            }
            Ok(done.seconds)
        })
    }

    fn theirs<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Sample> {
        timed(&self.python.run("remote.py", arguments)?, self.bytes)
    }
}

/// Waits until the disk has what earlier uploads left to write: it would fall on whoever runs half a minute later.
fn written_back() -> Result<()> {
    if !Command::new("sync").status().context("sync")?.success() {
        bail!("sync failed");
    }
    Ok(())
}

fn this_program() -> Result<Command> {
    Ok(Command::new(std::env::current_exe().context("this program")?))
}

fn plain(command: &mut Command, bytes: u64) -> Result<Sample> {
    timed(&sys::run_measured(command)?, bytes)
}

fn targets(series: &[Series], rows: &[Rows]) -> Result<Vec<Target>> {
    // A contender has its settings after a comma.
    let best = |name: &str| {
        let settings = format!("{name},");
        let found = series.iter().filter(|s| s.name == name || s.name.starts_with(&settings));
        let times = found.map(Series::median_seconds);
        times.reduce(f64::min).with_context(|| format!("no contender {name}"))
    };
    let mut targets = Vec::new();
    let mut ratios = |what: &str, least: [f64; 2], names: [&str; 3]| -> Result<()> {
        let [ours, plain, theirs] = names.map(best);
        let (ours, plain, theirs) = (ours?, plain?, theirs?);
        let share = format!("{what}: share of the plain transfer");
        targets.push(Target::at_least(&share, least[0], plain / ours));
        let times = format!("{what}: times the reference's best setting");
        targets.push(Target::at_least(&times, least[1], theirs / ours));
        Ok(())
    };
    for rows in rows {
        match rows {
            Rows::Http | Rows::S3 => {
                let server = if *rows == Rows::Http { HTTP } else { S3_READS };
                let (plain, theirs) =
                    (format!("{server}: plain download"), format!("{server}: tensorizer"));
                for how in ["tz-cli deserialize --no-verify", "tz-cli deserialize"] {
                    let ours = format!("{server}: {how}");
                    ratios(&ours, [0.9, 1.0], [&ours, &plain, &theirs])?;
                }
            }
            Rows::Upload => {
                for job in ["copy", "serialize"] {
                    let ours = format!("upload: tz-cli {job}");
                    let names = [&*ours, "upload: plain multipart", "upload: tensorizer"];
                    ratios(&ours, [0.9, 1.5], names)?;
                }
            }
        }
    }
    for (server, peer) in [(HTTP, peers::CURL), (S3_READS, peers::RUNAI), (S3_READS, peers::CURL)] {
        if let Ok(theirs) = best(&format!("{server}: {peer}")) {
            let ours = best(&format!("{server}: tz-cli deserialize"))?;
            let what = format!("{server}: tz-cli deserialize: times {peer}");
            targets.push(Target::at_least(&what, 1.0, theirs / ours));
        }
    }
    Ok(targets)
}
