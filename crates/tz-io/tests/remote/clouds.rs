//! Google Cloud Storage by URI, with credentials from their usual place. Azure is tried against Azurite by `cargo xtask
//! roundtrip`: an emulator that we did not write.

use crate::child::{Job, Outcome};
use crate::model::file;
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::google::{Account, Google};

const MIB: u64 = 1 << 20;
const URI: &str = "gs://bucket/model.tensors";
const PATH: &str = "/bucket/model.tensors";

/// A job that knows the account, in a world where the service is this server.
fn job(name: &str, from: &str, to: &str, server: &Server, account: &Account) -> Job {
    Job::new(name, from, to)
        .env("GOOGLE_BASE_URL", server.url(""))
        .env("GOOGLE_APPLICATION_CREDENTIALS", account.file())
        .env("TZ_LOG", "1")
}

/// The outcome, if neither it nor the log shows a secret.
#[track_caller]
fn discreet(outcome: Outcome) -> Outcome {
    let said = format!("{} {}", outcome.report, outcome.log);
    for secret in ["canary", "PRIVATE KEY", "X-Goog-Signature", "Bearer ", "eyJ"] {
        let at = said.find(secret);
        assert_eq!(at, None, "{secret}: {}", &said[at.unwrap_or(0)..][..200.min(said.len())]);
    }
    outcome
}

/// Saves a file of these tensors, copies it to another object, and loads that.
#[track_caller]
fn check_there_and_back(lens: &[u64]) {
    const COPY: &str = "gs://bucket/folder/a b.tensors";
    let google = Google::new(Account::new());
    let server = Server::new(google.clone());
    let run = |name: &str, from: &str, to: &str| {
        discreet(job(name, from, to, &server, google.account()).run()).expect_ok()
    };
    let text: Vec<String> = lens.iter().map(ToString::to_string).collect();
    let saved = run("save", &text.join(","), URI);
    assert_eq!(saved.number("bytes"), file(lens).len() as u64);
    assert_eq!(run("copy", URI, COPY).number("bytes"), saved.number("bytes"));
    assert_eq!(run("load", COPY, "").number("bytes"), lens.iter().sum::<u64>());
    assert_eq!(google.bytes(PATH), file(lens));
    assert_eq!(google.bytes("/bucket/folder/a%20b.tensors"), file(lens));
    assert_eq!(google.open_uploads(), 0);
}

#[test]
fn a_small_file_goes_to_google_and_back() {
    check_there_and_back(&[3 * MIB, 900]);
}

#[test]
fn a_large_file_goes_to_google_in_parts_and_back_in_ranges() {
    check_there_and_back(&[20 * MIB, 17 * MIB, 900]);
}

#[test]
fn an_object_of_google_that_is_replaced_is_noticed() {
    let google = Google::new(Account::new());
    google.put(PATH, file(&[40 * MIB]), "\"first\"");
    let server = Server::new(google.clone());
    let successor = google.clone();
    let swap = Fault::before(move || successor.put(PATH, file(&[40 * MIB]), "\"second\""));
    server.fault(|record| record.number == 2, swap);
    let outcome = job("load", URI, "", &server, google.account()).run();
    outcome.expect_error("the object was replaced while it was being read");
    discreet(outcome);
}

#[test]
fn the_key_of_another_account_is_refused_by_google_and_not_shown() {
    let google = Google::new(Account::new());
    google.put(PATH, file(&[900]), "\"first\"");
    let server = Server::new(google.clone());
    let other = Account::new();
    for (name, from, to) in [("load", URI, ""), ("save", "900", URI), ("save", "20000000", URI)] {
        let outcome = job(name, from, to, &server, &other).run();
        outcome.expect_error("403 Forbidden");
        discreet(outcome);
    }
    assert_eq!(google.bytes(PATH), file(&[900]));
}

#[test]
fn google_creates_what_is_not_there_in_one_request_only() {
    let google = Google::new(Account::new());
    let server = Server::new(google.clone());
    let create =
        |lens: &str| job("save", lens, URI, &server, google.account()).env("TZ_CREATE", "1").run();
    create("900").expect_ok();
    create("900").expect_error("create: entity already exists");
    create("20000000").expect_error("creates no object conditionally");
}
