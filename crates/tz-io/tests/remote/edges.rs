//! Servers without ranges, empty objects, redirects, presigned URLs.

use std::io::ErrorKind;

use tz_io::{HeapPool, IoError, ReadOptions, RemoteOptions, Selection};

use crate::model::{
    contents, file, load, location, object, open, options, readers, signed, stream,
};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Content, Object, Objects};
use crate::server::s3::S3;

const MIB: u64 = 1 << 20;

fn serve(object: Object) -> Server {
    Server::new(Objects::default().with("/model.tensors", object))
}

fn without_ranges(bytes: &[u8]) -> Server {
    serve(Object { ranges: false, ..Object::new(bytes.to_vec()) })
}

#[test]
fn a_server_without_ranges_is_read_as_one_stream() {
    let bytes = file(&[3 * MIB, 0, 2 * MIB, 100]);
    // An answer without a length is asked for once more, through the library.
    for (framed, asked) in [(true, 1), (false, 2)] {
        let server = without_ranges(&bytes);
        if !framed {
            server.fault(|_| true, Fault::Unframed);
        }
        let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
        let all = load(&remote, &Selection::all(), &ReadOptions::default()).expect("valid");
        assert_eq!(all, contents(&bytes));
        assert_eq!(server.requests(), asked);

        let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
        let pool = HeapPool::new(256 << 10, 2).expect("memory");
        let all = stream(&remote, &ReadOptions::default(), &pool).expect("valid");
        assert_eq!(all, contents(&bytes));
        assert_eq!(server.requests(), 2 * asked);
    }
}

#[test]
fn a_stream_is_read_once_and_forward() {
    let bytes = file(&[3 * MIB, 2 * MIB]);
    let server = without_ranges(&bytes);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let second = remote.load_one("t1", &ReadOptions::default()).expect("ahead");
    assert_eq!(second.bytes(), contents(&bytes)["t1"]);
    let first = remote.load_one("t0", &ReadOptions::default());
    assert!(matches!(first, Err(IoError::Unsupported { .. })), "{first:?}");
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_stream_that_breaks_is_an_error() {
    let bytes = file(&[3 * MIB]);
    for fault in [Fault::Truncate { after: 1 << 20 }, Fault::Reset { after: 1 << 20 }] {
        let server = without_ranges(&bytes);
        server.fault(|_| true, fault);
        let loaded = open(&server.url("/model.tensors"), &options())
            .and_then(|file| load(&file, &Selection::all(), &readers(1)));
        assert!(matches!(loaded, Err(IoError::Io { .. })), "{loaded:?}");
    }
}

#[test]
fn an_empty_object_is_not_a_tensors_file() {
    let server = serve(Object::new(Vec::new()));
    let whole = location(&server.url("/model.tensors")).open(&options()).expect("empty");
    assert_eq!((whole.len(), whole.is_empty(), server.requests()), (Some(0), true, 2));
    let opened = open(&server.url("/model.tensors"), &options());
    assert!(matches!(opened, Err(IoError::Format { .. })), "{opened:?}");
    // Whether the refusal says how long the object is or not, the answer to a request for all of it counts.
    server.fault(|_| true, Fault::without("content-range"));
    let whole = location(&server.url("/model.tensors")).open(&options()).expect("empty");
    assert_eq!((whole.len(), server.requests()), (Some(0), 6));
}

#[test]
fn an_empty_object_of_s3_is_empty() {
    let s3 = S3::new(None);
    s3.put("empty", b"");
    let server = Server::new(s3);
    // It refuses the range without the length, so all of it is asked for.
    let whole = object("empty").open(&signed(&server)).expect("empty");
    assert_eq!((whole.len(), server.requests()), (Some(0), 2));
}

#[test]
fn an_object_that_shrinks_has_changed() {
    let server = serve(Object::new(file(&[3 * MIB])));
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let refusal = Fault::Status(416, &[("content-range", "bytes */100")], "");
    server.fault(|_| true, refusal);
    let loaded = load(&remote, &Selection::all(), &readers(1));
    assert!(matches!(loaded, Err(IoError::Changed { .. })), "{loaded:?}");
}

#[test]
fn reads_beyond_the_end_ask_nobody() {
    let server = serve(Object::new(vec![1, 2, 3]));
    let source = location(&server.url("/model.tensors")).open(&options()).expect("there");
    for (offset, len) in [(0, 4), (3, 1), (u64::MAX, 1)] {
        let mut buffer = vec![0; len];
        let read = source.read_into(offset, &mut [std::io::IoSliceMut::new(&mut buffer)]);
        let Err(IoError::Io { source, .. }) = read else { panic!("{read:?}") };
        assert_eq!(source.kind(), ErrorKind::UnexpectedEof);
    }
    assert_eq!(server.requests(), 1);
}

/// A server that sends everyone elsewhere.
fn redirecting(to: String) -> Server {
    serve(Object::of(Content::Elsewhere(to)))
}

#[test]
fn redirects_lead_to_the_object_with_range_and_condition() {
    let bytes = file(&[3 * MIB]);
    let object = Object { query: Some("X-Amz-Signature=abc"), ..Object::new(bytes.clone()) };
    let behind = serve(object);
    let front = redirecting(behind.url("/model.tensors?X-Amz-Signature=abc"));
    let remote = open(&front.url("/model.tensors"), &options()).expect("valid");
    assert_eq!(load(&remote, &Selection::all(), &readers(1)).expect("valid"), contents(&bytes));
    assert_eq!((front.requests(), behind.requests()), (3, 2), "the first one once more, to follow");
    let last = &behind.log()[1];
    assert_eq!(last.header("if-match"), Some("\"first\""));
    assert!(last.range().is_some_and(|range| range.start == 512 << 10), "{last:?}");
}

#[test]
fn a_circle_of_redirects_is_refused_at_once() {
    let server = redirecting("/model.tensors".to_owned());
    let opened = open(&server.url("/model.tensors"), &options());
    let Err(IoError::Io { source, .. }) = opened else { panic!("{opened:?}") };
    assert!(source.to_string().contains("too many redirects"), "{source}");
    assert_eq!(server.requests(), 12, "once to see it, and ten redirects of one try");
}

#[test]
fn presigned_urls_keep_their_query_in_every_request() {
    let bytes = file(&[3 * MIB]);
    let query = "X-Amz-Signature=abc%2Fdef&X-Amz-Expires=60";
    let server = serve(Object { query: Some(query), ..Object::new(bytes.clone()) });
    let remote = open(&server.url(&format!("/model.tensors?{query}")), &options()).expect("valid");
    assert_eq!(load(&remote, &Selection::all(), &readers(1)).expect("valid"), contents(&bytes));
    let expired = open(&server.url("/model.tensors?X-Amz-Signature=old"), &options());
    let Err(IoError::Io { source, .. }) = expired else { panic!("{expired:?}") };
    assert_eq!(source.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn a_redirect_to_another_server_collects_no_password() {
    let bytes = file(&[3 * MIB]);
    let behind = serve(Object::new(bytes.clone()));
    let front = redirecting(behind.url("/model.tensors"));
    let url = front.url("/model.tensors").replace("http://", "http://name:password@");
    let remote = open(&url, &options()).expect("valid");
    assert_eq!(load(&remote, &Selection::all(), &readers(2)).expect("valid"), contents(&bytes));
    assert!(front.log().iter().all(|record| record.header("authorization").is_some()));
    assert!(behind.requests() > 1);
    assert!(behind.log().iter().all(|record| record.header("authorization").is_none()));
}

#[test]
fn a_name_and_password_in_the_url_are_sent_and_not_shown() {
    let server = serve(Object::new(file(&[100])));
    let url = server.url("/model.tensors").replace("http://", "http://name:password@");
    let remote = open(&url, &options()).expect("valid");
    assert_eq!(remote.location(), server.url("/model.tensors"));
    assert_eq!(server.log()[0].header("authorization"), Some("Basic bmFtZTpwYXNzd29yZA=="));
}

#[test]
fn nobody_listens() {
    // Bound, so that nobody else gets the port, and not listening.
    let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
    bound.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let url = format!("http://{}/model.tensors", bound.local_addr().expect("bound"));
    let mut options: RemoteOptions = options();
    options.retries = 1;
    let opened = open(&url, &options);
    let Err(IoError::Io { source, .. }) = opened else { panic!("{opened:?}") };
    assert!(source.to_string().contains("Connection refused"), "{source}");
}
