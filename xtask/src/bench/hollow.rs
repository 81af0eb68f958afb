//! Checkpoints whose weights are holes: of any size, made at once. What is serialized of them is real.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Writes a safetensors file of bfloat16 tensors with these names and shapes; gives the bytes of their data.
pub(super) fn safetensors(path: &Path, tensors: &[(String, Vec<u64>)]) -> Result<u64> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::from(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let header_len = u64::try_from(header.len())?;
    file.write_all(&header_len.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(8 + header_len + end)?;
    Ok(end)
}
