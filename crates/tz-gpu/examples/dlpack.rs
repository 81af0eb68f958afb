//! The C interface as a shared library: `cargo build -p tz-gpu --example dlpack --features capi,cuda --release`.
//!
//! `tests/gpu/dlpack_check.py` shows how Python takes tensors from it.

pub use tz_gpu::dlpack::capi::{
    tz_gpu_count, tz_gpu_dlpack, tz_gpu_dlpack_versioned, tz_gpu_dtype, tz_gpu_free, tz_gpu_load,
    tz_gpu_name,
};
