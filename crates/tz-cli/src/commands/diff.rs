//! `diff`: what two models differ in, whatever their formats.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tz_format::TensorPath;
use tz_io::Selection;

use crate::args::{EffortArgs, FilterArgs};
use crate::convert::Conversion;
use crate::error::Failure;
use crate::job::{Job, Session};
use crate::parallel;
use crate::report::{Difference, Differences, What};
use crate::source::{Row, Source};

/// Bytes compared at a time; they stay in cache.
const BLOCK: usize = 256 << 10;

const EXAMPLES: &str = "\
Examples:
  tz-cli diff checkpoint/ model.tensors
  tz-cli diff old.tensors new.tensors --filter '*.lm_head.*'
  tz-cli serialize checkpoint/ - | tz-cli diff - model.tensors";

/// Compare names, dtypes, shapes and contents of two models
///
/// Each side may be a .tensors file, a safetensors file or a directory of them; one may be `-`. Contents are compared
/// as numbers are stored in memory, so byte order in old files makes no difference. Exit code 1 means that the models
/// differ.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The first model
    #[arg(value_name = "A")]
    a: String,
    /// The second model
    #[arg(value_name = "B")]
    b: String,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    effort: EffortArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Differences, Failure> {
    let job = session.job(&args.filter, &args.effort, None)?;
    if args.a == "-" && args.b == "-" {
        return Err(Failure::usage("only one side can be standard input"));
    }
    // One side may be what became of the other, so one that is encrypted is enough.
    let options = session.access.open_any()?;
    let a = Source::open_with(&args.a, session, &options)?;
    let b = Source::open_with(&args.b, session, &options)?;
    if a.is_stream() && b.is_stream() {
        let failure = Failure::usage("only one side can be a stream");
        return Err(failure.hint("write one of them to a file first"));
    }
    if !a.is_encrypted() && !b.is_encrypted() {
        session.access.refuse_plain(&format!("{} and {}", a.location(), b.location()))?;
    }
    a.require_unlocked()?;
    b.require_unlocked()?;
    let [a, b] = sides(&a, &b, session.globs(&args.filter))?;
    let pairs = Pairs::new(&a, &b);
    let bytes = pairs.comparable.iter().map(|pair| pair.bytes).sum();
    let bar = session.bar("comparing", bytes);
    let contents = compare(&a, &b, &pairs.comparable, &job)?;
    drop(bar);

    let mut differences = pairs.differences;
    differences.extend(contents);
    // In the order of the first model; what it lacks comes last, in the order of the second.
    differences.sort_by_key(|(at, _)| *at);
    let differences: Vec<Difference> = differences.into_iter().map(|(_, one)| one).collect();
    Ok(Differences {
        equal: differences.is_empty(),
        compared: pairs.comparable.len(),
        bytes,
        differences,
    })
}

/// A model, and which of its tensors are compared.
#[derive(Debug)]
struct Side<'a> {
    source: &'a Source,
    /// Positions, ascending.
    tensors: Vec<usize>,
    /// The same as `tz_io` takes it.
    selection: Selection,
}

/// What the filter selects on either side. Every glob must select something, but one side is enough.
fn sides<'a>(a: &'a Source, b: &'a Source, globs: &[String]) -> Result<[Side<'a>; 2], Failure> {
    let sources = [a, b];
    let mut matching: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    for glob in globs {
        let selection = Session::select(std::slice::from_ref(glob))?;
        let found = sources.map(|source| source.select(&selection));
        if let [Err(_), Err(failure)] = found {
            return Err(failure);
        }
        for (own, found) in matching.iter_mut().zip(found) {
            own.extend(found.is_ok().then(|| glob.clone()));
        }
    }
    let [in_a, in_b] = matching;
    let side = |source: &'a Source, own: Vec<String>| -> Result<Side<'a>, Failure> {
        let selection = Session::select(&own)?;
        // No globs would select everything.
        let nothing = own.is_empty() && !globs.is_empty();
        let tensors = if nothing { Vec::new() } else { source.select(&selection)? };
        Ok(Side { source, tensors, selection })
    };
    Ok([side(a, in_a)?, side(b, in_b)?])
}

/// A place in the report.
type Place = (bool, usize);

/// A tensor that both models have, with one dtype and shape.
#[derive(Debug)]
struct Pair {
    a: usize,
    b: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Pairs {
    comparable: Vec<Pair>,
    differences: Vec<(Place, Difference)>,
}

impl Pairs {
    fn new(a: &Side<'_>, b: &Side<'_>) -> Self {
        let rows = || b.source.rows(&b.tensors).zip(&b.tensors);
        let by_path: HashMap<&TensorPath, usize> = rows().map(|(row, &i)| (row.path, i)).collect();
        // A nested path and the name that a flat format makes of it are the same tensor.
        let by_name: HashMap<String, usize> =
            rows().map(|(row, &i)| (row.path.to_string(), i)).collect();
        let mut pairs = Self { comparable: Vec::new(), differences: Vec::new() };
        let mut missing: HashMap<usize, Row<'_>> = rows().map(|(row, &i)| (i, row)).collect();
        for (row, &i) in a.source.rows(&a.tensors).zip(&a.tensors) {
            let name = row.path.to_string();
            let other = by_path.get(row.path).or_else(|| by_name.get(&name));
            let other = other.and_then(|&at| Some((at, missing.remove(&at)?)));
            let what = match other {
                None => What::OnlyInA,
                Some((_, other)) if other.dtype.name() != row.dtype.name() => {
                    What::Dtype { a: row.dtype.name(), b: other.dtype.name() }
                }
                Some((_, other)) if other.shape != row.shape => {
                    What::Shape { a: row.shape.to_vec(), b: other.shape.to_vec() }
                }
                Some((at, _)) => {
                    pairs.comparable.push(Pair { a: i, b: at, bytes: row.byte_len });
                    continue;
                }
            };
            pairs.differences.push(((false, i), Difference { name, what }));
        }
        let only = missing.into_iter().map(|(i, row)| {
            ((true, i), Difference { name: row.path.to_string(), what: What::OnlyInB })
        });
        pairs.differences.extend(only);
        pairs
    }
}

/// Compares contents: one side is streamed, the other is read at the same places.
fn compare(
    a: &Side<'_>,
    b: &Side<'_>,
    pairs: &[Pair],
    job: &Job,
) -> Result<Vec<(Place, Difference)>, Failure> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    // A stream can only be the streamed side; apart from that, a .tensors file streams best.
    let a_streams =
        a.source.is_stream() || (!b.source.is_stream() && matches!(a.source, Source::Tensors(_)));
    let (side, other) = if a_streams { (a, b.source) } else { (b, a.source) };
    let streamed = side.source;
    let of = |pair: &Pair| {
        if a_streams { (pair.a, pair.b) } else { (pair.b, pair.a) }
    };
    let firsts: Vec<AtomicU64> = pairs.iter().map(|_| AtomicU64::new(u64::MAX)).collect();
    let partners: HashMap<usize, (usize, &AtomicU64)> =
        pairs.iter().zip(&firsts).map(|(pair, first)| (of(pair).0, (of(pair).1, first))).collect();
    let conversion = |source: &Source, tensor| {
        source.row(tensor).map_or(Conversion::Keep, |row| Conversion::new(row.dtype, None))
    };
    let sink = |tensor: usize, offset: u64, bytes: &[u8]| -> io::Result<()> {
        let Some(&(partner, first)) = partners.get(&tensor) else {
            return Ok(());
        };
        let conversions = (conversion(streamed, tensor), conversion(other, partner));
        let found = differs(other, partner, conversions, offset, bytes)?;
        first.fetch_min(found.unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    };
    let (selection, read) = (side.selection.clone(), job.read.clone());
    let own = Job { selection, read, threads: job.threads };
    streamed.stream(&side.tensors, &own, &sink)?;

    // Meta tensors have no bytes to stream: their zeros are compared here.
    let metas: Vec<&Pair> = pairs
        .iter()
        .filter(|pair| streamed.row(of(pair).0).is_some_and(|row| row.is_meta))
        .collect();
    let zeros = vec![0; BLOCK];
    parallel::for_each(metas.len(), job.threads, &job.read.cancel, |i| {
        let Some(pair) = metas.get(i) else {
            return Ok(());
        };
        let mut offset = 0;
        while offset < pair.bytes {
            let step = usize::try_from(pair.bytes - offset).unwrap_or(BLOCK).min(BLOCK);
            sink(of(pair).0, offset, zeros.get(..step).unwrap_or_default())
                .map_err(|error| other.failed(of(pair).1, error))?;
            offset += step as u64;
        }
        Ok(())
    })?;
    let differing = pairs.iter().zip(&firsts).filter_map(|(pair, first)| {
        let offset = Some(first.load(Ordering::Relaxed)).filter(|&offset| offset != u64::MAX)?;
        let name = a.source.row(pair.a)?.path.to_string();
        Some(((false, pair.a), Difference { name, what: What::Contents { offset } }))
    });
    Ok(differing.collect())
}

/// First byte at which `bytes`, which stand at `offset` of a tensor, and the other side's tensor differ.
fn differs(
    other: &Source,
    tensor: usize,
    (own, others): (Conversion, Conversion),
    offset: u64,
    bytes: &[u8],
) -> io::Result<Option<u64>> {
    let len = bytes.len().min(BLOCK);
    let (mut theirs, mut turned) = (vec![0; len], Vec::new());
    for (i, ours) in bytes.chunks(BLOCK).enumerate() {
        let at = offset + (i * BLOCK) as u64;
        let theirs = theirs.get_mut(..ours.len()).unwrap_or_default();
        other.read_at(tensor, at, theirs)?;
        // Byte order is no difference: where both have one that is not ours, turning either is as good.
        let ours = if own == others {
            ours
        } else {
            turned.resize(ours.len(), 0);
            own.apply(ours, &mut turned);
            if others != Conversion::Keep {
                let copy = theirs.to_vec();
                others.apply(&copy, theirs);
            }
            &turned
        };
        if ours != theirs {
            let same = ours.iter().zip(theirs.iter()).take_while(|(a, b)| a == b).count();
            return Ok(Some(at + same as u64));
        }
    }
    Ok(None)
}
