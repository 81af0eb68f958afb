//! Data versions and feature flags, and what each may contain. Owns [`Version`], [`Flags`] and [`Profile`].

use crate::error::{Fault, FormatError};
use crate::frozen::{FLAG_ENCRYPTED, FLAG_SEALED, FLAG_VERSIONED_ENTRIES, FLAGS_LEN};

/// Data version: a reader of version *n* reads every lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Dtypes of numpy only.
    V1 = 1,
    /// Opaque dtypes: bfloat16, float8 and the like.
    V2 = 2,
    /// Every tensor encrypted.
    V3 = 3,
    /// Meta tensors; encryption is a feature flag from here on.
    V4 = 4,
    /// Dimensions of 2^32 and more.
    V5 = 5,
}

impl Version {
    /// The number in the file.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_number(number: u32) -> Result<Self, FormatError> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            3 => Ok(Self::V3),
            4 => Ok(Self::V4),
            5 => Ok(Self::V5),
            _ => Err(FormatError::UnsupportedVersion(number)),
        }
    }
}

/// Which additions a file uses: see `docs/FORMAT.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Readable by the reference implementation.
    Compat,
    /// Encrypted with AES-256-GCM and authenticated as a whole; the reference refuses it.
    Sealed,
}

/// Feature flags that this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Every tensor header carries a crypt block.
    pub encrypted: bool,
    /// Index entries carry their version.
    pub versioned_entries: bool,
    /// Sealed profile.
    pub sealed: bool,
}

impl Flags {
    pub(crate) fn from_wire(
        bytes: &[u8; FLAGS_LEN],
        version: Version,
        offset: u64,
    ) -> Result<Self, FormatError> {
        if version < Version::V4 {
            if bytes.iter().any(|&byte| byte != 0) {
                return Err(FormatError::malformed("feature flags", offset, Fault::NotZero));
            }
            return Ok(Self {
                encrypted: version == Version::V3,
                versioned_entries: false,
                sealed: false,
            });
        }
        let bits = (0_u32..)
            .zip(bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)));
        let mut flags = Self { encrypted: false, versioned_entries: false, sealed: false };
        for (bit, set) in bits {
            match bit {
                _ if !set => {}
                FLAG_ENCRYPTED => flags.encrypted = true,
                FLAG_VERSIONED_ENTRIES if version >= Version::V5 => flags.versioned_entries = true,
                FLAG_SEALED => flags.sealed = true,
                _ => {
                    return Err(FormatError::UnsupportedFlag { bit, version: version.number() });
                }
            }
        }
        if flags.sealed && !flags.encrypted {
            return Err(FormatError::malformed("feature flags", offset, Fault::WrongProfile));
        }
        Ok(flags)
    }

    pub(crate) fn to_wire(self, version: Version) -> [u8; FLAGS_LEN] {
        let mut bytes = [0; FLAGS_LEN];
        if version >= Version::V4 {
            for (bit, set) in [
                (FLAG_ENCRYPTED, self.encrypted),
                (FLAG_VERSIONED_ENTRIES, self.versioned_entries),
                (FLAG_SEALED, self.sealed),
            ] {
                if let Some(byte) = bytes.get_mut(bit as usize / 8) {
                    *byte |= u8::from(set) << (bit % 8);
                }
            }
        }
        bytes
    }

    /// The profile that the flags select.
    #[must_use]
    pub fn profile(self) -> Profile {
        if self.sealed { Profile::Sealed } else { Profile::Compat }
    }
}
