//! Tensors of candle, by their names, as 32-bit floats: from a `.tensors` file wherever it is, or by candle's own loader.

use std::collections::HashMap;
use std::error::Error;

use candle_core::{DType, Device, Tensor};
use tz_format::{Dtype, Element, Limits};
use tz_io::{Location, ReadOptions, Selection, TensorFile};

/// From disk, HTTP(S) or an object store; the stored hashes are checked on the way.
pub fn by_tz(uri: &str, device: &Device) -> Result<HashMap<String, Tensor>, Box<dyn Error>> {
    let file = TensorFile::open(&Location::parse(uri)?, &Limits::default())?;
    let tensors = file.load(&Selection::all(), &ReadOptions::default())?;
    let mut weights = HashMap::new();
    for tensor in &tensors {
        let entry = tensor.entry();
        let shape: Vec<usize> =
            entry.shape.iter().map(|dim| usize::try_from(*dim)).collect::<Result<_, _>>()?;
        let bytes = tensor.bytes();
        let weight = Tensor::from_raw_buffer(bytes, dtype(entry.dtype)?, &shape, device)?;
        weights.insert(entry.path.to_string(), weight.to_dtype(DType::F32)?);
    }
    Ok(weights)
}

/// From a safetensors file, without anything of `tz`.
pub fn by_candle(path: &str, device: &Device) -> Result<HashMap<String, Tensor>, Box<dyn Error>> {
    let mut weights = candle_core::safetensors::load(path, device)?;
    for weight in weights.values_mut() {
        *weight = weight.to_dtype(DType::F32)?;
    }
    Ok(weights)
}

fn dtype(dtype: Dtype) -> Result<DType, String> {
    [
        (Element::Bfloat16, DType::BF16),
        (Element::Float16, DType::F16),
        (Element::Float32, DType::F32),
        (Element::Float64, DType::F64),
    ]
    .into_iter()
    .find_map(|(element, candle)| (Dtype::from(element) == dtype).then_some(candle))
    .ok_or_else(|| format!("{dtype}: not a type of floating point numbers"))
}
