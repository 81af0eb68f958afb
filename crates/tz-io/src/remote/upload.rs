//! Writes an object by multipart upload, in any order and bounded memory. Owns [`MultipartOutput`].
//!
//! Bytes land in part-sized buffers; a part is sent as soon as it is full. A part that holds the header of a large
//! tensor fills when the tensor is done, the first part when everything is: so the object's front, which makes it
//! readable, is sent last, and nothing is visible before the upload is completed. Dropping it unfinished aborts.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::signer::SignedUrlOptions;
use object_store::{MultipartId, PutMode, PutOptions, PutPayload};

use super::client::http_client;
use super::object::{SIGNED_FOR, Signed};
use super::options::RemoteOptions;
use super::runtime::{block_on, runtime};
use super::target::{RemoteKind, RemoteLocation, StoreKind};
use crate::error::IoError;
use crate::writer::Output;

/// Default length of a part: large enough for a request to pay, small enough for many in flight.
const PART_LEN: u64 = 16 << 20;
/// Least length of every part but the last that S3 takes.
const MIN_PART_LEN: u64 = 5 << 20;
/// Most parts that S3 takes.
const MAX_PARTS: u64 = 10_000;
/// Part lengths are rounded up to this.
const PART_QUANTUM: u64 = 1 << 20;

/// An upload in progress.
#[derive(Debug)]
pub(crate) struct MultipartOutput {
    shared: Arc<Shared>,
    options: RemoteOptions,
    file_len: u64,
    part_len: u64,
    most_buffers: usize,
    create_only: bool,
    finished: bool,
}

#[derive(Debug)]
struct Shared {
    signed: Signed,
    /// `None` where the object is one part and is put in one request.
    id: Option<MultipartId>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    filling: HashMap<u64, Part>,
    sending: usize,
    sent: HashMap<u64, PartId>,
    failed: Option<object_store::Error>,
}

#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    filled: usize,
}

impl MultipartOutput {
    /// Starts an upload of `file_len` bytes that holds about `memory` bytes at a time. `create_only` refuses to
    /// replace an object.
    pub(crate) fn create(
        location: &RemoteLocation,
        options: &RemoteOptions,
        file_len: u64,
        memory: u64,
        create_only: bool,
    ) -> Result<Self, IoError> {
        let name = location.to_string();
        let RemoteKind::Object { store, .. } = &location.kind else {
            let why = "HTTP servers can be read from, not written to";
            return Err(IoError::Unsupported { location: name, why });
        };
        let is_s3 = *store == StoreKind::S3;
        let part_len = part_len(file_len, memory);
        block_on(async {
            let signed = Signed::new(location, options).await?;
            let one_part = file_len <= part_len;
            if create_only && !one_part {
                if !is_s3 {
                    let why = "only S3 can create a large object conditionally";
                    return Err(IoError::Unsupported { location: name.clone(), why });
                }
                // Cheaper to learn now than after the upload; the completion decides.
                if object_store::ObjectStoreExt::head(&*signed.store, &signed.path).await.is_ok() {
                    return Err(exists(&name));
                }
            }
            let id = if one_part {
                None
            } else {
                let id = signed.store.create_multipart(&signed.path).await;
                Some(id.map_err(failed(&name, "start an upload to"))?)
            };
            let shared = Shared { signed, id, state: Mutex::default(), changed: Condvar::new() };
            // Parts in the making do not count against progress: see `buffer`.
            let most_buffers = usize::try_from(memory / part_len).unwrap_or(usize::MAX).max(2);
            Ok(Self {
                shared: Arc::new(shared),
                options: options.clone(),
                file_len,
                part_len,
                most_buffers,
                create_only,
                finished: false,
            })
        })
    }

    fn name(&self) -> &str {
        self.shared.signed.name()
    }

    /// Copies `bytes` into one part; gives the part back once it is full.
    fn fill(&self, part: u64, at: usize, bytes: &[u8]) -> Result<Option<Vec<u8>>, IoError> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiting makes sense only for parts on their way: those in the making may need this very thread.
        while !state.filling.contains_key(&part)
            && state.failed.is_none()
            && state.sending > 0
            && state.sending + state.filling.len() >= self.most_buffers
        {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = state.failed.take() {
            return Err(failed(self.name(), "upload to")(error));
        }
        let len =
            usize::try_from(self.part_len.min(self.file_len - part * self.part_len)).unwrap_or(0);
        let filling =
            state.filling.entry(part).or_insert_with(|| Part { bytes: vec![0; len], filled: 0 });
        if let Some(place) = filling.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        filling.filled += bytes.len();
        if filling.filled < len {
            return Ok(None);
        }
        let full = state.filling.remove(&part).map(|part| part.bytes);
        state.sending += usize::from(full.is_some());
        Ok(full)
    }

    fn send(&self, part: u64, bytes: Vec<u8>) {
        let shared = Arc::clone(&self.shared);
        let mode = if self.create_only { PutMode::Create } else { PutMode::Overwrite };
        runtime().spawn(async move {
            let payload = PutPayload::from(Bytes::from(bytes));
            let Signed { store, path, .. } = &shared.signed;
            let result = match &shared.id {
                Some(id) => {
                    store
                        .put_part(path, id, usize::try_from(part).unwrap_or(usize::MAX), payload)
                        .await
                }
                None => store
                    .put_opts(path, payload, PutOptions::from(mode))
                    .await
                    .map(|put| PartId { content_id: put.e_tag.unwrap_or_default() }),
            };
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.sending -= 1;
            match result {
                Ok(id) => {
                    state.sent.insert(part, id);
                }
                Err(error) => {
                    state.failed.get_or_insert(error);
                }
            }
            shared.changed.notify_all();
        });
    }

    /// Waits for the parts and makes the object visible.
    pub(crate) fn finish(mut self) -> Result<(), IoError> {
        let parts = self.parts()?;
        if let Some(id) = &self.shared.id {
            if self.create_only {
                block_on(self.complete_if_absent(id, &parts))?;
            } else {
                let Signed { store, path, .. } = &self.shared.signed;
                let done = block_on(store.complete_multipart(path, id, parts));
                done.map_err(failed(self.name(), "complete the upload to"))?;
            }
        }
        self.finished = true;
        Ok(())
    }

    fn parts(&self) -> Result<Vec<PartId>, IoError> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.sending > 0 && state.failed.is_none() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.failed.take() {
            Some(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) if self.create_only => {
                return Err(exists(self.name()));
            }
            Some(error) => return Err(failed(self.name(), "upload to")(error)),
            None => {}
        }
        let count = self.file_len.div_ceil(self.part_len).max(1);
        let parts: Option<Vec<PartId>> = (0..count).map(|part| state.sent.remove(&part)).collect();
        let missing = || io::Error::other("a part was never written");
        parts.ok_or_else(|| IoError::io(self.name(), "complete the upload to")(missing()))
    }

    /// Completes with `If-None-Match: *`, which `object_store` does not offer for multipart uploads.
    async fn complete_if_absent(&self, id: &MultipartId, parts: &[PartId]) -> Result<(), IoError> {
        let name = self.name();
        let doing = "complete the upload to";
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        let mut sign = SignedUrlOptions::new().with_query([("uploadId", id.as_str())]);
        sign.signed_headers.clone_from(&headers);
        let Signed { store, path, .. } = &self.shared.signed;
        let url = store
            .signed_url_opts(Method::POST, path, SIGNED_FOR, &sign)
            .await
            .map_err(failed(name, doing))?;
        let mut body = String::from("<CompleteMultipartUpload>");
        for (number, part) in (1..).zip(parts) {
            let tag =
                part.content_id.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            let number: u32 = number;
            body.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            ));
        }
        body.push_str("</CompleteMultipartUpload>");
        let http = http_client(&self.options, name)?;
        let sent = http.post(url).headers(headers).body(body).send().await;
        let network =
            |error: reqwest::Error| IoError::io(name, doing)(io::Error::other(error.without_url()));
        let response = sent.map_err(network)?;
        let status = response.status();
        let text = response.text().await.map_err(network)?;
        match status {
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Err(exists(name)),
            // The store may keep the connection alive and answer 200 before it knows.
            StatusCode::OK if !text.contains("<Error>") => Ok(()),
            _ => Err(IoError::io(name, doing)(io::Error::other(format!(
                "the server answered {status}"
            )))),
        }
    }
}

impl Output for MultipartOutput {
    fn data(&self, offset: u64, mut bytes: &[u8]) -> Result<(), IoError> {
        let mut offset = offset;
        while !bytes.is_empty() {
            let part = offset / self.part_len;
            let at = usize::try_from(offset % self.part_len).unwrap_or(usize::MAX);
            let room = usize::try_from(self.part_len).unwrap_or(usize::MAX) - at;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(full) = self.fill(part, at, now)? {
                self.send(part, full);
            }
            offset += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

impl Drop for MultipartOutput {
    fn drop(&mut self) {
        if let (false, Some(id)) = (self.finished, &self.shared.id) {
            let Signed { store, path, .. } = &self.shared.signed;
            // Parts still on their way would survive an abort that overtakes them.
            let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.sending > 0 {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            if let Err(error) = block_on(store.abort_multipart(path, id)) {
                tracing::warn!(location = self.name(), upload = id, %error, "the unfinished upload could not be removed");
            }
        }
    }
}

/// Longest part that leaves room for several, within S3's bounds.
fn part_len(file_len: u64, memory: u64) -> u64 {
    let wanted = PART_LEN.min(memory / 4).max(MIN_PART_LEN);
    wanted.max(file_len.div_ceil(MAX_PARTS)).next_multiple_of(PART_QUANTUM)
}

fn exists(name: &str) -> IoError {
    IoError::io(name, "create")(io::ErrorKind::AlreadyExists.into())
}

fn failed(name: &str, doing: &'static str) -> impl FnOnce(object_store::Error) -> IoError {
    let name = name.to_owned();
    move |error| {
        let kind = match &error {
            object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
            object_store::Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
            _ => io::ErrorKind::Other,
        };
        IoError::io(&name, doing)(io::Error::new(kind, error))
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

/// `ListMultipartUploads`, which `object_store` does not offer.
async fn list_uploads(
    signed: &Signed,
    key: &str,
    options: &RemoteOptions,
) -> Result<String, IoError> {
    let name = signed.name();
    let doing = "list unfinished uploads of";
    let sign = SignedUrlOptions::new().with_query([("uploads", ""), ("prefix", key)]);
    let url = signed.store.signed_url_opts(Method::GET, &Path::default(), SIGNED_FOR, &sign).await;
    let url = url.map_err(failed(name, doing))?;
    let network =
        |error: reqwest::Error| IoError::io(name, doing)(io::Error::other(error.without_url()));
    let response = http_client(options, name)?.get(url).send().await.map_err(network)?;
    if !response.status().is_success() {
        let why = format!("the server answered {}", response.status());
        return Err(IoError::io(name, doing)(io::Error::other(why)));
    }
    response.text().await.map_err(network)
}

/// Upload ids of exactly `key` in a `ListMultipartUploadsResult`.
fn upload_ids(listing: &str, key: &str) -> Vec<String> {
    let element = |upload: &str, name: &str| {
        let (_, rest) = upload.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        Some(
            text.replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&amp;", "&"),
        )
    };
    let uploads = listing.split("<Upload>").skip(1);
    uploads
        .filter(|upload| element(upload, "Key").as_deref() == Some(key))
        .filter_map(|u| element(u, "UploadId"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_the_rules_of_s3_and_the_memory() {
        for file_len in [0, 1, 5 << 20, 1 << 30, 1 << 40, 5 << 40] {
            for memory in [0, 64 << 20, 256 << 20, 4 << 30] {
                let len = part_len(file_len, memory);
                assert!(
                    len >= MIN_PART_LEN && file_len.div_ceil(len) <= MAX_PARTS,
                    "{file_len} {memory}: {len}"
                );
            }
        }
        assert_eq!(part_len(1 << 30, 64 << 20), 16 << 20);
    }

    #[test]
    fn listings_name_uploads_of_the_very_key() {
        let listing = "<ListMultipartUploadsResult><Upload><Key>a/b</Key><UploadId>1</UploadId></Upload>\
            <Upload><Key>a/b.bak</Key><UploadId>2</UploadId></Upload><Upload><UploadId>3&amp;</UploadId>\
            <Key>a/b</Key></Upload></ListMultipartUploadsResult>";
        assert_eq!(upload_ids(listing, "a/b"), ["1", "3&"]);
    }
}
