//! Builders that the tests share.

use std::path::Path;

use tz_format::{Dtype, Element};
use tz_model::{Checkpoint, Error, TensorDecl};

/// A safetensors file of this header and `data_len` painted bytes.
pub(crate) fn raw(header: &str, data_len: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(painted(data_len));
    file
}

/// Byte *i* is *i* mod 251, so that a shifted range shows.
pub(crate) fn painted(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// A file with one painted `U8` tensor per (name, length), in this order.
pub(crate) fn bytes_file(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut end = 0;
    let mut header = String::from("{");
    for (i, (name, len)) in tensors.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let begin = end;
        end += len;
        header += &format!(
            r#"{comma}"{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{begin},{end}]}}"#
        );
    }
    header.push('}');
    raw(&header, end)
}

pub(crate) fn decl(name: &str, element: Element, shape: &[u64]) -> TensorDecl {
    TensorDecl { name: name.to_owned(), dtype: Dtype::from(element), shape: shape.to_vec() }
}

pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).expect("write");
}

pub(crate) fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    let tensors = checkpoint.tensors().iter();
    tensors.map(|tensor| tensor.name.as_str()).collect()
}

pub(crate) fn contents(checkpoint: &Checkpoint, tensor: usize) -> Vec<u8> {
    let len = checkpoint.tensors()[tensor].byte_len;
    let mut buf = vec![0; usize::try_from(len).expect("fits")];
    checkpoint.read_at(tensor, 0, &mut buf).expect("read");
    buf
}

/// Names of everything in a directory, sorted.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// The error as a user would see it, without the directory.
pub(crate) fn message(dir: &Path, error: &Error) -> String {
    error.to_string().replace(&format!("{}/", dir.display()), "")
}
