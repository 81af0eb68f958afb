//! S3 requests that `object_store` does not offer, sent over presigned URLs: a conditional completion of an upload,
//! and the list of unfinished ones. Owns [`unfinished_uploads`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::signer::SignedUrlOptions;

use super::object::{SIGNED_FOR, Signed, failed};
use super::options::RemoteOptions;
use super::retry::{Failure, Retries, refusal};
use super::runtime::block_on;
use super::target::{RemoteKind, RemoteLocation, StoreKind};
use super::transport::{cause, http_client};
use super::upload::exists;
use crate::error::IoError;

const COMPLETING: &str = "complete the upload to";
const LISTING: &str = "list unfinished uploads of";

/// Completes the upload `id` with `If-None-Match: *`.
pub(crate) async fn complete_if_absent(
    signed: &Signed,
    id: &str,
    parts: &[PartId],
    options: &RemoteOptions,
) -> Result<(), IoError> {
    let name = signed.name();
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
    let mut sign = SignedUrlOptions::new().with_query([("uploadId", id)]);
    sign.signed_headers.clone_from(&headers);
    let url = signed.store.signed_url_opts(Method::POST, &signed.path, SIGNED_FOR, &sign).await;
    let url = url.map_err(failed(name, COMPLETING))?;
    let mut body = String::from("<CompleteMultipartUpload>");
    for (number, part) in (1_u32..).zip(parts) {
        let tag = part.content_id.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        body.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
    }
    body.push_str("</CompleteMultipartUpload>");
    let request = http_client(options, name)?.post(url).headers(headers).body(body);
    // Whether a request whose answer was lost took effect cannot be told, and the next one would be refused.
    // And the store may take its time to put an object together.
    let patience = (options, options.stall_timeout.saturating_mul(4));
    let (status, text) = send(request, patience, Failure::permanent, name, COMPLETING).await?;
    match status {
        StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Err(exists(name)),
        // The store may keep the connection alive and answer 200 before it knows.
        StatusCode::OK if !text.contains("<Error>") => Ok(()),
        _ => Err(refused(status, &text, name, COMPLETING)),
    }
}

/// Uploads of this object that were never completed, which is what a killed writer leaves, by upload id. `abort`
/// removes them: only for who knows that no other writer is at work. Stores other than S3 clean up by themselves.
///
/// # Errors
/// [`IoError::Io`] where the store does not list or remove uploads.
pub fn unfinished_uploads(
    location: &RemoteLocation,
    options: &RemoteOptions,
    abort: bool,
) -> Result<Vec<String>, IoError> {
    let name = location.to_string();
    let RemoteKind::Object { store: StoreKind::S3, key, .. } = &location.kind else {
        return Ok(Vec::new());
    };
    block_on(async {
        let signed = Signed::new(location, options).await?;
        let listing = list_uploads(&signed, key, options).await?;
        let ids = upload_ids(&listing, key);
        if abort {
            for id in &ids {
                let done = signed.store.abort_multipart(&signed.path, id).await;
                done.map_err(failed(&name, "remove an unfinished upload of"))?;
            }
        }
        Ok(ids)
    })
}

/// Names uploads of the object that were never finished. What a killed writer leaves is invisible but costs money;
/// only a person knows whether another writer is at work.
pub(crate) async fn warn_of_unfinished(signed: &Signed, key: &str, options: &RemoteOptions) {
    // Listing may be forbidden or unknown to the store: no reason not to write, nor to wait long.
    let once = RemoteOptions { retries: 0, ..options.clone() };
    let listing = list_uploads(signed, key, &once).await.unwrap_or_default();
    for upload in upload_ids(&listing, key) {
        let location = signed.name();
        tracing::warn!(location, upload, "an earlier upload of this object was never finished");
    }
}

/// `ListMultipartUploads` of the uploads whose key begins with `key`. One page holds 1,000, and keys sort before the
/// keys that they begin.
async fn list_uploads(
    signed: &Signed,
    key: &str,
    options: &RemoteOptions,
) -> Result<String, IoError> {
    let name = signed.name();
    let sign = SignedUrlOptions::new().with_query([("uploads", ""), ("prefix", key)]);
    let url = signed.store.signed_url_opts(Method::GET, &Path::default(), SIGNED_FOR, &sign).await;
    let request = http_client(options, name)?.get(url.map_err(failed(name, LISTING))?);
    let patience = (options, options.stall_timeout);
    let (status, text) = send(request, patience, Failure::transient, name, LISTING).await?;
    if status.is_success() { Ok(text) } else { Err(refused(status, &text, name, LISTING)) }
}

/// What to do about a request of which nothing is known but that it was not answered.
type Unanswered = fn(String) -> Failure;

/// Sends `request` until the server is not too busy for it, with so much patience for each try.
async fn send(
    request: reqwest::RequestBuilder,
    (options, patience): (&RemoteOptions, Duration),
    broken: Unanswered,
    name: &str,
    doing: &'static str,
) -> Result<(StatusCode, String), IoError> {
    let mut retries = Retries::new(options.retries, options.deadline, Arc::default());
    loop {
        let tried = async {
            let request = request.try_clone();
            let request = request.ok_or_else(|| Failure::permanent("a body that is a stream"))?;
            let exchange = async {
                let response = request.send().await?;
                let (status, headers) = (response.status(), response.headers().clone());
                Ok((status, headers, response.text().await?))
            };
            let answered = tokio::time::timeout(patience, exchange).await;
            let answered = answered.map_err(|_| broken(format!("no answer for {patience:?}")))?;
            let answered: Result<_, reqwest::Error> = answered;
            let (status, headers, text) = answered.map_err(|error| broken(cause(error)))?;
            match element(&text, "Code") {
                Some(code @ ("InternalError" | "SlowDown" | "ServiceUnavailable")) => {
                    Err(Failure::busy(format!("the server answered {code}"), None))
                }
                _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    Err(refusal(status, &headers, false))
                }
                _ => Ok((status, text)),
            }
        };
        match retries.within(tried).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => match retries.wait(failure, false, name).await {
                Ok(()) => {}
                Err(IoError::Io { source, .. }) => return Err(IoError::io(name, doing)(source)),
                Err(error) => return Err(error),
            },
        }
    }
}

fn refused(status: StatusCode, text: &str, name: &str, doing: &'static str) -> IoError {
    let kind = match status {
        StatusCode::NOT_FOUND => io::ErrorKind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    IoError::io(name, doing)(io::Error::new(kind, answered(&status.to_string(), text)))
}

/// What the server said: its status and S3's code for the reason. The rest of its text may hold what it was sent:
/// key ids, signatures, session tokens.
pub(crate) fn answered(status: &str, text: &str) -> String {
    match element(text, "Code").filter(|code| code.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    {
        Some(code) => format!("the server answered {status}: {code}"),
        None => format!("the server answered {status}"),
    }
}

/// Text of the first `<name>` in `xml`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// Upload ids of exactly `key` in a `ListMultipartUploadsResult`.
fn upload_ids(listing: &str, key: &str) -> Vec<String> {
    let text = |upload, name| {
        let text = element(upload, name)?.replace("&lt;", "<").replace("&gt;", ">");
        let text = text.replace("&quot;", "\"").replace("&#34;", "\"").replace("&apos;", "'");
        Some(text.replace("&#39;", "'").replace("&amp;", "&"))
    };
    let uploads = listing.split("<Upload>").skip(1);
    uploads
        .filter(|upload| text(upload, "Key").as_deref() == Some(key))
        .filter_map(|upload| text(upload, "UploadId"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_name_uploads_of_the_very_key() {
        let listing = "<ListMultipartUploadsResult><Upload><Key>a/b</Key><UploadId>1</UploadId></Upload>\
            <Upload><Key>a/b.bak</Key><UploadId>2</UploadId></Upload><Upload><UploadId>3&amp;</UploadId>\
            <Key>a/b</Key></Upload></ListMultipartUploadsResult>";
        assert_eq!(upload_ids(listing, "a/b"), ["1", "3&"]);
    }

    #[test]
    fn what_a_server_echoes_is_not_repeated() {
        let text = "<Error><Code>InvalidToken</Code><Token-0>secret</Token-0></Error>";
        assert_eq!(
            answered("403 Forbidden", text),
            "the server answered 403 Forbidden: InvalidToken"
        );
        assert_eq!(answered("403", "<Code>se:cret</Code>"), "the server answered 403");
        assert_eq!(answered("502 Bad Gateway", "<html>"), "the server answered 502 Bad Gateway");
    }
}
