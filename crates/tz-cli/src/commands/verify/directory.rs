//! `verify` of a directory that has a manifest: every file as it is listed, then the tensors in them.

use std::path::Path;
use std::time::Instant;

use tz_io::{Location, Selection, TensorFile};
use tz_model::{ArtifactDir, MANIFEST_NAME, Manifest, Wrong};

use super::Args;
use crate::access::Plain;
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
    let open = session.access.open(Plain::Accept)?;
    let manifest = Manifest::read(dir, &open.remote)?.ok_or_else(|| {
        let missing = std::io::ErrorKind::NotFound.into();
        Failure::io(&format!("{dir}/{MANIFEST_NAME}"), "open", &missing)
            .hint("only directories that `tz-cli vllm serialize` made can be verified whole")
    })?;
    let job = session.job(&args.filter, &args.effort, None)?;
    let total = manifest.files.iter().map(|file| file.bytes).sum();
    let bar = session.bar("comparing", total);
    let check = manifest.check(dir, &open.remote, &job.read)?;
    drop(bar);

    let (mut tensors, mut locked) = (Vec::new(), Vec::new());
    let is_gone = |path: &str| {
        check.faults.iter().any(|fault| fault.path == path && fault.wrong == Wrong::Missing)
    };
    for listed in manifest.files.iter().filter(|file| file.path.ends_with(".tensors")) {
        if is_gone(&listed.path) {
            continue;
        }
        let location = dir.join(&listed.path)?;
        let verified = verify(&location, session, args);
        match verified {
            Ok(Some(verification)) => tensors.push(verification),
            Ok(None) => locked.push(location.to_string()),
            // A file that is known to be damaged may be so damaged that it cannot be opened.
            Err(_) if check.faults.iter().any(|fault| fault.path == listed.path) => {}
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

/// The tensors of one file; `None` where it is encrypted and no key was given.
fn verify(
    location: &Location,
    session: &Session,
    args: &Args,
) -> Result<Option<Verification>, Failure> {
    let options = session.access.open(Plain::Accept)?;
    let front = TensorFile::open_with(location, &session.access.open_front()?)?;
    if front.is_encrypted() && options.secrets.is_empty() {
        return Ok(None);
    }
    let source = Source::Tensors(TensorFile::open_with(location, &options)?.into());
    let mut job = source.scan(session.job(&args.filter, &args.effort, None)?);
    job.selection = Selection::all();
    super::tensors(&source, &job, session).map(Some)
}
