//! `cargo xtask fixtures`: makes our own published files and the manifest, or checks that both are
//! what they were.
//!
//! A published file never changes: a new case is a new name. So making refuses to replace a file
//! that differs, and `--check` makes everything again elsewhere and compares bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::product::Product;
use crate::workspace;

mod builders;
mod foreign;
mod manifest;

pub(crate) use manifest::{Expect, Fixture, Manifest};

/// Files that are not fixtures themselves but say where the foreign ones come from.
const PROVENANCE: [&str; 3] = ["README.md", "foreign/README.md", "foreign/manifest.json"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if a file or the manifest differs from what would be made
    #[arg(long)]
    check: bool,
}

/// Makes or checks `fixtures/`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let product = Product::build()?;
    let scratch = tempfile::tempdir().context("a temporary folder")?;
    let made = builders::make_all(&product, scratch.path())?;
    let mut fixtures = made.clone();
    fixtures.extend(foreign::fixtures()?);
    let manifest = Manifest::new(fixtures).render()?;

    for fixture in &made {
        let fresh = read(&scratch.path().join(&fixture.file))?;
        publish(&fixture.path(), &fresh, args.check)?;
    }
    let path = folder().join(manifest::FILE);
    if !args.check {
        fs::write(&path, &manifest).with_context(|| path.display().to_string())?;
    } else if read(&path)? != manifest.as_bytes() {
        bail!(
            "{} differs: run `cargo xtask fixtures` and look at the change",
            path.display()
        );
    }
    complete(&Manifest::load()?)?;
    println!(
        "fixtures: {} files as published",
        Manifest::load()?.fixtures.len()
    );
    Ok(())
}

/// The folder of the fixtures in this checkout.
pub(crate) fn folder() -> PathBuf {
    workspace::root().join("fixtures")
}

/// Writes a new file; an existing one must be equal already.
fn publish(path: &Path, fresh: &[u8], check: bool) -> Result<()> {
    if !check && !path.exists() {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        return fs::write(path, fresh).with_context(|| path.display().to_string());
    }
    if read(path)? != fresh {
        bail!(
            "{}: what is made now differs from what was published; published files never change, \
             so give a new case a new name",
            path.display()
        );
    }
    Ok(())
}

/// The manifest lists exactly the files that are there, with the digests that they have.
fn complete(manifest: &Manifest) -> Result<()> {
    let mut listed: BTreeSet<String> = PROVENANCE.iter().map(ToString::to_string).collect();
    listed.insert(manifest::FILE.to_owned());
    for fixture in &manifest.fixtures {
        if manifest::digest(&read(&fixture.path())?) != fixture.sha256 {
            bail!("{}: its digest is not the manifest's", fixture.file);
        }
        if !listed.insert(fixture.file.clone()) {
            bail!("{}: stands twice in the manifest", fixture.file);
        }
    }
    let mut present = BTreeSet::new();
    list(&folder(), "", &mut present)?;
    if let Some(name) = listed.symmetric_difference(&present).next() {
        let state = if present.contains(name) {
            "not in the manifest"
        } else {
            "missing"
        };
        bail!("fixtures/{name}: {state}");
    }
    Ok(())
}

fn list(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.insert(name);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_lists_what_is_there() {
        complete(&Manifest::load().unwrap()).unwrap();
    }

    #[test]
    fn a_published_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("valid/a.tensors");
        assert!(publish(&path, b"one", true).is_err());
        publish(&path, b"one", false).unwrap();
        publish(&path, b"one", true).unwrap();
        assert!(publish(&path, b"two", false).is_err());
        assert_eq!(read(&path).unwrap(), b"one");
    }
}
