//! Writes `.tensors` files. Owns [`write()`], [`WriteOptions`] and the [`TensorSource`] that tensors come from.
//!
//! Everything about the file but the hashes is known before the first byte is written, so workers write pieces at
//! their final places in any order; headers follow their data, and the front, which makes the file whole, comes last.

mod digest_tree;
mod digesting;
mod execute;
mod jobs;
mod output;
mod sealing;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tz_crypto::FileSealer;
use tz_format::{CipherPlan, Extension, HashKind, Layout, LayoutOptions, TensorSpec};

use crate::error::IoError;
use crate::location::Location;
use crate::options::{Cancel, Progress, available_cores};
use crate::remote::{MultipartOutput, RemoteLocation, RemoteOptions};
use crate::stats::WriteStats;
use digesting::Digesting;
use output::StreamOutput;
pub(crate) use output::{LocalOutput, Output};

/// Where the bytes of tensors to be written come from.
pub trait TensorSource: Sync {
    /// Every tensor, in the order they are written.
    fn specs(&self) -> &[TensorSpec];

    /// Fills `buf` with the bytes of tensor `index` from `offset` on; never asked beyond the tensor's size, never for
    /// meta tensors. Several threads call at once.
    ///
    /// # Errors
    /// Whatever ends the write; the destination is left as it was.
    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// Tensors that are in memory already.
#[derive(Debug, Default)]
pub struct MemorySource<'a> {
    specs: Vec<TensorSpec>,
    data: Vec<&'a [u8]>,
}

impl<'a> MemorySource<'a> {
    /// A source without tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor whose elements are `data`, in C order and little-endian.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where the length of `data` does not fit the spec.
    pub fn push(&mut self, spec: TensorSpec, data: &'a [u8]) -> io::Result<()> {
        let len = spec.shape.iter().try_fold(spec.dtype.size(), |len, &dim| len.checked_mul(dim));
        // Beside a dimension of 0 the others may be of any size.
        let is_empty = spec.meta || spec.shape.contains(&0);
        let expected = if is_empty { Some(0) } else { len };
        if expected != Some(data.len() as u64) {
            let why = format!(
                "tensor {:?}: {} bytes do not fit its shape",
                spec.path.to_string(),
                data.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.specs.push(spec);
        self.data.push(data);
        Ok(())
    }
}

impl TensorSource for MemorySource<'_> {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let from = start.and_then(|start| self.data.get(index)?.get(start..)?.get(..buf.len()));
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// How to write.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Data starts at a multiple of this many bytes; 1 packs tensors. Default 4,096.
    pub alignment: u64,
    /// Hashes in every tensor header. Default CRC-32: the reference verifies with it alone.
    pub hashes: Vec<HashKind>,
    /// A BLAKE3 digest of every tensor in the front, where `inspect` finds it without reading the tensors. Costs
    /// about as much time as reading the source. Default false.
    pub blake3: bool,
    /// Tell the BLAKE3 digest of the whole file in [`WriteStats::file_digest`], made of the bytes on their way, for
    /// manifests. Not for streams. Default false.
    pub file_digest: bool,
    /// Free-form metadata of the user, a JSON object of at most 1 MiB.
    pub user_metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Worker threads; `None` takes one per core.
    pub workers: Option<usize>,
    /// Most bytes of staging memory. Default [`crate::default_staging_bytes`].
    pub memory_limit: Option<u64>,
    /// Wait until the file is on the disk before it gets its name. Default true; without it a power cut soon after
    /// may leave a file with holes under the final name.
    pub fsync: bool,
    /// Encrypt every tensor. Plaintext hashes are then left out unless [`Self::hashes`] asks for SHA-256, and in the
    /// sealed profile altogether: they would let anyone confirm a guess at the weights.
    pub seal: Option<Arc<FileSealer>>,
    /// Refuse to replace what stands at the destination. Default false.
    pub create_only: bool,
    /// Servers and credentials.
    pub remote: RemoteOptions,
    /// Stops the work early when set.
    pub cancel: Cancel,
    /// Counts bytes as they are written.
    pub progress: Progress,
}

impl WriteOptions {
    /// Servers and credentials, for waits that end with this work.
    pub(crate) fn remote(&self) -> RemoteOptions {
        RemoteOptions { cancel: self.remote.cancel.or(&self.cancel), ..self.remote.clone() }
    }
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            alignment: tz_format::frozen::DATA_ALIGNMENT,
            hashes: vec![HashKind::Crc32],
            blake3: false,
            file_digest: false,
            user_metadata: None,
            workers: None,
            memory_limit: None,
            fsync: true,
            seal: None,
            create_only: false,
            remote: RemoteOptions::default(),
            cancel: Cancel::default(),
            progress: Progress::default(),
        }
    }
}

/// Writes every tensor of `source` to `location`. A local file appears under its name complete or not at all; a
/// device, a pipe or standard output is written front to back.
///
/// # Errors
/// [`IoError::Format`] where the tensors cannot be written, [`IoError::Tensor`] where the source fails,
/// [`IoError::Io`] where the destination does, [`IoError::MemoryLimit`].
pub fn write(
    source: &dyn TensorSource,
    location: &Location,
    options: &WriteOptions,
) -> Result<WriteStats, IoError> {
    let name = location.to_string();
    let layout = plan(source, options).map_err(IoError::format(&name))?;
    match location {
        Location::File(path) if is_regular(path) => to_file(source, &layout, path, &name, options),
        Location::File(path) => {
            let file = std::fs::OpenOptions::new().write(true).open(path);
            let mut file = file.map_err(IoError::io(&name, "open for writing"))?;
            to_stream(source, &layout, &mut file, &name, options)
        }
        Location::Remote(location) => to_object(source, &layout, location, &name, options),
        Location::Stdio => {
            to_stream(source, &layout, &mut io::stdout().lock(), "standard output", options)
        }
    }
}

/// The layout that [`write()`] gives a file of `source`: for dry runs.
///
/// # Errors
/// [`tz_format::FormatError::Unwritable`].
pub fn plan(
    source: &dyn TensorSource,
    options: &WriteOptions,
) -> Result<Layout, tz_format::FormatError> {
    let specs = source.specs().to_vec();
    let mut extension = Extension::default();
    extension.blake3 = options.blake3.then(|| vec![[0; 32]; specs.len()]);
    extension.writer = Some(concat!("tz ", env!("CARGO_PKG_VERSION")).to_owned());
    extension.user_metadata = options.user_metadata.clone();
    let mut layout_options = LayoutOptions::default();
    layout_options.alignment = options.alignment;
    layout_options.hashes = options.hashes.clone();
    layout_options.extension = extension;
    if let Some(sealer) = &options.seal {
        sealer.extend(&mut layout_options.extension);
        layout_options.cipher = Some(sealer.cipher_plan());
        let sealed = matches!(sealer.cipher_plan(), CipherPlan::Sealed { .. });
        layout_options.hashes.retain(|&kind| kind == HashKind::Sha256 && !sealed);
    }
    Layout::plan(specs, layout_options)
}

/// Whether the path names a file that can be replaced by rename: `/dev/null` and pipes must not be.
pub(crate) fn is_regular(path: &Path) -> bool {
    path.metadata().map_or(true, |metadata| metadata.is_file() || metadata.is_dir())
}

fn to_file(
    source: &dyn TensorSource,
    layout: &Layout,
    path: &Path,
    name: &str,
    options: &WriteOptions,
) -> Result<WriteStats, IoError> {
    let output = LocalOutput::create(path, name, layout.file_len())?;
    let mut stats = run(source, layout, options, &output, name)?;
    let start = Instant::now();
    output.finish(options.fsync, options.create_only)?;
    stats.sync = start.elapsed();
    Ok(stats)
}

/// Jobs take a quarter of the memory, parts on their way the rest.
fn to_object(
    source: &dyn TensorSource,
    layout: &Layout,
    location: &RemoteLocation,
    name: &str,
    options: &WriteOptions,
) -> Result<WriteStats, IoError> {
    let limit = options.memory_limit.unwrap_or_else(crate::default_staging_bytes);
    let memory = limit - limit / 4;
    let output = MultipartOutput::create(
        location,
        &options.remote(),
        layout.file_len(),
        memory,
        options.create_only,
    )?;
    let jobs_options = WriteOptions { memory_limit: Some(limit / 4), ..options.clone() };
    let mut stats = run(source, layout, &jobs_options, &output, name)?;
    let start = Instant::now();
    output.finish()?;
    stats.sync = start.elapsed();
    Ok(stats)
}

/// A stream cannot be patched, so the source is read twice: once for the hashes, once for the data.
fn to_stream(
    source: &dyn TensorSource,
    layout: &Layout,
    sink: &mut dyn io::Write,
    name: &str,
    options: &WriteOptions,
) -> Result<WriteStats, IoError> {
    if options.seal.is_some() {
        // The second reading would be encrypted under the nonces of the first, perhaps from other bytes.
        let why = "an encrypted file cannot be written to a stream";
        return Err(IoError::Unsupported { location: name.to_owned(), why });
    }
    let output = StreamOutput::default();
    let counted =
        WriteOptions { progress: Progress::default(), file_digest: false, ..options.clone() };
    let stats = run(source, layout, &counted, &output, name)?;
    output.emit(source, layout, sink, name, options)?;
    Ok(stats)
}

fn run(
    source: &dyn TensorSource,
    layout: &Layout,
    options: &WriteOptions,
    output: &dyn Output,
    name: &str,
) -> Result<WriteStats, IoError> {
    let workers = options.workers.unwrap_or_else(available_cores).max(1);
    let limit = options.memory_limit.unwrap_or_else(crate::default_staging_bytes);
    let jobs = jobs::plan(layout, limit, workers, name)?;
    if !options.file_digest {
        return execute::run(source, layout, &jobs, options, output, name);
    }
    let output = Digesting::new(output, layout.file_len());
    let mut stats = execute::run(source, layout, &jobs, options, &output, name)?;
    stats.hash += output.time();
    stats.write = stats.write.saturating_sub(output.time());
    stats.file_digest = output.digest();
    Ok(stats)
}
