//! Replaces the front of an object: new bytes for the front, a server-side copy for the rest. Owns [`replace_front`].

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::multipart::PartId;
use object_store::signer::SignedUrlOptions;
use object_store::{MultipartId, ObjectStoreExt as _, PutPayload};

use super::bounded::{MAX_ANSWER, Unread, text};
use super::object::{SIGNED_FOR, Signed, failed};
use super::options::RemoteOptions;
use super::runtime::run;
use super::target::{RemoteKind, RemoteLocation, StoreKind};
use super::transport::{cause, http_client};
use super::words::{answered, is_document, word_of};

use crate::error::IoError;

/// Least length of the first part: what S3 asks of every part but the last.
const FIRST_PART: u64 = 5 << 20;
/// Bytes that one request copies on the server; S3 allows 5 GiB.
const COPY_PART: u64 = 1 << 30;

/// Writes `new` over `old`, the first bytes of the object.
pub(crate) fn replace_front(
    location: &RemoteLocation,
    old: &[u8],
    new: &[u8],
    options: &RemoteOptions,
) -> Result<(), IoError> {
    let name = location.to_string();
    let RemoteKind::Object { store: StoreKind::S3, bucket, .. } = &location.kind else {
        let why = "only files on disk and S3 objects can be changed in part";
        return Err(IoError::Unsupported { location: name, why });
    };
    run(&name, "replace", async {
        let signed = Signed::new(location, options).await?;
        let doing = "read the front of";
        let head = signed.store.head(&signed.path).await.map_err(failed(&name, doing))?;
        let first_len = head.size.min(FIRST_PART.max(old.len() as u64));
        let first = signed.store.get_range(&signed.path, 0..first_len).await;
        let mut first = first.map_err(failed(&name, doing))?.to_vec();
        match first.get_mut(..old.len()) {
            Some(front) if *front == *old => front.copy_from_slice(new),
            _ => return Err(IoError::Changed { location: name.clone() }),
        }
        if first_len == head.size {
            let put = signed.store.put(&signed.path, PutPayload::from(first)).await;
            return put.map(drop).map_err(failed(&name, "replace"));
        }
        let id = signed.store.create_multipart(&signed.path).await;
        let id = id.map_err(failed(&name, "start an upload to"))?;
        let rewrite = Rewrite { signed: &signed, options, bucket, id: &id, etag: head.e_tag };
        let done = rewrite.run(Bytes::from(first), head.size).await;
        if done.is_err() {
            // The error at hand says more than a second one would.
            let _ = signed.store.abort_multipart(&signed.path, &id).await;
        }
        done
    })
}

struct Rewrite<'a> {
    signed: &'a Signed,
    options: &'a RemoteOptions,
    bucket: &'a str,
    id: &'a MultipartId,
    etag: Option<String>,
}

impl Rewrite<'_> {
    async fn run(&self, first: Bytes, size: u64) -> Result<(), IoError> {
        let name = self.signed.name();
        let Signed { store, path, .. } = self.signed;
        let mut offset = first.len() as u64;
        let part = store.put_part(path, self.id, 0, PutPayload::from(first)).await;
        let mut parts = vec![part.map_err(failed(name, "upload to"))?];
        while offset < size {
            let end = size.min(offset + COPY_PART);
            parts.push(self.copy_part(parts.len() + 1, offset, end).await?);
            offset = end;
        }
        let done = store.complete_multipart(path, self.id, parts).await;
        done.map(drop).map_err(failed(name, "complete the upload to"))
    }

    /// `UploadPartCopy`, which `object_store` does not offer, of the very object that was looked at.
    async fn copy_part(&self, number: usize, start: u64, end: u64) -> Result<PartId, IoError> {
        let name = self.signed.name();
        let doing = "copy on the server";
        let source = format!("/{}/{}", self.bucket, encoded(self.signed.path.as_ref()));
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &str| -> Result<(), IoError> {
            let value = HeaderValue::from_str(value).map_err(io::Error::other);
            let value = value.map_err(IoError::io(self.signed.name(), doing))?;
            headers.insert(HeaderName::from_static(name), value);
            Ok(())
        };
        set("x-amz-copy-source", &source)?;
        set("x-amz-copy-source-range", &format!("bytes={start}-{}", end - 1))?;
        if let Some(etag) = &self.etag {
            set("x-amz-copy-source-if-match", etag)?;
        }
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", self.id.as_str())];
        let mut sign = SignedUrlOptions::new().with_query(query);
        sign.signed_headers.clone_from(&headers);
        let Signed { store, path, .. } = self.signed;
        let url = store.signed_url_opts(Method::PUT, path, SIGNED_FOR, &sign).await;
        let url = url.map_err(failed(name, doing))?;
        let network = |why: String| IoError::io(name, doing)(io::Error::other(why));
        let sent = http_client(self.options, name)?.put(url).headers(headers).send().await;
        let response = sent.map_err(|error| network(cause(error)))?;
        let status = response.status();
        let text = text(response, MAX_ANSWER).await.map_err(|unread| match unread {
            Unread::TooLong => network(format!("an answer of more than {MAX_ANSWER} bytes")),
            Unread::Broken(error) => network(cause(error)),
        })?;
        match word_of(&text, "ETag").filter(|_| is_document(&text, "CopyPartResult")) {
            Some(content_id) if status == StatusCode::OK => Ok(PartId { content_id }),
            _ if status == StatusCode::PRECONDITION_FAILED => {
                Err(IoError::Changed { location: name.to_owned() })
            }
            _ => Err(network(answered(&status.to_string(), &text))),
        }
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
