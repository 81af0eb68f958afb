//! Keys, files and a place to look things up, for every test here.

use std::path::PathBuf;

use serde_json::Value;
use tz_crypto::testing::{OpenedTensor, open_file, seal_file};
use tz_crypto::{CryptoError, FileSealer, KdfPreset, Key, Passphrase, SealSecret, Secret};
use tz_format::{Element, Extension, TensorSpec};

/// A key of 32 equal bytes.
pub(crate) fn key(byte: u8) -> Key {
    Key::from_bytes(&[byte; 32]).unwrap()
}

pub(crate) fn seal_key(byte: u8) -> SealSecret {
    SealSecret::Key(key(byte))
}

pub(crate) fn secret(byte: u8) -> Secret {
    Secret::Key(key(byte))
}

pub(crate) fn seal_pass(text: &str) -> SealSecret {
    SealSecret::passphrase(Passphrase::new(text), KdfPreset::Min)
}

pub(crate) fn pass(text: &str) -> Secret {
    Secret::Passphrase(Passphrase::new(text))
}

/// One `uint8` tensor per length.
pub(crate) fn specs(lens: &[u64]) -> Vec<TensorSpec> {
    let spec =
        |(i, &len): (usize, &u64)| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![len]);
    lens.iter().enumerate().map(spec).collect()
}

/// A small sealed file for key 1 with chunks of 4,096 bytes.
pub(crate) fn sealed(specs: Vec<TensorSpec>) -> Vec<u8> {
    let sealer = FileSealer::sealed(&[seal_key(1)], 4096).unwrap();
    let mut extension = Extension::default();
    extension.writer = Some("the writer".to_owned());
    seal_file(specs, &sealer, 1, extension).unwrap()
}

/// Opens a file that must open.
#[track_caller]
pub(crate) fn opened(file: &[u8], secrets: &[Secret]) -> Vec<Vec<u8>> {
    let tensors = open_file(file, secrets).unwrap();
    tensors.into_iter().map(|tensor| tensor.data.unwrap()).collect()
}

/// Why a file is refused as a whole.
#[track_caller]
pub(crate) fn refusal(file: &[u8], secrets: &[Secret]) -> CryptoError {
    match open_file(file, secrets) {
        Ok(_) => panic!("the file opens"),
        Err(error) => error,
    }
}

/// Indices of the tensors that do not open.
pub(crate) fn unopened(tensors: &[OpenedTensor]) -> Vec<usize> {
    let all = tensors.iter().enumerate();
    all.filter(|(_, tensor)| tensor.data.is_err()).map(|(i, _)| i).collect()
}

/// The repository's fixtures.
pub(crate) fn fixtures(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(folder)
}

pub(crate) fn manifest(folder: &str) -> Value {
    let text = std::fs::read_to_string(fixtures(folder).join("manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let digits = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    digits.collect::<Result<_, _>>().unwrap()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
