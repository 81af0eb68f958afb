//! A named decoder under its bound. Owns [`Target`].

use crate::guard::Bound;

/// One fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the program in `fuzz/fuzz_targets` and of the archive in `fuzz/corpus`.
    pub name: &'static str,
    /// Decodes an input and asserts what must hold of any.
    pub run: fn(&[u8]),
    /// Most memory that an input may take.
    pub bound: Bound,
}

impl Target {
    /// Runs an input under the bound, and gives the most memory that it held.
    ///
    /// # Panics
    /// Where the property does not hold, or the bound.
    pub fn hold(&self, input: &[u8]) -> u64 {
        self.bound.hold(input.len(), || (self.run)(input))
    }
}
