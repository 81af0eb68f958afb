//! What must never be printed: queries of presigned URLs, passwords, keys, tokens, signatures. Every error and every
//! line that a child logs, those of the libraries below included, is searched for them.

use std::error::Error;

use tz_io::{IoError, ReadOptions, Selection};

use crate::child::{Job, Outcome};
use crate::model::{file, load, location, object, open, options, signed, tensors, writing};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Content, Object, Objects};
use crate::server::proxy::Proxy;
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};
use crate::server::tls::Authority;

const MIB: u64 = 1 << 20;
/// Every secret of these tests holds this word.
const CANARY: &str = "canary";
const QUERY: &str = "X-Amz-Credential=canary&X-Amz-Signature=canary&X-Amz-Expires=60";
/// What a server may answer: it repeats what it was sent.
const ECHO: &str = "<Error><Code>SignatureDoesNotMatch</Code><Token-0>canary</Token-0>\
    <StringToSign>canary</StringToSign></Error>";

#[track_caller]
fn check(text: &str) {
    for secret in [CANARY, SECRET_ACCESS_KEY, "X-Amz-Signature", "Signature=", "uploadId="] {
        for (number, line) in text.lines().enumerate() {
            let at = line.find(secret);
            assert_eq!(at, None, "{secret} in line {number}: {}", &line[..line.len().min(2000)]);
        }
    }
}

/// Everything that an error says of itself.
#[track_caller]
fn check_error(error: &IoError) {
    check(&format!("{error} {error:?} {error:#?}"));
    let mut source = error.source();
    while let Some(error) = source {
        check(&format!("{error} {error:?}"));
        source = error.source();
    }
}

#[track_caller]
fn check_outcome(outcome: &Outcome) {
    assert!(outcome.log.lines().count() > 4, "the libraries log too: {}", outcome.log);
    check_direct(outcome);
}

/// Where nothing may have gone through the libraries.
fn check_direct(outcome: &Outcome) {
    check(&outcome.report);
    check(&outcome.log);
}

fn presigned(bytes: &[u8]) -> (Server, String) {
    let object = Object { query: Some(QUERY), ..Object::new(bytes.to_vec()) };
    let server = Server::new(Objects::default().with("/model.tensors", object));
    let url = server.url(&format!("/model.tensors?{QUERY}"));
    (server, url.replace("http://", "http://name:canary@"))
}

#[test]
fn locations_and_files_show_no_query_and_no_password() {
    let (_server, url) = presigned(&file(&[3 * MIB]));
    let place = location(&url);
    let remote = open(&url, &options()).expect("valid");
    let source = place.open(&options()).expect("valid");
    check(&format!("{place} {place:?} {remote:?} {} {source:?}", remote.location()));
    let without_ranges = Object { ranges: false, ..Object::new(file(&[100])) };
    let server = Server::new(Objects::default().with("/model.tensors", without_ranges));
    let url = server.url("/model.tensors?X=canary");
    let stream = location(&url).open(&options()).expect("valid");
    check(&format!("{stream:?} {}", stream.location()));
}

#[test]
fn options_show_no_keys() {
    let server = Server::new(S3::new(None));
    let mut options = signed(&server);
    options.s3.session_token = Some(CANARY.to_owned());
    check(&format!("{options:?} {:?}", writing(options.clone())));
}

#[test]
fn errors_show_no_query_and_no_password() {
    let faults = [
        Fault::HangUp,
        Fault::Reset { after: 100 },
        Fault::Truncate { after: 100 },
        Fault::Status(503, &[], ECHO),
        Fault::Status(403, &[], ECHO),
        Fault::Status(404, &[], ECHO),
        Fault::Status(301, &[("location", "http://127.0.0.1:1/?canary=canary")], ECHO),
        Fault::Status(302, &[("location", "ftp://canary@127.0.0.1/?canary")], ECHO),
        Fault::Status(302, &[("location", "http://[canary?canary=canary")], ECHO),
        Fault::without("content-range"),
        Fault::header("content-range", "canary"),
        Fault::header("etag", "\"canary\""),
    ];
    for fault in faults {
        let (server, url) = presigned(&file(&[3 * MIB]));
        let mut options = options();
        options.retries = 1;
        let remote = open(&url, &options).expect("valid");
        server.fault(|_| true, fault.clone());
        let later = load(&remote, &Selection::all(), &ReadOptions::default());
        check_error(&later.expect_err("a fault"));
        if let Err(error) = open(&url, &options) {
            check_error(&error);
        }
    }
}

#[test]
fn errors_of_uploads_show_nothing_that_the_server_echoes() {
    for status in [400, 403, 404] {
        for request in 1..4 {
            let server = Server::new(S3::new(None));
            server.fault(move |record| record.number == request, Fault::Status(status, &[], ECHO));
            let options = writing(signed(&server));
            let written = tz_io::write(&tensors(&[20 * MIB]), &object("model.tensors"), &options);
            let Err(error) = written else { panic!("{status} to request {request}: {written:?}") };
            check_error(&error);
            let IoError::Io { source, .. } = error else { panic!("{error:?}") };
            assert!(source.to_string().contains(": SignatureDoesNotMatch"), "{source}");
        }
    }
}

#[test]
fn logs_of_reads_show_no_query_and_no_password() {
    let (server, url) = presigned(&file(&[20 * MIB]));
    server.fault(|record| record.number == 1, Fault::Status(503, &[], ECHO));
    server.fault(|record| record.number == 2, Fault::Reset { after: 100 });
    let front = Objects::default();
    // The password of an address that a redirect names is nobody's, and is shown no more than ours.
    let behind = url.replace("name:", "other:");
    front.put("/front", Object::of(Content::Elsewhere(behind)));
    let front = Server::new(front);
    // A password keeps requests from going past the library.
    let anonymous = url.replace("name:canary@", "");
    let logged = |url: &str| logging("load", url, "").run();
    for url in [url, front.url("/front?canary=1")] {
        check_outcome(&logged(&url).expect_ok());
    }
    let gone = logged(&server.url("/gone?canary=1"));
    gone.expect_error("404");
    check_outcome(&gone);
    check_direct(&Job::new("load", &anonymous, "").env("TZ_LOG", "1").run().expect_ok());
    let gone = Job::new("load", &server.url("/gone?canary=1"), "").env("TZ_LOG", "1").run();
    gone.expect_error("404");
    check_direct(&gone);
}

/// A child that logs all there is, of requests that go through the libraries: those log too.
fn logging(name: &str, from: &str, to: &str) -> Job {
    Job::new(name, from, to).env("TZ_LOG", "1").env("TZ_LIBRARY", "1")
}

/// A child that knows the keys of the test server and a token.
fn knowing(name: &str, from: &str, to: &str, server: &Server) -> Job {
    logging(name, from, to)
        .env("TZ_ENDPOINT", server.url(""))
        .env("TZ_KEY_ID", ACCESS_KEY_ID)
        .env("TZ_SECRET", SECRET_ACCESS_KEY)
        .env("TZ_TOKEN", "canary-session-token")
}

#[test]
fn logs_of_s3_show_no_keys_and_no_signatures() {
    const URI: &str = "s3://bucket/model.tensors";
    let server = Server::new(S3::new(None));
    server.fault(|record| record.number == 1, Fault::Status(503, &[], ECHO));
    server.fault(|record| record.number == 2, Fault::HangUp);
    let lens = (20 * MIB).to_string();
    check_outcome(&knowing("save", &lens, URI, &server).run().expect_ok());
    check_outcome(&knowing("load", URI, "", &server).run().expect_ok());
    check_direct(&knowing("load", URI, "", &server).env("TZ_LIBRARY", "").run().expect_ok());
    check_outcome(&knowing("copy", URI, "s3://bucket/copy.tensors", &server).run().expect_ok());
    server.fault(|_| true, Fault::Status(403, &[], ECHO));
    for (name, from, to) in [("save", &*lens, URI), ("load", URI, ""), ("copy", URI, "x")] {
        let outcome = knowing(name, from, to, &server).run();
        outcome.expect_error("403 Forbidden");
        check_outcome(&outcome);
    }
}

#[test]
fn logs_through_proxies_and_tls_show_no_password() {
    let authority = Authority::new();
    let object = Object { query: Some(QUERY), ..Object::new(file(&[3 * MIB])) };
    let site = Objects::default().with("/model.tensors", object);
    let server = Server::secure(site.clone(), authority.acceptor("object.test"));
    let proxy = Server::new(Proxy { site, target: Some(server.address()) });
    let through = proxy.url("").replace("http://", "http://name:canary@");
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://name:canary@object.test/model.tensors?{QUERY}");
        let job = Job::new("load", &url, "").env("TZ_LOG", "1").env("ALL_PROXY", &through);
        check_outcome(&job.env("TZ_CA", authority.bundle()).run().expect_ok());
    }
}

#[test]
fn a_token_service_that_refuses_is_quoted_without_the_token() {
    let authority = Authority::new();
    let tokens = Server::secure(Objects::default(), authority.acceptor("127.0.0.1"));
    tokens.fault(|_| true, Fault::Status(403, &[], ECHO));
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "canary").expect("written");
    let job = Job::new("load", "s3://bucket/model.tensors", "")
        .env("TZ_LOG", "1")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.path())
        .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/a")
        .env("AWS_ENDPOINT_URL_STS", tokens.url("/"))
        .env("TZ_CA", authority.bundle());
    let outcome = job.run();
    outcome.expect_error("no credentials: the server answered 403 Forbidden");
    check_outcome(&outcome);
}
