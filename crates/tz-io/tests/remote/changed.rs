//! An object that is replaced while it is read is an error of its own, never mixed bytes.

use tz_io::testing::RecordingPool;
use tz_io::{HeapPool, IoError, Selection};

use crate::model::{contents, file, load, open, options, readers, stream};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};

const MIB: u64 = 1 << 20;

/// Opens `old`, replaces it by `new` as soon as the load has begun, and loads both ways.
#[track_caller]
fn check(old: &Object, new: &Object) {
    for (direct, through_pool) in [(true, false), (true, true), (false, false), (false, true)] {
        let objects = Objects::default().with("/model.tensors", old.clone());
        let server = Server::new(objects.clone());
        let successor = new.clone();
        let swap = Fault::before(move || objects.put("/model.tensors", successor.clone()));
        server.fault(|record| record.number == 2, swap);
        let mut remote_options = options();
        remote_options.direct = direct;
        let remote = open(&server.url("/model.tensors"), &remote_options).expect("valid");
        let pool = RecordingPool::new(HeapPool::new(256 << 10, 3).expect("memory"));
        let result = match through_pool {
            true => stream(&remote, &readers(2), &pool),
            false => load(&remote, &Selection::all(), &readers(2)),
        };
        assert!(matches!(result, Err(IoError::Changed { .. })), "{result:?}");
        assert_eq!(remote.source().counters().retries, 0, "it is not tried again");
        assert_eq!(pool.out(), 0);
        let message = result.expect_err("changed").to_string();
        assert!(message.contains("the object was replaced while it was being read"), "{message}");
    }
}

fn old() -> Object {
    Object::new(file(&[9 * MIB, 10 * MIB, 900]))
}

/// Another object of the same length.
fn new() -> Object {
    Object { etag: Some("\"second\""), ..Object::new(file(&[10 * MIB, 9 * MIB, 900])) }
}

#[test]
fn an_object_replaced_under_another_tag_is_refused_by_the_server() {
    check(&old(), &new());
}

#[test]
fn an_object_replaced_on_a_server_without_if_match_is_noticed_by_its_tag() {
    let deaf = |object| Object { if_match: false, ..object };
    check(&deaf(old()), &deaf(new()));
}

#[test]
fn an_object_replaced_on_a_server_without_tags_is_noticed_by_its_date() {
    let untagged = |object| Object { etag: None, ..object };
    let later = Some("Mon, 23 Nov 2026 10:00:01 GMT");
    check(&untagged(old()), &Object { last_modified: later, ..untagged(new()) });
}

#[test]
fn an_object_replaced_by_a_longer_or_shorter_one_is_noticed_without_tag_and_date() {
    let bare = |lens: &[u64]| Object { etag: None, last_modified: None, ..Object::new(file(lens)) };
    check(&bare(&[9 * MIB, 10 * MIB]), &bare(&[9 * MIB, 11 * MIB]));
    check(&bare(&[9 * MIB, 10 * MIB]), &bare(&[1000]));
}

#[test]
fn an_object_touched_but_not_replaced_is_read_on() {
    let bytes = file(&[9 * MIB, 10 * MIB]);
    let object = Object::new(bytes.clone());
    let objects = Objects::default().with("/model.tensors", object.clone());
    let server = Server::new(objects.clone());
    let touched = Object { last_modified: Some("Mon, 23 Nov 2026 11:00:00 GMT"), ..object };
    server.fault(|_| true, Fault::before(move || objects.put("/model.tensors", touched.clone())));
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let loaded = load(&remote, &Selection::all(), &readers(2)).expect("the same bytes");
    assert_eq!(loaded, contents(&bytes), "the tag decides where there is one");
}

#[test]
fn a_transfer_that_breaks_goes_on_with_the_same_object_only() {
    let objects = Objects::default().with("/model.tensors", old());
    let server = Server::new(objects.clone());
    server.fault(|record| record.number == 1, Fault::Truncate { after: 5000 });
    let swap = Fault::before(move || objects.put("/model.tensors", new()));
    server.fault(|record| record.number == 2, swap);
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let result = load(&remote, &Selection::all(), &readers(1));
    assert!(matches!(result, Err(IoError::Changed { .. })), "{result:?}");
    assert_eq!((server.requests(), remote.source().counters().retries), (3, 1));
}

#[test]
fn an_object_removed_while_it_is_read_is_not_found() {
    let objects = Objects::default().with("/model.tensors", old());
    let server = Server::new(objects.clone());
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    objects.remove("/model.tensors");
    let result = load(&remote, &Selection::all(), &readers(2));
    let Err(IoError::Io { source, .. }) = result else { panic!("{result:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}
