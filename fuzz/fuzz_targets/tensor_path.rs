//! Any bytes as a name, and as a dtype: what is read is written in one way, which reads back the same.
#![no_main]
use tz_format::{Dtype, TensorPath};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(path) = TensorPath::from_wire(data) {
        assert_eq!(TensorPath::from_wire(&path.to_wire()), Ok(path));
    }
    if let Some(dtype) = std::str::from_utf8(data).ok().and_then(Dtype::from_wire) {
        assert_eq!(Dtype::from_wire(&dtype.to_wire()), Some(dtype));
    }
});
