//! `vllm deserialize`: the tensors of a directory that vLLM serves, loaded as vLLM would load them.

use std::time::{Duration, Instant};

use tz_format::{Element, TensorKind};
use tz_io::ReadStats;
use tz_model::{ArtifactDir, LayoutName, MARKER, tensors_template};

use super::ModelArgs;
use super::kwargs::Deserialization;
use crate::args::{EffortArgs, FilterArgs, VerifyArgs};
use crate::error::Failure;
use crate::job::Session;
use crate::load::load;
use crate::process;
use crate::report::{ModelLoaded, Phases, RankLoaded, phases, rate};
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli vllm deserialize --path-to-tensors s3://my-bucket/vllm/facebook/opt-125m/v1/model.tensors
  tz-cli vllm deserialize --serialized-directory models/vllm/demo/v1 --keyfile model.key
  tz-cli vllm deserialize --model demo --serialized-directory models --suffix v1
  tz-cli vllm deserialize --serialized-directory models/vllm/demo/v1 --tensor-parallel-size 2 \\
      --deserialization-kwargs '{\"num_readers\": 2}'";

/// Load the tensors of a directory that vLLM serves, and report speed and memory
///
/// Every rank's file is opened, checked for what vLLM needs of it, loaded with its hashes verified, and dropped before
/// the next. If the tensors exceed --memory-limit, they are streamed through that much memory instead.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The file, or the template of the ranks' files, such as DIR/model-rank-%03d.tensors
    #[arg(long, value_name = "URI")]
    path_to_tensors: Option<String>,
    /// The directory that holds the tensors; with --suffix, the one that `vllm serialize` took
    #[arg(long, value_name = "DIR")]
    serialized_directory: Option<String>,
    /// The suffix that `vllm serialize` took or made; the model's name comes from --model
    #[arg(long, value_name = "NAME", requires = "serialized_directory")]
    suffix: Option<String>,
    /// Keyword arguments of Tensorizer's deserializer, as JSON: num_readers, verify_hash
    #[arg(long, value_name = "JSON")]
    deserialization_kwargs: Option<String>,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(super) fn run(
    args: &Args,
    model: &ModelArgs,
    session: &Session,
) -> Result<ModelLoaded, Failure> {
    let kwargs = args.deserialization_kwargs.as_deref();
    let kwargs = Deserialization::parse(kwargs, session.speech.quiet)?;
    let degree = model.degree()?;
    let paths = paths(args, model, degree)?;
    let effort = EffortArgs {
        num_readers: kwargs.num_readers.or(args.effort.num_readers),
        ..args.effort.clone()
    };
    let mut job = session.job(&FilterArgs::default(), &effort, Some(args.verify))?;
    job.read.verify = kwargs.verify_hash.unwrap_or(job.read.verify);

    let start = Instant::now();
    let (mut layouts, mut ranks, mut streamed, mut readers) = (Vec::new(), Vec::new(), false, 0);
    let (mut total, mut open) = (Phases::new(), Duration::ZERO);
    for (rank, path) in (0..).zip(&paths) {
        let begun = Instant::now();
        let source = Source::open(path, &job.selection, session)?;
        layouts.push(layout(&source)?);
        let selected = source.select(&job.selection)?;
        open += begun.elapsed();
        let bytes = source.rows(&selected).map(|row| row.byte_len).sum();
        let bar = session.bar("loading", bytes);
        let loaded = load(&source, &selected, &job, None)?;
        drop(bar);
        streamed |= loaded.kept.is_nothing();
        readers = source.readers(&job);
        for (phase, seconds) in phases(Duration::ZERO, &loaded.stats) {
            *total.entry(phase).or_default() += seconds;
        }
        ranks.push(RankLoaded {
            location: source.location().to_owned(),
            rank,
            tensors: selected.len(),
            bytes: loaded.bytes,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }
    let layout = layouts.first().copied().unwrap_or(LayoutName::Hf);
    if layouts.iter().any(|other| *other != layout) {
        return Err(Failure::usage("some ranks have vLLM's layout and others do not")
            .hint("write all of them in one run of `tz-cli vllm serialize`"));
    }
    total.extend(
        phases(open, &ReadStats::default()).into_iter().filter(|(name, _)| *name == "open"),
    );
    let seconds = start.elapsed().as_secs_f64();
    let bytes = ranks.iter().map(|rank| rank.bytes).sum();
    Ok(ModelLoaded {
        layout,
        tensors: ranks.iter().map(|rank| rank.tensors).sum(),
        ranks,
        bytes,
        seconds,
        bytes_per_second: rate(bytes, seconds),
        peak_host_bytes: process::peak_bytes(),
        device: "cpu".to_owned(),
        streamed,
        verified: job.read.verify,
        readers,
        phases: total,
    })
}

/// The file of every rank.
fn paths(args: &Args, model: &ModelArgs, degree: u32) -> Result<Vec<String>, Failure> {
    let template = match (&args.path_to_tensors, &args.serialized_directory) {
        (Some(path), None) => path.clone(),
        (None, Some(directory)) => {
            let dir = ArtifactDir::parse(directory)?;
            let dir = match &args.suffix {
                None => dir,
                Some(suffix) => {
                    let name = model.served_model_name.as_ref().or(model.model.as_ref());
                    let name = name.ok_or_else(|| {
                        Failure::usage("--suffix needs --model or --served-model-name")
                    })?;
                    dir.of_model(name, suffix).map_err(|error| Failure::usage(error.to_string()))?
                }
            };
            // A directory may have a % in its name; only the file's is a template.
            return Ok((0..degree)
                .map(|rank| format!("{dir}/{}", tz_model::tensors_name(degree, rank)))
                .collect());
        }
        _ => {
            return Err(Failure::usage(
                "either --path-to-tensors or --serialized-directory is needed, and not both",
            ));
        }
    };
    let refuse = |why: String, hint: &str| Err(Failure::usage(why).at(&template).hint(hint));
    match (split(&template), degree) {
        (None, 1) => Ok(vec![template]),
        (Some((before, width, after)), 2..) if !before.contains('%') && !after.contains('%') => {
            Ok((0..degree).map(|rank| format!("{before}{rank:0width$}{after}")).collect())
        }
        (Some(_), 1) => refuse(
            format!("{template}: a template, and there is one rank"),
            "give --tensor-parallel-size, or the name of one file",
        ),
        (Some(_), _) => refuse(
            format!("{template}: a template has one % alone"),
            "vLLM fills it in by Python's %, which fails on any other",
        ),
        (None, _) => refuse(
            format!("{template}: {degree} ranks cannot read one file"),
            &format!("name it by a template, such as {}", tensors_template(degree)),
        ),
    }
}

/// What stands before the first `%0Nd`, its number, and what follows. vLLM knows one digit.
fn split(template: &str) -> Option<(&str, usize, &str)> {
    template.match_indices("%0").find_map(|(at, _)| {
        let rest = template.get(at + 2..)?;
        let width = rest.chars().next()?.to_digit(10)?;
        let after = rest.get(1..)?.strip_prefix('d')?;
        Some((template.get(..at)?, usize::try_from(width).ok()?, after))
    })
}

/// How vLLM will take the file, by the marker; fails where it will not.
fn layout(source: &Source) -> Result<LayoutName, Failure> {
    let file = source.tensors("vllm deserialize")?;
    let location = file.location();
    let refuse = |what: &str| {
        Failure::unsupported(location, what, "`tz-cli vllm serialize` makes files that vLLM loads")
    };
    let is_marker = |path: &tz_format::TensorPath| path.plain() == Some(MARKER);
    let Some(marker) = file.entries().iter().find(|entry| is_marker(&entry.path)) else {
        return Ok(LayoutName::Hf);
    };
    let expected = marker.is_meta()
        && marker.kind == TensorKind::Parameter
        && marker.dtype == Element::Int64.into()
        && marker.shape == [1];
    if !expected {
        return Err(refuse("the marker of vLLM's layout is not as vLLM writes it"));
    }
    for entry in file.entries() {
        let name = entry.path.to_string();
        if entry.kind == TensorKind::StateDict {
            let what = format!(
                "{name:?} is an entry of a state dict: vLLM takes parameters alone beside its marker"
            );
            return Err(refuse(&what));
        }
        if entry.path.plain().is_none_or(|name| !name.contains('.')) {
            return Err(refuse(&format!("{name:?} names no attribute of a module")));
        }
    }
    Ok(LayoutName::Vllm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: Option<&str>, dir: Option<&str>, degree: u32, expected: Result<&[&str], &str>) {
        let args = Args {
            path_to_tensors: path.map(ToOwned::to_owned),
            serialized_directory: dir.map(ToOwned::to_owned),
            suffix: None,
            deserialization_kwargs: None,
            verify: VerifyArgs::default(),
            effort: EffortArgs::default(),
        };
        match (paths(&args, &ModelArgs::default(), degree), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(failure), Err(says)) => {
                assert!(failure.message.contains(says), "{}", failure.message);
            }
            (found, _) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn files_of_the_ranks() {
        check(Some("a/model.tensors"), None, 1, Ok(&["a/model.tensors"]));
        check(None, Some("a/"), 1, Ok(&["a/model.tensors"]));
        check(None, Some("s3://b"), 1, Ok(&["s3://b/model.tensors"]));
        check(
            None,
            Some("100%/a"),
            2,
            Ok(&["100%/a/model-rank-000.tensors", "100%/a/model-rank-001.tensors"]),
        );
        check(Some("m-%03d.tensors"), None, 2, Ok(&["m-000.tensors", "m-001.tensors"]));
        check(Some("m-%02d"), None, 2, Ok(&["m-00", "m-01"]));
        check(Some("100%.tensors"), None, 1, Ok(&["100%.tensors"]));
        check(Some("m-%03d.tensors"), None, 1, Err("there is one rank"));
        check(Some("100%/m-%03d.tensors"), None, 2, Err("one % alone"));
        check(Some("m-%03d-%03d"), None, 2, Err("one % alone"));
        check(Some("m-%d.tensors"), None, 2, Err("cannot read one file"));
        check(Some("model.tensors"), None, 2, Err("cannot read one file"));
        check(None, None, 1, Err("not both"));
        check(Some("a"), Some("b"), 1, Err("not both"));
    }
}
