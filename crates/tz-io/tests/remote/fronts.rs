//! The front of an object is replaced, and the rest is copied on the server.

use tz_io::{IoError, Location, RemoteOptions, replace_front};

use crate::server::Server;
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};

const OLD: &[u8] = b"the old front";
const NEW: &[u8] = b"the new front";

fn signed(server: &Server) -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.s3.endpoint = Some(server.url(""));
    options.s3.access_key_id = Some(ACCESS_KEY_ID.to_owned());
    options.s3.secret_access_key = Some(SECRET_ACCESS_KEY.to_owned());
    options
}

fn object(front: &[u8], len: usize) -> Vec<u8> {
    let rest = (0..len).map(|i| u8::try_from(i % 251).expect("small"));
    front.iter().copied().chain(rest).collect()
}

#[test]
fn only_the_front_of_an_object_changes() {
    let s3 = S3::new(None);
    let server = Server::new(s3.clone());
    let location = Location::parse("s3://bucket/folder name+é.tensors").expect("a location");
    // One that is put anew as a whole, and one whose rest is copied by the server.
    for len in [1 << 20, 12 << 20] {
        s3.put("folder name+é.tensors", &object(OLD, len));
        replace_front(&location, OLD, NEW, &signed(&server)).expect("replaced");
        let now = std::fs::read(s3.path("folder name+é.tensors")).expect("an object");
        assert!(now == object(NEW, len), "{len}");
    }
    let sent: Vec<_> = server
        .log()
        .iter()
        .map(|record| record.header("x-amz-copy-source-range").map(str::to_owned))
        .collect();
    let copied: Vec<_> = sent.into_iter().flatten().collect();
    let end = OLD.len() + (12 << 20) - 1;
    assert_eq!(copied, [format!("bytes={}-{end}", 5 << 20)]);
}

#[test]
fn an_object_with_another_front_is_left_alone() {
    let s3 = S3::new(None);
    let server = Server::new(s3.clone());
    let location = Location::parse("s3://bucket/a.tensors").expect("a location");
    s3.put("a.tensors", &object(b"one by others", 6 << 20));
    let error = replace_front(&location, OLD, NEW, &signed(&server)).expect_err("refused");
    assert!(matches!(error, IoError::Changed { .. }), "{error}");
    assert!(
        std::fs::read(s3.path("a.tensors")).expect("an object")
            == object(b"one by others", 6 << 20)
    );
}
