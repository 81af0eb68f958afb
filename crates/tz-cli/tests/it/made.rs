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

/// A PEFT directory that fits the preset `llama-tiny`: one pair of this rank.
pub(crate) fn adapter(dir: &Path, rank: u64) {
    const WIDTH: u64 = 64;
    let name = "base_model.model.model.layers.0.self_attn.q_proj";
    let len = rank * WIDTH * 2;
    let mut header = format!(
        "{{\"__metadata__\":{{\"format\":\"pt\"}},\
         \"{name}.lora_A.weight\":{{\"dtype\":\"BF16\",\"shape\":[{rank},{WIDTH}],\"data_offsets\":[0,{len}]}},\
         \"{name}.lora_B.weight\":{{\"dtype\":\"BF16\",\"shape\":[{WIDTH},{rank}],\"data_offsets\":[{len},{}]}}}}",
        2 * len
    );
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header.as_bytes());
    weights.extend((0..=250).cycle().take(usize::try_from(2 * len).expect("length")));
    let config = format!(
        "{{\"r\":{rank},\"lora_alpha\":{},\"target_modules\":[\"q_proj\"],\"bias\":\"none\"}}",
        2 * rank
    );
    std::fs::create_dir_all(dir).expect("directory");
    std::fs::write(dir.join("adapter_config.json"), config).expect("write");
    std::fs::write(dir.join("adapter_model.safetensors"), weights).expect("write");
}
