//! From the objects of a pickle to named tensors. Owns the flattening of nested dicts and lists.

use tz_format::{PathKey, TensorPath};

use super::objects::Tensor;
use super::unpickle::{Id, Node, Objects};
use crate::error::Fault;

/// Deepest nesting; optimizer states have four levels.
const MAX_DEPTH: usize = 32;

/// Most bytes of names, texts and visits together. A pickle can name one value often, so its length does not bound
/// them. A hundred thousand tensors with long names need a tenth of it.
const MAX_BYTES: usize = 256 << 20;

/// What one visit counts for: about the memory that a tensor's description takes.
const VISIT_BYTES: usize = 256;

/// What a checkpoint holds.
#[derive(Debug, Default)]
pub(super) struct Contents<'a> {
    pub(super) tensors: Vec<(TensorPath, &'a Tensor)>,
    /// Numbers and texts beside the tensors, such as the epoch.
    pub(super) scalars: Vec<(String, String)>,
}

/// Names every tensor by its path from the outermost dict.
pub(super) fn flatten(objects: &Objects) -> Result<Contents<'_>, Fault> {
    if !matches!(objects.node(objects.root), Node::Dict(_)) {
        return Err(Fault::NotAStateDict);
    }
    let mut walk =
        Walk { objects, contents: Contents::default(), keys: Vec::new(), path_bytes: 0, bytes: 0 };
    walk.visit(objects.root)?;
    Ok(walk.contents)
}

struct Walk<'a> {
    objects: &'a Objects,
    contents: Contents<'a>,
    keys: Vec<PathKey>,
    /// Bytes of the current path.
    path_bytes: usize,
    bytes: usize,
}

impl Walk<'_> {
    fn visit(&mut self, id: Id) -> Result<(), Fault> {
        let text = match self.objects.node(id) {
            Node::Text(text) => text.len(),
            _ => 0,
        };
        self.bytes = self.bytes.saturating_add(VISIT_BYTES + self.path_bytes + text);
        if self.keys.len() > MAX_DEPTH || self.bytes > MAX_BYTES {
            return Err(Fault::TooNested);
        }
        match self.objects.node(id) {
            Node::Tensor(tensor) => {
                if let Some(path) = TensorPath::new(self.keys.clone()) {
                    self.contents.tensors.push((path, tensor));
                }
                Ok(())
            }
            Node::Dict(items) => items.iter().try_for_each(|&(key, value)| {
                let key = match self.objects.node(key) {
                    Node::Text(name) => PathKey::Name(name.clone()),
                    Node::Int(index) => match u64::try_from(*index) {
                        Ok(index) => PathKey::Index(index),
                        Err(_) => return Err(Fault::BadKey),
                    },
                    _ => return Err(Fault::BadKey),
                };
                self.child(key, value)
            }),
            Node::List(items) | Node::Tuple(items) => items
                .iter()
                .zip(0..)
                .try_for_each(|(&value, index)| self.child(PathKey::Index(index), value)),
            Node::Int(value) => self.scalar(value),
            Node::Float(value) => self.scalar(value),
            Node::Bool(value) => self.scalar(value),
            Node::Text(value) => self.scalar(value),
            Node::None | Node::Opaque | Node::Global(_) | Node::Storage(_) => Ok(()),
        }
    }

    fn child(&mut self, key: PathKey, value: Id) -> Result<(), Fault> {
        let len = match &key {
            PathKey::Name(name) => name.len(),
            PathKey::Index(_) => 0,
        };
        self.keys.push(key);
        self.path_bytes += len;
        let result = self.visit(value);
        self.path_bytes -= len;
        self.keys.pop();
        result
    }

    fn scalar(&mut self, value: &dyn std::fmt::Display) -> Result<(), Fault> {
        if let Some(path) = TensorPath::new(self.keys.clone()) {
            let entry = (path.to_string(), value.to_string());
            self.contents.scalars.push(entry);
        }
        Ok(())
    }
}
