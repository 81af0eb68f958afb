//! Secrets go to one origin: what a redirect to another scheme, host or port may carry, for every kind of request.

use http::{Method, Request};
use hyper::body::Incoming;
use tz_io::{Location, RemoteOptions, Selection, copy, unfinished_uploads};

use crate::child::Job;
use crate::model::{
    contents, file, load, location, object, open, options, readers, signed, tensors, writing,
};
use crate::server::fault::{Fault, plain};
use crate::server::google::{Account, Google};
use crate::server::objects::{Content, Object, Objects};
use crate::server::s3::S3;
use crate::server::tls::Authority;
use crate::server::{Record, ReplyFuture, Server, Site};
use crate::upload::{KEY, LENS, MIB, Upload, is_abort, is_completion, is_start, part};

const URI: &str = "s3://bucket/model.tensors";
const CANARY: &str = "canary";
/// Every status that leads elsewhere.
const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// Another server was asked for an object, and told nothing else.
#[track_caller]
fn check_discreet(other: &Server) {
    for record in other.log() {
        assert_eq!((&record.method, record.query.as_deref()), (&Method::GET, None), "{record:?}");
        for name in record.headers.keys() {
            let expected = ["host", "range", "if-match", "accept", "accept-encoding", "user-agent"];
            assert!(expected.contains(&name.as_str()), "{record:?}");
        }
        assert!(!format!("{record:?}").contains(CANARY), "{record:?}");
    }
}

/// One server over TLS or without, that trusts or is trusted through `options`.
struct Pair {
    authority: Authority,
    options: RemoteOptions,
}

impl Pair {
    fn new() -> Self {
        let authority = Authority::new();
        let mut options = options();
        options.ca_bundle = Some(authority.bundle());
        Self { authority, options }
    }

    fn server(&self, tls: bool, site: impl Site) -> Server {
        match tls {
            true => Server::secure(site, self.authority.acceptor("127.0.0.1")),
            false => Server::new(site),
        }
    }
}

#[test]
fn a_redirected_read_shows_neither_its_address_nor_a_password() {
    let pair = Pair::new();
    let bytes = file(&[3 * MIB]);
    for (front_tls, behind_tls) in [(false, false), (true, true), (true, false), (false, true)] {
        for status in STATUSES {
            let site = Objects::default().with("/moved", Object::new(bytes.clone()));
            let behind = pair.server(behind_tls, site);
            let front = pair.server(front_tls, Objects::default());
            front.fault(|_| true, Fault::Redirect(status, behind.url("/moved")));
            let url = front.url("/model.tensors?token=canary&X-Amz-Security-Token=canary");
            let url = url.replace("://", "://name:canary@");
            let remote = open(&url, &pair.options).expect("followed");
            let loaded = load(&remote, &Selection::all(), &readers(2)).expect("followed");
            assert_eq!(loaded, contents(&bytes));
            assert!(front.log().iter().all(|record| record.header("authorization").is_some()));
            assert!(behind.requests() > 1, "{status}");
            check_discreet(&behind);
        }
    }
}

#[test]
fn a_redirect_within_the_origin_keeps_the_password() {
    let bytes = file(&[MIB]);
    let moved = Object::of(Content::Elsewhere("/moved".to_owned()));
    let site = Objects::default().with("/moved", Object::new(bytes)).with("/model.tensors", moved);
    let server = Server::new(site);
    let url = server.url("/model.tensors?token=canary").replace("://", "://name:canary@");
    let remote = open(&url, &options()).expect("followed");
    load(&remote, &Selection::all(), &readers(2)).expect("followed");
    for record in server.log() {
        assert!(record.header("authorization").is_some(), "{record:?}");
        assert_eq!(record.header("referer"), None);
    }
}

#[test]
fn a_redirected_read_of_a_store_shows_no_signature_and_no_session_token() {
    let pair = Pair::new();
    for tls in [false, true] {
        let bytes = file(&[3 * MIB]);
        let site = Objects::default().with("/moved", Object::new(bytes.clone()));
        let behind = pair.server(tls, site);
        let bucket = pair.server(tls, S3::new(None));
        bucket.fault(|_| true, Fault::Redirect(307, behind.url("/moved")));
        let mut options = signed(&bucket);
        options.ca_bundle = Some(pair.authority.bundle());
        options.s3.session_token = Some(CANARY.to_owned());
        for direct in [true, false] {
            options.direct = direct;
            let remote = open(URI, &options).expect("followed");
            let loaded = load(&remote, &Selection::all(), &readers(2)).expect("followed");
            assert_eq!(loaded, contents(&bytes));
        }
        assert!(behind.requests() > 2);
        check_discreet(&behind);
    }
}

/// An upload fails whose requests of this kind are sent elsewhere, and nobody is asked there.
#[track_caller]
fn check_upload(tls: bool, lens: &[u64], is_it: impl Fn(&Record) -> bool + Copy + Send + 'static) {
    let pair = Pair::new();
    for status in STATUSES {
        let other = pair.server(tls, S3::public());
        let bucket = pair.server(tls, S3::new(None));
        bucket.fault(is_it, Fault::Redirect(status, other.url("/bucket/model.tensors?uploads=")));
        let mut options = signed(&bucket);
        options.ca_bundle = Some(pair.authority.bundle());
        options.s3.session_token = Some(CANARY.to_owned());
        let written = tz_io::write(&tensors(lens), &object(KEY), &writing(options));
        let error = written.expect_err("it went nowhere").to_string();
        assert!(error.contains(&format!("the server answered {status}")), "{error}");
        assert!(bucket.log().iter().any(is_it));
        assert_eq!((other.connections(), other.requests()), (0, 0), "{status}");
    }
}

#[test]
fn a_redirected_write_goes_nowhere() {
    for tls in [false, true] {
        check_upload(tls, &[1000], |record| record.method == Method::PUT);
        check_upload(tls, &LENS, is_start);
        check_upload(tls, &LENS, |record| part(record).is_some());
        check_upload(tls, &LENS, is_completion);
    }
}

#[test]
fn a_redirected_question_about_uploads_goes_nowhere() {
    let other = Server::new(S3::public());
    let upload = Upload::new();
    let elsewhere = || Fault::Redirect(307, other.url("/bucket/?uploads="));
    upload.server.fault(|record| record.method == Method::GET, elsewhere());
    upload.server.fault(is_abort, elsewhere());
    let Location::Remote(place) = object(KEY) else { panic!("an object") };
    let asked = unfinished_uploads(&place, &upload.options.remote, false);
    asked.expect_err("it went nowhere");
    // The listing is not needed, and what cannot be removed is named.
    upload.server.fault(is_completion, Fault::Status(400, &[], ""));
    upload.write(&tensors(&LENS)).expect_err("refused");
    assert!(upload.count(is_abort) > 0);
    assert_eq!(other.connections(), 0);
}

/// A service that hands out keys, and redirects one of its requests.
struct Service {
    elsewhere: String,
    redirects: &'static str,
}

impl Site for Service {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture {
        let mut reply = match request.uri().path() {
            "/latest/api/token" => plain(200, CANARY),
            path if path.ends_with("/security-credentials/") => plain(200, "role"),
            _ => plain(404, ""),
        };
        if request.uri().path().ends_with(self.redirects) {
            reply = plain(307, "");
            let place = self.elsewhere.parse().expect("a header");
            reply.headers_mut().insert("location", place);
        }
        Box::pin(std::future::ready(reply))
    }
}

#[test]
fn a_redirected_request_for_keys_goes_nowhere() {
    let other = Server::new(Objects::default());
    let authority = Authority::new();
    let secure = Server::secure(Objects::default(), authority.acceptor("127.0.0.1"));
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), CANARY).expect("written");
    let service =
        |redirects, elsewhere: &Server| Service { redirects, elsewhere: elsewhere.url("/stolen") };
    let job = || {
        let job = Job::new("load", URI, "").without("AWS_EC2_METADATA_DISABLED");
        job.env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1").env("TZ_CA", authority.bundle())
    };
    // The first asks with PUT, the others with GET and the token.
    for redirects in ["/latest/api/token", "/security-credentials/", "/role"] {
        let cloud = Server::new(service(redirects, &other));
        let job = job().env("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.url("/"));
        job.run().expect_error("no credentials: the server answered 307");
        assert!(cloud.log().last().is_some_and(|last| last.path.ends_with(redirects)));
    }
    for tls in [false, true] {
        let site = service("/container", &other);
        let container = match tls {
            true => Server::secure(site, authority.acceptor("127.0.0.1")),
            false => Server::new(site),
        };
        let job = job()
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url("/container"))
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path());
        job.run().expect_error("no credentials: the server answered 307");
        assert_eq!(container.log()[0].header("authorization"), Some(CANARY));
    }
    // With POST, over TLS.
    for elsewhere in [&other, &secure] {
        let acceptor = authority.acceptor("127.0.0.1");
        let tokens = Server::secure(service("/", elsewhere), acceptor);
        let job = job()
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.path())
            .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/a")
            .env("AWS_ENDPOINT_URL_STS", tokens.url("/"));
        job.run().expect_error("no credentials: the server answered 307");
        assert_eq!(tokens.log()[0].method, Method::POST);
    }
    assert_eq!((other.connections(), secure.connections()), (0, 0));
}

#[test]
fn a_token_is_sent_to_a_service_over_tls_only() {
    let plain = Server::new(Objects::default());
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), CANARY).expect("written");
    let job = Job::new("load", URI, "")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.path())
        .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/a")
        .env("AWS_ENDPOINT_URL_STS", plain.url("/"));
    job.run().expect_error("no credentials: the service must be asked over TLS");
    assert_eq!(plain.connections(), 0);
}

#[test]
fn a_redirected_write_to_google_goes_nowhere() {
    let other = Server::new(Objects::default());
    for lens in ["900", "20000000"] {
        let google = Google::new(Account::new());
        let server = Server::new(google.clone());
        let is_write = |record: &Record| matches!(record.method, Method::PUT | Method::POST);
        server.fault(is_write, Fault::Redirect(307, other.url("/stolen")));
        let job = Job::new("save", lens, "gs://bucket/model.tensors")
            .env("GOOGLE_BASE_URL", server.url(""))
            .env("GOOGLE_APPLICATION_CREDENTIALS", google.account().file());
        job.run().expect_error("the server answered 307");
        assert!(server.log().iter().any(|record| record.header("authorization").is_some()));
    }
    assert_eq!(other.connections(), 0);
}

#[test]
fn a_copy_that_is_sent_elsewhere_brings_nothing_along() {
    let bytes = file(&[3 * MIB]);
    let behind = Server::new(Objects::default().with("/moved", Object::new(bytes.clone())));
    let front = Server::new(Objects::default());
    front.fault(|_| true, Fault::Redirect(302, behind.url("/moved")));
    let folder = tempfile::tempdir().expect("a folder");
    let to = Location::File(folder.path().join("copy.tensors"));
    let from = location(&front.url("/model.tensors?token=canary"));
    copy(&from, &to, &writing(options())).expect("copied");
    assert_eq!(std::fs::read(folder.path().join("copy.tensors")).expect("a copy"), bytes);
    check_discreet(&behind);
}
