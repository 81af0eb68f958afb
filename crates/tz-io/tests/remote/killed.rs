//! A writer that is killed leaves no object, and its upload can be found and removed.

use tz_io::{RemoteLocation, unfinished_uploads};

use crate::child::Job;
use crate::model::{location, object, signed};
use crate::server::fault::Fault;
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};
use crate::server::{Record, Server};
use crate::upload::{KEY, MIB, is_completion, part};

fn save(server: &Server) -> Job {
    Job::new("save", &(64 * MIB).to_string(), &format!("s3://bucket/{KEY}"))
        .env("TZ_ENDPOINT", server.url(""))
        .env("TZ_KEY_ID", ACCESS_KEY_ID)
        .env("TZ_SECRET", SECRET_ACCESS_KEY)
        .env("TZ_LOG", "1")
}

fn remote(text: &str) -> RemoteLocation {
    match location(text) {
        tz_io::Location::Remote(location) => location,
        other => panic!("{other}"),
    }
}

/// Kills a writer when this request of its has come, which is never answered.
fn killed_at(is_it: fn(&Record) -> bool) -> (S3, Server) {
    let s3 = S3::new(None);
    let server = Server::new(s3.clone());
    server.fault(is_it, Fault::Silence);
    let mut child = save(&server).spawn();
    server.wait_for(is_it);
    // SIGKILL: nothing of the child runs any more.
    child.kill().expect("a child");
    child.wait().expect("a child");
    server.forgive();
    (s3, server)
}

#[test]
fn a_killed_writer_leaves_no_object_and_the_next_one_names_its_upload() {
    // With some parts sent, and with all of them.
    for is_it in [|record: &Record| part(record) == Some(3), is_completion] {
        let (s3, server) = killed_at(is_it);
        assert!(!s3.path(KEY).exists(), "nothing is visible");
        let left: Vec<String> = s3.uploads().into_iter().map(|(id, _)| id).collect();
        assert_eq!(left.len(), 1, "one upload was under way");

        let outcome = save(&server).run().expect_ok();
        let warning = "an earlier upload of this object was never finished";
        assert!(outcome.log.contains(warning) && outcome.log.contains(&left[0]), "{}", outcome.log);
        assert!(s3.path(KEY).exists(), "the next writer is not kept from its work");

        let uri = format!("s3://bucket/{KEY}");
        let options = signed(&server);
        assert_eq!(unfinished_uploads(&remote(&uri), &options, false).expect("listed"), left);
        assert_eq!(unfinished_uploads(&remote(&uri), &options, true).expect("removed"), left);
        assert_eq!(unfinished_uploads(&remote(&uri), &options, true).expect("none"), [""; 0]);
        assert_eq!(s3.leftovers(), [""; 0], "no part is left");
        assert!(s3.path(KEY).exists(), "the object stays");
    }
}

#[test]
fn uploads_of_other_keys_are_left_alone() {
    let (s3, server) = killed_at(|record| part(record) == Some(2));
    let options = signed(&server);
    for key in ["model", "model.tensors.bak", "other"] {
        let other = remote(&object(key).to_string());
        assert_eq!(unfinished_uploads(&other, &options, true).expect("none"), [""; 0]);
    }
    assert_eq!(s3.uploads().len(), 1);
}

#[test]
fn a_store_that_lists_no_uploads_is_written_all_the_same() {
    for fault in [Fault::Status(501, &[], ""), Fault::Status(403, &[], ""), Fault::HangUp] {
        let s3 = S3::new(None);
        let server = Server::new(s3.clone());
        server.fault(|record| record.method == http::Method::GET, fault);
        save(&server).run().expect_ok();
        assert!(s3.path(KEY).exists());
    }
}
