//! A tensor far larger than the memory limit goes through the pool, over HTTP.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tz_io::testing::RecordingPool;
use tz_io::{HeapPool, Piece, PlanOptions, ReadOptions, Selection, WriteOptions, plan_write};

use crate::child::Job;
use crate::model::{PERIOD, open, options, pattern, tensors};
use crate::server::Server;
use crate::server::objects::{Content, Object, Objects};
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 64 * MIB;
const TENSOR: u64 = 1 << 30;

/// A file of one painted tensor, without hashes, that takes no memory.
fn large(len: u64) -> Object {
    let mut options = WriteOptions::default();
    options.hashes = Vec::new();
    let layout = plan_write(&tensors(&[len]), &options).expect("a layout");
    let mut front = layout.encode_front(&layout.options().extension).expect("a front");
    front.extend(layout.encode_header(0, &[], None).expect("a header"));
    assert_eq!(front.len() as u64, layout.entries()[0].data_offset);
    let tail = Bytes::from_static(&[0; 8]);
    Object::of(Content::Repeated { front: front.into(), middle: pattern(), len, tail })
}

#[test]
fn a_large_tensor_streams_within_the_pool() {
    let server = Server::new(Objects::default().with("/model.tensors", large(TENSOR / 4)));
    let remote = open(&server.url("/model.tensors"), &options()).expect("valid");
    let buffer = PlanOptions::object_storage().piece_len + (64 << 10);
    let (buffer_len, buffers) = (usize::try_from(buffer), usize::try_from(LIMIT / buffer));
    let pool = HeapPool::new(buffer_len.expect("small"), buffers.expect("small"));
    let pool = RecordingPool::new(pool.expect("memory"));
    let (pattern, came) = (pattern(), AtomicU64::new(0));
    let take = |piece: Piece| {
        for (part, bytes) in piece.parts() {
            let at = usize::try_from(part.offset % PERIOD as u64).expect("small");
            assert!(*bytes == pattern[at..at + bytes.len()], "painted bytes at {}", part.offset);
            came.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    let stats = remote.stream(&Selection::all(), &ReadOptions::default(), &pool, &take);
    assert_eq!(stats.expect("valid").bytes_delivered, TENSOR / 4);
    assert_eq!(came.into_inner(), TENSOR / 4);
    assert!(pool.acquired() > 4 * pool.most_out(), "buffers went round");
    assert_eq!(pool.out(), 0);
}

#[test]
fn a_process_that_streams_stays_near_its_limit() {
    let server = Server::new(Objects::default().with("/model.tensors", large(TENSOR)));
    let job = Job::new("stream", &server.url("/model.tensors"), "");
    let outcome = job.env("TZ_LIMIT", LIMIT.to_string()).run().expect_ok();
    assert_eq!(outcome.number("bytes"), TENSOR);
    let memory = outcome.number("memory");
    assert!(memory <= LIMIT + 64 * MIB, "{} MiB", memory / MIB);
}

#[test]
fn a_process_of_many_loads_stays_near_their_one_limit() {
    let server = Server::new(Objects::default().with("/model.tensors", large(TENSOR / 8)));
    let job = Job::new("share", &server.url("/model.tensors"), "");
    let outcome = job.env("TZ_LIMIT", LIMIT.to_string()).run().expect_ok();
    assert_eq!(outcome.number("bytes"), TENSOR);
    let memory = outcome.number("memory");
    assert!(memory <= LIMIT + 64 * MIB, "{} MiB", memory / MIB);
}

#[test]
fn a_process_that_uploads_stays_near_its_limit() {
    let server = Server::new(S3::new(None));
    let job = Job::new("save", &(256 * MIB).to_string(), "s3://bucket/model.tensors")
        .env("TZ_LIMIT", LIMIT.to_string())
        .env("TZ_ENDPOINT", server.url(""))
        .env("TZ_KEY_ID", ACCESS_KEY_ID)
        .env("TZ_SECRET", SECRET_ACCESS_KEY);
    let memory = job.run().expect_ok().number("memory");
    assert!(memory <= LIMIT + 64 * MIB, "{} MiB", memory / MIB);
}
