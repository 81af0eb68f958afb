//! Encrypts a model so that nothing of it can be read, moved or exchanged without notice, and opens it again.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;

use tz_crypto::{DEFAULT_SEALED_CHUNK_SIZE, FileSealer, SealSecret};
use tz_format::{Element, TensorSpec};
use tz_io::{
    IoError, Key, Location, MemorySource, OpenOptions, ReadOptions, Secret, Selection, TensorFile,
    WriteOptions, write,
};

// `pub(crate)`, because the test `examples_run` calls it too.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let location = Location::File(folder.path().join("sealed.tensors"));
    let weights = vec![42_u8; 4096];
    let mut source = MemorySource::new();
    source.push(TensorSpec::new("weight", Element::Uint8, vec![4096]), &weights)?;

    // `FileSealer::compat` instead writes what Python tensorizer reads. A sealer serves one file.
    let key = Key::random()?;
    let sealer = FileSealer::sealed(&[SealSecret::Key(key.clone())], DEFAULT_SEALED_CHUNK_SIZE)?;
    let mut options = WriteOptions::default();
    options.hashes.clear(); // a sealed file authenticates itself, and hashes of the plaintext would tell of it
    options.seal = Some(Arc::new(sealer));
    write(&source, &location, &options)?;

    let mut options = OpenOptions::default();
    options.secrets = vec![Secret::Key(key)];
    let file = TensorFile::open_with(&location, &options)?;
    let tensors = file.load(&Selection::all(), &ReadOptions::default())?;
    assert_eq!(tensors.get("weight").map(|tensor| tensor.bytes()), Some(&*weights));

    // Another key opens nothing, and so does a service that must not accept a plain file in its place.
    options.secrets = vec![Secret::Key(Key::random()?)];
    let refused = TensorFile::open_with(&location, &options).map(drop);
    assert!(matches!(refused, Err(IoError::Crypto { .. })), "{refused:?}");
    println!("{} in the {:?} profile", file.location(), file.profile());
    Ok(())
}
