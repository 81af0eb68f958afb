//! Uploads: parts of one size in any order, the front last, nothing visible before the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Method;
use tz_io::testing::paint;
use tz_io::{
    IoError, Location, MemorySource, OpenOptions, RemoteOptions, TensorFile, TensorSource,
    WriteOptions, write,
};

use crate::model::{Tensors, file, impatient, object, signed, tensors, writing};
use crate::server::fault::Fault;
use crate::server::s3::S3;
use crate::server::{Record, Server};

pub(crate) const MIB: u64 = 1 << 20;
/// Four parts: three of 16 MiB and a short one.
pub(crate) const LENS: [u64; 3] = [30 * MIB, 1000, 25 * MIB];
pub(crate) const KEY: &str = "model.tensors";

/// The number of the part that a request carries.
pub(crate) fn part(record: &Record) -> Option<u64> {
    record.parameter("partNumber")?.parse().ok()
}

pub(crate) fn is_start(record: &Record) -> bool {
    record.method == Method::POST && record.parameter("uploads").is_some()
}

pub(crate) fn is_completion(record: &Record) -> bool {
    record.method == Method::POST && record.parameter("uploadId").is_some()
}

pub(crate) fn is_abort(record: &Record) -> bool {
    record.method == Method::DELETE && record.parameter("uploadId").is_some()
}

/// The first request for which `is_it` holds, once.
pub(crate) fn first(
    is_it: impl Fn(&Record) -> bool + Send + 'static,
) -> impl Fn(&Record) -> bool + Send + 'static {
    let seen = AtomicBool::new(false);
    move |record| is_it(record) && !seen.swap(true, Ordering::SeqCst)
}

/// A new server to write tensors to.
pub(crate) struct Upload {
    pub(crate) s3: S3,
    pub(crate) server: Server,
    pub(crate) options: WriteOptions,
}

impl Upload {
    pub(crate) fn new() -> Self {
        Self::with(signed)
    }

    pub(crate) fn with(remote: impl Fn(&Server) -> RemoteOptions) -> Self {
        let mut upload = Self::of(S3::new(None));
        upload.options.remote = remote(&upload.server);
        upload
    }

    fn of(s3: S3) -> Self {
        let server = Server::new(s3.clone());
        let options = writing(signed(&server));
        Self { s3, server, options }
    }

    pub(crate) fn write(&self, source: &dyn TensorSource) -> Result<(), IoError> {
        write(source, &object(KEY), &self.options).map(drop)
    }

    pub(crate) fn count(&self, is_it: impl Fn(&Record) -> bool) -> usize {
        self.server.log().iter().filter(|record| is_it(record)).count()
    }

    /// The object is the file of `lens`, and nothing else is left.
    #[track_caller]
    pub(crate) fn check_done(&self, lens: &[u64]) {
        let uploaded = std::fs::read(self.s3.path(KEY)).expect("visible");
        assert!(uploaded == file(lens), "the object is not the file");
        assert_eq!(self.s3.leftovers(), [""; 0]);
    }

    /// There is no object, and nothing else is left.
    #[track_caller]
    pub(crate) fn check_undone(&self) {
        assert!(!self.s3.path(KEY).exists(), "nothing is visible");
        assert_eq!(self.s3.leftovers(), [""; 0]);
        assert_eq!(self.count(is_abort), 1, "{:?}", self.server.log());
    }
}

/// Options under which a stalled server is given up soon.
pub(crate) fn impatient_signed(server: &Server) -> RemoteOptions {
    let mut options = signed(server);
    (options.stall_timeout, options.retries) = (impatient().stall_timeout, impatient().retries);
    options
}

#[test]
fn a_small_file_is_put_in_one_request() {
    let upload = Upload::new();
    upload.write(&tensors(&[1000, 0, 2000])).expect("written");
    upload.check_done(&[1000, 0, 2000]);
    let log = upload.server.log();
    assert_eq!((log.len(), &log[0].method), (1, &Method::PUT));
    assert_eq!(log[0].query, None);
}

#[test]
fn a_large_file_goes_in_parts_of_one_size() {
    let upload = Upload::new();
    upload.write(&tensors(&LENS)).expect("written");
    upload.check_done(&LENS);
    let log = upload.server.log();
    let parts: Vec<_> = log.iter().filter_map(|record| Some((part(record)?, record))).collect();
    let len = |record: &Record| record.header("content-length").and_then(|len| len.parse().ok());
    let mut lens: Vec<(u64, Option<u64>)> =
        parts.iter().map(|&(part, record)| (part, len(record))).collect();
    lens.sort_unstable();
    let whole = std::fs::metadata(upload.s3.path(KEY)).expect("visible").len();
    let rest = whole - 3 * 16 * MIB;
    let expect = [16 * MIB, 16 * MIB, 16 * MIB, rest].map(Some);
    assert_eq!(lens, (1..).zip(expect).collect::<Vec<_>>());
    assert!(log.last().is_some_and(is_completion), "{log:?}");
    assert_eq!(log.len(), 4 + 3, "a look for leftovers, a start, four parts, an end");
}

/// Counts the bytes that were read of it.
struct Counting {
    inner: Tensors,
    read: Arc<AtomicU64>,
}

impl TensorSource for Counting {
    fn specs(&self) -> &[tz_format::TensorSpec] {
        self.inner.specs()
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::SeqCst);
        self.inner.read_at(index, offset, buf)
    }
}

#[test]
fn the_front_goes_when_everything_has_been_read() {
    let upload = Upload::new();
    let (read, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (now, then) = (Arc::clone(&read), Arc::clone(&seen));
    let note = Fault::before(move || then.store(now.load(Ordering::SeqCst), Ordering::SeqCst));
    upload.server.fault(|record| part(record) == Some(1), note);
    upload.write(&Counting { inner: tensors(&LENS), read }).expect("written");
    assert_eq!(seen.load(Ordering::SeqCst), LENS.iter().sum::<u64>());
}

#[test]
fn public_buckets_are_written_without_a_signature() {
    let mut upload = Upload::of(S3::public());
    upload.options.remote.s3.access_key_id = None;
    upload.options.remote.s3.secret_access_key = None;
    upload.options.remote.s3.anonymous = true;
    upload.write(&tensors(&LENS)).expect("written");
    upload.check_done(&LENS);
    assert_eq!(
        upload.count(|record| record.query.as_ref().is_some_and(|q| q.contains("X-Amz"))),
        0
    );
}

#[test]
fn parts_are_in_flight_together() {
    let upload = Upload::new();
    // Parts 2 and 3 are answered once both have come: one at a time would wait forever.
    upload.server.meet_if(|record| matches!(part(record), Some(2 | 3)), 2);
    upload.write(&tensors(&LENS)).expect("written");
    upload.check_done(&LENS);
}

#[test]
fn parts_shrink_with_the_memory() {
    let mut upload = Upload::new();
    upload.options.memory_limit = Some(32 * MIB);
    upload.write(&tensors(&LENS)).expect("written");
    upload.check_done(&LENS);
    let parts = upload.server.log().iter().filter_map(part).max();
    assert_eq!(parts, Some(10), "55 MiB in parts of 6 MiB");
}

#[test]
fn what_was_uploaded_is_read_back() {
    let upload = Upload::new();
    let (small, large) = (paint(1, 1000), paint(2, 20 * MIB));
    let mut source = MemorySource::new();
    for (name, bytes) in [("small", &small), ("large", &large)] {
        let len = bytes.len() as u64;
        let spec = tz_format::TensorSpec::new(name, tz_format::Element::Uint8, vec![len]);
        source.push(spec, bytes).expect("it fits");
    }
    upload.write(&source).expect("written");
    let mut opening = OpenOptions::default();
    opening.remote = upload.options.remote.clone();
    let remote = TensorFile::open_with(&object(KEY), &opening).expect("valid");
    let all = tz_io::Selection::all();
    assert_eq!(remote.verify(&all, &Default::default()).expect("read"), []);
    let tensors = remote.load(&all, &Default::default()).expect("valid");
    assert!(tensors.iter().map(|tensor| tensor.bytes()).eq([&small[..], &large[..]]));
}

#[test]
fn keys_of_any_characters() {
    let upload = Upload::new();
    let key = "a b+c/d%20e=f&g?h#i'\"é名.tensors";
    std::fs::create_dir(upload.s3.path("a b+c")).expect("folder");
    for lens in [&[1000][..], &LENS] {
        write(&tensors(lens), &object(key), &upload.options).expect("written");
        let uploaded = std::fs::read(upload.s3.path(key)).expect("visible");
        assert!(uploaded == file(lens));
        let mut opening = OpenOptions::default();
        opening.remote = upload.options.remote.clone();
        let remote = TensorFile::open_with(&object(key), &opening).expect("valid");
        assert_eq!(remote.entries().len(), lens.len());
    }
}

#[test]
fn an_object_that_is_there_is_replaced_only_where_that_is_wanted() {
    // One that is put in one request, one in parts.
    for lens in [&[1000][..], &LENS] {
        let mut upload = Upload::new();
        upload.s3.put(KEY, b"another");
        upload.options.create_only = true;
        let error = upload.write(&tensors(lens)).expect_err("refused");
        let IoError::Io { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(upload.s3.path(KEY)).expect("still there"), b"another");
        assert_eq!(upload.count(|record| part(record).is_some()), 0, "no part was sent in vain");
        upload.options.create_only = false;
        upload.write(&tensors(lens)).expect("replaced");
        upload.check_done(lens);
    }
}

#[test]
fn an_object_that_appears_during_the_upload_is_not_replaced() {
    let mut upload = Upload::new();
    upload.options.create_only = true;
    let s3 = upload.s3.clone();
    let appear = Fault::before(move || s3.put(KEY, b"another"));
    upload.server.fault(first(|record| part(record).is_some()), appear);
    let error = upload.write(&tensors(&LENS)).expect_err("refused");
    let IoError::Io { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(upload.s3.path(KEY)).expect("still there"), b"another");
    assert_eq!(upload.s3.leftovers(), [""; 0]);
    let log = upload.server.log();
    let completion = log.iter().find(|record| is_completion(record)).expect("it was tried");
    assert_eq!(completion.header("if-none-match"), Some("*"));
}

#[test]
fn a_new_object_is_created_under_the_condition() {
    for lens in [&[1000][..], &LENS] {
        let mut upload = Upload::new();
        upload.options.create_only = true;
        upload.write(&tensors(lens)).expect("created");
        upload.check_done(lens);
        let last = upload.server.log().pop().expect("a request");
        assert_eq!(last.header("if-none-match"), Some("*"), "{last:?}");
    }
}

#[test]
fn http_servers_are_not_written_to() {
    let url = Location::parse("http://127.0.0.1:1/model.tensors").expect("a location");
    let refused = write(&tensors(&[1000]), &url, &WriteOptions::default());
    assert!(matches!(refused, Err(IoError::Unsupported { .. })), "{refused:?}");
}
