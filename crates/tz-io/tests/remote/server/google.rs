//! Google Cloud Storage as its XML interface is documented, as far as we use it: no emulator that can be had serves
//! ranges under conditions and uploads in parts. Signatures are checked with the account's public key. Owns [`Google`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use tempfile::TempDir;

use super::fault::plain;
use super::objects::{Object, Objects};
use super::{Reply, ReplyFuture, Site};

/// What the service signs for, wherever it listens.
const HOST: &str = "storage.googleapis.com";
const EMAIL: &str = "tz@test.iam.gserviceaccount.com";

/// Objects, and uploads of them. Clones share both.
#[derive(Clone)]
pub(crate) struct Google {
    objects: Objects,
    /// Parts by number, of every upload that is neither completed nor aborted.
    uploads: Arc<Mutex<BTreeMap<String, BTreeMap<u32, Bytes>>>>,
    account: Arc<Account>,
}

/// A service account, with the file that Google hands out for one.
pub(crate) struct Account {
    public_key: Vec<u8>,
    folder: TempDir,
}

impl Account {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let folder = tempfile::tempdir().expect("folder");
        let text = serde_json::json!({
            "type": "service_account", "client_email": EMAIL, "private_key_id": "canary-key-id",
            "private_key": key.serialize_pem(),
        });
        std::fs::write(folder.path().join("account.json"), text.to_string()).expect("written");
        Self { public_key: key.public_key_raw().to_vec(), folder }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("account.json")
    }

    fn signed(&self, text: &str, signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(text.as_bytes(), signature).is_ok()
    }

    /// Whether a header holds a token that the account has signed for itself.
    fn sent(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")?.rsplit_once('.'));
        token.is_some_and(|(text, signature)| {
            let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
            signature.is_ok_and(|signature| self.signed(text, &signature))
        })
    }

    /// Whether the account has signed this URL.
    fn signed_url(&self, method: &Method, uri: &Uri) -> bool {
        let query = uri.query().unwrap_or_default();
        let Some((query, signature)) = query.split_once("&X-Goog-Signature=") else {
            return false;
        };
        let parameter = |name: &str| {
            let pairs = url::form_urlencoded::parse(query.as_bytes());
            let mut values = pairs.filter(|(key, _)| key == name);
            values.next().map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let (date, credential) = (parameter("X-Goog-Date"), parameter("X-Goog-Credential"));
        let scope = credential.strip_prefix(EMAIL).unwrap_or_default().trim_start_matches('/');
        let request =
            format!("{method}\n{}\n{query}\nhost:{HOST}\n\nhost\nUNSIGNED-PAYLOAD", uri.path());
        let hashed = hex(digest(&SHA256, request.as_bytes()).as_ref());
        let text = format!("GOOG4-RSA-SHA256\n{date}\n{scope}\n{hashed}");
        self.signed(&text, &unhex(signature))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).filter_map(digit).collect()
}

impl Google {
    pub(crate) fn new(account: Account) -> Self {
        let (objects, uploads) = (Objects::default(), Arc::default());
        Self { objects, uploads, account: Arc::new(account) }
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Puts an object there, replacing what is there.
    pub(crate) fn put(&self, path: &str, bytes: impl Into<Bytes>, etag: &'static str) {
        self.objects.put(path, Object { etag: Some(etag), ..Object::new(bytes) });
    }

    /// The bytes of the object there.
    #[track_caller]
    pub(crate) fn bytes(&self, path: &str) -> Bytes {
        self.objects.bytes(path).expect("an object")
    }

    /// Uploads that are neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.uploads.lock().expect("no panic").len()
    }

    fn write(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Reply {
        let path = place(uri);
        let query = uri.query().unwrap_or_default().as_bytes();
        let query: BTreeMap<_, _> = url::form_urlencoded::parse(query).collect();
        let mut uploads = self.uploads.lock().expect("no panic");
        let Some(id) = query.get("uploadId") else {
            if query.contains_key("uploads") {
                let id = format!("upload-{}", uploads.len());
                uploads.insert(id.clone(), BTreeMap::new());
                return plain(
                    200,
                    format!(
                        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId>\
                         </InitiateMultipartUploadResult>"
                    ),
                );
            }
            let creates = headers.get("x-goog-if-generation-match").is_some();
            if creates && self.objects.holds(&path) {
                return plain(412, "<Error><Code>PreconditionFailed</Code></Error>");
            }
            self.put(&path, body, "\"put\"");
            return tagged("\"put\"", "");
        };
        let Some(parts) = uploads.get_mut(&**id) else {
            return plain(404, "<Error><Code>NoSuchUpload</Code></Error>");
        };
        match (method, query.get("partNumber").and_then(|number| number.parse().ok())) {
            (&Method::PUT, Some(number)) => {
                parts.insert(number, body);
                tagged("\"part\"", "")
            }
            (&Method::POST, _) => {
                let whole: Vec<u8> = parts.values().flat_map(|part| part.iter().copied()).collect();
                uploads.remove(&**id);
                self.put(&path, whole, "\"parts\"");
                let etag = "<ETag>\"parts\"</ETag>";
                let result = "CompleteMultipartUploadResult";
                tagged("\"parts\"", format!("<{result}>{etag}</{result}>"))
            }
            _ => {
                uploads.remove(&**id);
                plain(204, "")
            }
        }
    }
}

/// The object's path as reads have it: writes encode dots and slashes, too.
fn place(uri: &Uri) -> String {
    ["%2E.", "%2F/", "%2D-"].iter().fold(uri.path().to_owned(), |path, pair| {
        let (encoded, plain) = pair.split_at(3);
        path.replace(encoded, plain)
    })
}

fn tagged(etag: &str, text: impl Into<Bytes>) -> Reply {
    let mut reply = plain(200, text);
    reply.headers_mut().insert(header::ETAG, etag.parse().expect("a header"));
    reply
}

impl Site for Google {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture {
        let this = self.clone();
        Box::pin(async move {
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let is_known =
                this.account.sent(request.headers()) || this.account.signed_url(&method, &uri);
            if !is_known {
                return plain(403, "<Error><Code>SignatureDoesNotMatch</Code>canary</Error>");
            }
            if method == Method::GET || method == Method::HEAD {
                return this.objects.reply(request).await;
            }
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            this.write(&method, &uri, &head.headers, body)
        })
    }
}
