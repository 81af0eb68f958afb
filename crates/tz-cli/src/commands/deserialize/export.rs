//! Tensors out as safetensors, through bounded memory. Owns [`export`].

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde_json::Value;
use tz_format::Element;
use tz_gpu::DeviceTensors;
use tz_io::ReadStats;
use tz_model::{
    Durability, Error as ModelError, SafetensorsPlan, SafetensorsWriter, ShardedPlan,
    ShardedWriter, TensorDecl,
};

use crate::convert::Conversion;
use crate::error::Failure;
use crate::folders::{self, NewFolders};
use crate::job::Job;
use crate::parallel;
use crate::source::Source;

/// Bytes of elements that are converted at a time: they stay in cache, and their result is no burden.
const BLOCK: usize = 64 << 10;
/// Bytes that are read back from a device at a time.
const DEVICE_BLOCK: usize = 8 << 20;

/// Where tensors are written to.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    is_directory: bool,
    max_shard_bytes: u64,
    durability: Durability,
}

impl Target {
    pub(super) fn new(text: &str, max_shard_bytes: u64, fsync: bool) -> Result<Self, Failure> {
        let path = PathBuf::from(text);
        let is_file = path.extension().is_some_and(|extension| extension == "safetensors");
        let usage = |why: &str, hint: &str| {
            Err(Failure::usage(format!("--to {text}: {why}")).at(text).hint(hint))
        };
        if text == "-" {
            return usage("safetensors cannot be streamed", "write a file, then send that");
        }
        if path.extension().is_some_and(|extension| extension == "tensors") {
            return usage(
                "--to writes safetensors",
                "`tz-cli serialize SOURCE DEST` writes .tensors files",
            );
        }
        if path.is_dir() {
            folders::refuse_other_checkpoint(&path)?;
        } else if !is_file && path.exists() {
            return usage(
                "a file is there already",
                "give a name that ends in .safetensors, or a directory",
            );
        }
        let durability = if fsync { Durability::Synced } else { Durability::Cached };
        Ok(Self { is_directory: path.is_dir() || !is_file, path, max_shard_bytes, durability })
    }
}

/// What was written.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) stats: ReadStats,
    pub(super) bytes: u64,
}

/// A writer of one file or of several.
enum Writer {
    One(SafetensorsWriter),
    Sharded(ShardedWriter),
}

impl Writer {
    fn write_at(&self, tensor: usize, offset: u64, data: &[u8]) -> Result<(), ModelError> {
        match self {
            Self::One(writer) => writer.write_at(tensor, offset, data),
            Self::Sharded(writer) => writer.write_at(tensor, offset, data),
        }
    }

    fn finish(self) -> Result<(), ModelError> {
        match self {
            Self::One(writer) => writer.finish(),
            Self::Sharded(writer) => writer.finish(),
        }
    }
}

/// Writes the tensors at these positions, which `job` selects. The destination appears whole or not at all, and only
/// if every hash that `job` asks for is right.
pub(super) fn export(
    source: &Source,
    tensors: &[usize],
    job: &Job,
    dtype: Option<Element>,
    target: &Target,
) -> Result<Exported, Failure> {
    source.require_unlocked()?;
    write_out(source, tensors, job, dtype, target, |writer, conversions| {
        let stats = source.stream(tensors, job, &|tensor, offset, bytes| {
            let at = tensors.binary_search(&tensor).map_err(|_| io::ErrorKind::InvalidInput)?;
            let conversion = conversions.get(at).copied().unwrap_or(Conversion::Keep);
            write(writer, at, conversion, offset, bytes)?;
            Ok(())
        })?;
        write_zeros(source, tensors, job, conversions, writer)?;
        Ok(stats)
    })
}

/// The same of tensors that were loaded onto a device, and cast on the way: they are read back.
pub(super) fn export_from_device(
    source: &Source,
    tensors: &[usize],
    job: &Job,
    dtype: Option<Element>,
    target: &Target,
    loaded: &DeviceTensors,
) -> Result<(), Failure> {
    let written = write_out(source, tensors, job, dtype, target, |writer, _| {
        let mut block = vec![0; DEVICE_BLOCK];
        for (at, tensor) in loaded.iter().enumerate() {
            let mut offset = 0;
            while offset < tensor.byte_len() {
                if job.read.cancel.is_cancelled() {
                    return Err(Failure::cancelled());
                }
                let left = usize::try_from(tensor.byte_len() - offset).unwrap_or(DEVICE_BLOCK);
                let part = block.get_mut(..left.min(DEVICE_BLOCK)).unwrap_or_default();
                tensor.read(offset, part)?;
                writer.write_at(at, offset, part)?;
                offset += part.len() as u64;
            }
        }
        Ok(ReadStats::default())
    });
    written.map(drop)
}

/// Makes the destination, lets `fill` write every tensor, and shows it.
fn write_out(
    source: &Source,
    tensors: &[usize],
    job: &Job,
    dtype: Option<Element>,
    target: &Target,
    fill: impl FnOnce(&Writer, &[Conversion]) -> Result<ReadStats, Failure>,
) -> Result<Exported, Failure> {
    let conversions: Vec<Conversion> =
        source.rows(tensors).map(|row| Conversion::new(row.dtype, dtype)).collect();
    let decls: Vec<TensorDecl> = source
        .rows(tensors)
        .zip(&conversions)
        .map(|(row, conversion)| TensorDecl {
            name: row.path.to_string(),
            dtype: conversion.dtype(row.dtype),
            shape: row.shape.to_vec(),
        })
        .collect();
    let new_folders = target.is_directory.then(|| NewFolders::towards(&target.path));
    let (metadata, durability) = (metadata(source), target.durability);
    let writer = if target.is_directory {
        let plan = ShardedPlan::new(&target.path, &decls, &metadata, target.max_shard_bytes)?;
        Writer::Sharded(ShardedWriter::create(&target.path, plan, durability)?)
    } else {
        let plan = SafetensorsPlan::new(&target.path, &decls, &metadata)?;
        Writer::One(SafetensorsWriter::create(&target.path, plan, durability)?)
    };
    let stats = fill(&writer, &conversions)?;
    if job.read.cancel.is_cancelled() {
        return Err(Failure::cancelled());
    }
    writer.finish()?;
    if let Some(folders) = new_folders {
        folders.keep();
    }
    let lens = source.rows(tensors).zip(&conversions);
    let bytes = lens.map(|(row, conversion)| conversion.offset(row.byte_len)).sum();
    Ok(Exported { stats, bytes })
}

fn write(
    writer: &Writer,
    tensor: usize,
    conversion: Conversion,
    offset: u64,
    bytes: &[u8],
) -> Result<(), ModelError> {
    if conversion == Conversion::Keep {
        return writer.write_at(tensor, offset, bytes);
    }
    let mut block = Vec::new();
    for (i, piece) in bytes.chunks(BLOCK).enumerate() {
        let at = conversion.offset(offset + (i * BLOCK) as u64);
        // A block grows at most fourfold, from float16 to float64.
        block.resize(usize::try_from(conversion.offset(piece.len() as u64)).unwrap_or(0), 0);
        conversion.apply(piece, &mut block);
        writer.write_at(tensor, at, &block)?;
    }
    Ok(())
}

/// Meta tensors have no bytes to stream, and safetensors has no meta tensors.
fn write_zeros(
    source: &Source,
    tensors: &[usize],
    job: &Job,
    conversions: &[Conversion],
    writer: &Writer,
) -> Result<(), Failure> {
    let zeros = vec![0; BLOCK];
    let metas: Vec<(usize, u64)> = source
        .rows(tensors)
        .zip(conversions)
        .enumerate()
        .filter(|(_, (row, _))| row.is_meta)
        .map(|(at, (row, conversion))| (at, conversion.offset(row.byte_len)))
        .collect();
    parallel::for_each(metas.len(), job.threads, &job.read.cancel, |i| {
        let &(tensor, len) = metas.get(i).unwrap_or(&(0, 0));
        let mut offset = 0;
        while offset < len {
            if job.read.cancel.is_cancelled() {
                return Err(Failure::cancelled());
            }
            let step = usize::try_from(len - offset).unwrap_or(BLOCK).min(BLOCK);
            writer.write_at(tensor, offset, zeros.get(..step).unwrap_or_default())?;
            offset += step as u64;
        }
        Ok(())
    })
}

/// The source's own metadata, as text. Loaders of the Hugging Face family insist on knowing who speaks.
fn metadata(source: &Source) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let own = source.user_metadata().into_iter().map(|(key, value)| (key, text(value)));
    let mut metadata: BTreeMap<String, String> = own.collect();
    metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
    metadata
}
