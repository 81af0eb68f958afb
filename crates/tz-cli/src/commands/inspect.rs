//! `inspect`: what stands in the front of a file, without reading its data.

use std::collections::BTreeMap;

use tz_format::{Cipher, Extension, FileHeader, HashKind, Profile, TensorEntry};
use tz_io::TensorFile;

use crate::args::FilterArgs;
use crate::error::Failure;
use crate::job::Session;
use crate::report::{
    Encryption, ExtensionRecords, InspectedTensor, Inspection, KdfFacts, Slot, kind_name, path_json,
};
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  tz-cli inspect model.tensors
  tz-cli inspect model.tensors --filter '*.weight' --hashes
  tz-cli inspect model.tensors --json | jq '.tensors[].name'";

/// Show version, flags, metadata and the tensor table of a .tensors file
///
/// Reads the front of the file only, and needs no key: it takes the same time for any size of model.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .tensors file, or `-`
    #[arg(value_name = "URI")]
    source: String,
    /// Show the hashes in tensor headers too, which takes a small read per tensor
    #[arg(long)]
    hashes: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Inspection, Failure> {
    let source = Source::open_with(&args.source, session, &session.access.open_front()?)?;
    let file = source.tensors("inspect")?;
    let selected = source.select(&session.selection(&args.filter)?)?;
    let front = file.front();
    let mut report = describe(&front.header, &front.extension, file.location());
    report.file_bytes = file.source().len();
    report.encryption = encryption(file)?.map(Box::new);
    for tensor in selected {
        let Some(entry) = front.entries.get(tensor) else {
            continue;
        };
        let mut row = row(entry);
        row.hashes = hashes(file, tensor, args.hashes)?;
        report.push(row);
    }
    Ok(report)
}

/// Everything but the tensors.
pub(super) fn describe(header: &FileHeader, extension: &Extension, location: &str) -> Inspection {
    let flags = [
        (header.flags.encrypted, "encrypted"),
        (header.flags.versioned_entries, "versioned entries"),
        (header.flags.sealed, "sealed"),
    ];
    Inspection {
        format: "tensors",
        schema: 1,
        version: header.version.number(),
        profile: match header.flags.profile() {
            Profile::Compat => "compat",
            Profile::Sealed => "sealed",
        },
        encrypted: header.flags.encrypted,
        file_bytes: None,
        index_bytes: header.index_len,
        tensor_count: 0,
        tensor_bytes: 0,
        extension: ExtensionRecords {
            writer: extension.writer.clone(),
            metadata: extension.user_metadata.clone(),
            blake3: extension.blake3.is_some(),
            unknown: extension.unknown.clone(),
        },
        encryption: None,
        tensors: Vec::new(),
        location: location.to_owned(),
        flags: flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect(),
    }
}

impl Inspection {
    pub(super) fn push(&mut self, row: InspectedTensor) {
        self.tensor_count += 1;
        self.tensor_bytes = self.tensor_bytes.saturating_add(row.data_bytes);
        self.tensors.push(row);
    }
}

/// One row, without hashes.
pub(super) fn row(entry: &TensorEntry) -> InspectedTensor {
    InspectedTensor {
        path: path_json(&entry.path),
        name: entry.path.to_string(),
        kind: kind_name(entry.kind),
        dtype: entry.dtype.name(),
        shape: entry.shape.clone(),
        meta: entry.is_meta(),
        header_offset: entry.header_offset,
        data_offset: entry.data_offset,
        data_bytes: entry.data_len,
        hashes: BTreeMap::new(),
    }
}

/// What the front and the first tensor with data say. Writers encrypt all tensors of a file alike.
fn encryption(file: &TensorFile) -> Result<Option<Encryption>, Failure> {
    let front = file.front();
    if !front.header.flags.encrypted {
        return Ok(None);
    }
    let mut encryption = Encryption {
        cipher: match front.header.flags.profile() {
            Profile::Compat => "xsalsa20-poly1305",
            Profile::Sealed => "aes-256-gcm",
        },
        chunk_bytes: None,
        key_derivation: None,
        slots: Slot::of(file)?,
    };
    let first = front.entries.iter().position(|entry| entry.data_len > 0);
    // The headers of a stream pass by later, and only once.
    if let Some(first) = first.filter(|_| file.source().len().is_some()) {
        let crypt = file.header(first)?.crypt.unwrap_or_default();
        encryption.key_derivation = crypt.key_derivation.as_ref().map(KdfFacts::from);
        encryption.chunk_bytes = match crypt.cipher {
            Some(
                Cipher::XSalsa20Chunked { chunk_size, .. } | Cipher::Sealed { chunk_size, .. },
            ) => Some(chunk_size),
            Some(Cipher::XSalsa20Whole { .. }) | None => None,
        };
    }
    Ok(Some(encryption))
}

fn hashes(
    file: &TensorFile,
    tensor: usize,
    headers: bool,
) -> Result<BTreeMap<&'static str, String>, Failure> {
    let mut hashes = BTreeMap::new();
    let digests = file.front().extension.blake3.as_ref();
    if let Some(digest) = digests.and_then(|digests| digests.get(tensor)) {
        hashes.insert("blake3", tz_format::hex(digest));
    }
    if headers {
        for hash in file.header(tensor)?.hashes {
            let name = match hash.kind() {
                HashKind::Crc32 => "crc32",
                HashKind::Sha256 => "sha256",
            };
            hashes.insert(name, hash.to_hex());
        }
    }
    Ok(hashes)
}
