//! Who we are to S3. Owns [`resolve`]: the order in which keys, endpoint and region are looked up.
//!
//! In this order: what the caller gives; a file in s3cmd's format that the caller names; `AWS_*` variables; `S3_*`
//! variables, as vLLM's script reads them; the AWS profile files; `~/.s3cfg`, as the reference reads it; web identity,
//! ECS or EKS, where their variables are set; the instance's metadata service, where it answers; anonymous. Explicit
//! keys ask nobody else, so nothing waits for a metadata service that is not there.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ini::Ini;
use url::Url;

use super::options::S3Options;
use crate::error::IoError;

/// Time that the metadata service gets to accept a connection; inside a cloud it answers in about one.
const METADATA_TIMEOUT: Duration = Duration::from_millis(300);

/// What was found.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Static keys.
    pub(crate) keys: Option<Keys>,
    /// Keys come from the environment at run time: web identity, containers, the instance.
    pub(crate) ambient: bool,
    /// Where the keys were found, for `-v`.
    pub(crate) source: &'static str,
    pub(crate) endpoint: Option<Url>,
    pub(crate) region: String,
}

/// Static keys; never printed.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys { .. }")
    }
}

/// What one place says.
#[derive(Debug, Default)]
struct Found {
    keys: Option<Keys>,
    endpoint: Option<String>,
    region: Option<String>,
}

pub(crate) async fn resolve(options: &S3Options, location: &str) -> Result<Resolved, IoError> {
    let given = Found {
        keys: keys(
            options.access_key_id.clone(),
            options.secret_access_key.clone(),
            options.session_token.clone(),
        ),
        endpoint: options.endpoint.clone(),
        region: options.region.clone(),
    };
    if given.keys.is_none()
        && (options.access_key_id.is_some() || options.secret_access_key.is_some())
    {
        return Err(IoError::Unsupported {
            location: location.to_owned(),
            why: "access key id and secret access key are needed together",
        });
    }
    let named = match &options.config_path {
        Some(path) => s3cfg(path, true)?,
        None => Found::default(),
    };
    let home = env::var_os("HOME").map(PathBuf::from);
    let default_cfg = match home.as_ref().map(|home| home.join(".s3cfg")) {
        Some(path) if options.config_path.is_none() => s3cfg(&path, false)?,
        _ => Found::default(),
    };
    let places = [
        ("given explicitly", given),
        ("the s3cmd file given", named),
        ("AWS_* environment variables", aws_environment()),
        ("S3_* environment variables", s3_environment()),
        ("the AWS profile", profile(home.as_deref())),
        ("~/.s3cfg", default_cfg),
    ];
    let mut resolved = Resolved {
        keys: None,
        ambient: false,
        source: "anonymous",
        endpoint: None,
        region: "us-east-1".to_owned(),
    };
    let mut region = None;
    let mut endpoint = None;
    for (source, place) in places {
        if !options.anonymous && resolved.keys.is_none() && place.keys.is_some() {
            resolved.keys = place.keys;
            resolved.source = source;
        }
        endpoint = endpoint.or(place.endpoint);
        region = region.or(place.region);
    }
    if let Some(region) = region {
        resolved.region = region;
    }
    resolved.endpoint = endpoint.map(|endpoint| parse_endpoint(&endpoint, location)).transpose()?;
    if resolved.keys.is_none()
        && !options.anonymous
        && let Some(source) = ambient().await
    {
        resolved.ambient = true;
        resolved.source = source;
    }
    Ok(resolved)
}

fn keys(id: Option<String>, secret: Option<String>, token: Option<String>) -> Option<Keys> {
    Some(Keys { id: id?, secret: secret?, token })
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn aws_environment() -> Found {
    Found {
        keys: keys(
            variable("AWS_ACCESS_KEY_ID"),
            variable("AWS_SECRET_ACCESS_KEY"),
            variable("AWS_SESSION_TOKEN"),
        ),
        endpoint: variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")),
        region: variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")),
    }
}

fn s3_environment() -> Found {
    Found {
        keys: keys(variable("S3_ACCESS_KEY_ID"), variable("S3_SECRET_ACCESS_KEY"), None),
        endpoint: variable("S3_ENDPOINT_URL"),
        region: None,
    }
}

/// `~/.aws/credentials` and `~/.aws/config`, or the files that `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE`
/// name; the profile is `AWS_PROFILE` or `default`. A file that is missing or unreadable says nothing.
fn profile(home: Option<&Path>) -> Found {
    let file = |name: &str, default: &str| {
        let path = env::var_os(name).map(PathBuf::from).or_else(|| Some(home?.join(default)));
        path.and_then(|path| Ini::load_from_file(path).ok()).unwrap_or_default()
    };
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
    let config = file("AWS_CONFIG_FILE", ".aws/config");
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let section = if profile == "default" { profile.clone() } else { format!("profile {profile}") };
    let value = |name: &str| {
        let own = credentials.get_from(Some(profile.as_str()), name);
        own.or_else(|| config.get_from(Some(section.as_str()), name)).map(str::to_owned)
    };
    Found {
        keys: keys(
            value("aws_access_key_id"),
            value("aws_secret_access_key"),
            value("aws_session_token"),
        ),
        endpoint: value("endpoint_url"),
        region: value("region"),
    }
}

/// s3cmd's file, as the reference reads it: section `default`, `access_key`, `secret_key`, `host_base`, `use_https`.
fn s3cfg(path: &Path, required: bool) -> Result<Found, IoError> {
    let shown = path.display().to_string();
    let ini = match std::fs::read_to_string(path) {
        Ok(text) => Ini::load_from_str_noescape(&text).ok(),
        Err(error) if required => return Err(IoError::io(&shown, "read")(error)),
        Err(_) => None,
    };
    let Some(ini) = ini else {
        let why = "not a file in s3cmd's format";
        return if required {
            Err(IoError::Unsupported { location: shown, why })
        } else {
            Ok(Found::default())
        };
    };
    let value = |name: &str| {
        ini.get_from(Some("default"), name).map(str::to_owned).filter(|value| !value.is_empty())
    };
    let https = value("use_https").is_none_or(|text| !text.eq_ignore_ascii_case("false"));
    let endpoint = value("host_base").map(|host| {
        if host.contains("://") {
            host
        } else {
            format!("{}://{host}", if https { "https" } else { "http" })
        }
    });
    Ok(Found {
        keys: keys(value("access_key"), value("secret_key"), None),
        endpoint,
        region: value("bucket_location"),
    })
}

fn parse_endpoint(text: &str, location: &str) -> Result<Url, IoError> {
    let with_scheme =
        if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let valid = Url::parse(&with_scheme).ok().filter(|url| url.has_host());
    valid.ok_or_else(|| IoError::Unsupported {
        location: location.to_owned(),
        why: "the S3 endpoint is not a URL",
    })
}

/// Whether something outside will hand out keys, and what.
async fn ambient() -> Option<&'static str> {
    if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && variable("AWS_ROLE_ARN").is_some() {
        return Some("web identity");
    }
    if variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some()
        || variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some()
    {
        return Some("the container's credential service");
    }
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return None;
    }
    let connect = tokio::net::TcpStream::connect(("169.254.169.254", 80));
    let reached = tokio::time::timeout(METADATA_TIMEOUT, connect).await;
    reached.is_ok_and(|connected| connected.is_ok()).then_some("the instance's metadata service")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3cmd_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "[default]\naccess_key = id\nsecret_key = se\\cret\nhost_base = object.example\nuse_https = False\n",
        )
        .unwrap();
        let found = s3cfg(file.path(), true).unwrap();
        let keys = found.keys.unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str()), ("id", "se\\cret"));
        assert_eq!(found.endpoint.as_deref(), Some("http://object.example"));
        assert!(!format!("{keys:?}").contains("cret"));
        assert!(s3cfg(Path::new("/nonexistent/s3cfg"), true).is_err());
        assert!(s3cfg(Path::new("/nonexistent/s3cfg"), false).unwrap().keys.is_none());
    }

    #[test]
    fn endpoints() {
        assert_eq!(parse_endpoint("host:9000", "x").unwrap().as_str(), "https://host:9000/");
        assert_eq!(parse_endpoint("http://host", "x").unwrap().as_str(), "http://host/");
        assert!(parse_endpoint("://", "x").is_err());
    }
}
