//! Object stores: buckets, signed requests, leftovers of broken uploads. Owns [`Signed`] and the store set-up.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use object_store::aws::AmazonS3Builder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig};
use url::Url;

use super::clouds;
use super::connector::Connector;
use super::credentials::{self, Resolved};
use super::options::{Addressing, RemoteOptions};
use super::retry::Failure;
use super::target::{RemoteKind, RemoteLocation, StoreKind};
use super::transport::Last;
use super::words::{answered, shown};
use crate::error::IoError;

/// How long a signed URL is valid.
pub(crate) const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// A signed URL is renewed this long after it was made: well before it, or temporary credentials, run out.
const RENEW_AFTER: Duration = Duration::from_secs(300);
/// Endpoints that take the bucket's name in the host only.
const VIRTUAL_ONLY: [&str; 2] = ["cwobject.com", "cwlota.com"];

/// What an object store can do for us.
pub(crate) trait Store: ObjectStore + Signer + MultipartStore {}

impl<T: ObjectStore + Signer + MultipartStore> Store for T {}

/// A store, and how requests to it are authorised.
pub(crate) struct Access {
    pub(crate) store: Arc<dyn Store>,
    /// Makes URLs: the store itself, or one with a placeholder for a key.
    pub(crate) signer: Arc<dyn Store>,
    /// What stands in a URL instead of the signer's query, which then only told the address.
    pub(crate) instead: Option<String>,
}

/// Signs requests for one object.
pub(crate) struct Signed {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) path: Path,
    signer: Arc<dyn Store>,
    instead: Option<String>,
    name: String,
    get: Mutex<Option<(Url, Instant)>>,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Signed {
    pub(crate) async fn new(
        location: &RemoteLocation,
        options: &RemoteOptions,
    ) -> Result<Self, IoError> {
        let name = location.to_string();
        let RemoteKind::Object { store, bucket, key } = &location.kind else {
            return Err(IoError::Unsupported { location: name, why: "not an object of a store" });
        };
        let failed = |error| failed(&name, "set up access to")(error);
        let path = Path::parse(key).map_err(|_| IoError::Unsupported {
            location: name.clone(),
            why: "the key has empty or relative segments",
        })?;
        let access = match store {
            StoreKind::S3 => {
                let resolved = credentials::resolve(&options.s3, &name).await?;
                let source = &resolved.source;
                tracing::info!(location = name, credentials = source, "credentials found");
                let store = s3(bucket, &resolved, options, &name)?.build().map_err(failed)?;
                let anonymous = resolved.keys.is_none() && resolved.ambient.is_none();
                let (store, instead) = (Arc::new(store), anonymous.then(String::new));
                Access { signer: Arc::clone(&store) as _, store, instead }
            }
            StoreKind::Gcs => clouds::google(bucket, options, &name)?,
            StoreKind::Azure => clouds::azure(bucket, options, &name)?,
        };
        let Access { store, signer, instead } = access;
        Ok(Self { store, path, signer, instead, name, get: Mutex::new(None) })
    }

    /// Whether the signatures of [`Self::store`] are placeholders, to be left out.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.instead.as_deref() == Some("")
    }

    /// A URL that authorises `method` on the object for a while.
    pub(crate) async fn url(&self, method: Method) -> Result<Url, Failure> {
        if method == Method::GET
            && let Some((url, made)) = &*self.get.lock().unwrap_or_else(PoisonError::into_inner)
            && made.elapsed() < RENEW_AFTER
        {
            return Ok(url.clone());
        }
        let made = Instant::now();
        let signed = self.signer.signed_url(method.clone(), &self.path, SIGNED_FOR).await;
        let mut url = signed
            .map_err(|error| Failure::permanent(format!("no credentials: {}", reason(&error))))?;
        if let Some(instead) = &self.instead {
            // Signed with placeholders only to learn the address.
            url.set_query(Some(&**instead).filter(|query| !query.is_empty()));
        }
        if method == Method::GET {
            *self.get.lock().unwrap_or_else(PoisonError::into_inner) = Some((url.clone(), made));
        }
        Ok(url)
    }

    /// Length of the object, where there is one.
    pub(crate) async fn len(&self) -> Option<u64> {
        self.store.head(&self.path).await.ok().map(|head| head.size)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// An error of the store's as one of ours.
pub(crate) fn failed(
    name: &str,
    doing: &'static str,
) -> impl FnOnce(object_store::Error) -> IoError + use<> {
    let name = name.to_owned();
    move |error| {
        let kind = match &error {
            object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
            object_store::Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
            _ => io::ErrorKind::Other,
        };
        IoError::io(&name, doing)(io::Error::new(kind, reason(&error)))
    }
}

/// The last cause, without URLs and without what a server echoes: either may hold secrets.
pub(crate) fn reason(error: &object_store::Error) -> String {
    let text = Last(error).to_string();
    // Their only public trace of a status is this text.
    match text.split_once("status code: ") {
        Some((_, rest)) => {
            let (status, body) = rest.split_once(": ").unwrap_or((rest, ""));
            answered(status.trim_end_matches(':'), body)
        }
        None if text.contains("error response") => answered("200 OK", &text),
        None => shown(&text).into_owned(),
    }
}

/// The stores' own requests are few and small, or parts of an upload; this is how they are tried again.
pub(crate) fn retry(options: &RemoteOptions) -> RetryConfig {
    RetryConfig {
        max_retries: usize::try_from(options.retries).unwrap_or(usize::MAX),
        retry_timeout: Duration::from_secs(300),
        ..RetryConfig::default()
    }
}

/// Read by the connector; endpoints without TLS are the user's choice.
pub(crate) fn client_options() -> ClientOptions {
    ClientOptions::new().with_allow_http(true)
}

fn s3(
    bucket: &str,
    resolved: &Resolved,
    options: &RemoteOptions,
    name: &str,
) -> Result<AmazonS3Builder, IoError> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&resolved.region)
        .with_client_options(client_options())
        .with_http_connector(Connector::new(options, name, StoreKind::S3)?)
        .with_retry(retry(options))
        // TLS and the store's own checks protect the body; hashing every part again would halve the upload.
        .with_unsigned_payload(true);
    match (&resolved.keys, &resolved.ambient) {
        (Some(keys), _) => {
            builder = builder.with_access_key_id(&keys.id).with_secret_access_key(&keys.secret);
            if let Some(token) = &keys.token {
                builder = builder.with_token(token);
            }
        }
        (None, Some(settings)) => {
            for (key, value) in settings {
                builder = builder.with_config(*key, value);
            }
        }
        (None, None) => {
            builder = builder
                .with_access_key_id("none")
                .with_secret_access_key("none")
                .with_skip_signature(true);
        }
    }
    let host = resolved.endpoint.as_ref().map(|url| url.host_str().unwrap_or_default().to_owned());
    let virtual_host = match options.s3.addressing {
        Addressing::Path => false,
        Addressing::Virtual => true,
        Addressing::Auto => match &host {
            Some(host) => VIRTUAL_ONLY
                .iter()
                .any(|domain| host == domain || host.ends_with(&format!(".{domain}"))),
            // The certificate of AWS covers one label.
            None => !bucket.contains('.'),
        },
    };
    if let Some(endpoint) = &resolved.endpoint {
        let mut endpoint = endpoint.clone();
        if virtual_host && let Some(host) = host {
            let failed = |_| IoError::Unsupported {
                location: name.to_owned(),
                why: "the bucket's name cannot be part of a host name",
            };
            endpoint.set_host(Some(&format!("{bucket}.{host}"))).map_err(failed)?;
        }
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    Ok(builder.with_virtual_hosted_style_request(virtual_host))
}

#[cfg(test)]
mod tests {
    use super::super::credentials::Keys;
    use super::super::options::S3Options;
    use super::super::runtime::block_on;
    use super::*;

    /// Where a request for a key in `bucket` goes.
    #[track_caller]
    fn check(endpoint: Option<&str>, addressing: Addressing, bucket: &str, expect: &str) {
        let keys = Keys { id: "id".to_owned(), secret: "secret".to_owned(), token: None };
        let resolved = Resolved {
            keys: Some(keys),
            ambient: None,
            source: "a test",
            endpoint: endpoint.map(|endpoint| credentials::parse_endpoint(endpoint, "").unwrap()),
            region: "eu-west-1".to_owned(),
        };
        let s3_options = S3Options { addressing, ..S3Options::default() };
        let options = RemoteOptions { s3: s3_options, ..RemoteOptions::default() };
        let store = s3(bucket, &resolved, &options, "").unwrap().build().unwrap();
        let key = Path::parse("a b/c+d.tensors").unwrap();
        let mut url = block_on(store.signed_url(Method::GET, &key, SIGNED_FOR)).unwrap();
        assert!(url.query().is_some_and(|query| query.contains("X-Amz-Signature=")));
        url.set_query(None);
        assert_eq!(url.as_str(), format!("{expect}/a%20b/c%2Bd.tensors"));
    }

    #[test]
    fn buckets_stand_in_the_host_or_in_the_path() {
        let (auto, path, host) = (Addressing::Auto, Addressing::Path, Addressing::Virtual);
        check(None, auto, "b", "https://b.s3.eu-west-1.amazonaws.com");
        check(None, auto, "b.c", "https://s3.eu-west-1.amazonaws.com/b.c");
        check(None, path, "b", "https://s3.eu-west-1.amazonaws.com/b");
        check(None, host, "b.c", "https://b.c.s3.eu-west-1.amazonaws.com");
        check(Some("http://localhost:9000"), auto, "b", "http://localhost:9000/b");
        check(Some("minio.example/"), auto, "b", "https://minio.example/b");
        check(Some("https://minio.example"), host, "b", "https://b.minio.example");
        for domain in ["cwobject.com", "cwlota.com"] {
            let expect = format!("https://b.{domain}");
            check(Some(domain), auto, "b", &expect);
            check(Some(&format!("https://{domain}/")), auto, "b", &expect);
            check(Some(&format!("lga.{domain}")), auto, "b", &format!("https://b.lga.{domain}"));
        }
        check(Some("http://cwlota.com"), auto, "b", "http://b.cwlota.com");
        check(Some("notcwlota.com"), auto, "b", "https://notcwlota.com/b");
        check(Some("object.ord1.coreweave.com"), auto, "b", "https://object.ord1.coreweave.com/b");
    }
}
