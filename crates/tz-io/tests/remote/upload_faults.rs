//! What goes wrong during an upload: what may pass is tried again; whatever ends the upload leaves neither an object
//! nor parts.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tz_io::{Cancel, IoError, TensorSource};

use crate::model::{Tensors, signed, tensors};
use crate::server::fault::Fault;
use crate::server::{Record, Server};
use crate::upload::{
    LENS, MIB, Upload, first, impatient_signed, is_abort, is_completion, is_start, part,
};

/// Faults that may pass, each where nobody waits for the stall timeout.
fn passing() -> [Fault; 5] {
    [
        Fault::HangUp,
        Fault::Forget,
        Fault::Status(503, &[], "<Error><Code>SlowDown</Code></Error>"),
        Fault::Status(500, &[], ""),
        Fault::Status(429, &[("retry-after", "0")], ""),
    ]
}

#[test]
fn parts_that_fail_are_sent_again() {
    for number in 1..=4 {
        for fault in passing() {
            let upload = Upload::new();
            upload.server.fault(first(move |record| part(record) == Some(number)), fault);
            upload.write(&tensors(&LENS)).expect("written");
            upload.check_done(&LENS);
            assert_eq!(upload.count(|record| part(record) == Some(number)), 2);
        }
    }
}

#[test]
fn a_start_that_fails_is_tried_again() {
    for fault in passing() {
        let upload = Upload::new();
        upload.server.fault(first(is_start), fault.clone());
        upload.write(&tensors(&LENS)).expect("written");
        assert_eq!(upload.count(is_start), 2);
        // A start whose answer was lost leaves an upload of which nobody knows; the next writer names it.
        let lost = usize::from(matches!(fault, Fault::Forget));
        assert_eq!(upload.s3.uploads().len(), lost);
    }
}

#[test]
fn a_completion_that_fails_is_tried_again() {
    for fault in passing() {
        let upload = Upload::new();
        upload.server.fault(first(is_completion), fault);
        upload.write(&tensors(&LENS)).expect("written");
        upload.check_done(&LENS);
        assert_eq!(upload.count(is_completion), 2);
    }
}

#[test]
fn what_nobody_answers_is_sent_again() {
    for is_it in [|record: &Record| part(record) == Some(2), is_completion] {
        let upload = Upload::with(impatient_signed);
        upload.server.fault(first(is_it), Fault::Silence);
        upload.write(&tensors(&LENS)).expect("written");
        upload.check_done(&LENS);
        // A slow machine adds stalls of its own: the timeout is short.
        assert!(upload.count(is_it) >= 2);
    }
}

#[test]
fn one_request_in_twenty_fails_and_the_object_is_equal() {
    // Parts of 5 MiB.
    let lens = [150 * MIB, 1000, 50 * MIB];
    for fault in passing() {
        let mut upload = Upload::new();
        upload.options.memory_limit = Some(16 * MIB);
        upload.server.fault(|record| record.number % 20 == 7, fault);
        upload.write(&tensors(&lens)).expect("every fault passes");
        upload.check_done(&lens);
        let (sent, parts) = (upload.count(|record| part(record).is_some()), 41);
        assert!(sent > parts, "{sent}: a part was sent again");
    }
}

/// Reads well until a part is on its way.
struct Failing<'a> {
    inner: Tensors,
    panics: bool,
    server: &'a Server,
}

impl TensorSource for Failing<'_> {
    fn specs(&self) -> &[tz_format::TensorSpec] {
        self.inner.specs()
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if index == 2 && offset >= 20 * MIB {
            // Part 3 is whole once what comes before has been read.
            self.server.wait_for(|record| part(record) == Some(3));
            assert!(!self.panics, "the source panics");
            return Err(ErrorKind::TimedOut.into());
        }
        self.inner.read_at(index, offset, buf)
    }
}

#[test]
fn a_source_that_fails_leaves_nothing() {
    let upload = Upload::new();
    let error =
        upload.write(&Failing { inner: tensors(&LENS), panics: false, server: &upload.server });
    let error = error.expect_err("the source fails");
    assert!(matches!(&error, IoError::Tensor { tensor, .. } if tensor == "t2"), "{error:?}");
    upload.check_undone();
}

#[test]
fn a_source_that_panics_leaves_nothing() {
    let upload = Upload::new();
    let source = Failing { inner: tensors(&LENS), panics: true, server: &upload.server };
    let ended = catch_unwind(AssertUnwindSafe(|| upload.write(&source)));
    assert!(ended.is_err(), "the panic is passed on");
    upload.check_undone();
}

#[test]
fn a_part_that_is_refused_leaves_nothing() {
    for number in 1..=4 {
        let upload = Upload::new();
        let refused = Fault::Status(403, &[], "<Error><Code>AccessDenied</Code></Error>");
        upload.server.fault(move |record| part(record) == Some(number), refused);
        let error = upload.write(&tensors(&LENS)).expect_err("refused");
        let IoError::Io { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), ErrorKind::PermissionDenied);
        assert!(error_text(&error).contains("403 Forbidden: AccessDenied"), "{error:?}");
        upload.check_undone();
        assert_eq!(upload.count(|record| part(record) == Some(number)), 1, "not tried again");
    }
}

fn error_text(error: &IoError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[test]
fn a_fault_that_stays_ends_the_upload_and_leaves_nothing() {
    for fault in [Fault::HangUp, Fault::Status(503, &[], "")] {
        for is_it in [|record: &Record| part(record) == Some(3), is_completion] {
            let upload = Upload::with(|server| {
                let mut options = signed(server);
                options.retries = 2;
                options
            });
            upload.server.fault(is_it, fault.clone());
            let error = upload.write(&tensors(&LENS)).expect_err("given up");
            assert!(matches!(error, IoError::Io { .. }), "{error:?}");
            upload.check_undone();
            assert_eq!(upload.count(is_it), 3, "as often as the caller says");
        }
    }
}

#[test]
fn a_completion_that_is_refused_leaves_nothing() {
    // S3 answers 200 before it knows, and tells in the body.
    let late = "<Error><Code>EntityTooSmall</Code></Error>";
    for fault in [Fault::Status(403, &[], ""), Fault::Status(200, &[], late)] {
        let upload = Upload::new();
        upload.server.fault(is_completion, fault);
        let error = upload.write(&tensors(&LENS)).expect_err("refused");
        let IoError::Io { doing, .. } = error else { panic!("{error:?}") };
        assert_eq!(doing, "complete the upload to");
        upload.check_undone();
        assert_eq!(upload.count(is_completion), 1);
    }
}

#[test]
fn an_upload_that_cannot_start_is_an_error() {
    let upload = Upload::new();
    upload.server.fault(is_start, Fault::Status(404, &[], ""));
    let error = upload.write(&tensors(&LENS)).expect_err("refused");
    let IoError::Io { source, doing, .. } = error else { panic!("{error:?}") };
    assert_eq!((source.kind(), doing), (ErrorKind::NotFound, "start an upload to"));
    assert_eq!(upload.s3.leftovers(), [""; 0]);
}

/// Cancels when a tensor is read.
struct Cancelling {
    inner: Tensors,
    tensor: usize,
    cancel: Cancel,
}

impl TensorSource for Cancelling {
    fn specs(&self) -> &[tz_format::TensorSpec] {
        self.inner.specs()
    }

    fn read_at(&self, index: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if index == self.tensor {
            self.cancel.cancel();
        }
        self.inner.read_at(index, offset, buf)
    }
}

fn cancelled(upload: &Upload) {
    let cancel = upload.options.cancel.clone();
    let source = Cancelling { inner: tensors(&LENS), tensor: 2, cancel };
    let error = upload.write(&source).expect_err("cancelled");
    assert!(matches!(error, IoError::Cancelled), "{error:?}");
    upload.check_undone();
}

#[test]
fn a_cancelled_upload_leaves_nothing() {
    cancelled(&Upload::new());
}

#[test]
fn a_cancelled_upload_does_not_wait_for_a_server_that_is_silent() {
    let upload = Upload::new();
    upload.server.fault(|record| part(record).is_some(), Fault::Silence);
    cancelled(&upload);
    // Whoever waits for the server sends every part again and again.
    let mut parts: Vec<_> = upload.server.log().iter().filter_map(part).collect();
    let sent = parts.len();
    parts.sort_unstable();
    parts.dedup();
    assert_eq!(parts.len(), sent, "no part was tried again");
}

#[test]
fn an_abort_that_fails_is_tried_again() {
    let upload = Upload::new();
    upload.server.fault(first(is_abort), Fault::Status(503, &[], ""));
    let error =
        upload.write(&Failing { inner: tensors(&LENS), panics: false, server: &upload.server });
    assert!(error.is_err());
    assert_eq!(upload.s3.leftovers(), [""; 0]);
    assert_eq!(upload.count(is_abort), 2);
}
