//! What a checkpoint's pickle may name, and what becomes of it. Owns [`Global`], [`Storage`] and [`Tensor`].

use std::path::Path;

use tz_format::{Dtype, Element, TensorPath};

use super::archive::Stored;
use super::unpickle::{Id, Node, Objects, Stop};
use crate::checkpoint::SourceTensor;
use crate::dtype::byte_len;
use crate::error::{Error, Fault};
use crate::strided::Strided;

/// A name that the pickle may refer to. None of them is ever called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `torch.Size`, a tuple.
    Size,
    /// Storage, offset, size, strides, requires-grad, hooks, and sometimes metadata.
    RebuildTensor,
    /// As the second version, with a dtype after the hooks.
    RebuildTensorV3,
    /// Tensor, requires-grad, hooks.
    RebuildParameter,
    Storage(Dtype),
    /// A storage of bytes; the tensor brings the dtype.
    UntypedStorage,
    Dtype(Dtype),
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch.storage", "UntypedStorage") => Self::UntypedStorage,
            ("torch", name) => match storage_element(name) {
                Some(element) => Self::Storage(element.into()),
                None => Self::Dtype(Dtype::from_name(name)?),
            },
            _ => return None,
        })
    }
}

fn storage_element(name: &str) -> Option<Element> {
    Some(match name.strip_suffix("Storage")? {
        "Byte" => Element::Uint8,
        "Char" => Element::Int8,
        "Short" => Element::Int16,
        "Int" => Element::Int32,
        "Long" => Element::Int64,
        "Bool" => Element::Bool,
        "Half" => Element::Float16,
        "BFloat16" => Element::Bfloat16,
        "Float" => Element::Float32,
        "Double" => Element::Float64,
        "ComplexFloat" => Element::Complex64,
        "ComplexDouble" => Element::Complex128,
        _ => return None,
    })
}

/// Bytes that tensors share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage {
    /// Text: name of the archive's entry below `data/`.
    key: Id,
    /// `None` where the tensor says it.
    dtype: Option<Dtype>,
    /// Number of elements, or of bytes where there is no dtype.
    len: u64,
}

/// A view of a storage. Refers to its parts by number, so that a pickle cannot make much of little.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    storage: Storage,
    dtype: Dtype,
    /// First element.
    offset: u64,
    shape: Id,
    strides: Id,
}

/// What a call gives: a new value, or one that exists.
#[derive(Debug)]
pub(super) enum Value {
    New(Node),
    Known(Id),
}

/// Reads a persistent id: `('storage', storage type, key, device, length)`.
pub(super) fn storage(objects: &Objects, id: Id) -> Result<Storage, Stop> {
    let why = "a persistent id is not that of a storage";
    let [tag, kind, key, _, len] = tuple(objects, id, why)?;
    let (Node::Text(tag), Node::Global(kind), Node::Text(text)) =
        (objects.node(tag), objects.node(kind), objects.node(key))
    else {
        return Err(why.into());
    };
    let dtype = match kind {
        Global::Storage(dtype) => Some(*dtype),
        Global::UntypedStorage => None,
        _ => return Err(why.into()),
    };
    // Entries are called by small numbers; a long key would be copied for every tensor that uses it.
    if tag != "storage" || text.len() > MAX_KEY_LEN {
        return Err(why.into());
    }
    Ok(Storage { key, dtype, len: size(objects, len)? })
}

/// The value of a call.
pub(super) fn call(objects: &Objects, function: Id, arguments: Id) -> Result<Value, Stop> {
    let Node::Global(function) = objects.node(function) else {
        return Err("something that is not a function is called".into());
    };
    let why = "a tensor is rebuilt from the wrong arguments";
    match function {
        Global::OrderedDict => match objects.node(arguments) {
            Node::Tuple(items) if items.is_empty() => Ok(Value::New(Node::Dict(Vec::new()))),
            _ => Err("an OrderedDict is not made empty".into()),
        },
        Global::Size => {
            let [dims] = tuple(objects, arguments, why)?;
            Ok(Value::Known(dims))
        }
        Global::RebuildTensor => {
            let fields = match objects.node(arguments) {
                Node::Tuple(items) => items.as_slice(),
                _ => return Err(why.into()),
            };
            let (&[storage, offset, shape, strides, _, _], rest) = split(fields, why)?;
            no_metadata(objects, rest)?;
            tensor(objects, storage, offset, shape, strides, None)
        }
        Global::RebuildTensorV3 => {
            let fields = match objects.node(arguments) {
                Node::Tuple(items) => items.as_slice(),
                _ => return Err(why.into()),
            };
            let (&[storage, offset, shape, strides, _, _, dtype], rest) = split(fields, why)?;
            no_metadata(objects, rest)?;
            let Node::Global(Global::Dtype(dtype)) = objects.node(dtype) else {
                return Err("a tensor's dtype is not one".into());
            };
            tensor(objects, storage, offset, shape, strides, Some(*dtype))
        }
        Global::RebuildParameter => {
            let [data, _, _] = tuple(objects, arguments, why)?;
            match objects.node(data) {
                Node::Tensor(_) => Ok(Value::Known(data)),
                _ => Err("a parameter is rebuilt from something that is not a tensor".into()),
            }
        }
        Global::Storage(_) | Global::UntypedStorage | Global::Dtype(_) => {
            Err("a storage or dtype is called".into())
        }
    }
}

/// The fixed arguments, and what follows them.
fn split<'a, const N: usize>(
    items: &'a [Id],
    why: &'static str,
) -> Result<(&'a [Id; N], &'a [Id]), Stop> {
    items.split_first_chunk().ok_or_else(|| why.into())
}

/// The last argument may hold what changes the data's meaning (conjugation, quantisation), and must be empty.
fn no_metadata(objects: &Objects, rest: &[Id]) -> Result<(), Stop> {
    let empty = match rest {
        [] => true,
        &[metadata] => match objects.node(metadata) {
            Node::None => true,
            Node::Dict(items) => items.is_empty(),
            _ => false,
        },
        _ => false,
    };
    empty.then_some(()).ok_or_else(|| "a tensor has metadata that change its meaning".into())
}

fn tensor(
    objects: &Objects,
    storage: Id,
    offset: Id,
    shape: Id,
    strides: Id,
    dtype: Option<Dtype>,
) -> Result<Value, Stop> {
    let Node::Storage(storage) = objects.node(storage) else {
        return Err("a tensor is rebuilt from something that is not a storage".into());
    };
    let dtype = match (dtype, storage.dtype) {
        (Some(dtype), None) | (None, Some(dtype)) => dtype,
        (Some(dtype), Some(own)) if dtype == own => dtype,
        _ => return Err("a tensor's dtype is not its storage's".into()),
    };
    if sizes(objects, shape)?.len() != sizes(objects, strides)?.len() {
        return Err("a tensor has not as many strides as dimensions".into());
    }
    let offset = size(objects, offset)?;
    let tensor = Tensor { storage: *storage, dtype, offset, shape, strides };
    Ok(Value::New(Node::Tensor(Box::new(tensor))))
}

fn tuple<const N: usize>(objects: &Objects, id: Id, why: &'static str) -> Result<[Id; N], Stop> {
    match objects.node(id) {
        Node::Tuple(items) => items.as_slice().try_into().map_err(|_| why.into()),
        _ => Err(why.into()),
    }
}

fn size(objects: &Objects, id: Id) -> Result<u64, Stop> {
    match objects.node(id) {
        Node::Int(value) => u64::try_from(*value).map_err(|_| "a size is negative".into()),
        _ => Err("a size is not an integer".into()),
    }
}

/// Longest name of a storage.
const MAX_KEY_LEN: usize = 255;

/// Longest shape; torch itself stops at 64 dimensions.
const MAX_RANK: usize = 64;

fn sizes(objects: &Objects, id: Id) -> Result<Vec<u64>, Stop> {
    match objects.node(id) {
        Node::Tuple(items) | Node::List(items) if items.len() <= MAX_RANK => {
            items.iter().map(|&item| size(objects, item)).collect()
        }
        _ => Err("a shape is not a tuple of at most 64 sizes".into()),
    }
}

impl Tensor {
    /// Name of the archive's entry below `data/`.
    pub(super) fn storage_key<'a>(&self, objects: &'a Objects) -> &'a str {
        match objects.node(self.storage.key) {
            Node::Text(key) => key,
            _ => "",
        }
    }

    /// Places the view in the file; every element must lie within the storage.
    pub(super) fn place(
        &self,
        objects: &Objects,
        path: &Path,
        name: TensorPath,
        stored: Stored,
        file: usize,
    ) -> Result<SourceTensor, Error> {
        let text = name.to_string();
        let fail = |fault| Error::of_tensor(path, &text, fault);
        let overflow = || fail(Fault::ShapeOverflow);
        // A list could have grown since the tensor was rebuilt from it.
        let again = |_| fail(Fault::NotAStateDict);
        let shape = sizes(objects, self.shape).map_err(again)?;
        let strides = sizes(objects, self.strides).map_err(again)?;
        if shape.len() != strides.len() {
            return Err(fail(Fault::NotAStateDict));
        }
        let element = self.dtype.size();
        let byte_len = byte_len(self.dtype, &shape).ok_or_else(overflow)?;
        let unit = self.storage.dtype.map_or(1, Dtype::size);
        let storage_len = self.storage.len.checked_mul(unit).ok_or_else(overflow)?;
        if storage_len != stored.len {
            return Err(fail(Fault::WrongLength { expected: storage_len, found: stored.len }));
        }
        let end = Strided::span(&shape, &strides)
            .and_then(|span| span.checked_add(self.offset))
            .and_then(|end| end.checked_mul(element))
            .ok_or_else(overflow)?;
        if end > storage_len {
            return Err(fail(Fault::BeyondStorage { end, len: storage_len }));
        }
        if byte_len > storage_len {
            // A few bytes could claim to be a tensor of any size.
            return Err(Error::unsupported(path, &text, "a view that repeats elements"));
        }
        let contiguous = Strided::is_contiguous(&shape, &strides);
        Ok(SourceTensor {
            name: text,
            path: name,
            dtype: self.dtype,
            shape,
            byte_len,
            file,
            offset: stored.offset + self.offset * element,
            strides: (!contiguous).then_some(strides),
        })
    }
}
