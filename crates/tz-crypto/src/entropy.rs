//! Where random bytes come from. Owns [`Entropy`]: the operating system, or a seed for published test vectors.

use crate::error::CryptoError;

/// A source of bytes that nobody can guess.
pub(crate) trait Entropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), CryptoError>;

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CryptoError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }
}

/// The operating system.
#[derive(Debug)]
pub(crate) struct Os;

impl Entropy for Os {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), CryptoError> {
        getrandom::fill(out).map_err(|_| CryptoError::Random)
    }
}

/// The same bytes for the same seed: test vectors only.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub(crate) struct Seeded(blake3::OutputReader);

#[cfg(feature = "testing")]
impl Seeded {
    pub(crate) fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }
}

#[cfg(feature = "testing")]
impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), CryptoError> {
        self.0.fill(out);
        Ok(())
    }
}
