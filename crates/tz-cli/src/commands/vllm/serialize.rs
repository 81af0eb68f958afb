//! `vllm serialize`: a checkpoint into a directory that vLLM serves.

use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use tz_io::{TensorSource, WriteOptions, WriteStats};
use tz_model::{
    ArtifactDir, Checkpoint, Facts, FileEntry, LayoutName, Moment, Publication, Refusal,
    ServeLines, Served, SmallFiles, Source, VllmLayout, VllmModel, VllmOptions, VllmVersion,
    read_config,
};

use super::ModelArgs;
use super::adapter::LoraAdapter;
use super::keyfile::{KeyArgs, KeyPlan};
use super::kwargs::Serialization;
use super::model::Model;
use crate::args::EffortArgs;
use crate::error::Failure;
use crate::job::Session;
use crate::output::say;
use crate::process;
use crate::report::{ModelPublished, RankWritten, rate};

const EXAMPLES: &str = "\
Examples:
  tz-cli vllm serialize --model facebook/opt-125m --serialized-directory s3://my-bucket --suffix v1
  tz-cli vllm serialize --model ./checkpoint --serialized-directory models --tensor-parallel-size 4
  tz-cli vllm serialize --model ./checkpoint --serialized-directory models --keyfile model.key
  tz-cli vllm serialize --model ./mixtral --serialized-directory models --layout hf
  tz-cli vllm serialize --model ./checkpoint --serialized-directory models \\
      --serialization-kwargs '{\"limit_cpu_concurrency\": 2}'";

/// What layout `hf` is said to be for: it leaves everything to vLLM's own loader.
const ANY_VERSION: &str = ">=0.9.2";

/// Make a directory that vLLM serves from a checkpoint
///
/// Writes DIR/vllm/MODEL/SUFFIX: configuration and tokenizer, then the tensors, then manifest.toml, each complete or
/// not at all. Prints the lines that serve the result. Memory stays within --memory-limit whatever the size of the
/// model.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Where the directory is made: a path, or a URI such as s3://bucket
    #[arg(long, value_name = "DIR")]
    serialized_directory: String,
    /// Last part of the directory's name [default: 32 random hexadecimal digits]
    #[arg(long, value_name = "NAME")]
    suffix: Option<String>,
    /// How tensors are named
    #[arg(long, value_enum, default_value_t = Layout::Vllm)]
    layout: Layout,
    /// The release of vLLM that will serve the model
    #[arg(long, value_name = "VERSION", default_value_t = VllmVersion::NEWEST_KNOWN)]
    vllm_version: VllmVersion,
    /// Keyword arguments of Tensorizer's serializer, as JSON: limit_cpu_concurrency
    #[arg(long, value_name = "JSON")]
    serialization_kwargs: Option<String>,
    /// Replace a model that stands in the directory; until the new one is whole, there is none
    #[arg(long)]
    overwrite: bool,
    /// Do not wait until files are safe from a power cut
    #[arg(long)]
    no_fsync: bool,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// As vLLM holds them, sliced for each GPU: its fast path, for the families that tz knows
    Vllm,
    /// As in the checkpoint: vLLM's ordinary loader, for every architecture that vLLM knows
    Hf,
}

/// The tensors of every rank.
enum Ranks<'a> {
    Vllm(Vec<VllmModel<'a>>),
    /// Each rank reads the whole checkpoint.
    Hf(&'a Checkpoint, u32),
}

impl Ranks<'_> {
    fn len(&self) -> u32 {
        match self {
            Self::Vllm(models) => u32::try_from(models.len()).unwrap_or(u32::MAX),
            Self::Hf(_, degree) => *degree,
        }
    }

    fn rank(&self, rank: u32) -> Option<&dyn TensorSource> {
        match self {
            Self::Vllm(models) => {
                let model = models.get(usize::try_from(rank).ok()?)?;
                Some(model)
            }
            Self::Hf(checkpoint, degree) => (rank < *degree).then_some(*checkpoint),
        }
    }

    fn total_bytes(&self) -> u64 {
        match self {
            Self::Vllm(models) => models.iter().map(VllmModel::total_bytes).sum(),
            Self::Hf(checkpoint, degree) => checkpoint.total_bytes() * u64::from(*degree),
        }
    }
}

pub(super) fn run(
    args: &Args,
    model: &ModelArgs,
    session: &Session,
) -> Result<ModelPublished, Failure> {
    let start = Instant::now();
    let quiet = session.speech.quiet;
    let kwargs = Serialization::parse(args.serialization_kwargs.as_deref(), quiet)?;
    let effort = EffortArgs {
        limit_cpu_concurrency: kwargs.limit_cpu_concurrency.or(args.effort.limit_cpu_concurrency),
        ..args.effort.clone()
    };
    let degree = model.degree()?;
    let base = ArtifactDir::parse(&args.serialized_directory)?;
    let key = args.key.plan(session)?;
    let found = Model::find(model, session)?;
    let suffix = args.suffix.clone().map_or_else(random_suffix, Ok)?;
    let dir = base.of_model(&found.name, &suffix).map_err(|e| Failure::usage(e.to_string()))?;
    refuse_percent(&dir, degree)?;

    let mut checkpoint = Checkpoint::open(&found.dir)?;
    checkpoint.digest_reads();
    let (ranks, vllm) = ranks(args, &checkpoint, &found.dir, degree)?;
    let adapter = LoraAdapter::find(model, &found.dir, session)?;
    let small = small_files(&found.dir, &key)?;
    if !quiet {
        small.left_out.iter().for_each(|name| say(&format!("left out: {name}")));
        if !found.dir.join("config.json").is_file() {
            say("the model has no config.json: vLLM cannot serve it without one");
        }
    }
    let options = write_options(args, &effort, session)?;
    let mut publication = Publication::begin(&dir, options.clone(), degree, args.overwrite)?;
    let (keyfile, key_is_new) = (key.shown(), key.is_new());
    let mut key = key.obtain()?;
    if let Some(key) = &key.key {
        publication = publication.encrypted_with(key);
    }
    for path in &small.copied {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        publication.copy(path, name)?;
    }
    if let Some(adapter) = &adapter {
        adapter.publish(&mut publication, key.key.as_ref(), &options)?;
    }
    let mut publication = publication.into_tensors();
    let bar = session.bar("writing", ranks.total_bytes());
    let (mut written, mut stats) = (Vec::new(), WriteStats::default());
    for rank in 0..ranks.len() {
        let Some(source) = ranks.rank(rank) else { break };
        let (location, one) = publication.write(degree, rank, source)?;
        if dir.local().is_none() {
            key.keep();
        }
        add(&mut stats, &one);
        written.push(RankWritten {
            location: location.to_string(),
            rank,
            tensors: source.specs().len(),
            bytes: one.tensor_bytes,
            file_bytes: one.file_bytes,
        });
    }
    drop(bar);
    let source = source(&found, &checkpoint, &options)?;
    let manifest = publication.finish(Facts {
        model: found.name.clone(),
        layout: args.layout.name(),
        vllm: vllm.to_owned(),
        tensor_parallel_size: degree,
        encrypted: key.key.is_some(),
        source,
        created: Moment::now(),
    })?;
    key.keep();

    let endpoint = endpoint(session)?;
    let served = absolute(&dir);
    let lines = ServeLines::new(&Served {
        dir: &served,
        model: &found.tag,
        version: args.vllm_version,
        tensor_parallel: degree,
        keyfile: keyfile.as_deref(),
        s3_endpoint: endpoint.as_deref(),
        adapter: adapter.as_ref().map(|adapter| adapter.served(manifest.encrypted)),
    });
    let seconds = start.elapsed().as_secs_f64();
    Ok(ModelPublished {
        directory: served,
        model: found.name,
        layout: args.layout.name(),
        vllm: vllm.to_owned(),
        vllm_version: args.vllm_version.to_string(),
        tensor_parallel_size: degree,
        encrypted: manifest.encrypted,
        keyfile,
        key_is_new,
        ranks: written,
        files: manifest.files.len(),
        left_out: small.left_out,
        bytes: stats.tensor_bytes,
        file_bytes: stats.file_bytes,
        seconds,
        bytes_per_second: rate(stats.tensor_bytes, seconds),
        peak_host_bytes: process::peak_bytes(),
        phases: crate::report::write_phases(&stats),
        serve: lines,
    })
}

impl Layout {
    fn name(self) -> LayoutName {
        match self {
            Self::Vllm => LayoutName::Vllm,
            Self::Hf => LayoutName::Hf,
        }
    }
}

/// As `uuid4().hex` of vLLM's script.
fn random_suffix() -> Result<String, Failure> {
    let key = tz_crypto::Key::random()?;
    let mut bytes = key.as_bytes().iter().take(16).copied().collect::<Vec<u8>>();
    if let Some(version) = bytes.get_mut(6) {
        *version = *version & 0x0f | 0x40;
    }
    if let Some(variant) = bytes.get_mut(8) {
        *variant = *variant & 0x3f | 0x80;
    }
    Ok(tz_format::hex(&bytes))
}

/// vLLM puts the rank into the URI by Python's `%`, which fails on any other `%` in it.
fn refuse_percent(dir: &ArtifactDir, degree: u32) -> Result<(), Failure> {
    if degree == 1 || !absolute(dir).contains('%') {
        return Ok(());
    }
    Err(Failure::usage(format!("{dir}: vLLM cannot load ranks from a path with a % in it"))
        .at(dir.as_str())
        .hint("choose a directory, a name and a suffix without one"))
}

/// Proves the model to be complete, where that is what the layout needs.
fn ranks<'a>(
    args: &Args,
    checkpoint: &'a Checkpoint,
    dir: &Path,
    degree: u32,
) -> Result<(Ranks<'a>, &'static str), Failure> {
    if args.layout == Layout::Hf {
        return Ok((Ranks::Hf(checkpoint, degree), ANY_VERSION));
    }
    let options =
        VllmOptions::default().with_tensor_parallel(degree).with_version(args.vllm_version);
    let location = dir.display().to_string();
    let layout = VllmLayout::prove(checkpoint, &read_config(dir)?, &options)
        .map_err(|refusal| refused(&location, &refusal))?;
    let models: Vec<VllmModel<'_>> = (0..degree).map_while(|rank| layout.rank(rank)).collect();
    Ok((Ranks::Vllm(models), layout.versions()))
}

fn refused(location: &str, refusal: &Refusal) -> Failure {
    match refusal {
        Refusal::TensorParallel { .. } | Refusal::UncheckedVersion { .. } => {
            Failure::usage(format!("{location}: {refusal}")).at(location).hint(refusal.advice())
        }
        _ => Failure::unsupported(location, &refusal.to_string(), refusal.advice()),
    }
}

fn small_files(dir: &Path, key: &KeyPlan) -> Result<SmallFiles, Failure> {
    let never: Vec<_> = key.local().into_iter().collect();
    Ok(SmallFiles::choose(dir, &never)?)
}

fn write_options(
    args: &Args,
    effort: &EffortArgs,
    session: &Session,
) -> Result<WriteOptions, Failure> {
    let mut options = WriteOptions::default();
    options.workers = Some(session.cores(effort));
    options.memory_limit = session.memory_limit(effort);
    options.fsync = !args.no_fsync;
    options.remote = session.access.remote()?;
    options.cancel = session.cancel.clone();
    options.progress = session.progress.clone();
    Ok(options)
}

/// What the model was made from, digests included.
fn source(
    found: &Model,
    checkpoint: &Checkpoint,
    options: &WriteOptions,
) -> Result<Source, Failure> {
    let digests = checkpoint.file_digests(options.workers.unwrap_or(1), &options.cancel)?;
    let entries = checkpoint.files().iter().zip(digests).map(|(file, blake3)| {
        let path = file.path();
        let name = path.strip_prefix(&found.dir).unwrap_or(path).display().to_string();
        FileEntry::new(name, file.byte_len(), blake3)
    });
    let path = std::path::absolute(&found.dir).unwrap_or_else(|_| found.dir.clone());
    Ok(Source::new(path.display().to_string(), found.commit.clone(), entries.collect()))
}

fn add(sum: &mut WriteStats, one: &WriteStats) {
    sum.file_bytes += one.file_bytes;
    sum.tensor_bytes += one.tensor_bytes;
    sum.read += one.read;
    sum.hash += one.hash;
    sum.encrypt += one.encrypt;
    sum.write += one.write;
    sum.sync += one.sync;
}

/// The directory as any other process would name it.
fn absolute(dir: &ArtifactDir) -> String {
    match dir.local().and_then(|path| std::path::absolute(path).ok()) {
        Some(path) => path.display().to_string(),
        None => dir.to_string(),
    }
}

/// The endpoint that this program was told of; vLLM does not look where it looks.
fn endpoint(session: &Session) -> Result<Option<String>, Failure> {
    const VARIABLES: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"];
    let told = session.access.remote()?.s3.endpoint;
    let variable = |name: &&str| std::env::var(name).ok().filter(|endpoint| !endpoint.is_empty());
    Ok(told.or_else(|| VARIABLES.iter().find_map(variable)))
}
