//! `--serialization-kwargs` and `--deserialization-kwargs`: keyword arguments of the Python package as JSON. Owns the
//! tables of those that it knows in version 2.10.1.

use serde_json::{Map, Value};

use crate::error::Failure;
use crate::output::say;

/// What becomes of a keyword argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A number of at least 1, or null for the default.
    Count,
    /// True or false, or null for the default.
    Switch,
    /// The Python package takes it; here it changes nothing.
    NoEffect,
    /// The Python package takes it, but not from vLLM's configuration.
    Refused(&'static str),
}

const BY_KEYFILE: &str = "give the key with --keyfile";
const BY_VLLM: &str = "vLLM sets it";

const SERIALIZATION: &[(&str, Fate)] = &[
    ("limit_cpu_concurrency", Fate::Count),
    ("compress_tensors", Fate::NoEffect),
    ("encryption", Fate::Refused(BY_KEYFILE)),
];

const DESERIALIZATION: &[(&str, Fate)] = &[
    ("num_readers", Fate::Count),
    ("verify_hash", Fate::Switch),
    ("lazy_load", Fate::NoEffect),
    ("plaid_mode", Fate::NoEffect),
    ("plaid_mode_buffers", Fate::NoEffect),
    ("encryption", Fate::Refused(BY_KEYFILE)),
    ("device", Fate::Refused(BY_VLLM)),
    ("dtype", Fate::Refused(BY_VLLM)),
    ("filter_func", Fate::Refused("JSON has no functions")),
];

/// What `--serialization-kwargs` ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Serialization {
    pub(super) limit_cpu_concurrency: Option<usize>,
}

/// What `--deserialization-kwargs` ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Deserialization {
    pub(super) num_readers: Option<usize>,
    pub(super) verify_hash: Option<bool>,
}

/// An object as it was typed, its keys known and its values of the right kind.
#[derive(Debug, Default)]
struct Kwargs(Map<String, Value>);

impl Serialization {
    pub(super) fn parse(text: Option<&str>, quiet: bool) -> Result<Self, Failure> {
        let kwargs = Kwargs::parse("--serialization-kwargs", text, SERIALIZATION, quiet)?;
        Ok(Self { limit_cpu_concurrency: kwargs.count("limit_cpu_concurrency") })
    }
}

impl Deserialization {
    pub(super) fn parse(text: Option<&str>, quiet: bool) -> Result<Self, Failure> {
        let kwargs = Kwargs::parse("--deserialization-kwargs", text, DESERIALIZATION, quiet)?;
        Ok(Self {
            num_readers: kwargs.count("num_readers"),
            verify_hash: kwargs.0.get("verify_hash").and_then(Value::as_bool),
        })
    }
}

impl Kwargs {
    fn parse(
        option: &str,
        text: Option<&str>,
        table: &[(&str, Fate)],
        quiet: bool,
    ) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self::default()) };
        let refuse = |why: String| Failure::usage(format!("{option}: {why}"));
        let object: Value =
            serde_json::from_str(text).map_err(|error| refuse(format!("not JSON: {error}")))?;
        let Value::Object(entries) = object else {
            return Err(refuse("a JSON object is needed".to_owned())
                .hint("quote it for the shell: '{\"num_readers\": 2}'"));
        };
        for (key, value) in &entries {
            let Some((_, fate)) = table.iter().find(|(known, _)| known == key) else {
                let known: Vec<_> = table
                    .iter()
                    .filter(|(_, fate)| !matches!(fate, Fate::Refused(_)))
                    .map(|(known, _)| *known)
                    .collect();
                let hint = format!("known are {}", known.join(", "));
                return Err(refuse(format!("{key:?} is not known")).hint(&hint));
            };
            let fits = match fate {
                Fate::Count => value.is_null() || value.as_u64().is_some_and(|count| count > 0),
                Fate::Switch => value.is_null() || value.is_boolean(),
                Fate::NoEffect => true,
                Fate::Refused(why) => {
                    return Err(refuse(format!("{key:?} cannot be given here")).hint(why));
                }
            };
            if !fits {
                let needed = match fate {
                    Fate::Count => "a whole number of at least 1",
                    _ => "true or false",
                };
                return Err(refuse(format!("{key:?} is {value}, {needed} is needed")));
            }
            if *fate == Fate::NoEffect && !quiet {
                say(&format!("{option}: {key} has no effect here"));
            }
        }
        Ok(Self(entries))
    }

    fn count(&self, key: &str) -> Option<usize> {
        let count = self.0.get(key)?.as_u64()?;
        Some(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys() {
        let write = |text| Serialization::parse(Some(text), true).unwrap();
        let read = |text| Deserialization::parse(Some(text), true).unwrap();
        for (text, limit) in [
            ("{}", None),
            (r#"{"limit_cpu_concurrency": 2}"#, Some(2)),
            (r#"{"limit_cpu_concurrency": null, "compress_tensors": true}"#, None),
        ] {
            assert_eq!(write(text).limit_cpu_concurrency, limit, "{text}");
        }
        for (text, num_readers, verify_hash) in [
            (r#"{"num_readers": 2, "plaid_mode": true, "plaid_mode_buffers": 3}"#, Some(2), None),
            (r#"{"verify_hash": true, "lazy_load": false}"#, None, Some(true)),
            (r#"{"verify_hash": false, "num_readers": null}"#, None, Some(false)),
        ] {
            assert_eq!(read(text), Deserialization { num_readers, verify_hash }, "{text}");
        }
        assert_eq!(Serialization::parse(None, true).unwrap(), Serialization::default());
    }

    #[test]
    fn what_is_refused() {
        for (text, says) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("[]", "an object"),
            ("{\"num_readers\": 0}", "at least 1"),
            ("{\"num_readers\": -1}", "at least 1"),
            ("{\"num_readers\": 1.5}", "at least 1"),
            ("{\"num_readers\": \"2\"}", "at least 1"),
            ("{\"verify_hash\": 1}", "true or false"),
            ("{\"num_reader\": 2}", "\"num_reader\" is not known"),
            ("{\"limit_cpu_concurrency\": 2}", "\"limit_cpu_concurrency\" is not known"),
            ("{\"encryption\": {}}", "\"encryption\" cannot be given"),
            ("{\"dtype\": \"float16\"}", "\"dtype\" cannot be given"),
            ("{\"device\": \"cpu\"}", "\"device\" cannot be given"),
            ("{\"filter_func\": null}", "\"filter_func\" cannot be given"),
        ] {
            let failure = Deserialization::parse(Some(text), true).unwrap_err();
            let says = says.replace("an object", "a JSON object");
            assert!(failure.message.contains(&says), "{text}: {}", failure.message);
            assert_eq!(failure.exit, crate::exit::Exit::Usage, "{text}");
        }
        for text in ["{\"num_readers\": 2}", "{\"encryption\": true}"] {
            assert!(Serialization::parse(Some(text), true).is_err(), "{text}");
        }
    }
}
