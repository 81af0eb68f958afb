//! Servers that answer anything: no answer ends the process, takes its memory, or counts as a success that it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Incoming;
use tz_io::{IoError, Location, unfinished_uploads};

use crate::child::Job;
use crate::model::{file, object, open, options, tensors};
use crate::server::fault::{Fault, plain};
use crate::server::objects::{Object, Objects};
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};
use crate::server::{Record, Reply, ReplyFuture, Server, Site, body};
use crate::upload::{KEY, LENS, MIB, Upload, is_abort, is_completion, is_start, part};

const URI: &str = "s3://bucket/model.tensors";

/// What sockets may hold of a body that nobody reads, and much less than what the bodies here would fill.
const HELD: usize = 64 << 20;
/// A length that nothing has room for.
const HUGE: Option<&str> = Some("4611686018427387904");

/// Requests that a fault befalls.
type When = fn(&Record) -> bool;

/// An answer of this status without end, which may announce a length; and how many of its bytes have been sent.
fn endless(status: u16, announced: Option<&'static str>) -> (Fault, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let edit = move |reply: &mut Reply| {
        *reply.status_mut() = status.try_into().expect("a status");
        reply.headers_mut().remove("content-length");
        if let Some(announced) = announced {
            reply.headers_mut().insert("content-length", announced.parse().expect("a header"));
        }
        let count = Arc::clone(&count);
        let frames = std::iter::repeat_with(move || {
            count.fetch_add(64 << 10, Ordering::SeqCst);
            Bytes::from_static(&[b'x'; 64 << 10])
        });
        *reply.body_mut() = body::frames(frames);
    };
    (Fault::Edit(Arc::new(edit)), sent)
}

#[test]
fn an_answer_without_end_takes_no_memory() {
    let is_put = |record: &Record| record.method == Method::PUT && part(record).is_none();
    let requests: [(When, &[u64]); 5] = [
        (is_put, &[1000]),
        (is_start, &LENS),
        (|record| part(record).is_some(), &LENS),
        (is_completion, &LENS),
        (|record| is_completion(record) || is_abort(record), &LENS),
    ];
    for (is_it, lens) in requests {
        for (status, announced) in [(200, None), (403, None), (403, HUGE), (200, HUGE)] {
            let upload = Upload::new();
            let (fault, sent) = endless(status, announced);
            upload.server.fault(is_it, fault);
            let written = upload.write(&tensors(lens));
            assert!(matches!(written, Err(IoError::Io { .. })), "{status} {written:?}");
            assert!(upload.server.log().iter().any(is_it));
            assert!(sent.load(Ordering::SeqCst) < HELD, "{sent:?}");
        }
    }
}

#[test]
fn a_listing_without_end_takes_no_memory() {
    for (status, announced) in [(200, None), (403, HUGE)] {
        let upload = Upload::new();
        let (fault, sent) = endless(status, announced);
        upload.server.fault(|record| record.method == Method::GET, fault);
        let Location::Remote(place) = object(KEY) else { panic!("an object") };
        let asked = unfinished_uploads(&place, &upload.options.remote, false);
        assert!(matches!(asked, Err(IoError::Io { .. })), "{asked:?}");
        // A writer does without it.
        upload.write(&tensors(&LENS)).expect("written");
        assert!(sent.load(Ordering::SeqCst) < 2 * HELD, "{sent:?}");
    }
}

#[test]
fn a_refused_read_without_end_takes_no_memory() {
    for direct in [true, false] {
        for (status, announced) in [(403, None), (403, HUGE), (416, HUGE), (204, None)] {
            let server = Server::new(Objects::default().with("/m", Object::new(file(&[MIB]))));
            let (fault, sent) = endless(status, announced);
            server.fault(|_| true, fault);
            let mut options = options();
            options.direct = direct;
            let opened = open(&server.url("/m"), &options);
            assert!(matches!(opened, Err(IoError::Io { .. })), "{opened:?}");
            assert!(sent.load(Ordering::SeqCst) < HELD, "{sent:?}");
        }
    }
}

/// A service that hands out keys in these words.
#[derive(Clone)]
struct Service {
    token: &'static [u8],
    role: &'static str,
    keys: String,
}

fn keys(token: &str, expiration: &str) -> String {
    format!(
        r#"{{"AccessKeyId":"{ACCESS_KEY_ID}","SecretAccessKey":"{SECRET_ACCESS_KEY}",
            "Token":"{token}","Expiration":"{expiration}"}}"#
    )
}

impl Service {
    fn new() -> Self {
        Self { token: b"token", role: "role", keys: keys("temporary", "2099-01-01T00:00:00Z") }
    }
}

impl Site for Service {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture {
        let reply = match request.uri().path() {
            "/latest/api/token" => plain(200, self.token),
            "/latest/meta-data/iam/security-credentials/" => plain(200, self.role),
            "/latest/meta-data/iam/security-credentials/role" => plain(200, self.keys.clone()),
            _ => plain(404, ""),
        };
        Box::pin(std::future::ready(reply))
    }
}

/// A job whose keys come from `service`, on a server that takes them.
fn job(name: &str, from: &str, to: &str, service: &Server, bucket: &Server) -> Job {
    Job::new(name, from, to)
        .without("AWS_EC2_METADATA_DISABLED")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url("/"))
        .env("AWS_ENDPOINT_URL_S3", bucket.url(""))
}

fn private() -> Server {
    let s3 = S3::new(None);
    s3.put("model.tensors", &file(&[MIB]));
    Server::new(s3)
}

#[test]
fn words_of_a_metadata_service_break_out_of_no_header_and_no_address() {
    let good = Service::new();
    // Some services end their lines.
    let lines = Service { token: b"token\n", role: "role\n", ..good.clone() };
    for service in [good.clone(), lines] {
        job("load", URI, "", &Server::new(service), &private()).run().expect_ok();
    }
    let tokens: [&[u8]; 4] = [b"tok\r\nX-Evil: 1", b"tok\nen", b"tok\0en", b"tok\xffen"];
    let tokens = tokens.map(|token| Service { token, ..good.clone() });
    let roles = ["ro\r\nle", "a role", "../role", "role?x=y", "ro\u{7f}le", "r\u{f6}le", "%zz"];
    let roles = roles.map(|role| Service { role, ..good.clone() });
    let sessions = ["a\\nb", "a\\u0000b", "\u{e9}"];
    let keys = sessions.map(|token| keys(token, "2099-01-01T00:00:00Z"));
    let keys = keys.map(|keys| Service { keys, ..good.clone() });
    let numbers = Service { keys: "{\"expires_in\": 18446744073709551615}".to_owned(), ..good };
    for service in tokens.into_iter().chain(roles).chain(keys).chain([numbers]) {
        let (service, bucket) = (Server::new(service), private());
        for (name, from, to) in [("load", URI, ""), ("save", "1000", URI)] {
            let outcome = job(name, from, to, &service, &bucket).run();
            outcome.expect_error("the answer ");
            assert!(!outcome.log.contains("panicked"), "{}", outcome.log);
        }
        assert_eq!(bucket.requests(), 0, "nobody was asked without keys");
    }
}

#[test]
fn a_metadata_service_without_end_takes_no_memory() {
    for (status, announced) in [(200, None), (200, HUGE), (403, None), (403, HUGE)] {
        let service = Server::new(Service::new());
        let (fault, sent) = endless(status, announced);
        service.fault(|_| true, fault);
        let outcome = job("load", URI, "", &service, &private()).run();
        outcome.expect_error("no credentials: ");
        assert!(!outcome.log.contains("panicked"), "{}", outcome.log);
        assert!(sent.load(Ordering::SeqCst) < HELD, "{sent:?}");
    }
}

#[test]
fn a_library_that_panics_ends_in_an_error() {
    // It takes the file as it is, line break included, and puts it into a header.
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "canary\n").expect("written");
    let bucket = private();
    for (name, from, to) in [("load", URI, ""), ("save", "1000", URI), ("save", "20000000", URI)] {
        let outcome = Job::new(name, from, to)
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", bucket.url("/keys"))
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path())
            .env("AWS_ENDPOINT_URL_S3", bucket.url(""))
            .run();
        outcome.expect_error("the network library panicked");
        assert!(!outcome.log.contains("canary"), "{}", outcome.log);
    }
}

#[test]
fn a_long_error_code_is_not_repeated() {
    const CODE: &str = "AVeryLongCode";
    let text: &'static str = format!("<Error><Code>{}</Code></Error>", CODE.repeat(4000)).leak();
    let upload = Upload::new();
    upload.server.fault(is_start, Fault::Status(403, &[], text));
    let error = upload.write(&tensors(&LENS)).expect_err("refused").to_string();
    assert!(error.ends_with("the server answered 403 Forbidden"), "{error}");
}

#[test]
fn a_completion_counts_where_the_document_says_so() {
    let whole = "<?xml version=\"1.0\"?>\n<CompleteMultipartUploadResult xmlns=\"x\"><ETag>&quot;e&quot;\
        </ETag></CompleteMultipartUploadResult>";
    let documents = [
        "",
        " ",
        "<html>done</html>",
        "<CompleteMultipartUploadResult>",
        "<InitiateMultipartUploadResult></InitiateMultipartUploadResult>",
        "<Error><Code>AccessDenied</Code></Error>",
    ];
    let answers = documents.map(|text| (200, text));
    for (status, text) in answers.into_iter().chain([(204, ""), (201, whole), (302, whole)]) {
        let upload = Upload::new();
        upload.server.fault(is_completion, Fault::Status(status, &[], text));
        let error = upload.write(&tensors(&LENS)).expect_err("nothing says that it is done");
        let IoError::Io { doing, source, .. } = error else { panic!("{error:?}") };
        assert_eq!(doing, "complete the upload to", "{status} {text}");
        assert_eq!(source.to_string().contains("not the answer"), status < 300, "{source}");
        upload.check_undone();
    }
    let upload = Upload::new();
    upload.server.fault(is_completion, Fault::Status(200, &[], whole));
    upload.write(&tensors(&LENS)).expect("it says that it is done");
}

#[test]
fn a_start_counts_where_the_document_holds_an_id() {
    let long = format!("<UploadId>{}</UploadId>", "x".repeat(20_000));
    let ids = [
        "",
        "<UploadId></UploadId>",
        "<UploadId>a\nb</UploadId>",
        "<UploadId>a&#10;b</UploadId>",
        &long,
    ];
    let texts = ids
        .map(|id| format!("<InitiateMultipartUploadResult>{id}</InitiateMultipartUploadResult>"));
    let other = "<Other><UploadId>1</UploadId></Other>".to_owned();
    for text in texts.into_iter().chain([other, String::new()]) {
        let upload = Upload::new();
        upload.server.fault(is_start, Fault::Status(200, &[], text.leak()));
        let error = upload.write(&tensors(&LENS)).expect_err("no upload to add parts to");
        assert!(error.to_string().contains("start an upload to: "), "{error}");
        assert_eq!(upload.count(|record| part(record).is_some()), 0);
    }
}

#[test]
fn what_was_put_counts_where_its_tag_is_told() {
    let is_put = |record: &Record| record.method == Method::PUT;
    for lens in [&[1000][..], &LENS] {
        // Taken, and not told; or not even taken.
        for fault in [
            Fault::without("etag"),
            Fault::header("etag", ""),
            Fault::header("etag", format!("\"{}\"", "e".repeat(8 << 10)).leak()),
            Fault::Status(200, &[], ""),
            Fault::Status(204, &[], ""),
        ] {
            let upload = Upload::new();
            upload.server.fault(is_put, fault);
            let written = upload.write(&tensors(lens));
            assert!(matches!(written, Err(IoError::Io { .. })), "{written:?}");
        }
    }
}

#[test]
fn what_was_put_counts_where_the_status_says_so() {
    const TAG: &[(&str, &str)] = &[("etag", "\"e\"")];
    const DENIED: &str = "<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code></Error>";
    let is_put = |record: &Record| record.method == Method::PUT;
    for lens in [&[1000][..], &LENS] {
        let statuses = [201, 202, 203, 204, 206].map(|status| (status, ""));
        for (status, text) in statuses.into_iter().chain([(200, DENIED), (200, "<Error><Co")]) {
            let upload = Upload::new();
            upload.server.fault(is_put, Fault::Status(status, TAG, text));
            let error = upload.write(&tensors(lens)).expect_err("nothing says that it is done");
            assert!(error.to_string().contains("not the answer to this"), "{status} {error}");
            assert_eq!(error.to_string().contains("AccessDenied"), text == DENIED, "{error}");
        }
    }
    let upload = Upload::new();
    upload.server.fault(is_put, Fault::Status(200, TAG, ""));
    upload.write(&tensors(&[1000])).expect("it says that it is done");
}
