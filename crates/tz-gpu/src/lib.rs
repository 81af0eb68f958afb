//! Loads `.tensors` files from disk or network straight into GPU memory.
//!
//! ```text
//!            ring of pinned buffers                     streams
//! file ──► fill ─► decrypt, verify ─► convert ─► submit ──► copy ──► device memory ─► DeviceTensors ─► DLPack
//!           ▲            tz-io                                │
//!           └──────────── event done: buffer is free ◄────────┘
//! ```
//!
//! [`GpuLoader`] owns a ring of pinned host buffers ([`PinnedPool`]) and a [`CopyEngine`]. Readers of `tz-io` fill
//! buffers; each filled buffer is moved into the engine, which starts its copies and keeps it until the event behind
//! them has completed; then it goes back to the ring. So host memory is bounded by the ring, device memory by the
//! tensors, and no buffer is touched while a copy reads it. [`DeviceTensors`] exist only once every byte is in place
//! and verified; they outlive the loader, and [`dlpack`] hands them to PyTorch, JAX and CuPy without a copy.
//!
//! [`Bus`] measures what a copy alone takes.
//!
//! Everything works on a [`Device`]: [`SimDevice`] in host memory, which is late and fails on purpose, and with the
//! feature `cuda` a `CudaDevice`. The crate starts no kernels: casts and byte order are done on the CPU, in the ring.
//!
//! ```
//! use tz_gpu::{GpuLoader, GpuOptions, SimDevice, SimOptions};
//! use tz_io::{Location, ReadOptions, Selection, TensorFile};
//! # use tz_format::{Element, TensorSpec};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("model.tensors");
//! # let mut source = tz_io::MemorySource::new();
//! # source.push(TensorSpec::new("bias", Element::Uint8, vec![3]), &[1, 2, 3])?;
//! # tz_io::write(&source, &Location::File(path.clone()), &tz_io::WriteOptions::default())?;
//!
//! // With CUDA: CudaDevice::open(0)?
//! let device = SimDevice::new(SimOptions::default());
//! // The ring is pinned while the file is being opened.
//! let mut loader = GpuLoader::new(device, GpuOptions::local())?;
//! let file = TensorFile::open(&Location::File(path), &Default::default())?;
//! let tensors = loader.load(&file, &Selection::all(), &ReadOptions::default())?;
//! drop(loader);
//! assert_eq!(tensors.get("bias").unwrap().to_host()?, [1, 2, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod device;
mod error;

#[cfg(feature = "cuda")]
mod cuda;
mod sim;

mod convert;
mod schedule;
mod stats;

mod bus;
mod engine;
mod loader;
mod pinned_pool;
mod shards;

mod tensor;

pub mod dlpack;

#[cfg(feature = "testing")]
pub mod testing;

/// Compiles the README's example.
#[cfg(all(doctest, feature = "cuda"))]
#[doc = include_str!("../README.md")]
mod readme {}

pub use bus::Bus;
#[cfg(feature = "cuda")]
pub use cuda::{
    CudaDevice, CudaEvent, CudaInfo, CudaMemory, CudaPinned, CudaStream, RegisteredBytes,
};
pub use device::{ALIGNMENT, Device, DeviceId, DeviceMemory, MemoryInfo};
pub use engine::CopyEngine;
pub use error::{DeviceError, GpuError, MemoryKind};
pub use loader::{DEFAULT_RING_BYTES, DEFAULT_STREAMS, GpuLoader, GpuOptions};
pub use pinned_pool::PinnedPool;
pub use schedule::{Copy, Placement};
pub use shards::{Shard, load_shards};
pub use sim::{
    INJECTED_CODE, SimCall, SimDevice, SimEvent, SimMemory, SimOptions, SimPinned, SimStream,
    SimUsage,
};
pub use stats::{CopyStats, LoadStats, Stalls};
pub use tensor::{DeviceTensor, DeviceTensors};
