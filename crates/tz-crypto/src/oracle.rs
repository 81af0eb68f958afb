//! What libsodium makes of known inputs, for unit tests; `xtask/interop/libsodium_vectors.py` wrote it.

use serde_json::Value;

pub(crate) fn libsodium_vectors() -> Value {
    serde_json::from_str(include_str!("../tests/vectors/libsodium.json")).unwrap()
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let digits = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    digits.collect::<Result<_, _>>().unwrap()
}
