//! S3 as `s3s-fs` serves it, and what it lacks: the listing of uploads, and a word for those that are gone. Owns [`S3`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use s3s::auth::SimpleAuth;
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::sync::RwLock;

use super::fault::{adopt, plain};
use super::{Reply, ReplyFuture, Site};

pub(crate) const ACCESS_KEY_ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET_ACCESS_KEY: &str = "canary-secret-access-key";
pub(crate) const BUCKET: &str = "bucket";

/// Buckets in a folder of their own. Clones share it.
#[derive(Clone)]
pub(crate) struct S3 {
    service: S3Service,
    folder: Arc<TempDir>,
    /// Key of every upload that was ever started, by its id.
    uploads: Arc<Mutex<BTreeMap<String, String>>>,
    /// Held by parts on their way together, by what ends an upload alone: as in a store, none overtakes the other.
    parts: Arc<RwLock<()>>,
}

impl S3 {
    /// Takes requests that are signed with the keys above only; `domain` serves virtual hosts too.
    pub(crate) fn new(domain: Option<&str>) -> Self {
        Self::build(Some(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY)), domain)
    }

    /// Asks nobody who they are.
    pub(crate) fn public() -> Self {
        Self::build(None, None)
    }

    fn build(auth: Option<SimpleAuth>, domain: Option<&str>) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("folder"));
        std::fs::create_dir(folder.path().join(BUCKET)).expect("bucket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).expect("folder"));
        if let Some(auth) = auth {
            builder.set_auth(auth);
        }
        if let Some(domain) = domain {
            builder.set_host(SingleDomain::new(domain).expect("a domain"));
        }
        let (uploads, parts) = (Arc::default(), Arc::default());
        Self { service: builder.build(), folder, uploads, parts }
    }

    /// Where the object is kept; it exists once it is visible.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        std::fs::write(self.path(key), bytes).expect("written");
    }

    /// Uploads and parts that were neither completed nor aborted.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).expect("folder");
        let names =
            names.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<_> = names.filter(|name| is_leftover(name)).collect();
        names.sort();
        names
    }
}

fn is_leftover(name: &str) -> bool {
    name.starts_with(".upload-") || name.starts_with(".upload_id-")
}

impl Site for S3 {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture {
        let this = self.clone();
        // What has arrived is done to its end, whether anybody still waits for the answer or not.
        let answer = tokio::spawn(async move { this.answer(request).await });
        Box::pin(async move { answer.await.expect("no panic") })
    }
}

impl S3 {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let query = uri.query().unwrap_or_default().as_bytes();
        let query: BTreeMap<_, _> = url::form_urlencoded::parse(query).collect();
        let is_about_uploads = query.contains_key("uploads");
        let (mut _together, mut _alone) = (None, None);
        match method {
            Method::PUT if query.contains_key("uploadId") => {
                _together = Some(self.parts.read().await);
            }
            Method::POST | Method::DELETE if query.contains_key("uploadId") => {
                _alone = Some(self.parts.write().await);
            }
            _ => {}
        }
        let reply = self.service.call(request.map(s3s::Body::from)).await;
        let Ok(reply) = reply else { return plain(500, "s3s-fs failed") };
        let (head, body) = reply.into_parts();
        match (method, is_about_uploads, head.status.as_u16()) {
            (Method::POST, true, 200) => {
                let text = adopt(body).collect().await.expect("a body").to_bytes();
                self.note_upload(uri.path(), std::str::from_utf8(&text).expect("UTF-8"));
                plain(200, text)
            }
            // The signature has passed by the time the operation turns out to be missing.
            (Method::GET, true, 501) => plain(200, self.listing(&query["prefix"])),
            // `s3s-fs` says that it is not allowed.
            (_, _, 403) if query.get("uploadId").is_some_and(|id| !self.is_open(id)) => {
                plain(404, "<Error><Code>NoSuchUpload</Code></Error>")
            }
            _ => Response::from_parts(head, adopt(body)),
        }
    }

    fn note_upload(&self, path: &str, reply: &str) {
        let (_, rest) = reply.split_once("<UploadId>").expect("an upload");
        let (id, _) = rest.split_once("</UploadId>").expect("an id");
        let key = path.trim_start_matches(&format!("/{BUCKET}/")).to_owned();
        self.uploads.lock().expect("no panic").insert(id.to_owned(), key);
    }

    fn is_open(&self, id: &str) -> bool {
        self.uploads().iter().any(|(open, _)| open == id)
    }

    /// Ids and keys of the uploads that were neither completed nor aborted.
    pub(crate) fn uploads(&self) -> Vec<(String, String)> {
        let leftovers = self.leftovers();
        let is_open = |id: &str| leftovers.contains(&format!(".upload-{id}.json"));
        let uploads = self.uploads.lock().expect("no panic").clone();
        uploads.into_iter().filter(|(id, _)| is_open(id)).collect()
    }

    /// `ListMultipartUploads`, which `s3s-fs` lacks.
    fn listing(&self, prefix: &str) -> String {
        let mut text = String::from("<ListMultipartUploadsResult>");
        for (id, key) in self.uploads().into_iter().filter(|(_, key)| key.starts_with(prefix)) {
            text.push_str(&format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>"));
        }
        text.push_str("</ListMultipartUploadsResult>");
        text
    }
}
