//! Who we are to S3. Owns [`resolve`]: the order in which keys, endpoint and region are looked up.
//!
//! In this order: what the caller gives; a file in s3cmd's format that the caller names; `AWS_*` variables; `S3_*`
//! variables, as vLLM's script reads them; the AWS profile files; `~/.s3cfg`, as the reference reads it; web identity,
//! ECS or EKS, where their variables are set; the instance's metadata service, where it answers; anonymous. Explicit
//! keys ask nobody else, so nothing waits for a metadata service that is not there. A value that is set but empty
//! counts as unset, as for the AWS tools, and the log says so.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ini::Ini;
use object_store::aws::AmazonS3ConfigKey;
use url::Url;

use super::options::S3Options;
use crate::error::IoError;

/// Time that the metadata service gets to accept a connection; inside a cloud it answers in about one.
const METADATA_TIMEOUT: Duration = Duration::from_millis(300);

/// Where the metadata service of AWS instances is.
const METADATA_ENDPOINT: &str = "http://169.254.169.254";
/// What the environment may tell of someone who hands out keys at run time. Each has a variable of its name.
const AMBIENT: [AmazonS3ConfigKey; 8] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::StsEndpoint,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    AmazonS3ConfigKey::ImdsV1Fallback,
];

/// Where variables are, for `-v`.
pub(super) const ENVIRONMENT: &str = "environment";

/// What was found.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Static keys.
    pub(crate) keys: Option<Keys>,
    /// Who hands out keys at run time: web identity, containers, the instance.
    pub(crate) ambient: Option<Vec<(AmazonS3ConfigKey, String)>>,
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

/// Looks variables up: in the process's environment, or in a test's.
struct Environment<'a>(&'a (dyn Fn(&str) -> Option<OsString> + Sync));

impl Environment<'_> {
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn text(&self, name: &str) -> Option<String> {
        told(ENVIRONMENT, name, self.0(name).and_then(|value| value.into_string().ok()))
    }
}

/// A value, unless it is empty; says so then.
pub(super) fn told(place: &str, name: &str, value: Option<String>) -> Option<String> {
    let value = value?;
    if value.is_empty() {
        tracing::info!(place, name, "set but empty: counts as unset");
        return None;
    }
    Some(value)
}

pub(crate) async fn resolve(options: &S3Options, location: &str) -> Result<Resolved, IoError> {
    resolve_in(&Environment(&|name| env::var_os(name)), options, location).await
}

async fn resolve_in(
    environment: &Environment<'_>,
    options: &S3Options,
    location: &str,
) -> Result<Resolved, IoError> {
    let option = |name, value: &Option<String>| told("options", name, value.clone());
    let id = option("access key id", &options.access_key_id);
    let secret = option("secret access key", &options.secret_access_key);
    let is_half = id.is_some() != secret.is_some();
    let given = Found {
        keys: keys(id, secret, option("session token", &options.session_token)),
        endpoint: option("endpoint", &options.endpoint),
        region: option("region", &options.region),
    };
    if is_half {
        return Err(IoError::Unsupported {
            location: location.to_owned(),
            why: "access key id and secret access key are needed together",
        });
    }
    let named = match &options.config_path {
        Some(path) => s3cfg(path, true)?,
        None => Found::default(),
    };
    let home = environment.path("HOME");
    let default_cfg = match home.as_ref().map(|home| home.join(".s3cfg")) {
        Some(path) if options.config_path.is_none() => s3cfg(&path, false)?,
        _ => Found::default(),
    };
    let places = [
        ("given explicitly", given),
        ("the s3cmd file given", named),
        ("AWS_* environment variables", aws_environment(environment)),
        ("S3_* environment variables", s3_environment(environment)),
        ("the AWS profile", profile(environment, home.as_deref())),
        ("~/.s3cfg", default_cfg),
    ];
    let mut resolved = Resolved {
        keys: None,
        ambient: None,
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
        && let Some((source, settings)) = ambient(environment).await
    {
        resolved.ambient = Some(settings);
        resolved.source = source;
    }
    Ok(resolved)
}

fn keys(id: Option<String>, secret: Option<String>, token: Option<String>) -> Option<Keys> {
    Some(Keys { id: id?, secret: secret?, token })
}

fn aws_environment(environment: &Environment<'_>) -> Found {
    let variable = |name| environment.text(name);
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

fn s3_environment(environment: &Environment<'_>) -> Found {
    let variable = |name| environment.text(name);
    Found {
        keys: keys(variable("S3_ACCESS_KEY_ID"), variable("S3_SECRET_ACCESS_KEY"), None),
        endpoint: variable("S3_ENDPOINT_URL"),
        region: None,
    }
}

/// `~/.aws/credentials` and `~/.aws/config`, or the files that `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE`
/// name; the profile is `AWS_PROFILE` or `default`. A file that is missing or unreadable says nothing.
fn profile(environment: &Environment<'_>, home: Option<&Path>) -> Found {
    let file = |name: &str, default: &str| {
        let path = environment.path(name).or_else(|| Some(home?.join(default)));
        path.and_then(|path| Ini::load_from_file(path).ok()).unwrap_or_default()
    };
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
    let config = file("AWS_CONFIG_FILE", ".aws/config");
    let profile = environment.text("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let section = if profile == "default" { profile.clone() } else { format!("profile {profile}") };
    let value = |name: &str| {
        let in_file = |file: &Ini, section: &str| {
            told("the AWS profile", name, file.get_from(Some(section), name).map(str::to_owned))
        };
        in_file(&credentials, &profile).or_else(|| in_file(&config, &section))
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
    let value =
        |name: &str| told(&shown, name, ini.get_from(Some("default"), name).map(str::to_owned));
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
        region: value("bucket_location").map(|name| match name.as_str() {
            // What s3cmd writes by default, and its other name of old.
            "US" => "us-east-1".to_owned(),
            "EU" => "eu-west-1".to_owned(),
            _ => name,
        }),
    })
}

pub(crate) fn parse_endpoint(text: &str, location: &str) -> Result<Url, IoError> {
    let with_scheme =
        if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let valid = Url::parse(&with_scheme).ok().filter(|url| url.has_host());
    valid.ok_or_else(|| IoError::Unsupported {
        location: location.to_owned(),
        why: "the S3 endpoint is not a URL",
    })
}

/// Who outside will hand out keys, and what its client needs to know.
async fn ambient(
    environment: &Environment<'_>,
) -> Option<(&'static str, Vec<(AmazonS3ConfigKey, String)>)> {
    let told = |key: &AmazonS3ConfigKey| environment.text(&key.as_ref().to_ascii_uppercase());
    let mut settings: Vec<_> =
        AMBIENT.into_iter().filter_map(|key| Some((key, told(&key)?))).collect();
    let has = |wanted: &[AmazonS3ConfigKey]| {
        wanted.iter().all(|wanted| settings.iter().any(|(key, _)| key == wanted))
    };
    if has(&[AmazonS3ConfigKey::WebIdentityTokenFile, AmazonS3ConfigKey::RoleArn]) {
        return Some(("web identity", settings));
    }
    let full = [
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
        AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    ];
    if has(&[AmazonS3ConfigKey::ContainerCredentialsRelativeUri]) || has(&full) {
        return Some(("the container's credential service", settings));
    }
    let disabled = environment.text("AWS_EC2_METADATA_DISABLED");
    if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let endpoint = environment.text("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    let endpoint = endpoint.unwrap_or_else(|| METADATA_ENDPOINT.to_owned());
    let endpoint = endpoint.trim_end_matches('/');
    let url = Url::parse(endpoint).ok()?;
    let address = (url.host_str()?.trim_matches(['[', ']']), url.port_or_known_default()?);
    let connect = tokio::net::TcpStream::connect(address);
    let reached = tokio::time::timeout(METADATA_TIMEOUT, connect).await;
    settings.push((AmazonS3ConfigKey::MetadataEndpoint, endpoint.to_owned()));
    let answers = reached.is_ok_and(|connected| connected.is_ok());
    answers.then_some(("the instance's metadata service", settings))
}

#[cfg(test)]
mod tests;
