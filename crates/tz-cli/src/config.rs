//! The settings file `tz.toml`. Owns [`Config`]: the same settings as the options, weaker than both options and
//! environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::access::refuse_uri;
use crate::args;
use crate::error::Failure;

/// What `tz.toml` may say. Every field is named as its option.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    pub(crate) num_readers: Option<usize>,
    #[serde(default, deserialize_with = "size")]
    pub(crate) memory_limit: Option<u64>,
    pub(crate) verify: Option<bool>,
    #[serde(default)]
    pub(crate) filter: Vec<String>,
    #[serde(default, deserialize_with = "float")]
    pub(crate) dtype: Option<tz_format::Element>,
    pub(crate) limit_cpu_concurrency: Option<usize>,
    pub(crate) keyfile: Option<String>,
    pub(crate) passphrase_file: Option<PathBuf>,
    pub(crate) s3_endpoint: Option<String>,
    pub(crate) s3_region: Option<String>,
    pub(crate) s3_config_path: Option<PathBuf>,
    pub(crate) ca_bundle: Option<PathBuf>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) stall_timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) deadline: Option<Duration>,
    #[serde(default)]
    pub(crate) json: bool,
    #[serde(default)]
    pub(crate) quiet: bool,
}

impl Config {
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        refuse_uri("the settings file", path)?;
        let location = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::io(&location, "read the settings", &error))?;
        Self::parse(&text).map_err(|why| {
            Failure::usage(format!("{location}: {why}"))
                .at(location)
                .hint("`tz-cli --help` shows the settings that tz.toml may hold")
        })
    }

    /// The one-line reason comes with the line's number.
    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|&byte| byte == b'\n').count() + 1;
            format!("line {line}: {}", error.message())
        })?;
        if config.num_readers == Some(0) || config.limit_cpu_concurrency == Some(0) {
            return Err("num-readers and limit-cpu-concurrency are at least 1".to_owned());
        }
        for (name, is_empty) in [
            ("keyfile", config.keyfile.as_ref().is_some_and(String::is_empty)),
            ("passphrase-file", config.passphrase_file.as_deref() == Some(Path::new(""))),
        ] {
            if is_empty {
                return Err(format!("{name} is set but empty"));
            }
        }
        Ok(config)
    }
}

/// A size as text with a unit, or as a number of bytes.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Ok(Some(bytes)),
        Size::Text(text) => args::size(&text).map(Some).map_err(D::Error::custom),
    }
}

/// A time as text with a unit, or as a number of seconds.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Seconds(u64),
        Text(String),
    }
    let text = match Time::deserialize(deserializer)? {
        Time::Seconds(seconds) => seconds.to_string(),
        Time::Text(text) => text,
    };
    args::duration(&text).map(Some).map_err(D::Error::custom)
}

fn float<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<tz_format::Element>, D::Error> {
    let name = String::deserialize(deserializer)?;
    args::float(&name).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_read() {
        let config = Config::parse(
            "num-readers = 2\nmemory-limit = \"64MiB\"\nverify = false\nfilter = [\"*.bias\"]\n\
             dtype = \"float32\"\nlimit-cpu-concurrency = 1\njson = true\nquiet = true\n\
             keyfile = \"k\"\npassphrase-file = \"p\"\ns3-endpoint = \"e\"\ns3-region = \"r\"\n\
             s3-config-path = \"c\"\nca-bundle = \"b\"\nstall-timeout = \"5s\"\nretries = 0\n\
             deadline = 60\n",
        );
        let expected = Config {
            num_readers: Some(2),
            memory_limit: Some(64 << 20),
            verify: Some(false),
            filter: vec!["*.bias".to_owned()],
            dtype: Some(tz_format::Element::Float32),
            limit_cpu_concurrency: Some(1),
            keyfile: Some("k".to_owned()),
            passphrase_file: Some("p".into()),
            s3_endpoint: Some("e".to_owned()),
            s3_region: Some("r".to_owned()),
            s3_config_path: Some("c".into()),
            ca_bundle: Some("b".into()),
            stall_timeout: Some(Duration::from_secs(5)),
            retries: Some(0),
            deadline: Some(Duration::from_secs(60)),
            json: true,
            quiet: true,
        };
        assert_eq!(config, Ok(expected));
        assert_eq!(Config::parse(""), Ok(Config::default()));
        assert_eq!(Config::parse("memory-limit = 5").unwrap().memory_limit, Some(5));
    }

    #[track_caller]
    fn refused(text: &str, says: &str) {
        let why = Config::parse(text).unwrap_err();
        assert!(why.contains(says), "{why}");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        refused("quiet = true\nnum_readers = 2", "line 2: unknown field `num_readers`");
        refused("num-readers = \"two\"", "line 1: invalid type");
        refused("\n\nmemory-limit = \"5 parsecs\"", "unit");
        refused("deadline = \"3 weeks\"", "not a time");
        refused("dtype = \"int8\"", "float32");
        refused("num-readers = 0", "at least 1");
        refused("keyfile = \"\"", "keyfile is set but empty");
        refused("passphrase-file = ''", "passphrase-file is set but empty");
        refused("verify = ", "line 1");
    }
}
