//! `verify` of a directory that has a manifest: every file as it is listed, then the tensors in them.

use std::path::Path;
use std::time::Instant;

use tz_io::{Selection, TensorFile};
use tz_model::{ArtifactDir, MANIFEST_NAME, Manifest, Wrong};

use super::Args;
use crate::error::Failure;
use crate::job::Session;
use crate::report::{DirectoryVerification, Verification};
use crate::source::Source;

/// The directory that `text` names, if it is one that must have a manifest: a folder that holds one, or a URI that
/// ends in a slash.
pub(super) fn named(text: &str) -> Result<Option<ArtifactDir>, Failure> {
    let remote = text.contains("://") && text.ends_with('/');
    let local = || Path::new(text).join(MANIFEST_NAME).symlink_metadata().is_ok();
    if remote || local() { Ok(Some(ArtifactDir::parse(text)?)) } else { Ok(None) }
}

pub(super) fn run(
    args: &Args,
    dir: &ArtifactDir,
    session: &Session,
) -> Result<DirectoryVerification, Failure> {
    let start = Instant::now();
    if !args.filter.filter.is_empty() {
        return Err(Failure::usage("--filter: a directory is verified whole")
            .hint("name one of its .tensors files to verify some tensors"));
    }
    let open = session.access.open_any()?;
    let manifest = Manifest::read(dir, &open.remote)?.ok_or_else(|| {
        let missing = std::io::ErrorKind::NotFound.into();
        Failure::io(&format!("{dir}/{MANIFEST_NAME}"), "open", &missing)
            .hint("only directories that `tz-cli vllm serialize` made can be verified whole")
    })?;
    let weights = || manifest.files.iter().filter(|file| file.path.ends_with(".tensors"));
    // A key is for all of them, whatever a manifest says that may have been replaced with the files.
    if weights().next().is_none() {
        session.access.refuse_plain(&dir.to_string())?;
    }
    let job = session.job(&args.filter, &args.effort, None)?;
    let total = manifest.files.iter().map(|file| file.bytes).sum();
    let bar = session.bar("comparing", total);
    let check = manifest.check(dir, &open.remote, &job.read)?;
    drop(bar);

    let (mut tensors, mut locked) = (Vec::new(), Vec::new());
    let is_gone = |path: &str| {
        check.faults.iter().any(|fault| fault.path == path && fault.wrong == Wrong::Missing)
    };
    for listed in weights() {
        if is_gone(&listed.path) {
            continue;
        }
        // A file that is known to be damaged may be so damaged that it cannot be opened or read.
        let is_damaged = check.faults.iter().any(|fault| fault.path == listed.path);
        let location = dir.join(&listed.path)?;
        let file = match TensorFile::open_with(&location, &open) {
            Ok(file) => file,
            Err(_) if is_damaged => continue,
            Err(error) => return Err(error.into()),
        };
        if !file.is_encrypted() {
            session.access.refuse_plain(&location.to_string())?;
        } else if open.secrets.is_empty() {
            locked.push(location.to_string());
            continue;
        }
        match verify(file, session, args) {
            Ok(verification) => tensors.push(verification),
            Err(_) if is_damaged => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(DirectoryVerification {
        location: dir.to_string(),
        ok: check.faults.is_empty() && tensors.iter().all(|file| file.ok),
        files: manifest.files.len(),
        bytes: check.bytes,
        listed: check.listed,
        seconds: start.elapsed().as_secs_f64(),
        file_failures: check.faults,
        tensors,
        locked,
    })
}

/// The tensors of one file.
fn verify(file: TensorFile, session: &Session, args: &Args) -> Result<Verification, Failure> {
    let source = Source::Tensors(file.into());
    let mut job = source.scan(session.job(&args.filter, &args.effort, None)?);
    job.selection = Selection::all();
    super::tensors(&source, &job, session)
}
