//! `cargo xtask fixtures`: makes our own published files and the manifest, or checks that both are
//! what they were.
//!
//! A published file never changes: a new case is a new name. So making refuses to replace a file
//! that differs, and `--check` makes everything again elsewhere and compares bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

mod builders;
mod encode;
mod foreign;
mod manifest;

pub(crate) use manifest::{Expect, Fixture, Manifest};

/// Files that are not fixtures themselves but say where the foreign ones come from.
const PROVENANCE: [&str; 3] = ["README.md", "foreign/README.md", "foreign/manifest.json"];

const UNLISTED: &str = "not in the manifest: make it with xtask/src/fixtures/builders.rs, or name its \
                        folder in FAMILIES of xtask/src/fixtures/manifest.rs";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if a file or the manifest differs from what would be made
    #[arg(long)]
    check: bool,
}

/// Makes or checks `fixtures/`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let made = builders::make_all()?;
    let mut fixtures: Vec<Fixture> = made.iter().map(|(fixture, _)| fixture.clone()).collect();
    fixtures.extend(foreign::fixtures()?);
    let manifest = Manifest::new(fixtures).render()?;
    for (fixture, file) in &made {
        publish(&fixture.path(), file, args.check)?;
    }
    let path = folder().join(manifest::FILE);
    if !args.check {
        fs::write(&path, &manifest).with_context(|| path.display().to_string())?;
    } else if read(&path)? != manifest.as_bytes() {
        bail!("{} differs: run `cargo xtask fixtures` and look at the change", path.display());
    }
    let manifest = Manifest::load()?;
    complete(&manifest)?;
    println!("fixtures: {} files as published", manifest.fixtures.len());
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
    for family in &manifest.families {
        let test = workspace::root().join(&family.checked_by);
        if !test.exists() || !present.contains(&format!("{}README.md", family.folder)) {
            bail!("fixtures/{}: has lost its README.md or {}", family.folder, test.display());
        }
        present.retain(|name| !name.starts_with(&family.folder));
    }
    if let Some(name) = listed.symmetric_difference(&present).next() {
        bail!("fixtures/{name}: {}", if present.contains(name) { UNLISTED } else { "missing" });
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
