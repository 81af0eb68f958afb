//! Certificates: an authority of the caller's, none at all.

use tz_io::{IoError, ReadOptions, RemoteOptions, Selection, write};

use crate::child::Job;
use crate::model::{
    contents, file, load, object, open, options, readers, signed, tensors, writing,
};
use crate::server::Server;
use crate::server::objects::{Content, Object, Objects};
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};
use crate::server::tls::Authority;

const MIB: u64 = 1 << 20;

fn trusting(authority: &Authority, options: RemoteOptions) -> RemoteOptions {
    let mut options = options;
    options.ca_bundle = Some(authority.bundle());
    options
}

fn secure(authority: &Authority, bytes: &[u8]) -> Server {
    let site = Objects::default().with("/model.tensors", Object::new(bytes.to_vec()));
    Server::secure(site, authority.acceptor("127.0.0.1"))
}

#[test]
fn a_server_with_a_certificate_of_our_own_authority_is_trusted() {
    let (authority, bytes) = (Authority::new(), file(&[3 * MIB]));
    let server = secure(&authority, &bytes);
    let options = trusting(&authority, options());
    let remote = open(&server.url("/model.tensors"), &options).expect("trusted");
    assert_eq!(load(&remote, &Selection::all(), &readers(2)).expect("valid"), contents(&bytes));
}

#[test]
fn a_server_with_a_certificate_of_nobody_we_know_is_refused_at_once() {
    let (authority, bytes) = (Authority::new(), file(&[100]));
    let server = secure(&authority, &bytes);
    let stranger = Authority::new();
    for options in [options(), trusting(&stranger, options())] {
        let opened = open(&server.url("/model.tensors"), &options);
        let Err(IoError::Io { source, .. }) = opened else { panic!("{opened:?}") };
        assert!(source.to_string().starts_with("invalid peer certificate: "), "{source}");
    }
    assert_eq!(server.requests(), 0);
    assert_eq!(server.connections(), 2, "no second try");
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new();
    let site = Objects::default().with("/model.tensors", Object::new(file(&[100])));
    let server = Server::secure(site, authority.acceptor("object.test"));
    let opened = open(&server.url("/model.tensors"), &trusting(&authority, options()));
    let Err(IoError::Io { source, .. }) = opened else { panic!("{opened:?}") };
    assert!(source.to_string().contains("not valid for name"), "{source}");
}

#[test]
fn s3_over_tls_takes_the_same_authority() {
    let authority = Authority::new();
    let s3 = S3::new(None);
    let server = Server::secure(s3.clone(), authority.acceptor("127.0.0.1"));
    let options = trusting(&authority, signed(&server));
    let source = tensors(&[20 * MIB]);
    write(&source, &object("model.tensors"), &writing(options.clone())).expect("trusted");
    let remote = open(&object("model.tensors").to_string(), &options).expect("trusted");
    let loaded = load(&remote, &Selection::all(), &ReadOptions::default()).expect("valid");
    assert_eq!(loaded, contents(&std::fs::read(s3.path("model.tensors")).expect("visible")));
}

#[test]
fn a_redirect_may_lead_to_tls() {
    let (authority, bytes) = (Authority::new(), file(&[3 * MIB]));
    let behind = secure(&authority, &bytes);
    let elsewhere = Object::of(Content::Elsewhere(behind.url("/model.tensors")));
    let front = Server::new(Objects::default().with("/model.tensors", elsewhere));
    let options = trusting(&authority, options());
    let remote = open(&front.url("/model.tensors"), &options).expect("trusted");
    assert_eq!(load(&remote, &Selection::all(), &readers(2)).expect("valid"), contents(&bytes));
}

#[test]
fn a_bundle_that_cannot_be_read_is_named() {
    let mut options = options();
    options.ca_bundle = Some("/nonexistent/ca.pem".into());
    let opened = open("https://127.0.0.1:1/model.tensors", &options);
    let Err(IoError::Io { location, doing, .. }) = opened else { panic!("{opened:?}") };
    assert_eq!((&*location, doing), ("/nonexistent/ca.pem", "read certificates from"));
}

/// A child on a system without certificates, as in a bare container.
fn bare(authority: &Authority, name: &str, from: &str, to: &str) -> Job {
    let empty = authority.folder().join("empty.pem");
    std::fs::write(&empty, "").expect("written");
    Job::new(name, from, to).env("SSL_CERT_FILE", empty)
}

#[test]
fn plain_http_needs_no_certificates() {
    let (authority, bytes) = (Authority::new(), file(&[3 * MIB]));
    let plain = Server::new(Objects::default().with("/model.tensors", Object::new(bytes.clone())));
    bare(&authority, "load", &plain.url("/model.tensors"), "").run().expect_ok();

    let s3 = S3::new(None);
    let server = Server::new(s3.clone());
    let save = bare(&authority, "save", "1000", "s3://bucket/model.tensors");
    let save = save.env("TZ_ENDPOINT", server.url("")).env("TZ_KEY_ID", ACCESS_KEY_ID);
    save.env("TZ_SECRET", SECRET_ACCESS_KEY).run().expect_ok();
    assert!(s3.path("model.tensors").exists());

    let secure = secure(&authority, &bytes);
    let load = || bare(&authority, "load", &secure.url("/model.tensors"), "");
    load().run().expect_error("invalid peer certificate: UnknownIssuer");
    load().env("TZ_CA", authority.bundle()).run().expect_ok();
}
