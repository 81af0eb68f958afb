//! S3 as `s3s-fs` serves it, and the listing of uploads that it lacks. Owns [`S3`].

use std::path::PathBuf;
use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use s3s::auth::SimpleAuth;
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;

use super::fault::{adopt, plain};
use super::{ReplyFuture, Site};

pub(crate) const ACCESS_KEY_ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET_ACCESS_KEY: &str = "canary-secret-access-key";
pub(crate) const BUCKET: &str = "bucket";

/// Buckets in a folder of their own. Clones share it.
#[derive(Clone)]
pub(crate) struct S3 {
    service: S3Service,
    folder: Arc<TempDir>,
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
        Self { service: builder.build(), folder }
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
        Box::pin(async move {
            let is_listing = request.method() == Method::GET
                && request
                    .uri()
                    .query()
                    .is_some_and(|query| query.split('&').any(|q| q.starts_with("uploads")));
            let reply = this.service.call(request.map(s3s::Body::from)).await;
            let Ok(reply) = reply else { return plain(500, "s3s-fs failed") };
            // The signature has passed by the time the operation turns out to be missing.
            if is_listing && reply.status() == 501 {
                return plain(200, this.listing());
            }
            let (head, body) = reply.into_parts();
            Response::from_parts(head, adopt(body))
        })
    }
}

impl S3 {
    /// Every upload under way as `ListMultipartUploads` tells it. `s3s-fs` notes no key with an upload; tests have one.
    fn listing(&self) -> String {
        let mut text = String::from("<ListMultipartUploadsResult>");
        for name in self.leftovers() {
            let id = name.strip_prefix(".upload-").and_then(|name| name.strip_suffix(".json"));
            if let Some(id) = id {
                text.push_str(&format!(
                    "<Upload><Key>model.tensors</Key><UploadId>{id}</UploadId></Upload>"
                ));
            }
        }
        text.push_str("</ListMultipartUploadsResult>");
        text
    }
}
