//! An output whose bytes are hashed on their way. Owns [`Digesting`].

use std::time::Duration;

use super::Output;
use crate::error::IoError;
use crate::file_digest::FileDigest;
use crate::stats::Counter;

/// Passes everything on to another output.
pub(super) struct Digesting<'a> {
    output: &'a dyn Output,
    digest: FileDigest,
    hash: Counter,
}

impl<'a> Digesting<'a> {
    pub(super) fn new(output: &'a dyn Output, file_len: u64) -> Self {
        Self { output, digest: FileDigest::new(file_len), hash: Counter::default() }
    }

    /// Time spent hashing, summed over workers.
    pub(super) fn time(&self) -> Duration {
        self.hash.duration()
    }

    /// The digest of the file once every byte has passed.
    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        self.digest.finish()
    }
}

impl Output for Digesting<'_> {
    fn data(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        self.hash.time(|| self.digest.add(offset, bytes));
        self.output.data(offset, bytes)
    }

    fn frame(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        self.hash.time(|| self.digest.add(offset, bytes));
        self.output.frame(offset, bytes)
    }

    fn takes_images(&self) -> bool {
        self.output.takes_images()
    }
}
