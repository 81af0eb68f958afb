//! `--stall-timeout`, `--retries` and `--deadline`, and what ends by itself.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::server::{Act, Server};
use super::{SMALL, with_keys};
use crate::run::{Ran, finish};

/// A command that gives up after so many requests.
#[track_caller]
fn gives_up(act: Act, requests: usize, prepare: impl FnOnce(&Path, &mut Command)) -> Ran {
    let server = Server::new(SMALL.clone(), move |_, _, _| act);
    let folder = tempfile::tempdir().expect("folder");
    let url = server.url("http", "/model.tensors");
    let mut command = with_keys(folder.path(), &["inspect", &url]);
    prepare(folder.path(), &mut command);
    let ran = finish(&mut command).exits(3);
    // The server may learn of the last one late.
    server.wait_for(requests, "GET");
    if act == Act::Never {
        assert_eq!(server.requests().len(), requests, "{}", ran.stderr);
    }
    ran
}

#[test]
fn stalls_and_retries_are_settings() {
    let settings = "stall-timeout = \"200ms\"\nretries = 2\n";
    let by_file = |folder: &Path, command: &mut Command| {
        std::fs::write(folder.join("tz.toml"), settings).unwrap();
        command.args(["--config", "tz.toml"]);
    };
    let by_environment = |command: &mut Command| {
        command.env("TZ_STALL_TIMEOUT", "300ms").env("TZ_RETRIES", "1");
    };
    let ran = gives_up(Act::Never, 3, by_file);
    assert!(ran.stderr.contains("no bytes for 200ms"), "{}", ran.stderr);
    // The environment wins over the file, an option over both.
    let ran = gives_up(Act::Never, 2, |folder, command| {
        by_file(folder, command);
        by_environment(command);
    });
    assert!(ran.stderr.contains("no bytes for 300ms"), "{}", ran.stderr);
    let ran = gives_up(Act::Never, 1, |folder, command| {
        by_file(folder, command);
        by_environment(command);
        command.args(["--stall-timeout", "400ms", "--retries", "0"]);
    });
    assert!(ran.stderr.contains("no bytes for 400ms"), "{}", ran.stderr);
}

#[test]
fn every_way_to_say_nothing_ends_by_the_stall_timeout() {
    for act in [Act::Never, Act::Half, Act::Continue, Act::DripHead] {
        let ran = gives_up(act, 1, |_, command| {
            command.args(["--stall-timeout", "300ms", "--retries", "0"]);
        });
        assert!(ran.stderr.contains("no bytes for 300ms"), "{act:?}: {}", ran.stderr);
    }
}

/// A command that ends by its deadline, wherever it is then.
#[track_caller]
fn runs_out_of_time(act: Act, prepare: impl FnOnce(&Path, &mut Command)) -> Ran {
    gives_up(act, 0, prepare)
}

#[test]
fn the_deadline_ends_the_whole_command() {
    let said = "did not end within the deadline of 300ms";
    for act in [Act::Half, Act::Crawl, Act::Continue, Act::Status(503)] {
        let ran = runs_out_of_time(act, |_, command| {
            command.args(["--deadline", "300ms"]);
        });
        assert!(ran.stderr.contains(said) && ran.stderr.contains("\ntry: "), "{}", ran.stderr);
    }
    let ran = runs_out_of_time(Act::Half, |_, command| {
        command.env("TZ_DEADLINE", "300ms").arg("--json");
    });
    assert_eq!(ran.json()["error"]["code"], 3);
    assert!(ran.json()["error"]["message"].as_str().unwrap().contains(said), "{}", ran.stdout);
    let ran = runs_out_of_time(Act::Half, |folder, command| {
        std::fs::write(folder.join("tz.toml"), "deadline = \"300ms\"").unwrap();
        command.args(["--config", "tz.toml"]);
    });
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn the_deadline_leaves_nothing_where_the_work_cannot_stop() {
    let line = ["serialize", "model.safetensors", "out.tensors", "--deadline", "1s"];
    for function in ["pwrite64", "fsync"] {
        let (wait, _mark) = super::local::hanging(function, &line);
        let finished = wait.ends(3);
        assert!(finished.stderr.contains("deadline of 1s"), "{}", finished.stderr);
    }
}

/// Far above what is promised, a few seconds, and far below what all retries would take.
const LONG: [&str; 2] = ["--deadline", "20s"];

#[test]
fn a_refused_connection_is_given_up_soon() {
    // A port that is bound, so that nobody else gets it, and does not listen.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let places = [
        format!("http://127.0.0.1:{port}/model.tensors"),
        format!("https://127.0.0.1:{port}/model.tensors"),
        "s3://bucket/model.tensors".to_owned(),
    ];
    let endpoint = format!("http://127.0.0.1:{port}");
    for place in &places {
        let folder = tempfile::tempdir().unwrap();
        let mut command = with_keys(folder.path(), &["inspect", place]);
        command.args(["--s3-endpoint", &endpoint, "--s3-region", "r"]).args(LONG);
        let ran = finish(&mut command).exits(3);
        assert!(ran.stderr.contains("refused"), "{}", ran.stderr);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.tensors"), &*SMALL).unwrap();
    let mut command = with_keys(folder.path(), &["copy", "model.tensors", &places[2]]);
    command.args(["--s3-endpoint", &endpoint, "--s3-region", "r"]).args(LONG);
    let ran = finish(&mut command).exits(3);
    assert!(ran.stderr.contains("refused"), "{}", ran.stderr);
}

#[test]
fn another_protocol_is_no_reason_to_try_again() {
    // TLS to a port without: one try.
    let server = Server::new(Vec::new(), |_, _, _| Act::Status(400));
    let folder = tempfile::tempdir().unwrap();
    let url = server.url("https", "/model.tensors");
    let ran = finish(&mut with_keys(folder.path(), &["inspect", &url])).exits(3);
    assert_eq!(server.requests().len(), 1, "{}", ran.stderr);
    // The other way around.
    let server = Server::new(Vec::new(), |_, _, _| Act::Alert);
    let url = server.url("http", "/model.tensors");
    finish(with_keys(folder.path(), &["inspect", &url]).args(LONG)).exits(3);
    let tries = server.requests().len();
    assert!(tries <= 7, "past the library, then through it, and five retries: {tries}");
}
