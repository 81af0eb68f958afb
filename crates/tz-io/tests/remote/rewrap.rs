//! Key slots of an object are changed: its header is new, the rest is copied on the server, and the version of
//! somebody else is never replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Method;
use tz_crypto::{FileSealer, Key, SealSecret, SlotChange};
use tz_format::{Element, Limits, TensorSpec};
use tz_io::{
    EarlierRewrap, IoError, Location, MemorySource, OpenOptions, ReadOptions, Rewrapped, Secret,
    Selection, TensorFile, WriteOptions, rewrap, write,
};

use crate::model::signed;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};
use crate::server::s3::S3;
use crate::server::{Record, Reply, Server, body};

const NAME: &str = "folder name+é.tensors";

fn key(byte: u8) -> Key {
    Key::from_bytes(&[byte; 32]).expect("32 bytes")
}

/// A sealed file for key 1 with one tensor of so many bytes.
fn sealed(len: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.tensors");
    let data = vec![7; len];
    let mut source = MemorySource::new();
    let spec = TensorSpec::new("a", Element::Uint8, vec![len as u64]);
    source.push(spec, &data).expect("a tensor");
    let mut options = WriteOptions::default();
    let sealer = FileSealer::sealed(&[SealSecret::Key(key(1))], 1 << 20).expect("a sealer");
    options.seal = Some(sealer.into());
    options.hashes = Vec::new();
    write(&source, &Location::File(path.clone()), &options).expect("written");
    std::fs::read(path).expect("a file")
}

/// A bucket with an object, and its server.
struct Stand {
    s3: S3,
    server: Server,
}

impl Stand {
    fn with(object: &[u8]) -> Self {
        let s3 = S3::new(None);
        s3.put(NAME, object);
        Self { server: Server::new(s3.clone()), s3 }
    }

    fn object(&self) -> Vec<u8> {
        std::fs::read(self.s3.path(NAME)).expect("an object")
    }

    fn options(&self, keys: &[u8]) -> OpenOptions {
        let mut options = OpenOptions::default();
        options.remote = signed(&self.server);
        options.secrets = keys.iter().map(|&byte| Secret::Key(key(byte))).collect();
        options
    }

    /// Gives the object key 2 in the place of key 1, by one of `keys`.
    fn rewrap(&self, keys: &[u8]) -> Result<Rewrapped, IoError> {
        let change = [SlotChange::Replace(0, SealSecret::Key(key(2)))];
        rewrap(&location(), &self.options(keys), &change)
    }

    #[track_caller]
    fn opens(&self, by: u8) -> bool {
        match TensorFile::open_with(&location(), &self.options(&[by])) {
            Ok(file) => {
                assert!(!file.ends_in_journal());
                file.load(&Selection::all(), &ReadOptions::default()).expect("its tensors");
                true
            }
            Err(IoError::Crypto { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn sent(&self, is_wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        self.server.log().iter().filter(|record| is_wanted(record)).cloned().collect()
    }
}

fn location() -> Location {
    Location::parse(&format!("s3://bucket/{NAME}")).expect("a location")
}

fn header_len(file: &[u8]) -> usize {
    let source = tz_io::testing::MemoryFile::new(file);
    let file = TensorFile::from_source(Box::new(source), &Limits::default()).expect("a file");
    usize::try_from(file.front().header.front_len()).expect("small")
}

/// What makes the object visible: a put of all of it, or the completion of an upload.
fn is_last(record: &Record) -> bool {
    let completes = record.method == Method::POST && record.parameter("uploadId").is_some();
    let puts = record.method == Method::PUT && record.parameter("partNumber").is_none();
    completes || puts
}

/// One object that is put anew as a whole, and one whose rest is copied by the server.
const LENS: [usize; 2] = [1 << 20, 12 << 20];

#[test]
fn only_the_header_of_an_object_changes_and_only_in_the_version_that_was_read() {
    for len in LENS {
        let file = sealed(len);
        let stand = Stand::with(&file);
        let done = stand.rewrap(&[1]).expect("rewrapped");
        assert_eq!(done.earlier, None);
        let (now, header) = (stand.object(), header_len(&file));
        assert!(now[header..] == file[header..] && now[..header] != file[..header], "{len}");
        assert!(stand.opens(2) && !stand.opens(1));
        let last = stand.sent(is_last);
        assert_eq!(last.len(), 1);
        assert!(last[0].header("if-match").is_some(), "{:?}", last[0]);
        let read = stand.sent(|record| record.method == Method::GET && record.range().is_some());
        assert!(read.iter().any(|read| read.header("if-match") == last[0].header("if-match")));
        let copied = stand.sent(|record| record.header("x-amz-copy-source-range").is_some());
        let ranges: Vec<_> =
            copied.iter().map(|copy| copy.header("x-amz-copy-source-range")).collect();
        let end = file.len() - 1;
        let expected = format!("bytes={}-{end}", 5 << 20);
        assert_eq!(ranges, if len > 5 << 20 { vec![Some(&*expected)] } else { Vec::new() });
        assert_eq!(stand.s3.uploads(), []);
    }
}

#[test]
fn an_object_that_somebody_replaces_meanwhile_is_left_as_they_made_it() {
    let is_head: fn(&Record) -> bool = |record| record.method == Method::HEAD;
    let is_copy: fn(&Record) -> bool = |record| record.header("x-amz-copy-source-range").is_some();
    for (len, when) in [
        (LENS[0], is_head),
        (LENS[1], is_head),
        (LENS[0], is_last as fn(&Record) -> bool),
        (LENS[1], is_copy),
        (LENS[1], is_last),
    ] {
        let (stand, theirs) = (Stand::with(&sealed(len)), sealed(len));
        let (s3, successor) = (stand.s3.clone(), theirs.clone());
        stand.server.fault(when, Fault::before(move || s3.put(NAME, &successor)));
        let error = stand.rewrap(&[1]).expect_err("refused");
        assert!(matches!(error, IoError::Changed { .. }), "{len}: {error}");
        assert!(stand.object() == theirs, "{len}");
        assert_eq!(stand.s3.uploads(), [], "nothing is left");
    }
}

/// The tag of the header that is read says what it belongs to, whether the server minds `If-Match` or not.
#[test]
fn a_header_with_the_tag_of_another_version_is_not_rewritten() {
    for len in LENS {
        let file = sealed(len);
        for fault in [Fault::header("etag", "\"another\""), Fault::without("etag")] {
            let stand = Stand::with(&file);
            // The read after the one that opens the file; that asks for no version.
            let is_read = |record: &Record| {
                record.method == Method::GET && record.header("if-match").is_some()
            };
            stand.server.fault(is_read, fault);
            let error = stand.rewrap(&[1]).expect_err("refused");
            assert!(matches!(error, IoError::Changed { .. }), "{len}: {error}");
            assert!(stand.object() == file, "{len}");
            assert_eq!(stand.sent(is_last).len() + stand.s3.uploads().len(), 0, "nothing was sent");
        }
    }
}

#[test]
fn a_tag_that_is_longer_than_a_word_is_refused() {
    let file = sealed(LENS[0]);
    for method in [Method::HEAD, Method::GET] {
        let stand = Stand::with(&file);
        let long = format!("\"{}\"", "e".repeat(8 << 10)).leak();
        stand.server.fault(move |record| record.method == method, Fault::header("etag", long));
        let error = stand.rewrap(&[1]).expect_err("refused");
        assert!(matches!(error, IoError::Io { .. }), "{error}");
        assert!(error.to_string().contains("odd etag"), "{error}");
        assert!(stand.object() == file);
    }
}

#[test]
fn a_header_that_comes_packed_is_refused() {
    let file = sealed(LENS[0]);
    let stand = Stand::with(&file);
    let packed = Fault::header("content-encoding", "gzip");
    stand.server.fault(|record| record.header("if-match").is_some(), packed);
    let error = stand.rewrap(&[1]).expect_err("refused");
    assert!(error.to_string().contains("an answer with a Content-Encoding"), "{error}");
    assert!(stand.object() == file);
}

#[test]
fn a_header_that_comes_in_part_is_not_rewritten() {
    for len in LENS {
        let file = sealed(len);
        let stand = Stand::with(&file);
        let front = Bytes::copy_from_slice(&file[..header_len(&file) + 1000]);
        let short = Fault::Edit(Arc::new(move |reply: &mut Reply| {
            reply.headers_mut().insert("content-length", front.len().into());
            *reply.body_mut() = body::frames([front.clone()]);
        }));
        stand.server.fault(|record| record.header("if-match").is_some(), short);
        let error = stand.rewrap(&[1]).expect_err("refused");
        assert!(matches!(error, IoError::Io { .. }), "{len}: {error}");
        assert!(stand.object() == file, "{len}");
    }
}

#[test]
fn two_rewraps_of_an_object_at_once_do_not_lose_one() {
    for len in LENS {
        let stand = Stand::with(&sealed(len));
        // The other one begins and ends just before this one makes its object visible.
        let (others, begun) = (stand.options(&[1]), AtomicBool::new(false));
        let other = move || {
            if !begun.swap(true, Ordering::SeqCst) {
                let others = others.clone();
                let add = || {
                    let change = [SlotChange::Add(SealSecret::Key(key(3)))];
                    rewrap(&location(), &others, &change).expect("the first")
                };
                std::thread::scope(|scope| drop(scope.spawn(add).join().expect("no panic")));
            }
        };
        stand.server.fault(is_last, Fault::before(other));
        let error = stand.rewrap(&[1]).expect_err("the second");
        assert!(matches!(error, IoError::Changed { .. }), "{len}: {error}");
        assert!(stand.opens(1) && stand.opens(3) && !stand.opens(2), "{len}");
        stand.rewrap(&[1]).expect("again");
        assert!(!stand.opens(1) && stand.opens(3) && stand.opens(2), "{len}");
    }
}

#[test]
fn a_store_that_gives_no_tags_is_refused() {
    let file = sealed(100);
    let stand = Stand::with(&file);
    stand.server.fault(|record| record.method == Method::HEAD, Fault::without("etag"));
    let error = stand.rewrap(&[1]).expect_err("refused");
    assert!(matches!(error, IoError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("ETag"), "{error}");
    assert!(stand.object() == file);
}

/// A file that was copied to the store with the journal of a rewrap behind it.
#[test]
fn the_journal_of_an_object_decides_and_is_not_copied() {
    for len in LENS {
        let file = sealed(len);
        let header = header_len(&file);
        let stand = Stand::with(&file);
        stand.rewrap(&[1]).expect("rewrapped");
        let (old, new) = (file[..header].to_vec(), stand.object()[..header].to_vec());
        let journal = tz_crypto::Journal::between(&old, &new, &Limits::default());
        let journal = journal.expect("two headers").to_bytes();
        let differ = old.iter().zip(&new).position(|(old, new)| old != new).expect("changed");
        let torn = [&new[..=differ], &old[differ + 1..]].concat();
        for (front, tail, by, earlier) in [
            (&old, &journal[..], 1, EarlierRewrap::NotDone),
            (&new, &journal[..], 2, EarlierRewrap::Done),
            (&torn, &journal[..], 2, EarlierRewrap::Done),
            (&old, &journal[..100], 1, EarlierRewrap::NotDone),
        ] {
            let stand = Stand::with(&[front, &file[header..], tail].concat());
            let change = [SlotChange::Add(SealSecret::Key(key(3)))];
            let done = rewrap(&location(), &stand.options(&[by]), &change).expect("rewrapped");
            assert_eq!(done.earlier, Some(earlier));
            assert!(stand.object()[header..] == file[header..], "{len}: without the journal");
            assert!(stand.opens(by) && stand.opens(3) && !stand.opens(3 - by));
        }
    }
}

/// A server that ignores ranges gives a stream, and one that states no length ends it when it likes.
#[test]
fn a_journal_behind_a_stream_over_http_is_passed_over_and_anything_else_refused() {
    let file = sealed(100_000);
    let header = header_len(&file);
    let stand = Stand::with(&file);
    stand.rewrap(&[1]).expect("rewrapped");
    let new = stand.object()[..header].to_vec();
    let journal = tz_crypto::Journal::between(&file[..header], &new, &Limits::default());
    let journal = journal.expect("two headers").to_bytes();
    for is_framed in [true, false] {
        let load = |tail: &[u8]| {
            let object = Object { ranges: false, ..Object::new([&*file, tail].concat()) };
            let server = Server::new(Objects::default().with("/a.tensors", object));
            if !is_framed {
                server.fault(|_| true, Fault::Unframed);
            }
            let location = Location::parse(&server.url("/a.tensors")).expect("a location");
            let mut options = OpenOptions::default();
            options.secrets = vec![Secret::Key(key(1))];
            let file = TensorFile::open_with(&location, &options).expect("its header");
            assert_eq!(file.source().len(), None);
            let loaded = file.load(&Selection::all(), &ReadOptions::default());
            loaded.map(|_| file.ends_in_journal())
        };
        for (tail, is_journal) in [(&journal[..], true), (&journal[..50], true), (&[], false)] {
            assert_eq!(load(tail).expect("loaded"), is_journal);
        }
        for tail in [&b"x"[..], &[&journal[..], &[0]].concat(), &[7; 100_000]] {
            let error = load(tail).expect_err("refused");
            assert!(matches!(error, IoError::Crypto { .. }), "{error}");
        }
    }
}
