//! Which object on which server. Owns [`RemoteLocation`] and its parsing; what is printed carries no credentials.

use std::fmt;

use http::StatusCode;
use url::Url;

use crate::error::IoError;

/// An object behind HTTP(S) or in an object store.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteLocation {
    pub(crate) kind: RemoteKind,
    name: String,
}

/// What serves the object.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum RemoteKind {
    /// A plain URL, query included: it may be presigned.
    Http(Url),
    /// A bucket's object.
    Object { store: StoreKind, bucket: String, key: String },
}

/// Kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    S3,
    Gcs,
    Azure,
}

impl StoreKind {
    /// What it answers to a PUT that is done. Every other success (202, 204) says something else.
    pub(crate) fn put(self) -> StatusCode {
        match self {
            Self::S3 | Self::Gcs => StatusCode::OK,
            Self::Azure => StatusCode::CREATED,
        }
    }
}

impl fmt::Debug for RemoteLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteLocation").field(&self.name).finish()
    }
}

impl fmt::Display for RemoteLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl RemoteLocation {
    /// Reads `http(s)://…`, `s3://bucket/key`, `gs://bucket/key` or `az://container/key`.
    pub(crate) fn parse(scheme: &str, text: &str) -> Result<Self, IoError> {
        let unsupported = |why| {
            // Whatever a malformed URI holds after a `?` or before an `@` may be a secret.
            let shown = text.split(['?', '#']).next().unwrap_or_default();
            let shown = match shown.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://{host}"),
                None if shown.matches(':').count() > 1 => format!("{scheme}://"),
                None => shown.to_owned(),
            };
            IoError::Unsupported { location: shown, why }
        };
        let store = match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {
                let url = Url::parse(text).map_err(|_| unsupported("not a valid URL"))?;
                let name = redacted(&url);
                return Ok(Self { kind: RemoteKind::Http(url), name });
            }
            "s3" => StoreKind::S3,
            "gs" => StoreKind::Gcs,
            "az" => StoreKind::Azure,
            _ => return Err(unsupported("this URI scheme is not supported")),
        };
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        match rest.split_once('/') {
            // Some tools take keys there; ours would print them with every message.
            Some((bucket, _)) if bucket.contains(['@', ':']) => {
                Err(unsupported("credentials cannot be part of the URI"))
            }
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() && !key.ends_with('/') => {
                let (bucket, key) = (bucket.to_owned(), key.to_owned());
                Ok(Self { kind: RemoteKind::Object { store, bucket, key }, name: text.to_owned() })
            }
            _ => Err(unsupported("names no object: a bucket and a key are needed")),
        }
    }
}

/// The URL without user, password, query and fragment.
fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs without a host, which cannot hold credentials.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<&str>) {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        let parsed = RemoteLocation::parse(scheme, text);
        assert_eq!(parsed.as_ref().ok().map(ToString::to_string).as_deref(), expect, "{text}");
        let shown = format!(
            "{parsed:?} {}",
            parsed.as_ref().err().map_or(String::new(), ToString::to_string)
        );
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn locations_and_what_is_shown_of_them() {
        check("s3://bucket/a/b.tensors", Some("s3://bucket/a/b.tensors"));
        check("gs://bucket/k", Some("gs://bucket/k"));
        check("az://container/k", Some("az://container/k"));
        check(
            "https://user:secret@host/a.tensors?X-Amz-Signature=secret#secret",
            Some("https://host/a.tensors"),
        );
        check("s3://bucket", None);
        check("s3://bucket/", None);
        check("s3:///key", None);
        check("ftp://user:secret@host/x?secret", None);
        check("http://user:secret@/?secret", None);
        check("s3://id:secret@bucket/key", None);
        check("s3://id:secret/key", None);
        check("http://name:secret", None);
        check("s3://bucket/a@b:c", Some("s3://bucket/a@b:c"));
    }
}
