//! Uploads that are interrupted: aborted, or named.

use rustix::process::Signal;

use super::server::{Act, Server};
use super::{LARGE, SMALL, Wait, with_keys};

const STARTED: &str = "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key>\
    <UploadId>upload-1</UploadId></InitiateMultipartUploadResult>";
const NO_UPLOADS: &str =
    "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";

/// What a request of an upload is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    List,
    Start,
    Part,
    Complete,
    Abort,
    /// The whole object in one request.
    Put,
}

impl Step {
    fn of(method: &str, target: &str) -> Self {
        match method {
            "GET" => Self::List,
            "POST" if target.contains("uploadId=") => Self::Complete,
            "POST" => Self::Start,
            "PUT" if target.contains("partNumber=") => Self::Part,
            "PUT" => Self::Put,
            _ => Self::Abort,
        }
    }
}

/// A store that does not answer these.
fn store(silent: &'static [Step]) -> Server {
    Server::new(Vec::new(), move |_, method, target| match Step::of(method, target) {
        step if silent.contains(&step) => Act::Never,
        Step::List => Act::Text(NO_UPLOADS),
        Step::Start => Act::Text(STARTED),
        Step::Complete => Act::Text("<CompleteMultipartUploadResult/>"),
        Step::Part | Step::Put | Step::Abort => Act::Stored,
    })
}

fn asked(server: &Server, step: Step) -> bool {
    server.requests().iter().any(|request| {
        request.split_once(' ').is_some_and(|(method, target)| Step::of(method, target) == step)
    })
}

/// Interrupts an upload to a store that does not answer `silent`, in the first of these. Gives what was said.
#[track_caller]
fn interrupted(file: &[u8], silent: &'static [Step]) -> (Server, String) {
    let server = store(silent);
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("model.tensors"), file).expect("write");
    let mut command = with_keys(folder.path(), &["copy", "model.tensors", "s3://bucket/key"]);
    command.args(["--s3-endpoint", &server.url("http", ""), "--s3-region", "us-east-1"]);
    let mut wait = Wait::start(folder, &mut command);
    wait.until(|_| asked(&server, silent[0]));
    wait.send(Signal::TERM);
    let finished = wait.ends(143);
    (server, finished.stderr)
}

#[test]
fn an_interrupted_upload_is_aborted() {
    let (server, said) = interrupted(&LARGE, &[Step::Part]);
    assert!(asked(&server, Step::Abort) && !asked(&server, Step::Complete));
    assert_eq!(said, "");
}

#[test]
fn what_leaves_nothing_to_abort_ends_without_a_word() {
    for (file, silent) in [(&LARGE, &[Step::List][..]), (&SMALL, &[Step::Put])] {
        let (server, said) = interrupted(file, silent);
        assert!(!asked(&server, Step::Abort), "{silent:?}");
        assert_eq!(said, "", "{silent:?}");
    }
}

#[test]
fn an_upload_that_cannot_be_aborted_in_time_is_named() {
    let (_, said) = interrupted(&LARGE, &[Step::Part, Step::Abort]);
    assert!(said.contains("upload-1") && said.contains("--abort-unfinished"), "{said}");
    let (_, said) = interrupted(&LARGE, &[Step::Start]);
    assert!(said.contains("being started") && said.contains("--abort-unfinished"), "{said}");
}

#[test]
fn a_completion_that_is_interrupted_is_told() {
    for silent in [&[Step::Complete][..], &[Step::Complete, Step::Abort]] {
        let (server, said) = interrupted(&LARGE, silent);
        assert!(asked(&server, Step::Abort), "{silent:?}");
        assert!(said.contains("upload-1"), "{said}");
    }
}
