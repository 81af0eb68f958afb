//! Tensors in host memory: owned or mapped. Owns [`HostTensors`] and [`HostTensor`].

use std::collections::HashMap;
use std::sync::OnceLock;

use tz_format::TensorEntry;

use crate::memory::SharedBytes;
use crate::stats::ReadStats;

/// One tensor in host memory.
#[derive(Debug, Clone)]
pub struct HostTensor {
    entry: TensorEntry,
    bytes: SharedBytes,
}

impl HostTensor {
    pub(crate) fn new(entry: TensorEntry, bytes: SharedBytes) -> Self {
        Self { entry, bytes }
    }

    /// Name, dtype, shape and place in the file.
    #[must_use]
    pub fn entry(&self) -> &TensorEntry {
        &self.entry
    }

    /// The elements in C order, in the byte order that the dtype states.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes with shared ownership: they outlive the file and the other tensors.
    #[must_use]
    pub fn shared_bytes(&self) -> SharedBytes {
        self.bytes.clone()
    }
}

/// Loaded tensors, in file order.
#[derive(Debug, Clone)]
pub struct HostTensors {
    tensors: Vec<HostTensor>,
    /// Where each name stands, made when the first is asked for: who asks for one asks for all.
    positions: OnceLock<HashMap<String, usize>>,
    stats: ReadStats,
}

impl HostTensors {
    pub(crate) fn new(tensors: Vec<HostTensor>, stats: ReadStats) -> Self {
        Self { tensors, positions: OnceLock::new(), stats }
    }

    /// Every tensor.
    pub fn iter(&self) -> std::slice::Iter<'_, HostTensor> {
        self.tensors.iter()
    }

    /// The tensor of that name (plain, or a path joined with `/`).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        let positions = self.positions.get_or_init(|| {
            let names = self.tensors.iter().map(|tensor| tensor.entry.path.to_string());
            // The first of a name has it: the map keeps what comes last.
            names.enumerate().map(|(at, name)| (name, at)).rev().collect()
        });
        positions.get(name).and_then(|&at| self.tensors.get(at))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// What the load did.
    #[must_use]
    pub fn stats(&self) -> &ReadStats {
        &self.stats
    }
}

impl<'a> IntoIterator for &'a HostTensors {
    type Item = &'a HostTensor;
    type IntoIter = std::slice::Iter<'a, HostTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
