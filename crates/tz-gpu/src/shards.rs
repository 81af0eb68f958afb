//! Loads several files onto several devices at once. Owns [`load_shards`].

use tz_io::{IoError, ReadOptions, Selection, TensorFile};

use crate::device::Device;
use crate::error::GpuError;
use crate::loader::GpuLoader;
use crate::tensor::DeviceTensors;

/// One file and the loader, and so the device, that it goes to.
#[derive(Debug)]
pub struct Shard<'a, D: Device> {
    /// Where to.
    pub loader: &'a mut GpuLoader<D>,
    /// The file.
    pub file: &'a TensorFile,
    /// Which of its tensors.
    pub selection: &'a Selection,
}

/// Loads every shard at once, each onto its device, and gives the tensors in the same order. The first failure stops
/// the others.
///
/// # Errors
/// As [`GpuLoader::load`]; where several shards fail, the error of the one that did not fail because it was stopped.
pub fn load_shards<D: Device>(
    shards: &mut [Shard<'_, D>],
    options: &ReadOptions,
) -> Result<Vec<DeviceTensors>, GpuError> {
    let results: Vec<_> = std::thread::scope(|scope| {
        let loads: Vec<_> = shards
            .iter_mut()
            .map(|shard| {
                scope.spawn(|| {
                    let loaded = shard.loader.load(shard.file, shard.selection, options);
                    if loaded.is_err() {
                        options.cancel.cancel();
                    }
                    loaded
                })
            })
            .collect();
        let joined = loads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.collect()
    });
    let mut loaded = Vec::with_capacity(results.len());
    let mut failure = None;
    for result in results {
        match result {
            Ok(Ok(tensors)) => loaded.push(tensors),
            Ok(Err(error)) => {
                let stopped = matches!(failure, None | Some(GpuError::Io(IoError::Cancelled)));
                if stopped {
                    failure = Some(error);
                }
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    failure.map_or(Ok(loaded), Err)
}
