//! Tensors as both sides describe them, and how two descriptions are compared.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::product::{Checksums, Inspection, Product};

/// One tensor as a Python script prints it and as `foreign/manifest.json` records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tensor {
    pub(crate) path: Vec<Value>,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) sha256: String,
    pub(crate) kind: String,
}

/// Expects the same tensors on both sides, in any order; the first difference is named.
pub(crate) fn same(expected: &[Tensor], found: &[Tensor]) -> Result<String> {
    let expected_by_path = by_path(expected)?;
    let found_by_path = by_path(found)?;
    for (path, tensor) in &expected_by_path {
        match found_by_path.get(path) {
            None => bail!("{path} is missing"),
            Some(other) if other != tensor => bail!("expected {tensor:?}, found {other:?}"),
            Some(_) => {}
        }
    }
    if let Some(path) = found_by_path.keys().find(|path| !expected_by_path.contains_key(*path)) {
        bail!("{path} is not expected");
    }
    if expected.is_empty() {
        bail!("nothing to compare");
    }
    Ok(format!("{} tensors equal", expected.len()))
}

fn by_path(tensors: &[Tensor]) -> Result<BTreeMap<String, &Tensor>> {
    let map: BTreeMap<_, _> = tensors
        .iter()
        .map(|tensor| (Value::from(tensor.path.clone()).to_string(), tensor))
        .collect();
    if map.len() != tensors.len() {
        bail!("a path stands twice");
    }
    Ok(map)
}

/// What `tz-cli` makes of a file: its table and the SHA-256 digests over contents, joined.
pub(crate) fn seen_by_us(product: &Product, file: &Path) -> Result<Vec<Tensor>> {
    seen_by_us_with(product, file, &[])
}

/// The same of a file that needs a secret, given as options.
pub(crate) fn seen_by_us_with(
    product: &Product,
    file: &Path,
    secret: &[OsString],
) -> Result<Vec<Tensor>> {
    let file = file.as_os_str();
    let table: Inspection = product.json(&["inspect".as_ref(), file, "--json".as_ref()])?;
    let mut arguments = vec!["checksum".as_ref(), file];
    arguments.extend(["--algorithm", "sha256", "--json"].map(OsStr::new));
    arguments.extend(secret.iter().map(OsString::as_os_str));
    let sums: Checksums = product.json(&arguments)?;
    if sums.tensors.len() != table.tensors.len() {
        bail!("inspect lists {} tensors, checksum {}", table.tensors.len(), sums.tensors.len());
    }
    let joined = table.tensors.into_iter().zip(sums.tensors).map(|(row, sum)| {
        if row.path != sum.path {
            bail!("inspect lists {:?} where checksum has {}", row.path, sum.name);
        }
        let (path, dtype, shape, kind) = (row.path, row.dtype, row.shape, row.kind);
        Ok(Tensor { path, dtype, shape, sha256: sum.digest, kind })
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(path: &str, sha256: &str) -> Tensor {
        Tensor {
            path: vec![path.into()],
            dtype: "float32".into(),
            shape: vec![2],
            sha256: sha256.into(),
            kind: "state_dict".into(),
        }
    }

    #[test]
    fn differences_are_found_in_either_direction() {
        let (a, b) = (tensor("a", "1"), tensor("b", "2"));
        let both = [a.clone(), b.clone()];
        assert!(same(&both, &[b.clone(), a.clone()]).is_ok());
        assert!(same(&both, &both[..1]).is_err());
        assert!(same(&both[..1], &both).is_err());
        assert!(same(&both, &[a.clone(), tensor("b", "3")]).is_err());
        assert!(same(&both, &[a.clone(), a]).is_err());
        assert!(same(&[], &[]).is_err());
    }
}
