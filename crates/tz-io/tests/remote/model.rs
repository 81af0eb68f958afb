//! What the servers serve and how the tests read it. Owns the model of the remote tests and its options.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tz_format::{Element, TensorSpec};
use tz_io::testing::paint;
use tz_io::{
    BufferPool, IoError, Location, OpenOptions, Piece, ReadOptions, RemoteOptions, Selection,
    TensorFile, TensorSource, WriteOptions, write,
};

use crate::server::Server;
use crate::server::s3::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY};

/// Painted bytes repeat after this many.
pub(crate) const PERIOD: usize = 251;

/// The first bytes of painted tensor 0, for whoever needs many of them: whole periods, longer than any piece.
pub(crate) fn pattern() -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    let paint = || Bytes::from(paint(0, (18 << 20) / PERIOD as u64 * PERIOD as u64));
    PATTERN.get_or_init(paint).clone()
}

/// Painted tensors that are copied rather than computed: tests write many of them.
pub(crate) struct Tensors {
    specs: Vec<TensorSpec>,
    pattern: Bytes,
}

impl TensorSource for Tensors {
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).expect("small");
        let at = (index * 17 + offset) % PERIOD;
        buf.copy_from_slice(&self.pattern[at..at + buf.len()]);
        Ok(())
    }
}

/// Tensors `t0`, `t1`, … of these lengths.
pub(crate) fn tensors(lens: &[u64]) -> Tensors {
    let spec = |(i, &len)| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![len]);
    Tensors { specs: lens.iter().enumerate().map(spec).collect(), pattern: pattern() }
}

/// The bytes of a file of such tensors.
pub(crate) fn file(lens: &[u64]) -> Vec<u8> {
    file_with(lens, &WriteOptions::default())
}

/// The bytes of a file whose index is longer than what the first request brings.
pub(crate) fn file_with_long_index(lens: &[u64]) -> Vec<u8> {
    let mut options = WriteOptions::default();
    let note = ("note".to_owned(), "x".repeat(600 << 10).into());
    options.user_metadata = Some(std::iter::once(note).collect());
    file_with(lens, &options)
}

fn file_with(lens: &[u64], options: &WriteOptions) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.tensors");
    let mut options = options.clone();
    options.fsync = false;
    write(&tensors(lens), &Location::File(path.clone()), &options).expect("writable");
    std::fs::read(path).expect("written")
}

pub(crate) fn location(uri: &str) -> Location {
    Location::parse(uri).expect("a location")
}

/// Options that ask nobody for credentials.
pub(crate) fn options() -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.s3.anonymous = true;
    options
}

/// Options that know the keys of the test server.
pub(crate) fn signed(server: &Server) -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.s3.access_key_id = Some(ACCESS_KEY_ID.to_owned());
    options.s3.secret_access_key = Some(SECRET_ACCESS_KEY.to_owned());
    options.s3.endpoint = Some(server.url(""));
    options.s3.region = Some("us-east-1".to_owned());
    options
}

/// Options of writes with these servers.
pub(crate) fn writing(remote: RemoteOptions) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.fsync = false;
    options.remote = remote;
    options
}

/// Options under which a test of a stall need not wait long. A slow machine stalls by itself, maybe many times in a row:
/// that must cost time only, so there are many retries.
pub(crate) fn impatient() -> RemoteOptions {
    let mut options = options();
    options.stall_timeout = Duration::from_millis(250);
    options.retries = 100;
    options
}

/// An object of the test bucket.
pub(crate) fn object(key: &str) -> Location {
    location(&format!("s3://{BUCKET}/{key}"))
}

pub(crate) fn open(uri: &str, remote: &RemoteOptions) -> Result<TensorFile, IoError> {
    let mut options = OpenOptions::default();
    options.remote = remote.clone();
    TensorFile::open_with(&location(uri), &options)
}

pub(crate) fn readers(readers: usize) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.readers = Some(readers);
    options
}

/// Bytes of every tensor by name, as `bytes` of the whole file hold them.
pub(crate) fn contents(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let source = tz_io::testing::MemoryFile::new(bytes);
    let file = TensorFile::from_source(Box::new(source), &Default::default()).expect("valid");
    let at = |value: u64| usize::try_from(value).expect("small");
    let tensor = |entry: &tz_format::TensorEntry| {
        let data = at(entry.data_offset)..at(entry.data_offset + entry.data_len);
        (entry.path.to_string(), bytes[data].to_vec())
    };
    file.entries().iter().map(tensor).collect()
}

/// Loads the selected tensors into memory.
pub(crate) fn load(
    file: &TensorFile,
    selection: &Selection,
    options: &ReadOptions,
) -> Result<BTreeMap<String, Vec<u8>>, IoError> {
    let tensors = file.load(selection, options)?;
    let tensor =
        |tensor: &tz_io::HostTensor| (tensor.entry().path.to_string(), tensor.bytes().to_vec());
    Ok(tensors.iter().map(tensor).collect())
}

/// Collects what `stream` delivers; every byte must come exactly once.
pub(crate) fn stream(
    file: &TensorFile,
    options: &ReadOptions,
    pool: &dyn BufferPool,
) -> Result<BTreeMap<String, Vec<u8>>, IoError> {
    let entries = file.entries();
    let place = |entry: &tz_format::TensorEntry| {
        let len = usize::try_from(entry.data_len).expect("small");
        Mutex::new((vec![0; len], 0))
    };
    let places: Vec<_> = entries.iter().map(place).collect();
    let take = |piece: Piece| {
        for (part, bytes) in piece.parts() {
            let mut place = places[part.tensor].lock().expect("no panic");
            let at = usize::try_from(part.offset).expect("small");
            place.0[at..at + bytes.len()].copy_from_slice(bytes);
            place.1 += bytes.len();
        }
        Ok(())
    };
    file.stream(&Selection::all(), options, pool, &take)?;
    let tensor = |(entry, place): (&tz_format::TensorEntry, Mutex<(Vec<u8>, usize)>)| {
        let (bytes, came) = place.into_inner().expect("no panic");
        assert_eq!(came, bytes.len(), "{} came once", entry.path);
        (entry.path.to_string(), bytes)
    };
    Ok(entries.iter().zip(places).map(tensor).collect())
}
