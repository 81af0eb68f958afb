//! `adapter_config.json`, as PEFT writes it. Owns [`AdapterConfig`] and [`Targets`]; judging it is the business of
//! `rules`.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};
use tz_io::{IoError, Location, RemoteOptions};

use crate::error::Error;

/// Longest JSON file that is read; real ones have a few kilobytes.
const MAX_LEN: u64 = 4 << 20;

/// An adapter's configuration: the very bytes, and what they say.
#[derive(Debug, Clone)]
pub struct AdapterConfig {
    bytes: Vec<u8>,
    fields: Map<String, Value>,
}

impl AdapterConfig {
    /// Reads the file at `location`.
    pub(crate) fn read(location: &Location, remote: &RemoteOptions) -> Result<Self, Error> {
        let bytes = match location {
            Location::File(path) => read_bounded(path)?,
            _ => fetch_bounded(location, remote)?,
        };
        Self::parse(&location.to_string(), bytes)
    }

    /// Parses the bytes of `location`.
    pub(crate) fn parse(location: &str, bytes: Vec<u8>) -> Result<Self, Error> {
        let fields = parse_object(location, &bytes)?;
        Ok(Self { bytes, fields })
    }

    /// The file as it is.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A field that is there and not `null`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A field that is there, `null` or not: to Python, `None` is not the default.
    pub(crate) fn given(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// `r`, where it is a whole number.
    #[must_use]
    pub fn rank(&self) -> Option<u64> {
        self.field("r")?.as_u64()
    }

    /// `lora_alpha`, where it is a number.
    #[must_use]
    pub fn alpha(&self) -> Option<f64> {
        self.field("lora_alpha")?.as_f64()
    }

    /// What the product of both halves is multiplied by: alpha / r, or alpha / √r with `use_rslora`.
    #[must_use]
    pub fn scaling(&self) -> Option<f64> {
        let rank = f64::from(u32::try_from(self.rank()?).ok().filter(|&rank| rank > 0)?);
        let rank_stabilised = self.field("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Some(self.alpha()? / if rank_stabilised { rank.sqrt() } else { rank })
    }

    /// The base model, as the configuration names it.
    #[must_use]
    pub fn base_model(&self) -> Option<&str> {
        self.field("base_model_name_or_path")?.as_str()
    }

    /// `target_modules`, where it is a list of texts or a text.
    #[must_use]
    pub fn targets(&self) -> Option<Targets> {
        match self.field("target_modules")? {
            Value::Array(list) => {
                let names = list.iter().map(|name| name.as_str().map(str::to_owned));
                Some(Targets::Names(names.collect::<Option<_>>()?))
            }
            Value::String(text) if text == "all-linear" => Some(Targets::Unknown(text.clone())),
            // Python must match the whole name. Where the two languages of patterns differ, nothing can be said.
            Value::String(text) => Some(match Regex::new(&format!("^(?:{text})$")) {
                Ok(pattern) => Targets::Pattern(pattern),
                Err(_) => Targets::Unknown(text.clone()),
            }),
            _ => None,
        }
    }
}

/// Which modules an adapter says that it changes.
#[derive(Debug, Clone)]
pub enum Targets {
    /// Modules of these names, or whose path ends in a dot and one of them.
    Names(BTreeSet<String>),
    /// Modules whose whole path matches.
    Pattern(Regex),
    /// What only PEFT and the model together can resolve: `all-linear`, or a pattern that only Python reads.
    Unknown(String),
}

impl Targets {
    /// Whether a module is among them, as PEFT decides it; `None` where that cannot be told.
    #[must_use]
    pub fn include(&self, module: &str) -> Option<bool> {
        match self {
            Self::Names(names) => Some(ends(module).any(|end| names.contains(end))),
            Self::Pattern(pattern) => Some(pattern.is_match(module)),
            Self::Unknown(_) => None,
        }
    }

    /// Names that none of `modules` bears.
    pub(crate) fn unused<'a>(&self, modules: impl Iterator<Item = &'a str>) -> Vec<&str> {
        let Self::Names(names) = self else { return Vec::new() };
        let borne: HashSet<&str> = modules.flat_map(ends).collect();
        names.iter().map(String::as_str).filter(|name| !borne.contains(name)).collect()
    }
}

/// The path itself, and what follows each of its dots.
fn ends(module: &str) -> impl Iterator<Item = &str> {
    let after_dots = module.match_indices('.').filter_map(|(at, _)| module.get(at + 1..));
    std::iter::once(module).chain(after_dots)
}

/// Reads a JSON object from the bytes of `location`.
pub(crate) fn parse_object(location: &str, bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    let fail = |reason: String| Error::Config { location: location.to_owned(), reason };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(fail("not a JSON object".to_owned())),
        Err(error) => Err(fail(format!("not JSON: {error}"))),
    }
}

/// Reads a local file of JSON.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes));
    read.map_err(Error::io(path, "read"))?;
    check_len(&path.display().to_string(), bytes.len() as u64)?;
    Ok(bytes)
}

fn fetch_bounded(location: &Location, remote: &RemoteOptions) -> Result<Vec<u8>, Error> {
    let source = location.open(remote)?;
    let name = source.location().to_owned();
    let unknown = IoError::Unsupported {
        location: name.clone(),
        why: "the server does not say how long the file is",
    };
    let len = source.len().ok_or(unknown)?;
    check_len(&name, len)?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_into(0, &mut [IoSliceMut::new(&mut bytes)])?;
    Ok(bytes)
}

fn check_len(location: &str, len: u64) -> Result<(), Error> {
    if len <= MAX_LEN {
        return Ok(());
    }
    let reason = format!("longer than {MAX_LEN} bytes, which no configuration is");
    Err(Error::Config { location: location.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> AdapterConfig {
        AdapterConfig::parse("x", text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn scaling_is_by_rank_or_its_root() {
        assert_eq!(config(r#"{"r": 16, "lora_alpha": 32}"#).scaling(), Some(2.0));
        let root = config(r#"{"r": 16, "lora_alpha": 32, "use_rslora": true}"#);
        assert_eq!(root.scaling(), Some(8.0));
        for text in ["{}", r#"{"r": 0, "lora_alpha": 1}"#, r#"{"r": 1.5, "lora_alpha": 1}"#] {
            assert_eq!(config(text).scaling(), None, "{text}");
        }
    }

    #[track_caller]
    fn check(targets: &str, module: &str, expect: Option<bool>) {
        let config = config(&format!(r#"{{"target_modules": {targets}}}"#));
        assert_eq!(config.targets().unwrap().include(module), expect, "{targets} {module}");
    }

    #[test]
    fn targets_match_as_peft_matches_them() {
        let module = "model.layers.0.self_attn.q_proj";
        check(r#"["k_proj", "q_proj"]"#, module, Some(true));
        check(r#"["self_attn.q_proj"]"#, module, Some(true));
        check(r#"["proj"]"#, module, Some(false));
        check(r#"["model.layers.0.self_attn.q_proj"]"#, module, Some(true));
        check(r#"".*(q_proj|k_proj)$""#, module, Some(true));
        check(r#""q_proj""#, module, Some(false));
        check(r#""all-linear""#, module, None);
        check(r#""(?=q_proj).*""#, module, None);
    }
}
