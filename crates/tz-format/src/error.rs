//! What a reader refuses and where it stood. Owns [`FormatError`], [`Malformed`] and [`Fault`].

use std::fmt;

use thiserror::Error;

use crate::tensor_path::TensorPath;

/// Why bytes are not a file that this crate reads, or why values cannot be written as one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The first bytes are not `|TZR|`: the input is another kind of file.
    #[error("not a .tensors file: it does not begin with |TZR|")]
    NotTensors,
    /// A data version that this crate does not know; a newer `tz` may read it.
    #[error("data version {0} is not supported (1 to 5 are)")]
    UnsupportedVersion(u32),
    /// Feature flags that this crate does not know; a newer `tz` may read the file.
    #[error("feature flag bit {bit} is not supported in a file of data version {version}")]
    UnsupportedFlag {
        /// Number of the lowest unknown bit.
        bit: u32,
        /// Data version of the file.
        version: u32,
    },
    /// An extension record that must not be skipped has a type that this crate does not know.
    #[error("critical extension record of type {kind:#06x} is not supported")]
    UnsupportedExtension {
        /// The record's type.
        kind: u16,
    },
    /// A length in the file is beyond what the caller allows; raise [`crate::Limits`] if the file is trusted.
    #[error("{what} is {value} at offset {offset}, over the limit of {limit}")]
    LimitExceeded {
        /// What was measured.
        what: &'static str,
        /// The length or count in the file.
        value: u64,
        /// The bound in force.
        limit: u64,
        /// Where the value stands in the file.
        offset: u64,
    },
    /// The bytes break a rule of the format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A value cannot be expressed in the format; nothing was written.
    #[error("cannot be written as a .tensors file: {0}")]
    Unwritable(Unwritable),
}

impl FormatError {
    /// Shorthand for a [`Malformed`] refusal.
    pub(crate) fn malformed(field: &'static str, offset: u64, fault: Fault) -> Self {
        Self::Malformed(Malformed { field, offset, tensor: None, fault })
    }

    /// Adds the tensor's name to a [`Malformed`] refusal, unless a deeper layer already did.
    pub(crate) fn of_tensor(self, path: &TensorPath) -> Self {
        match self {
            Self::Malformed(malformed) => Self::Malformed(malformed.of_tensor(&path.to_string())),
            other => other,
        }
    }
}

/// One broken rule: the field that breaks it, its place and the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Name of the field, as in `docs/FORMAT.md`.
    pub field: &'static str,
    /// Offset of the field from the start of the file, in bytes.
    pub offset: u64,
    /// Name of the tensor concerned, where one is known.
    pub tensor: Option<String>,
    /// The rule that is broken.
    pub fault: Fault,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {tensor:?}: ")?;
        }
        write!(f, "{} at offset {}: {}", self.field, self.offset, self.fault)
    }
}

impl std::error::Error for Malformed {}

impl Malformed {
    /// Adds the tensor's name, unless a deeper layer already did.
    #[must_use]
    pub fn of_tensor(mut self, name: &str) -> Self {
        self.tensor.get_or_insert_with(|| name.to_owned());
        self
    }
}

/// The rule that a malformed field breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The field runs past the end of the block that holds it.
    #[error("runs past the end of its block")]
    Truncated,
    /// Bytes that the format defines as zero are not.
    #[error("must be zero in a file of this version")]
    NotZero,
    /// The index has no entries.
    #[error("no tensors")]
    Empty,
    /// A name or dtype is not UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// A tensor name is not a path.
    #[error("not a tensor path: {0}")]
    BadPath(&'static str),
    /// Two entries have the same path.
    #[error("the path stands twice")]
    DuplicatePath,
    /// A path is a prefix of another, or one level mixes strings and integers.
    #[error("the path conflicts with another: {0}")]
    PathConflict(&'static str),
    /// Only state-dict entries may have structured paths.
    #[error("a parameter or buffer has a structured path")]
    StructuredPath,
    /// The tensor type is not 0, 1 or 2.
    #[error("unknown tensor type {0}")]
    UnknownKind(u8),
    /// The dtype string is not one that torch can load.
    #[error("unknown dtype {0:?}")]
    UnknownDtype(String),
    /// An opaque dtype in a file whose version excludes it, and the like.
    #[error("needs data version {needs}, the file has {has}")]
    VersionTooLow {
        /// Lowest version that may hold the content.
        needs: u32,
        /// Version of the file.
        has: u32,
    },
    /// The index entry version is neither 1 nor 5.
    #[error("unknown index entry version {0}")]
    UnknownEntryVersion(u32),
    /// The product of the dimensions and the element size overflows 64 bits.
    #[error("the shape's size overflows")]
    ShapeOverflow,
    /// The data length fits neither the shape nor a meta tensor.
    #[error("data length {found} does not fit the shape, which needs {expected}")]
    WrongDataLength {
        /// Length in the file.
        found: u64,
        /// Length that shape and dtype ask for.
        expected: u64,
    },
    /// A tensor begins before the previous one (or the index) ends.
    #[error("overlaps what ends at {0}")]
    Overlap(u64),
    /// Bytes that belong to nothing lie before a tensor.
    #[error("leaves a hole after {0}")]
    Hole(u64),
    /// A tensor lies beyond the end of the file.
    #[error("ends at {end}, beyond the file's end at {file_len}")]
    OutOfFile {
        /// End of the tensor's data.
        end: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// A tensor ends beyond 2^63 bytes, where no file can.
    #[error("the tensor would end beyond 2^63 bytes")]
    OffsetOverflow,
    /// Header and data do not leave room for the header's fields.
    #[error("too short for a tensor header")]
    HeaderTooShort,
    /// A tensor header disagrees with the index.
    #[error("differs from the index")]
    DiffersFromIndex,
    /// Bytes are left over in a block that must be filled exactly.
    #[error("leaves {0} bytes of its block unread")]
    TrailingBytes(u64),
    /// A hash has a type that the format does not define.
    #[error("unknown hash type {0}")]
    UnknownHash(u8),
    /// A hash has the wrong length for its type.
    #[error("hash of {0} bytes")]
    WrongHashLength(u8),
    /// A crypt chunk has a type that the format does not define.
    #[error("unknown crypt chunk type {0:#06x}")]
    UnknownCryptChunk(u16),
    /// A crypt block states its cipher or its key derivation twice.
    #[error("crypt chunk type {0:#06x} does what another chunk already did")]
    DuplicateCryptChunk(u16),
    /// A key-derivation method or algorithm that the format does not define.
    #[error("unknown key derivation {0}")]
    UnknownKeyDerivation(i64),
    /// An encryption chunk size outside the format's bounds.
    #[error("chunk size {0} is not allowed")]
    BadChunkSize(u64),
    /// The number of tags does not follow from data length and chunk size.
    #[error("{found} tags where the data needs {expected}")]
    WrongTagCount {
        /// Tags in the file.
        found: u64,
        /// Tags that the data length asks for.
        expected: u64,
    },
    /// A record, cipher or flag of one profile stands in a file of the other, or is missing from its own.
    #[error("does not belong in a file of this profile, or is missing from it")]
    WrongProfile,
    /// An extension record stands twice or has an impossible length.
    #[error("bad extension record: {0}")]
    BadExtension(&'static str),
}

/// Why a value cannot be expressed in the format.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unwritable {
    /// No tensors: the reference cannot read an empty index.
    #[error("there are no tensors")]
    Empty,
    /// A name is longer than 65,535 bytes once encoded.
    #[error("tensor {0:?}: the name is longer than 65,535 bytes")]
    NameTooLong(String),
    /// More than 255 dimensions.
    #[error("tensor {0:?}: more than 255 dimensions")]
    RankTooHigh(String),
    /// The path stands twice, or conflicts with another.
    #[error("tensor {0:?}: {1}")]
    Path(String, Fault),
    /// The sizes add up to more than 2^63 bytes.
    #[error("tensor {0:?}: the file would exceed 2^63 bytes")]
    TooLarge(String),
    /// A 0-d tensor or an empty one cannot be a meta tensor.
    #[error("tensor {0:?}: a 0-d or empty tensor cannot be marked as meta")]
    EmptyMeta(String),
    /// An option is outside what the format allows.
    #[error("{0}")]
    Option(&'static str),
}
