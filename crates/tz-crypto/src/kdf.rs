//! Passphrase to key: libsodium's `crypto_pwhash` with Argon2id 1.3. Owns [`KdfCost`] and the bounds on it.

use dryoc::classic::crypto_pwhash::{PasswordHashAlgorithm, crypto_pwhash};
use tz_format::KeyDerivation;

use crate::error::CryptoError;
use crate::frozen::PWHASH_SALT_LEN;
use crate::key::{Key, Passphrase};

/// Least memory that Argon2id works with, and that libsodium accepts.
const MEMORY_MIN: u64 = 8 << 10;

/// What one guess at a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KdfCost {
    /// Passes over memory: libsodium's `opslimit`.
    pub passes: u64,
    /// Bytes of memory: libsodium's `memlimit`.
    pub memory: u64,
}

/// libsodium's costs, by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KdfPreset {
    /// 1 pass over 8 KiB: for tests, and passphrases that are keys themselves.
    Min,
    /// 2 passes over 64 MiB: a tenth of a second.
    Interactive,
    /// 3 passes over 256 MiB: half a second. The default, as in the reference.
    #[default]
    Moderate,
    /// 4 passes over 1 GiB: a few seconds.
    Sensitive,
}

impl KdfPreset {
    /// The cost.
    #[must_use]
    pub fn cost(self) -> KdfCost {
        let (passes, memory) = match self {
            Self::Min => (1, 8 << 10),
            Self::Interactive => (2, 64 << 20),
            Self::Moderate => (3, 256 << 20),
            Self::Sensitive => (4, 1 << 30),
        };
        KdfCost { passes, memory }
    }
}

/// Bounds on what a file may ask for, checked before memory is taken. The defaults admit every preset.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KdfLimits {
    /// Most bytes of memory of one derivation. Default 1 GiB.
    pub memory: u64,
    /// Most passes of one derivation. Default 10.
    pub passes: u64,
    /// Most derivations for one file. A file needs one per passphrase slot that is tried; a hostile one could
    /// ask for another in every tensor. Default 16.
    pub derivations: u64,
}

impl Default for KdfLimits {
    fn default() -> Self {
        Self { memory: 1 << 30, passes: 10, derivations: 16 }
    }
}

/// Derives keys within limits and counts them.
#[derive(Debug)]
pub(crate) struct Deriver {
    limits: KdfLimits,
    done: u64,
}

impl Deriver {
    pub(crate) fn new(limits: &KdfLimits) -> Self {
        let limits = limits.clone();
        Self { limits, done: 0 }
    }

    pub(crate) fn derive(
        &mut self,
        passphrase: &Passphrase,
        kdf: &KeyDerivation,
    ) -> Result<Key, CryptoError> {
        let within = |what, value, limit| {
            if value > limit {
                Err(CryptoError::KdfTooCostly { what, value, limit })
            } else {
                Ok(())
            }
        };
        within("passes", kdf.opslimit, self.limits.passes)?;
        within("bytes of memory", kdf.memlimit, self.limits.memory)?;
        within("derivations", self.done + 1, self.limits.derivations)?;
        self.done += 1;
        derive(passphrase, kdf)
    }
}

/// Derives without limits: for parameters that the caller chose.
pub(crate) fn derive(passphrase: &Passphrase, kdf: &KeyDerivation) -> Result<Key, CryptoError> {
    let bad = |why| CryptoError::malformed("key derivation", why);
    if kdf.salt.len() != PWHASH_SALT_LEN {
        return Err(bad("the salt has 16 bytes"));
    }
    if kdf.opslimit == 0 || kdf.opslimit > u64::from(u32::MAX) {
        return Err(bad("between 1 and 2^32 - 1 passes"));
    }
    let bytes = kdf.memlimit;
    if bytes < MEMORY_MIN || bytes >> 10 > u64::from(u32::MAX) {
        return Err(bad("between 8 KiB and 4 TiB of memory"));
    }
    let out_of_memory = || CryptoError::OutOfMemory { bytes };
    let memory = usize::try_from(bytes).map_err(|_| out_of_memory())?;
    let mut key = Key::zeroed();
    // With the parameters in range, memory is all that can be lacking.
    crypto_pwhash(
        key.as_mut(),
        passphrase.as_bytes(),
        &kdf.salt,
        kdf.opslimit,
        memory,
        PasswordHashAlgorithm::Argon2id13,
    )
    .map_err(|_| out_of_memory())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{from_hex, libsodium_vectors};

    #[test]
    fn e07_passphrases_become_the_keys_of_libsodium() {
        let vectors = libsodium_vectors();
        let rows = vectors["pwhash"].as_array().unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            let kdf = KeyDerivation {
                opslimit: row["passes"].as_u64().unwrap(),
                memlimit: row["memory"].as_u64().unwrap(),
                salt: from_hex(row["salt"].as_str().unwrap()),
            };
            let passphrase = Passphrase::new(row["passphrase"].as_str().unwrap());
            let key = derive(&passphrase, &kdf).unwrap();
            assert_eq!(key.as_bytes()[..], from_hex(row["key"].as_str().unwrap()), "{row}");
        }
    }

    #[track_caller]
    fn check(opslimit: u64, memlimit: u64, salt_len: usize, expect: &CryptoError) {
        let kdf = KeyDerivation { opslimit, memlimit, salt: vec![0; salt_len] };
        let passphrase = Passphrase::new("x");
        let found = Deriver::new(&KdfLimits::default()).derive(&passphrase, &kdf);
        assert_eq!(found.map(drop).as_ref(), Err(expect));
    }

    #[test]
    fn e04_costs_are_bounded_before_memory_is_taken() {
        let costly = |what, value, limit| CryptoError::KdfTooCostly { what, value, limit };
        check(1, u64::MAX, 16, &costly("bytes of memory", u64::MAX, 1 << 30));
        check(1, (1 << 30) + 1, 16, &costly("bytes of memory", (1 << 30) + 1, 1 << 30));
        check(11, 8192, 16, &costly("passes", 11, 10));
        check(u64::MAX, 8192, 16, &costly("passes", u64::MAX, 10));
        let bad = |why| CryptoError::malformed("key derivation", why);
        check(0, 8192, 16, &bad("between 1 and 2^32 - 1 passes"));
        check(1, 8191, 16, &bad("between 8 KiB and 4 TiB of memory"));
        check(1, 0, 16, &bad("between 8 KiB and 4 TiB of memory"));
        check(1, 8192, 15, &bad("the salt has 16 bytes"));
        check(1, 8192, 0, &bad("the salt has 16 bytes"));
    }

    #[test]
    fn presets_are_those_of_libsodium() {
        use dryoc::constants as c;
        let rows = [
            (KdfPreset::Min, c::CRYPTO_PWHASH_OPSLIMIT_MIN, c::CRYPTO_PWHASH_MEMLIMIT_MIN),
            (
                KdfPreset::Interactive,
                c::CRYPTO_PWHASH_OPSLIMIT_INTERACTIVE,
                c::CRYPTO_PWHASH_MEMLIMIT_INTERACTIVE,
            ),
            (
                KdfPreset::Moderate,
                c::CRYPTO_PWHASH_OPSLIMIT_MODERATE,
                c::CRYPTO_PWHASH_MEMLIMIT_MODERATE,
            ),
            (
                KdfPreset::Sensitive,
                c::CRYPTO_PWHASH_OPSLIMIT_SENSITIVE,
                c::CRYPTO_PWHASH_MEMLIMIT_SENSITIVE,
            ),
        ];
        for (preset, passes, memory) in rows {
            assert_eq!(preset.cost(), KdfCost { passes, memory: memory as u64 }, "{preset:?}");
            let limits = KdfLimits::default();
            assert!(passes <= limits.passes && memory as u64 <= limits.memory, "{preset:?}");
        }
    }
}
