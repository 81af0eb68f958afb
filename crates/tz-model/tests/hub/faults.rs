//! Transfers that break off, lie, or never begin: the error, and what is left in the cache.

use tempfile::tempdir;
use tokio::net::TcpSocket;
use tz_model::hub::{Damage, HubError, Snapshot, resolve};

use crate::server::{Fault, Server};
use crate::support::{ID, names, options, tree, usual};

/// Resolves while `fault` befalls every body of the content network, and checks that no weights were kept and that
/// the next call, undisturbed, needs nothing but them.
#[track_caller]
fn check(fault: Fault, expect: impl Fn(&HubError) -> bool) {
    let cache = tempdir().expect("a folder");
    let server = Server::new(usual());
    server.fail_always(fault);
    let error = resolve(ID, &options(cache.path(), &server)).expect_err("a fault");
    assert!(expect(&error), "{error:?}");
    assert!(!error.to_string().contains("do-not-tell"), "{error}");
    let kept = tree(cache.path());
    assert_eq!(kept.len(), 4, "the small files and their bytes: {kept:?}");
    let before = server.sent().len();
    server.fail(&[]);
    resolve(ID, &options(cache.path(), &server)).expect("no fault");
    assert_eq!(server.sent()[before..], ["model.safetensors"]);
}

#[test]
fn a_transfer_goes_on_where_it_broke_off() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    server.fail(&[Fault::Cut(30_000), Fault::Cut(20_000)]);
    let Snapshot { dir, .. } = resolve(ID, &options(cache.path(), &server)).unwrap();
    let weights = &usual().files[4];
    assert_eq!(std::fs::read(dir.join(weights.name)).unwrap(), weights.bytes);
    let last = weights.bytes.len() - 1;
    let network = server.log().into_iter().filter(|record| record.to_network);
    let ranges: Vec<_> =
        network.filter_map(|record| record.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [format!("bytes=30000-{last}"), format!("bytes=50000-{last}")]);
}

#[test]
fn nothing_of_a_transfer_that_never_ends_is_kept() {
    check(Fault::Cut(1000), |error| {
        let HubError::Damaged { file, damage, .. } = error else { return false };
        let truncated = matches!(damage, Damage::Truncated { found: 4000, .. });
        file == "model.safetensors" && truncated
    });
}

#[test]
fn other_bytes_than_the_hub_names() {
    check(Fault::Flip, |error| matches!(error, HubError::Damaged { damage: Damage::Digest, .. }));
}

#[test]
fn more_bytes_than_the_hub_states() {
    check(Fault::Long, |error| {
        matches!(error, HubError::Damaged { damage: Damage::TooLong { .. }, .. })
    });
}

#[test]
fn a_network_that_refuses() {
    check(Fault::Status(403), |error| matches!(error, HubError::Refused { status: 403, .. }));
    check(Fault::Status(410), |error| matches!(error, HubError::Server { status: 410, .. }));
}

#[test]
fn a_range_that_is_ignored_does_not_end_in_the_file() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let len = usual().files[4].bytes.len();
    let last = len - 1;
    let others = [
        format!("bytes 59999-{last}/{len}"),
        format!("bytes 60000-{}/{len}", last - 1),
        format!("bytes 60000-{len}/{}", len + 1),
        format!("bytes 60000-+{last}/{len}"),
        String::new(),
    ];
    let others = others.map(|other| Fault::Range(other.leak()));
    for fault in others.into_iter().chain([Fault::Whole]) {
        server.fail(&[Fault::Cut(60_000), fault]);
        let error = resolve(ID, &options(cache.path(), &server)).unwrap_err();
        assert!(matches!(error, HubError::Protocol { .. }), "{fault:?} {error:?}");
    }
}

#[test]
fn names_of_blobs_are_digests() {
    for (etag, commit) in [
        ("../../../escaped", crate::server::COMMIT),
        ("", crate::server::COMMIT),
        ("0123456789abcdef0123456789abcdef01234567", "another"),
    ] {
        let cache = tempdir().unwrap();
        let server = Server::new(usual());
        server.change(|model| {
            model.etag = Some(etag);
            model.commit_of_files = commit;
        });
        let error = resolve(ID, &options(cache.path(), &server)).unwrap_err();
        assert!(matches!(error, HubError::Protocol { .. }), "{error:?}");
        assert_eq!(tree(cache.path()), [""; 0]);
    }
}

#[test]
fn a_hub_that_is_not_there() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let mut options = options(cache.path(), &server);
    // Bound, so that nobody else gets the port, and not listening.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let closed = bound.local_addr().unwrap();
    options.endpoint = Some(format!("http://user:secret@{closed}"));
    let error = resolve(ID, &options).unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, HubError::Unreachable { .. }), "{told}");
    assert!(told.contains("refused") && !told.contains("secret"), "{told}");
}

#[test]
fn a_download_that_is_cancelled_leaves_no_weights() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let options = options(cache.path(), &server);
    let cancel = options.cancel.clone();
    let options = options.with_progress(move |transfer| {
        if transfer.file == "model.safetensors" {
            cancel.cancel();
        }
    });
    // The first bytes may be all of them: then the next check is the one that stops.
    server.fail(&[Fault::Cut(1000)]);
    assert!(matches!(resolve(ID, &options), Err(HubError::Cancelled)));
    let blobs = cache.path().join("models--facebook--opt-tiny/blobs");
    assert_eq!(names(&blobs).len(), 2);
}
