//! Theirs -> ours: files of many kinds, written by both versions of the reference, are read by
//! `tz-cli` and give the contents that torch had.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::tensors::{Tensor, same, seen_by_us};
use super::{Bench, REFERENCES};
use crate::product;
use crate::report::Checks;

/// One file as `write.py` wrote it.
#[derive(Debug, Deserialize)]
struct Written {
    file: PathBuf,
    tensors: Vec<Tensor>,
}

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    for version in REFERENCES {
        let mut files = Vec::new();
        checks.check(format!("theirs: {version} writes its files"), || {
            files = write(bench, version)?;
            Ok(format!("{} files", files.len()))
        });
        for written in &files {
            let name = written.file.file_stem().unwrap_or_default().display();
            checks.check(format!("theirs: {version}: {name}"), || {
                let arguments = ["verify".as_ref(), written.file.as_os_str()];
                product::succeeded(bench.product.run(&arguments)?, &arguments)?;
                same(&written.tensors, &seen_by_us(bench.product, &written.file)?)
            });
        }
    }
}

fn write(bench: &Bench<'_>, version: &str) -> Result<Vec<Written>> {
    let folder = bench.folder.join(format!("written-by-{version}"));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let arguments = ["--reference".as_ref(), version.as_ref(), folder.as_os_str()];
    bench.python.json("write.py", &arguments)
}
