//! Names of tensors: a plain string, or a path through nested dicts and lists. Owns [`TensorPath`] and the
//! rules between paths of one file.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use crate::error::Fault;
use crate::frozen::PATH_MARK;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathKey {
    /// Key of a dict.
    Name(String),
    /// Index of a list or tuple.
    Index(u64),
}

impl From<&str> for PathKey {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<u64> for PathKey {
    fn from(index: u64) -> Self {
        Self::Index(index)
    }
}

impl fmt::Display for PathKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => index.fmt(f),
        }
    }
}

/// Where a tensor stands in its state dict or module. Never empty.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TensorPath {
    keys: Keys,
}

/// Nearly every path is one name: it needs no list of its own.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Keys {
    One([PathKey; 1]),
    /// Two keys or more.
    Many(Vec<PathKey>),
}

impl From<&str> for TensorPath {
    fn from(name: &str) -> Self {
        name.to_owned().into()
    }
}

impl From<String> for TensorPath {
    fn from(name: String) -> Self {
        Self { keys: Keys::One([PathKey::Name(name)]) }
    }
}

impl Ord for TensorPath {
    /// Key by key.
    fn cmp(&self, other: &Self) -> Ordering {
        self.keys().cmp(other.keys())
    }
}

impl PartialOrd for TensorPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for TensorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TensorPath").field(&self.keys()).finish()
    }
}

impl fmt::Display for TensorPath {
    /// The plain name, or the keys joined with `/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, key) in self.keys().iter().enumerate() {
            if depth > 0 {
                f.write_str("/")?;
            }
            key.fmt(f)?;
        }
        Ok(())
    }
}

impl TensorPath {
    /// A path of `keys`; `None` where there are none.
    #[must_use]
    pub fn new(keys: Vec<PathKey>) -> Option<Self> {
        if keys.is_empty() {
            return None;
        }
        let keys = match <[PathKey; 1]>::try_from(keys) {
            Ok(one) => Keys::One(one),
            Err(many) => Keys::Many(many),
        };
        Some(Self { keys })
    }

    /// The steps, outermost first.
    #[must_use]
    pub fn keys(&self) -> &[PathKey] {
        match &self.keys {
            Keys::One(one) => one,
            Keys::Many(many) => many,
        }
    }

    /// The name, where the path is a single string.
    #[must_use]
    pub fn plain(&self) -> Option<&str> {
        match &self.keys {
            Keys::One([PathKey::Name(name)]) => Some(name),
            _ => None,
        }
    }

    /// Reads the name field of an index entry or tensor header.
    ///
    /// # Errors
    /// The fault, where the bytes are neither UTF-8 nor a structured path.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, Fault> {
        match bytes {
            [] => Err(Fault::BadPath("empty")),
            [PATH_MARK, json @ ..] => {
                if json.first() != Some(&b'[') || json.last() != Some(&b']') {
                    return Err(Fault::BadPath("not a JSON array"));
                }
                if json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
                    return Err(Fault::BadPath("line break in the JSON array"));
                }
                let values: Vec<serde_json::Value> =
                    serde_json::from_slice(json).map_err(|_| Fault::BadPath("not a JSON array"))?;
                let keys = values.into_iter().map(key_from_json).collect::<Option<Vec<_>>>();
                let keys = keys.ok_or(Fault::BadPath(
                    "a key is neither a string nor a non-negative integer",
                ))?;
                Self::new(keys).ok_or(Fault::BadPath("empty"))
            }
            plain => match std::str::from_utf8(plain) {
                Ok(name) => Ok(name.into()),
                Err(_) => Err(Fault::NotUtf8),
            },
        }
    }

    /// The name field's bytes. A plain name that would read back as something else (empty, or beginning
    /// with the structured mark) is written as a path of one key, which readers take for the same name.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        self.wire().into_owned()
    }

    /// [`Self::to_wire`] without a copy of a plain name.
    pub(crate) fn wire(&self) -> Cow<'_, [u8]> {
        match self.plain().map(str::as_bytes) {
            Some(name) if name.first().is_some_and(|&byte| byte != PATH_MARK) => name.into(),
            _ => self.to_json_seq().into(),
        }
    }

    /// Compact ASCII JSON after the mark, escaped as Python's `json.dumps` does.
    fn to_json_seq(&self) -> Vec<u8> {
        let mut out = vec![PATH_MARK, b'['];
        for (depth, key) in self.keys().iter().enumerate() {
            if depth > 0 {
                out.push(b',');
            }
            match key {
                PathKey::Index(index) => out.extend_from_slice(index.to_string().as_bytes()),
                PathKey::Name(name) => escape_into(&mut out, name),
            }
        }
        out.push(b']');
        out
    }
}

fn key_from_json(value: serde_json::Value) -> Option<PathKey> {
    match value {
        serde_json::Value::String(name) => Some(PathKey::Name(name)),
        serde_json::Value::Number(number) => number.as_u64().map(PathKey::Index),
        _ => None,
    }
}

fn escape_into(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            ' '..='~' => out.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
    }
    out.push(b'"');
}

/// What stands at a place of the tree of paths seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Leaf,
    Names,
    Indices,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum KeyRef<'a> {
    Name(&'a str),
    Index(u64),
}

/// Refuses paths that could not stand in one nested state dict.
#[derive(Debug)]
pub(crate) struct PathRegistry<'a> {
    children: HashMap<(usize, KeyRef<'a>), usize>,
    nodes: Vec<Node>,
}

impl<'a> PathRegistry<'a> {
    /// `capacity` is a hint that the caller has bounded.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { children: HashMap::with_capacity(capacity), nodes: Vec::with_capacity(capacity + 1) }
    }

    /// Adds a path: a duplicate, a prefix of another, or a level of mixed keys is refused.
    pub(crate) fn add(&mut self, path: &'a TensorPath) -> Result<(), Fault> {
        let mut parent = 0;
        for (depth, key) in path.keys().iter().enumerate() {
            let (kind, key) = match key {
                PathKey::Name(name) => (Node::Names, KeyRef::Name(name)),
                PathKey::Index(index) => (Node::Indices, KeyRef::Index(*index)),
            };
            match self.nodes.get(parent) {
                None => self.nodes.push(kind),
                Some(Node::Leaf) => {
                    return Err(Fault::PathConflict("a prefix of it is a tensor"));
                }
                Some(found) if *found != kind => {
                    return Err(Fault::PathConflict("one level mixes strings and integers"));
                }
                Some(_) => {}
            }
            let last = depth + 1 == path.keys().len();
            parent = match self.children.entry((parent, key)) {
                Entry::Occupied(child) if last => {
                    return Err(match self.nodes.get(*child.get()) {
                        Some(Node::Leaf) => Fault::DuplicatePath,
                        _ => Fault::PathConflict("it is a prefix of another"),
                    });
                }
                Entry::Occupied(child) => *child.get(),
                Entry::Vacant(place) => {
                    let child = *place.insert(self.nodes.len());
                    if last {
                        self.nodes.push(Node::Leaf);
                    }
                    // Otherwise the next step pushes the node, with the kind of its keys.
                    child
                }
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(keys: &[PathKey]) -> TensorPath {
        TensorPath::new(keys.to_vec()).expect("keys")
    }

    #[track_caller]
    fn check(path: &TensorPath, wire: &[u8]) {
        assert_eq!(path.to_wire(), wire);
        assert_eq!(TensorPath::from_wire(wire).as_ref(), Ok(path));
    }

    #[test]
    fn wire_forms() {
        check(&"model.weight".into(), b"model.weight");
        check(&"名前".into(), "名前".as_bytes());
        check(&path(&["a".into(), 0.into()]), b"\x1e[\"a\",0]");
        check(
            &path(&["\u{1f600}\u{7f}\"\\\n".into(), "b".into()]),
            b"\x1e[\"\\ud83d\\ude00\\u007f\\\"\\\\\\n\",\"b\"]",
        );
        check(&"".into(), b"\x1e[\"\"]");
        check(&"\u{1e}x".into(), b"\x1e[\"\\u001ex\"]");
        assert_eq!(
            path(&["model".into(), "layers".into(), 0.into()]).to_string(),
            "model/layers/0"
        );
    }

    #[test]
    fn not_paths() {
        for wire in [
            b"".as_slice(),
            b"\x1e",
            b"\x1e[]",
            b"\x1e{}",
            b"\x1e[\"a\"",
            b"\x1e[1.5]",
            b"\x1e[-1]",
            b"\x1e[true]",
            b"\x1e[[1]]",
            b"\x1e[\"a\",\n1]",
            b"\xff",
            b"\x1e[\"\xff\"]",
            b"\x1e[\"\\ud800\"]",
            b"\x1e[99999999999999999999]",
        ] {
            assert!(TensorPath::from_wire(wire).is_err(), "{wire:?}");
        }
    }

    #[track_caller]
    fn conflict(first: &[PathKey], second: &[PathKey], expect: Result<(), Fault>) {
        let (first, second) = (path(first), path(second));
        let mut registry = PathRegistry::with_capacity(2);
        registry.add(&first).expect("first");
        assert_eq!(registry.add(&second), expect, "{first} then {second}");
    }

    #[test]
    fn rules_between_paths() {
        let prefixed = Fault::PathConflict("a prefix of it is a tensor");
        let prefix = Fault::PathConflict("it is a prefix of another");
        let mixed = Fault::PathConflict("one level mixes strings and integers");
        conflict(&["a".into()], &["b".into()], Ok(()));
        conflict(&["a".into(), 0.into()], &["a".into(), 1.into()], Ok(()));
        conflict(&["a".into(), 0.into(), "x".into()], &["a".into(), 1.into(), 5.into()], Ok(()));
        conflict(&["a".into()], &["a".into()], Err(Fault::DuplicatePath));
        conflict(&["a".into()], &["a".into(), "b".into()], Err(prefixed));
        conflict(&["a".into(), "b".into()], &["a".into()], Err(prefix));
        conflict(&["a".into(), 0.into()], &["a".into(), "0".into()], Err(mixed.clone()));
        conflict(&["a".into()], &[0.into()], Err(mixed));
    }
}
