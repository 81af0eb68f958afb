//! Replaces the header of an object: new bytes for the header, a server-side copy for the rest. Owns
//! [`replace_header`].
//!
//! Every request is about one version of the object, the one whose header was read: another writer's version is never
//! replaced, nor mixed with this one.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::{Error, GetOptions, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion};

use super::object::{Signed, failed};
use super::options::RemoteOptions;
use super::presigned::{COPYING, Condition, S3Object};
use super::runtime::run;
use super::target::{RemoteKind, RemoteLocation, StoreKind};
use super::upload::{ADVICE, SOON};

use crate::error::IoError;

/// Least length of the first part: what S3 asks of every part but the last.
const FIRST_PART: u64 = 5 << 20;
/// Bytes that one request copies on the server; S3 allows 5 GiB.
const COPY_PART: u64 = 1 << 30;

/// Writes `new` over `old`, the first bytes of the object, and leaves out what follows its first `len` bytes.
pub(crate) fn replace_header(
    location: &RemoteLocation,
    old: &[u8],
    new: &[u8],
    len: u64,
    options: &RemoteOptions,
) -> Result<(), IoError> {
    let name = location.to_string();
    let unsupported = |why| IoError::Unsupported { location: name.clone(), why };
    let RemoteKind::Object { store: StoreKind::S3, bucket, .. } = &location.kind else {
        return Err(unsupported("only files on disk and S3 objects can be changed in part"));
    };
    let unfinished = Mutex::new(None);
    let replaced = async {
        let object = S3Object::new(Signed::new(location, options).await?, options)?;
        let Signed { store, path, .. } = &object.signed;
        let doing = "read the header of";
        let head = store.head(path).await.map_err(failed(&name, doing))?;
        // A weak one is never equal to itself in `If-Match`.
        let Some(etag) = head.e_tag.filter(|tag| !tag.starts_with("W/")) else {
            let why = "the server gives no ETag, without which a change by others would be lost";
            return Err(unsupported(why));
        };
        let first_len = len.min(FIRST_PART.max(old.len() as u64));
        let get = GetOptions::new().with_range(Some(0..first_len)).with_if_match(Some(&*etag));
        let got = store.get_opts(path, get).await.map_err(refused(&name, doing))?;
        // A server may ignore the condition.
        if got.meta.e_tag.as_ref() != Some(&etag) {
            return Err(IoError::Changed { location: name.clone() });
        }
        let mut first = got.bytes().await.map_err(refused(&name, doing))?.to_vec();
        if first.len() as u64 != first_len {
            let why = "an answer of another length than its range";
            return Err(IoError::io(&name, doing)(io::Error::other(why)));
        }
        match first.get_mut(..old.len()) {
            Some(header) if *header == *old && old.len() == new.len() => {
                header.copy_from_slice(new)
            }
            _ => return Err(IoError::Changed { location: name.clone() }),
        }
        if first_len == len {
            let version = UpdateVersion { e_tag: Some(etag), version: None };
            let mode = PutOptions::from(PutMode::Update(version));
            let put = store.put_opts(path, first.into(), mode).await;
            return put.map(drop).map_err(refused(&name, "replace"));
        }
        let id = object.start().await?;
        *lock(&unfinished) = Some(id.clone());
        let rewrite = Rewrite { object: &object, bucket, id: &id, etag: &etag };
        let done = options.cancel.unless(rewrite.run(Bytes::from(first), len)).await;
        // The error at hand says more than a second one would.
        if done.is_ok() || object.abort(&id).await.is_ok() {
            *lock(&unfinished) = None;
        }
        done
    };
    let replaced = run(&name, "replace", options.cancel.unless_after(SOON, replaced));
    if let Some(upload) = &*lock(&unfinished) {
        tracing::warn!(location = name, upload, "the unfinished upload was not removed; {ADVICE}");
    }
    replaced
}

fn lock(unfinished: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    unfinished.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error of a request under a condition: where that does not hold, somebody else has replaced the object.
fn refused(name: &str, doing: &'static str) -> impl FnOnce(Error) -> IoError + use<> {
    let name = name.to_owned();
    move |error| match error {
        Error::Precondition { .. } | Error::NotModified { .. } => {
            IoError::Changed { location: name }
        }
        error => failed(&name, doing)(error),
    }
}

struct Rewrite<'a> {
    object: &'a S3Object,
    bucket: &'a str,
    id: &'a str,
    etag: &'a str,
}

impl Rewrite<'_> {
    async fn run(&self, first: Bytes, len: u64) -> Result<(), IoError> {
        let mut offset = first.len() as u64;
        let mut tags = vec![self.object.put_part(self.id, 1, first).await?];
        while offset < len {
            let end = len.min(offset + COPY_PART);
            tags.push(self.copy_part(tags.len() + 1, offset, end).await?);
            offset = end;
        }
        self.object.complete(self.id, &tags, len, Condition::Version(self.etag)).await
    }

    /// `UploadPartCopy`, which `object_store` does not offer, of the very object that was looked at.
    async fn copy_part(&self, number: usize, start: u64, end: u64) -> Result<String, IoError> {
        let Signed { path, .. } = &self.object.signed;
        let name = self.object.signed.name();
        let source = format!("/{}/{}", self.bucket, encoded(path.as_ref()));
        let mut headers = HeaderMap::new();
        let mut set = |field: &'static str, value: &str| -> Result<(), IoError> {
            let value = HeaderValue::from_str(value).map_err(io::Error::other);
            let value = value.map_err(IoError::io(name, COPYING))?;
            headers.insert(HeaderName::from_static(field), value);
            Ok(())
        };
        set("x-amz-copy-source", &source)?;
        set("x-amz-copy-source-range", &format!("bytes={start}-{}", end - 1))?;
        set("x-amz-copy-source-if-match", self.etag)?;
        self.object.copy_part(self.id, number, headers).await
    }
}

/// The key as a header takes it: everything but unreserved characters and slashes percent-encoded.
fn encoded(key: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encode =
        |byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    key.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_headers() {
        assert_eq!(encoded("a/b c+d/é.tensors"), "a/b%20c%2Bd/%C3%A9.tensors");
    }
}
