//! A set flag ends every wait for a server: the one of the servers, of one load and of one write.

use std::time::Duration;

use tz_io::{
    Algorithm, Cancel, HeapPool, IoError, Location, ReadOptions, RemoteOptions, Selection,
    WriteOptions, copy, digest,
};

use crate::model::{file, load, location, open, options, readers, stream};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};

/// Sets `cancel` once `server` has seen so many requests, and expects `work` to end by it: nothing else ends it within
/// the hour.
#[track_caller]
fn ends<T: std::fmt::Debug>(
    server: &Server,
    requests: usize,
    cancel: &Cancel,
    work: impl FnOnce() -> Result<T, IoError>,
) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.wait_for(|record| record.number + 1 >= requests);
            cancel.cancel();
        });
        let result = work();
        assert!(matches!(result, Err(IoError::Cancelled)), "{result:?}");
    });
}

fn server(from: usize, fault: &Fault) -> Server {
    let object = Object::new(file(&[700 << 10, 2 << 20, 900]));
    let server = Server::new(Objects::default().with("/model.tensors", object));
    server.fault(move |record| record.number >= from, fault.clone());
    server
}

fn patient(direct: bool) -> RemoteOptions {
    let mut options = options();
    options.stall_timeout = Duration::from_secs(3600);
    options.retries = u32::MAX;
    options.direct = direct;
    options
}

#[test]
fn cancelling_ends_every_wait() {
    // Ways to keep a client waiting, and the requests that show that it does.
    let busy = Fault::Status(503, &[], "");
    let faults = [(Fault::Silence, 1), (Fault::Stall { after: 1000 }, 1), (busy, 2)];
    for (direct, (fault, requests)) in
        [true, false].into_iter().flat_map(|direct| faults.clone().map(|fault| (direct, fault)))
    {
        let opening = server(0, &fault);
        let options = patient(direct);
        let url = opening.url("/model.tensors");
        ends(&opening, requests, &options.cancel, || open(&url, &options).map(drop));

        let reading = server(1, &fault);
        let opened = open(&reading.url("/model.tensors"), &patient(direct)).expect("open");
        let (all, read) = (Selection::all(), readers(3));
        ends(&reading, 1 + requests, &read.cancel, || load(&opened, &all, &read));
        let (read, requests) = (readers(3), reading.requests() + requests);
        let pool = HeapPool::new(256 << 10, 3).expect("memory");
        ends(&reading, requests, &read.cancel, || stream(&opened, &read, &pool));
        let (read, requests) = (readers(3), reading.requests() + 1);
        ends(&reading, requests, &read.cancel, || opened.checksum(&all, Algorithm::Crc32, &read));
        reading.forgive();
        load(&opened, &all, &readers(3)).expect("the file stays open for other loads");
    }
}

#[test]
fn cancelling_ends_digests_and_copies() {
    let folder = tempfile::tempdir().expect("folder");
    let destination = Location::File(folder.path().join("out"));
    let silent = server(0, &Fault::Silence);
    let source = location(&silent.url("/model.tensors"));
    let (remote, read) = (patient(true), ReadOptions::default());
    ends(&silent, 1, &read.cancel, || digest(&source, &remote, &read));
    let mut options = WriteOptions::default();
    options.remote = patient(true);
    ends(&silent, 2, &options.cancel, || copy(&source, &destination, &options));
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
}
