//! Copies between disk, HTTP and S3, every byte equal, and what breaks them.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use tempfile::TempDir;
use tz_io::{IoError, Location, WriteOptions, copy};

use crate::model::{file, file_with_long_index, object, signed, writing};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};
use crate::server::s3::S3;
use crate::upload::{MIB, is_abort, part};

/// Disk, an HTTP server and an S3 server.
struct Places {
    folder: TempDir,
    objects: Objects,
    http: Server,
    s3: S3,
    bucket: Server,
    options: WriteOptions,
}

const FROM: &str = "from.tensors";
const TO: &str = "to.tensors";

impl Places {
    fn new() -> Self {
        let (objects, s3) = (Objects::default(), S3::new(None));
        let (http, bucket) = (Server::new(objects.clone()), Server::new(s3.clone()));
        let options = writing(signed(&bucket));
        let folder = tempfile::tempdir().expect("folder");
        Self { folder, objects, http, s3, bucket, options }
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts `bytes` everywhere; gives where they are.
    fn put(&self, bytes: &[u8]) -> [Location; 3] {
        fs::write(self.disk(FROM), bytes).expect("written");
        self.objects.put("/from.tensors", Object::new(bytes.to_vec()));
        self.s3.put(FROM, bytes);
        let http = Location::parse(&self.http.url("/from.tensors")).expect("a location");
        [Location::File(self.disk(FROM)), http, object(FROM)]
    }

    fn copy(&self, from: &Location, to: &Location) -> Result<usize, IoError> {
        copy(from, to, &self.options).map(|report| report.tensors_checked)
    }
}

#[test]
fn every_direction_copies_every_byte() {
    let long_index = file_with_long_index(&[9 * MIB, 1000]);
    let plain = vec![7; 20_000_001];
    // Small, of several parts, with a long index, not a .tensors file, and empty.
    let files = [&file(&[1000, 0, 2000]), &file(&[30 * MIB, 1000, 9 * MIB]), &long_index, &plain];
    for (bytes, tensors) in files.into_iter().zip([3, 3, 2, 0]) {
        let places = Places::new();
        for from in places.put(bytes) {
            let disk = Location::File(places.disk(TO));
            assert_eq!(places.copy(&from, &disk).expect("copied"), tensors, "{from} to disk");
            assert!(fs::read(places.disk(TO)).expect("a copy") == *bytes, "{from} to disk");
            fs::remove_file(places.disk(TO)).expect("removed");
            assert_eq!(places.copy(&from, &object(TO)).expect("copied"), tensors, "{from} to S3");
            assert!(fs::read(places.s3.path(TO)).expect("a copy") == *bytes, "{from} to S3");
            fs::remove_file(places.s3.path(TO)).expect("removed");
        }
        assert_eq!(places.s3.leftovers(), [""; 0]);
    }
}

/// A copy of a file of two parts from HTTP fails and leaves nothing at either kind of destination.
#[track_caller]
fn check(spoil: impl Fn(&Places), expect: impl Fn(&IoError) -> bool) {
    for to_s3 in [false, true] {
        let places = Places::new();
        let [_, from, _] = places.put(&file(&[30 * MIB, 1000, 9 * MIB]));
        spoil(&places);
        let to = if to_s3 { object(TO) } else { Location::File(places.disk(TO)) };
        let error = places.copy(&from, &to).expect_err("spoiled");
        assert!(expect(&error), "{error:?}");
        assert!(!places.s3.path(TO).exists() && !places.disk(TO).exists());
        assert_eq!(places.s3.leftovers(), [""; 0]);
        assert_eq!(places.bucket.log().iter().filter(|r| is_abort(r)).count(), usize::from(to_s3));
        let names = fs::read_dir(places.folder.path()).expect("folder");
        assert_eq!(names.count(), 1, "no temporary file is left");
    }
}

#[test]
fn a_source_that_is_replaced_during_the_copy_is_an_error() {
    let swap = |places: &Places| {
        let objects = places.objects.clone();
        let other = file(&[9 * MIB, 1000, 30 * MIB]);
        let other = Object { etag: Some("\"second\""), ..Object::new(other) };
        let swap = Fault::before(move || objects.put("/from.tensors", other.clone()));
        places.http.fault(|record| record.number == 2, swap);
    };
    check(swap, |error| matches!(error, IoError::Changed { .. }));
}

#[test]
fn a_source_that_vanishes_during_the_copy_is_an_error() {
    let remove = |places: &Places| {
        let objects = places.objects.clone();
        let remove = Fault::before(move || objects.remove("/from.tensors"));
        places.http.fault(|record| record.number == 2, remove);
    };
    let is_missing = |error: &IoError| matches!(error, IoError::Io { source, .. } if source.kind() == ErrorKind::NotFound);
    check(remove, is_missing);
}

#[test]
fn a_damaged_source_is_not_copied() {
    let damage = |places: &Places| {
        let mut bytes = file(&[30 * MIB, 1000, 9 * MIB]);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        places.objects.put("/from.tensors", Object::new(bytes));
    };
    check(damage, |error| matches!(error, IoError::Corrupt { .. }));
}

#[test]
fn a_destination_that_is_there_is_replaced_only_where_that_is_wanted() {
    let mut places = Places::new();
    let bytes = file(&[30 * MIB]);
    let [disk, ..] = places.put(&bytes);
    for to in [object(TO), Location::File(places.disk(TO))] {
        places.s3.put(TO, b"another");
        fs::write(places.disk(TO), b"another").expect("written");
        places.options.create_only = true;
        let error = places.copy(&disk, &to).expect_err("refused");
        let IoError::Io { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), ErrorKind::AlreadyExists);
        places.options.create_only = false;
        places.copy(&disk, &to).expect("replaced");
        let copies =
            [places.s3.path(TO), places.disk(TO)].map(|path| fs::read(path).expect("a copy"));
        assert_eq!(copies.iter().filter(|copy| **copy == bytes).count(), 1, "{to}");
    }
}

#[test]
fn faults_on_both_sides_pass() {
    let bytes = file(&[90 * MIB, 1000, 30 * MIB]);
    let faults = [
        Fault::HangUp,
        Fault::Reset { after: 5000 },
        Fault::Truncate { after: 5000 },
        Fault::Status(503, &[], ""),
    ];
    for (seed, fault) in (1..).zip(faults) {
        let mut places = Places::new();
        places.options.memory_limit = Some(32 * MIB);
        let [_, from, _] = places.put(&bytes);
        places.http.fault_share(0.1, seed, fault.clone());
        places.bucket.fault_share(0.1, seed, fault);
        places.copy(&from, &object(TO)).expect("every fault passes");
        assert!(fs::read(places.s3.path(TO)).expect("a copy") == bytes);
        assert!(places.bucket.log().iter().any(|record| part(record).is_some()));
    }
}

#[test]
fn a_source_without_a_length_is_refused() {
    let places = Places::new();
    let object = Object { ranges: false, ..Object::new(file(&[1000])) };
    places.objects.put("/from.tensors", object);
    let from = Location::parse(&places.http.url("/from.tensors")).expect("a location");
    let error = places.copy(&from, &Location::File(places.disk(TO))).expect_err("refused");
    assert!(matches!(error, IoError::Unsupported { .. }), "{error:?}");
    assert!(!places.disk(TO).exists());
}
