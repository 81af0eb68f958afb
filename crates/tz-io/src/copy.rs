//! Copies a file byte for byte between places. Owns [`copy`].
//!
//! A plain `.tensors` file is checked on the way: its hashes are computed from the very bytes that are written, and the
//! copy becomes visible only if they match.

use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::path::Path;

use tz_format::Limits;

use crate::check::{Checks, HeaderFacts, corruption};
use crate::error::{Corruption, IoError};
use crate::file::TensorFile;
use crate::load::slots_of;
use crate::location::Location;
use crate::plan::{LoadPlan, PlanOptions, Selection};
use crate::remote::{MultipartOutput, RemoteOptions};
use crate::source::RangeRead;
use crate::stream;
use crate::workers;
use crate::writer::{LocalOutput, Output, WriteOptions, is_regular};

/// Bytes copied at a time where the file is not cut by tensors.
const PIECE: u64 = 8 << 20;

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyReport {
    /// Length of the file.
    pub bytes: u64,
    /// Tensors whose hash was checked; none in a file that is encrypted or not a `.tensors` file.
    pub tensors_checked: usize,
}

/// Copies `source` to `destination`. The copy appears complete or not at all, but for a destination that is a stream.
/// Of `options`, those on durability, replacement, memory, workers and servers apply.
///
/// # Errors
/// [`IoError::Corrupt`] where a stored hash does not match, and what either place gives.
pub fn copy(
    source: &Location,
    destination: &Location,
    options: &WriteOptions,
) -> Result<CopyReport, IoError> {
    let opened = source.open(&RemoteOptions { whole: true, ..options.remote() })?;
    let name = destination.to_string();
    let limit = options.memory_limit.unwrap_or_else(crate::default_staging_bytes);
    let Some(len) = opened.len() else {
        return stream_out(&*opened, None, destination, &name, options);
    };
    match destination {
        Location::File(path) if is_regular(path) => {
            let output = LocalOutput::create(path, &name, len)?;
            let checked = pieces(opened, len, &output, limit, options)?;
            output.finish(options.fsync, options.create_only)?;
            Ok(CopyReport { bytes: len, tensors_checked: checked })
        }
        Location::Remote(location) => {
            // Pieces take a quarter of the memory, parts on their way the rest.
            let output = MultipartOutput::create(
                location,
                &options.remote(),
                len,
                limit - limit / 4,
                options.create_only,
            )?;
            let checked = pieces(opened, len, &output, limit / 4, options)?;
            output.finish()?;
            Ok(CopyReport { bytes: len, tensors_checked: checked })
        }
        Location::File(_) | Location::Stdio => {
            stream_out(&*opened, Some(len), destination, &name, options)
        }
    }
}

/// Front to back, one piece at a time: neither end can do better.
fn stream_out(
    source: &dyn RangeRead,
    len: Option<u64>,
    destination: &Location,
    name: &str,
    options: &WriteOptions,
) -> Result<CopyReport, IoError> {
    let open = |path: &Path| std::fs::OpenOptions::new().write(true).open(path);
    let mut sink: Box<dyn Write> = match destination {
        Location::Stdio => Box::new(io::stdout().lock()),
        Location::File(path) if !is_regular(path) => {
            Box::new(open(path).map_err(IoError::io(name, "open for writing"))?)
        }
        _ => {
            let why = "a source of unknown length can only be copied to a stream";
            return Err(IoError::Unsupported { location: source.location().to_owned(), why });
        }
    };
    let Some(len) = len else {
        let why = "a stream is copied by the shell, not by this command";
        return Err(IoError::Unsupported { location: source.location().to_owned(), why });
    };
    let mut buffer = Vec::new();
    for range in cut(0..len) {
        options.cancel.check()?;
        buffer.resize(size(&range), 0);
        source.read_into_until(
            range.start,
            &mut [IoSliceMut::new(&mut buffer)],
            &options.cancel,
        )?;
        sink.write_all(&buffer).map_err(IoError::io(name, "write"))?;
        options.progress.add(buffer.len() as u64);
    }
    sink.flush().map_err(IoError::io(name, "write"))?;
    Ok(CopyReport { bytes: len, tensors_checked: 0 })
}

fn size(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

fn cut(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let pieces = (range.end - range.start).div_ceil(PIECE);
    (0..pieces).map(move |i| {
        let start = range.start + i * PIECE;
        start..range.end.min(start + PIECE)
    })
}

/// Copies in parallel: tensors first, by a plan that tiles them, then what stands around them. Every
/// thread holds one piece, and all of them `memory` bytes. Gives the number of tensors checked.
fn pieces(
    source: Box<dyn RangeRead>,
    len: u64,
    output: &dyn Output,
    memory: u64,
    options: &WriteOptions,
) -> Result<usize, IoError> {
    let read = crate::ReadOptions { readers: options.workers, ..crate::ReadOptions::default() };
    let (source, file) = match TensorFile::try_from_source(source, &Limits::default())? {
        Ok(file) => (None, Some(file)),
        Err(source) => (Some(source), None),
    };
    let plan = match &file {
        Some(file) => plan(file)?,
        None => LoadPlan::default(),
    };
    let tiled = match (plan.fetches.first(), plan.fetches.last()) {
        (Some(first), Some(last)) => first.range.start..last.range.end,
        _ => 0..0,
    };
    let checks = Checks::new(plan.tensors.len());
    let slots = slots_of(&plan, file.as_ref().map_or(0, |file| file.entries().len()));
    // Without tensors to check, the whole file is cut plainly; the front comes last, as the writer has it.
    let mut around: Vec<Range<u64>> = cut(tiled.end..len).collect();
    around.extend(cut(0..tiled.start));
    let reader: &dyn RangeRead = match (&source, &file) {
        (Some(source), _) => &**source,
        (None, Some(file)) => file.source(),
        (None, None) => return Ok(0),
    };
    let total = plan.fetches.len() + around.len();
    let longest = (plan.longest_fetch() as u64).max(PIECE.min(len)).max(1);
    let fitting = usize::try_from(memory / longest).unwrap_or(usize::MAX).max(1);
    let threads = read.readers_for(reader, total).min(fitting);
    workers::for_each(total, threads, &options.cancel, Vec::new, |buffer: &mut Vec<u8>, i| {
        let fetch = plan.fetches.get(i);
        let range = match fetch {
            Some(fetch) => fetch.range.clone(),
            None => around.get(i - plan.fetches.len()).cloned().unwrap_or_default(),
        };
        buffer.resize(size(&range), 0);
        reader.read_into_until(range.start, &mut [IoSliceMut::new(buffer)], &options.cancel)?;
        if let (Some(fetch), Some(file)) = (fetch, &file) {
            stream::check(file, &fetch.parts, buffer, &slots, &checks)?;
        }
        output.data(range.start, buffer)?;
        options.progress.add(buffer.len() as u64);
        Ok(())
    })?;
    let Some(file) = file else { return Ok(0) };
    verdict(&file, &plan, &checks)
}

/// Every tensor of a plain file; nothing of an encrypted one, whose hashes cover the plaintext.
fn plan(file: &TensorFile) -> Result<LoadPlan, IoError> {
    if file.is_encrypted() {
        return Ok(LoadPlan::default());
    }
    let options = PlanOptions { headers: true, ..file.source().plan_options() };
    file.plan(&Selection::all(), &options)
}

fn verdict(file: &TensorFile, plan: &LoadPlan, checks: &Checks) -> Result<usize, IoError> {
    let wrong = plan.tensors.iter().filter(|&&tensor| checks.crc32_differs(tensor));
    let failures: Vec<Corruption> = wrong
        .filter_map(|&tensor| Some(corruption(file.entries().get(tensor)?, "crc32")))
        .collect();
    file.corrupt(failures)?;
    let with_crc32 = |facts: &HeaderFacts| !facts.needs_sha256() && !facts.header.hashes.is_empty();
    Ok(plan.tensors.iter().filter(|&&tensor| checks.facts(tensor).is_some_and(with_crc32)).count())
}
