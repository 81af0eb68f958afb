//! Input that no command makes. Owns the small files written here.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tz_format::{Dtype, TensorPath, TensorSpec};
use tz_io::{Location, MemorySource, WriteOptions, write};

/// A `.tensors` file of these tensors.
pub(crate) fn tensors(path: &Path, tensors: &[(TensorSpec, Vec<u8>)], options: &WriteOptions) {
    let mut source = MemorySource::new();
    for (spec, data) in tensors {
        source.push(spec.clone(), data).expect("lengths agree");
    }
    write(&source, &Location::File(path.to_owned()), options).expect("write");
}

/// A state-dict entry; `dtype` as the format spells it.
pub(crate) fn spec(path: impl Into<TensorPath>, dtype: &str, shape: &[u64]) -> TensorSpec {
    TensorSpec::new(path, Dtype::from_wire(dtype).expect("dtype"), shape.to_vec())
}

/// A safetensors file of `tensors` equal tensors of `bytes` zeros each, which takes no room on the disk.
pub(crate) fn sparse_checkpoint(path: &Path, tensors: u64, bytes: u64) {
    let entry = |i: u64| {
        let (start, end) = (i * bytes, (i + 1) * bytes);
        format!(
            "\"t{i:03}\":{{\"dtype\":\"U8\",\"shape\":[{bytes}],\"data_offsets\":[{start},{end}]}}"
        )
    };
    let header = format!("{{{}}}", (0..tensors).map(entry).collect::<Vec<_>>().join(","));
    let file = File::create(path).expect("create");
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0).expect("write");
    file.write_all_at(header.as_bytes(), 8).expect("write");
    file.set_len(8 + header.len() as u64 + tensors * bytes).expect("length");
}
