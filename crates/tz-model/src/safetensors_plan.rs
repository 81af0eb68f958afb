//! Where every tensor of a safetensors file goes, before a byte is written. Owns the header's wire form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;
use tz_format::{Dtype, TensorSpec};

use crate::checkpoint::MAX_HEADER_LEN;
use crate::dtype::{byte_len, packing, to_safetensors};
use crate::error::{Error, Fault};

/// Largest shard unless the caller says otherwise: transformers' own choice for many years, and small enough for
/// every file store.
pub const DEFAULT_MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDecl {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
}

impl From<&TensorSpec> for TensorDecl {
    /// A structured path becomes its keys joined with `/`.
    fn from(spec: &TensorSpec) -> Self {
        Self { name: spec.path.to_string(), dtype: spec.dtype, shape: spec.shape.clone() }
    }
}

/// Where one tensor's data stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Layout of one safetensors file. The same tensors give the same bytes as the `safetensors` library: by falling
/// alignment of the dtype, then by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsPlan {
    pub(crate) header: Vec<u8>,
    /// In the caller's order.
    pub(crate) tensors: Vec<Placed>,
    pub(crate) file_len: u64,
}

impl SafetensorsPlan {
    /// Places `tensors`; `metadata` becomes `__metadata__`, or nothing where it is empty.
    ///
    /// # Errors
    /// [`Error`] names the tensor that safetensors cannot hold. `path` is where the file will be; it is not touched.
    pub fn new(
        path: &Path,
        tensors: &[TensorDecl],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let mut rows = Vec::with_capacity(tensors.len());
        let mut names = BTreeSet::new();
        for (i, decl) in tensors.iter().enumerate() {
            if decl.name == "__metadata__" {
                return Err(Error::unsupported(path, &decl.name, "this name"));
            }
            if !names.insert(decl.name.as_str()) {
                return Err(Error::of_tensor(path, &decl.name, Fault::DuplicateName));
            }
            let stored = to_safetensors(decl.dtype).ok_or_else(|| {
                let dtype = decl.dtype.to_wire().replace('\0', " ");
                Error::unsupported(path, &decl.name, format!("dtype {dtype} in safetensors"))
            })?;
            let mut shape = decl.shape.clone();
            if packing(stored) > 1 {
                let scalar = || Error::unsupported(path, &decl.name, "a scalar of this dtype");
                let overflow = || Error::of_tensor(path, &decl.name, Fault::ShapeOverflow);
                let last = shape.last_mut().ok_or_else(scalar)?;
                *last = last.checked_mul(packing(stored)).ok_or_else(overflow)?;
            }
            rows.push((i, decl, stored, shape));
        }
        rows.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.1.name.cmp(&b.1.name)));

        let mut header = String::from("{");
        if !metadata.is_empty() {
            header.push_str(&format!("\"__metadata__\":{}", json!(metadata)));
        }
        let mut end = 0_u64;
        let mut placed = vec![None; rows.len()];
        for (i, decl, stored, shape) in rows {
            let overflow = || Error::of_tensor(path, &decl.name, Fault::ShapeOverflow);
            let offset = end;
            let len = byte_len(decl.dtype, &decl.shape).ok_or_else(overflow)?;
            end = end.checked_add(len).ok_or_else(overflow)?;
            if header.len() > 1 {
                header.push(',');
            }
            header.push_str(&format!(
                "{}:{{\"dtype\":\"{stored}\",\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
                json!(decl.name),
                json!(shape),
            ));
            let name = decl.name.clone();
            if let Some(slot) = placed.get_mut(i) {
                *slot = Some(Placed { name, offset, len });
            }
        }
        header.push('}');
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        Self::assemble(path, &header, placed.into_iter().flatten().collect(), end)
    }

    fn assemble(
        path: &Path,
        text: &str,
        mut tensors: Vec<Placed>,
        data_len: u64,
    ) -> Result<Self, Error> {
        let (len, limit) = (text.len() as u64, MAX_HEADER_LEN);
        if len > limit {
            return Err(Error::malformed(path, Fault::HeaderTooLong { len, limit }));
        }
        let mut header = len.to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        let start = header.len() as u64;
        // Files end below 2^63, as every offset of the system calls does.
        let file_len = start.checked_add(data_len);
        let Some(file_len) = file_len.filter(|&len| i64::try_from(len).is_ok()) else {
            return Err(Error::malformed(path, Fault::ShapeOverflow));
        };
        for tensor in &mut tensors {
            tensor.offset += start;
        }
        Ok(Self { header, tensors, file_len })
    }

    /// Length of the finished file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }
}

/// Layout of a directory of shards with their index; one shard alone has the plain name and no index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardedPlan {
    pub(crate) shards: Vec<(String, SafetensorsPlan)>,
    /// For every tensor in the caller's order: its shard and its position there.
    pub(crate) places: Vec<(usize, usize)>,
    pub(crate) index: Option<String>,
}

impl ShardedPlan {
    /// Fills shards in the order of `tensors`, each with at most `max_shard_bytes` of data unless one tensor alone
    /// has more. Smaller shards load more evenly in parallel, larger ones mean fewer files.
    ///
    /// # Errors
    /// As [`SafetensorsPlan::new`]; also a name that would stand in two shards.
    pub fn new(
        dir: &Path,
        tensors: &[TensorDecl],
        metadata: &BTreeMap<String, String>,
        max_shard_bytes: u64,
    ) -> Result<Self, Error> {
        let mut groups: Vec<Vec<TensorDecl>> = vec![Vec::new()];
        let mut places = Vec::with_capacity(tensors.len());
        let (mut shard_len, mut total) = (0_u64, 0_u64);
        let mut names = BTreeSet::new();
        for decl in tensors {
            if !names.insert(decl.name.as_str()) {
                return Err(Error::of_tensor(dir, &decl.name, Fault::DuplicateName));
            }
            let overflow = || Error::of_tensor(dir, &decl.name, Fault::ShapeOverflow);
            let len = byte_len(decl.dtype, &decl.shape).ok_or_else(overflow)?;
            total = total.checked_add(len).ok_or_else(overflow)?;
            let full = shard_len.saturating_add(len) > max_shard_bytes;
            if full && groups.last().is_some_and(|group| !group.is_empty()) {
                groups.push(Vec::new());
                shard_len = 0;
            }
            shard_len += len;
            let shard = groups.len() - 1;
            if let Some(group) = groups.last_mut() {
                places.push((shard, group.len()));
                group.push(decl.clone());
            }
        }
        let count = groups.len();
        let shards = groups
            .iter()
            .enumerate()
            .map(|(i, group)| {
                let name = match count {
                    1 => "model.safetensors".to_owned(),
                    _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
                };
                let plan = SafetensorsPlan::new(&dir.join(&name), group, metadata)?;
                Ok((name, plan))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let index = (count > 1).then(|| {
            let weight_map: BTreeMap<&str, &str> = shards
                .iter()
                .flat_map(|(file, plan)| plan.tensors.iter().map(move |t| (&*t.name, &**file)))
                .collect();
            format!(
                "{:#}\n",
                json!({ "metadata": { "total_size": total }, "weight_map": weight_map })
            )
        });
        Ok(Self { shards, places, index })
    }

    /// Names of the files in order, without the index.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|(name, _)| name.as_str())
    }

    /// Lengths of the finished files together, without the index.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        let len = |(_, plan): &(String, SafetensorsPlan)| plan.file_len;
        self.shards.iter().map(len).fold(0, u64::saturating_add)
    }
}
