//! Why a key, a file or a call was refused. Owns [`CryptoError`] and its classes.

use std::fmt;

use thiserror::Error;
use tz_format::{FormatError, Front};

/// Why something was not encrypted or decrypted. No variant holds a secret or a plaintext byte.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// A chunk does not authenticate. Whether key, data, tag or header is at fault cannot be told apart, and is
    /// not: the caller gets no plaintext.
    #[error("authentication failed: the key is wrong or the data was altered")]
    Open,
    /// The file is encrypted and no secret of the right kind was given: ask the user for one.
    #[error("the file is encrypted: it needs {needs}")]
    KeyMissing {
        /// What would open the file.
        needs: Needs,
    },
    /// None of the secrets opens any key slot of a sealed file.
    #[error("no key or passphrase that was given opens the file")]
    WrongKey,
    /// A key slot opened, but the front of the file is not the one that was sealed.
    #[error("authentication failed: the front of the file was altered")]
    FrontAltered,
    /// A sealed file has another length than its authenticated front says.
    #[error("authentication failed: the file has {found} bytes where {expected} were sealed")]
    FileLength {
        /// Length that the front implies.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// The file does not open, and the journal of an interrupted rewrap follows it. [`crate::rewrap()`] with a secret
    /// comes after [`crate::Journal::outcome`], which recovers the header.
    #[error("{0}; the journal of an interrupted `rewrap` follows the file")]
    Interrupted(Box<Self>),
    /// Only a sealed file has key slots to change.
    #[error("only sealed files have key slots, this one is {profile}")]
    NotSealed {
        /// What the file is instead.
        profile: &'static str,
    },
    /// A secret was given for a file that is not encrypted: its content is not what the caller trusts it to be.
    #[error("a key was given, but the file is not encrypted")]
    NotEncrypted,
    /// Key bytes of the wrong length.
    #[error("a key has 32 bytes, not {found}")]
    KeyLength {
        /// Bytes given.
        found: usize,
    },
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// The file asks for a more expensive key derivation than the caller allows; raise [`crate::KdfLimits`] if
    /// the file is trusted. Nothing was allocated.
    #[error("key derivation asks for {what} of {value}, over the limit of {limit}")]
    KdfTooCostly {
        /// What was measured.
        what: &'static str,
        /// The value in the file.
        value: u64,
        /// The bound in force.
        limit: u64,
    },
    /// Encryption parameters break a rule of the format.
    #[error("malformed {field}: {why}")]
    Malformed {
        /// Name of the field, as in `docs/ENCRYPTION.md`.
        field: &'static str,
        /// The rule that is broken.
        why: &'static str,
    },
    /// The container around the encryption is malformed or cannot be written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The memory that a key derivation needs, within the limits, is not to be had.
    #[error("no {bytes} bytes of memory for the key derivation")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
    /// The cipher library refused an operation that cannot fail, for lack of memory.
    #[error("the cipher library refused the operation")]
    Library,
    /// More key slots than the front has room for; sealing the file anew makes room.
    #[error("key slots need {needed} bytes, the file has room for {room}")]
    NeedsRoom {
        /// Bytes of the key-slot record that the change asks for.
        needed: usize,
        /// Bytes that the file reserves for it.
        room: usize,
    },
    /// Removing every slot would make the file unreadable for ever.
    #[error("a sealed file needs at least one key slot")]
    LastSlot,
    /// There is no key slot of that number.
    #[error("no key slot {number}: the file has {slots}")]
    NoSuchSlot {
        /// The number asked for, from 0.
        number: usize,
        /// Slots in the file.
        slots: usize,
    },
    /// The caller broke a rule of this crate; nothing was encrypted.
    #[error("misuse of tz-crypto: {0}")]
    Misuse(&'static str),
}

impl CryptoError {
    /// What kind of failure this is, for exit codes and retries.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Open
            | Self::KeyMissing { .. }
            | Self::WrongKey
            | Self::FrontAltered
            | Self::FileLength { .. }
            | Self::Interrupted(_)
            | Self::NotEncrypted
            | Self::KeyLength { .. } => ErrorClass::Key,
            Self::KdfTooCostly { .. } | Self::Malformed { .. } | Self::Format(_) => {
                ErrorClass::Malformed
            }
            Self::OutOfMemory { .. } | Self::Random | Self::Library => ErrorClass::System,
            Self::EmptyPassphrase
            | Self::NotSealed { .. }
            | Self::NeedsRoom { .. }
            | Self::LastSlot
            | Self::NoSuchSlot { .. }
            | Self::Misuse(_) => ErrorClass::Usage,
        }
    }

    /// The same error of a file behind which a journal was found, where the header is at fault.
    #[must_use]
    pub fn interrupted(self) -> Self {
        match self.class() {
            ErrorClass::Key | ErrorClass::Malformed => Self::Interrupted(Box::new(self)),
            ErrorClass::System | ErrorClass::Usage => self,
        }
    }

    /// The refusal to change key slots of a file that has none.
    #[must_use]
    pub fn not_sealed(front: &Front) -> Self {
        let encrypted = front.header.flags.encrypted;
        Self::NotSealed {
            profile: if encrypted { "of the compat profile" } else { "not encrypted" },
        }
    }

    pub(crate) fn malformed(field: &'static str, why: &'static str) -> Self {
        Self::Malformed { field, why }
    }
}

/// Kinds of [`CryptoError`], by what the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Key missing or wrong, or authentication failed: the command line's exit code 5.
    Key,
    /// The file breaks the format or asks for too much: exit code 4.
    Malformed,
    /// The machine lacks memory or entropy: exit code 3.
    System,
    /// What was asked cannot be done: exit code 2.
    Usage,
}

/// What a file needs to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Needs {
    /// A 32-byte key.
    Key,
    /// A passphrase.
    Passphrase,
    /// Either will do, where it is one that the file was sealed for.
    Either,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "a key",
            Self::Passphrase => "a passphrase",
            Self::Either => "a key or a passphrase",
        })
    }
}
