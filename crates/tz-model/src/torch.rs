//! Checkpoints that `torch.save` wrote. Owns [`open`]: a zip archive whose pickle describes tensors and whose other
//! entries hold their bytes.
//!
//! Nothing in the pickle is ever called: see [`unpickle`].

mod archive;
mod objects;
mod state_dict;
mod unpickle;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::checkpoint::{SourceFile, SourceTensor};
use crate::error::{Error, Fault, Place};
use archive::Archive;

/// First bytes of a zip archive.
const ZIP_MAGIC: [u8; 4] = *b"PK\x03\x04";
/// First bytes of the pickle with which files before torch 1.6 begin: protocol 2, then a ten-byte number.
const OLD_MAGIC: [u8; 4] = [0x80, 0x02, 0x8a, 0x0a];

/// Longest pickle that is read. Tensors need some two hundred bytes each; checkpoints have thousands.
const MAX_PICKLE_LEN: u64 = 64 << 20;

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looks {
    Zip,
    OldPickle,
    Other,
}

/// Tells PyTorch's files from others.
pub(crate) fn sniff(path: &Path, file: &File) -> Result<Looks, Error> {
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == ZIP_MAGIC => Ok(Looks::Zip),
        Ok(()) if magic == OLD_MAGIC => Ok(Looks::OldPickle),
        Ok(()) => Ok(Looks::Other),
        // Too short for either; the reader of the other formats says so.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Looks::Other),
        Err(error) => Err(Error::io(path, "read", error)),
    }
}

/// The refusal of a file from before torch 1.6.
pub(crate) fn refuse_old(path: &Path) -> Error {
    Error::Unsupported {
        place: Place::from(path),
        what: "a PyTorch file in the format from before torch 1.6 (a bare pickle; load it and save it again with a \
               newer torch)"
            .to_owned(),
    }
}

/// Reads the archive's directory and its pickle; the tensors come in order of position.
pub(crate) fn open(
    path: &Path,
    file: File,
    index: usize,
) -> Result<(SourceFile, Vec<SourceTensor>), Error> {
    let len = file.metadata().map_err(|error| Error::io(path, "read", error))?.len();
    let archive = Archive::read(path, &file, len)?;
    let unsupported =
        |what: &str| Error::Unsupported { place: Place::from(path), what: what.to_owned() };
    if archive.has("constants.pkl") {
        return Err(unsupported("a TorchScript archive, which holds code"));
    }
    let read = |name: &str, limit: u64| {
        let entry = archive.stored(path, &file, name)?;
        if entry.len > limit {
            let fault = Fault::HeaderTooLong { len: entry.len, limit };
            return Err(Error::malformed(path, fault));
        }
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, entry.offset)
            .map_err(|error| Error::io(path, "read", error))?;
        Ok(bytes)
    };
    // Archives from before torch 2.1 have no such entry and are little-endian on every machine that matters.
    if archive.has("byteorder") && read("byteorder", 16)? != b"little" {
        return Err(unsupported("a PyTorch file of a big-endian machine"));
    }
    let objects = unpickle::unpickle(&read("data.pkl", MAX_PICKLE_LEN)?)
        .map_err(|fault| Error::malformed(path, fault))?;
    let contents = state_dict::flatten(&objects).map_err(|fault| Error::malformed(path, fault))?;
    let mut tensors = Vec::with_capacity(contents.tensors.len());
    for (tensor_path, tensor) in contents.tensors {
        let key = tensor.storage_key(&objects);
        let storage = archive.stored(path, &file, &format!("data/{key}"))?;
        tensors.push(tensor.place(&objects, path, tensor_path, storage, index)?);
    }
    tensors.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    Ok((SourceFile::new(path, file, len, contents.scalars), tensors))
}
