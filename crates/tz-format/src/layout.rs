//! Places tensors in a file before a byte is written. Owns [`Layout`]: sizes in, offsets and headers out.

use std::ops::Range;

use crate::crypt_info::{CipherPlan, CryptInfo};
use crate::dtype::Dtype;
use crate::error::{FormatError, Unwritable};
use crate::extension::Extension;
use crate::file_header::FileHeader;
use crate::frozen::{DATA_ALIGNMENT, FILE_HEADER_LEN, SEALED_CHUNKS_MAX, TERMINATOR_LEN};
use crate::hash::{HashKind, TensorHash};
use crate::index::{TensorEntry, TensorKind, byte_len};
use crate::tensor_header::TensorHeader;
use crate::tensor_path::{PathRegistry, TensorPath};
use crate::version::{Flags, Profile, Version};
use crate::wire::Writer;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name or path.
    pub path: TensorPath,
    /// Parameter, buffer or state-dict entry.
    pub kind: TensorKind,
    /// Position in `named_modules()`; 0 will do.
    pub module_index: u16,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Write the shape only; readers load zeros.
    pub meta: bool,
}

impl TensorSpec {
    /// A state-dict entry with data.
    #[must_use]
    pub fn new(path: impl Into<TensorPath>, dtype: impl Into<Dtype>, shape: Vec<u64>) -> Self {
        let kind = TensorKind::StateDict;
        Self { path: path.into(), kind, module_index: 0, dtype: dtype.into(), shape, meta: false }
    }
}

/// How a file is laid out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayoutOptions {
    /// Data starts at a multiple of this many bytes; 1 packs tensors as the reference does. Default 4,096: for
    /// mmap and direct I/O. Larger values waste up to that much per tensor. A power of two, at most 2 MiB.
    pub alignment: u64,
    /// Hashes in every tensor header. Default CRC-32 alone: the reference verifies with it, and it is cheap. They
    /// are of the plaintext, so an encrypted file had better have none: they let anyone confirm a guess at it.
    pub hashes: Vec<HashKind>,
    /// Encryption of every tensor. Default none.
    pub cipher: Option<CipherPlan>,
    /// Extension block, with placeholders of the right length. Default empty.
    pub extension: Extension,
}

impl Default for LayoutOptions {
    fn default() -> Self {
        Self {
            alignment: DATA_ALIGNMENT,
            hashes: vec![HashKind::Crc32],
            cipher: None,
            extension: Extension::default(),
        }
    }
}

/// Where everything goes: front, tensor headers, data, terminator. A pure value that prints.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    header: FileHeader,
    entries: Vec<TensorEntry>,
    module_indices: Vec<u16>,
    options: LayoutOptions,
}

impl Layout {
    /// Plans a file of `specs` in their order, in the lowest data version that holds them.
    ///
    /// # Errors
    /// [`FormatError::Unwritable`] where a tensor or option cannot be expressed.
    pub fn plan(specs: Vec<TensorSpec>, options: LayoutOptions) -> Result<Self, FormatError> {
        check(&specs, &options).map_err(FormatError::Unwritable)?;
        let flags = flags(&specs, &options);
        let version = version(&specs, flags);
        let module_indices = specs.iter().map(|spec| spec.module_index).collect();
        let mut entries: Vec<TensorEntry> = specs
            .into_iter()
            .map(|spec| {
                let data_len =
                    if spec.meta { 0 } else { byte_len(spec.dtype, &spec.shape).unwrap_or(0) };
                let long_dims = has_long_dim(&spec.shape);
                TensorEntry {
                    path: spec.path,
                    kind: spec.kind,
                    dtype: spec.dtype,
                    shape: spec.shape,
                    header_offset: 0,
                    data_offset: 0,
                    data_len,
                    long_dims,
                }
            })
            .collect();
        // Offsets have a fixed width, so the index's length is known before they are.
        let mut w = Writer::default();
        for entry in &entries {
            entry.write(&mut w, flags);
        }
        let index_len = (w.len() + options.extension.to_wire().len()) as u64;
        place(&mut entries, FILE_HEADER_LEN + index_len, &options)
            .map_err(FormatError::Unwritable)?;
        let tensor_bytes = entries.iter().map(|entry| entry.data_len).sum();
        let tensor_count = entries.len() as u64;
        let header = FileHeader { version, flags, tensor_bytes, tensor_count, index_len };
        Ok(Self { header, entries, module_indices, options })
    }

    /// The file header.
    #[must_use]
    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// The index, with final offsets.
    #[must_use]
    pub fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    /// The options that it was planned with.
    #[must_use]
    pub fn options(&self) -> &LayoutOptions {
        &self.options
    }

    /// Length of the whole file, terminator included.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.entries.last().map_or(0, TensorEntry::data_end) + TERMINATOR_LEN
    }

    /// The front with `extension` in place of the planned one; it must have the same length.
    ///
    /// # Errors
    /// [`FormatError::Unwritable`] where the extension's length differs from the plan's, or a reader would refuse it.
    pub fn encode_front(&self, extension: &Extension) -> Result<Vec<u8>, FormatError> {
        extension
            .check(self.entries.len(), self.header.flags.profile())
            .map_err(FormatError::Unwritable)?;
        let len = usize::try_from(self.header.front_len()).unwrap_or(usize::MAX);
        let mut w = Writer::default();
        self.header.write(&mut w);
        for entry in &self.entries {
            entry.write(&mut w, self.header.flags);
        }
        w.bytes(&extension.to_wire());
        if w.len() != len {
            let why = "the extension block differs in length from the planned one";
            return Err(FormatError::Unwritable(Unwritable::Option(why)));
        }
        Ok(w.into_bytes())
    }

    /// Where the 32 bytes of the metadata MAC stand in the front, where one is planned: at its end, because the
    /// MAC is the last record of the extension block.
    #[must_use]
    pub fn metadata_mac_at(&self) -> Option<Range<u64>> {
        self.options.extension.metadata_mac?;
        let end = self.header.front_len();
        Some(end - 32..end)
    }

    /// The header of tensor `index`, as long as planned. `hashes` and `crypt` replace the planned placeholders.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] where they need more room than planned, [`FormatError::Unwritable`] where
    /// there is no such tensor, or a crypt block is missing from an encrypted file or given for a plain one.
    pub fn encode_header(
        &self,
        index: usize,
        hashes: &[TensorHash],
        crypt: Option<&CryptInfo>,
    ) -> Result<Vec<u8>, FormatError> {
        if crypt.is_some() != self.header.flags.encrypted {
            return Err(FormatError::Unwritable(Unwritable::Option(
                "crypt block: in every header of an encrypted file, and in no other",
            )));
        }
        match (self.entries.get(index), self.module_indices.get(index)) {
            (Some(entry), Some(&module)) => TensorHeader::encode(entry, module, hashes, crypt),
            _ => Err(FormatError::Unwritable(Unwritable::Option("no tensor of that index"))),
        }
    }

    /// Placeholders for the planned hashes: header bytes with these are what hashes cover.
    #[must_use]
    pub fn zero_hashes(&self) -> Vec<TensorHash> {
        let zero = |kind: &HashKind| match kind {
            HashKind::Crc32 => TensorHash::Crc32(0),
            HashKind::Sha256 => TensorHash::Sha256([0; 32]),
        };
        self.options.hashes.iter().map(zero).collect()
    }

    /// The crypt block of tensor `index` with zero nonce and tags; `None` in a plain file.
    #[must_use]
    pub fn crypt_template(&self, index: usize) -> Option<CryptInfo> {
        let entry = self.entries.get(index)?;
        self.options.cipher.as_ref().map(|plan| plan.template(entry.data_len))
    }
}

fn has_long_dim(shape: &[u64]) -> bool {
    shape.iter().any(|&dim| dim > u64::from(u32::MAX))
}

fn flags(specs: &[TensorSpec], options: &LayoutOptions) -> Flags {
    Flags {
        encrypted: options.cipher.is_some(),
        versioned_entries: specs.iter().any(|spec| has_long_dim(&spec.shape)),
        sealed: profile(options) == Profile::Sealed,
    }
}

fn version(specs: &[TensorSpec], flags: Flags) -> Version {
    let any = |test: fn(&TensorSpec) -> bool| specs.iter().any(test);
    if flags.versioned_entries {
        Version::V5
    } else if any(|spec| spec.meta) || flags.sealed {
        Version::V4
    } else if flags.encrypted {
        Version::V3
    } else if any(|spec| spec.dtype.is_opaque()) {
        Version::V2
    } else {
        Version::V1
    }
}

fn profile(options: &LayoutOptions) -> Profile {
    match options.cipher {
        Some(CipherPlan::Sealed { .. }) => Profile::Sealed,
        Some(CipherPlan::XSalsa20Chunked { .. }) | None => Profile::Compat,
    }
}

fn check(specs: &[TensorSpec], options: &LayoutOptions) -> Result<(), Unwritable> {
    if specs.is_empty() {
        return Err(Unwritable::Empty);
    }
    if !options.alignment.is_power_of_two() || options.alignment > 2 << 20 {
        return Err(Unwritable::Option("alignment: a power of two of at most 2 MiB"));
    }
    if options
        .hashes
        .iter()
        .any(|kind| options.hashes.iter().filter(|other| *other == kind).count() > 1)
    {
        return Err(Unwritable::Option("hashes: each kind once"));
    }
    if let Some(cipher) = &options.cipher {
        cipher.check()?;
    }
    options.extension.check(specs.len(), profile(options))?;
    let mut registry = PathRegistry::with_capacity(specs.len());
    for spec in specs {
        let name = || spec.path.to_string();
        if spec.path.wire().len() > usize::from(u16::MAX) {
            return Err(Unwritable::NameTooLong(name()));
        }
        if spec.shape.len() > usize::from(u8::MAX) {
            return Err(Unwritable::RankTooHigh(name()));
        }
        let Some(len) = byte_len(spec.dtype, &spec.shape) else {
            return Err(Unwritable::TooLarge(name()));
        };
        // The reference cannot load a 0-d one: it takes its size for a float.
        if spec.meta && (len == 0 || spec.shape.is_empty()) {
            return Err(Unwritable::EmptyMeta(name()));
        }
        if let Some(CipherPlan::Sealed { chunk_size }) = options.cipher
            && len.div_ceil(chunk_size) > SEALED_CHUNKS_MAX
        {
            return Err(Unwritable::Option("chunk size: a sealed tensor has at most 2^32 chunks"));
        }
        if spec.kind != TensorKind::StateDict && spec.path.plain().is_none() {
            return Err(Unwritable::Path(name(), crate::error::Fault::StructuredPath));
        }
        registry.add(&spec.path).map_err(|fault| Unwritable::Path(name(), fault))?;
    }
    Ok(())
}

fn place(
    entries: &mut [TensorEntry],
    start: u64,
    options: &LayoutOptions,
) -> Result<(), Unwritable> {
    let mut end = start;
    for entry in entries {
        let crypt_len = options.cipher.as_ref().map_or(0, |plan| plan.template_len(entry.data_len));
        let header_len = TensorHeader::min_len(
            entry.path.wire().len(),
            entry.dtype.to_wire().len(),
            entry.shape.len() * if entry.long_dims { 8 } else { 4 },
            &options.hashes,
            crypt_len,
        );
        // A tensor without bytes needs no alignment, and would cost a block of padding each.
        let alignment = if entry.data_len == 0 { 1 } else { options.alignment };
        entry.header_offset = end;
        let placed = end
            .checked_add(header_len)
            .and_then(|at| at.checked_next_multiple_of(alignment))
            .and_then(|at| Some((at, at.checked_add(entry.data_len)?)))
            .filter(|(_, end)| *end < i64::MAX.cast_unsigned() - TERMINATOR_LEN);
        let Some((data_offset, data_end)) = placed else {
            return Err(Unwritable::TooLarge(entry.path.to_string()));
        };
        entry.data_offset = data_offset;
        end = data_end;
    }
    Ok(())
}
