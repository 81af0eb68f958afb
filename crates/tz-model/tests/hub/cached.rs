//! Without a network: directories, the cache, and what is said when something is missing.

use std::fs;

use tempfile::tempdir;
use tz_model::hub::{HubError, HubOptions, resolve};

use crate::server::Server;
use crate::support::{ID, options, usual};

#[test]
fn a_directory_wins_over_an_id() {
    let dir = tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let snapshot = resolve(path, &HubOptions::default()).unwrap();
    assert_eq!((snapshot.dir.as_path(), snapshot.commit), (dir.path(), None));
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let mut offline = options(cache.path(), &server);
    offline.offline = true;
    let error = resolve(ID, &offline).unwrap_err();
    assert!(
        matches!(&error, HubError::Offline { id, revision, .. } if id == ID && revision == "main")
    );
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(server.log().len(), 0);

    let there = resolve(ID, &options(cache.path(), &server)).unwrap();
    let requests = server.log().len();
    assert_eq!(resolve(ID, &offline).unwrap(), there);

    // A configuration without weights is no model.
    fs::remove_file(there.dir.join("model.safetensors")).unwrap();
    assert!(matches!(resolve(ID, &offline), Err(HubError::Offline { .. })));
    assert_eq!(server.log().len(), requests);
}

#[test]
fn what_is_no_id_is_not_looked_up() {
    for wrong in ["", "a/b/c", "../models", "a b", "/no/such/folder", "s3://bucket/model"] {
        let error = resolve(wrong, &HubOptions::default()).unwrap_err();
        assert!(matches!(error, HubError::NotAnId { .. }), "{wrong:?}: {error}");
    }
    let options = HubOptions::default().with_revision("../../x");
    assert!(matches!(resolve(ID, &options), Err(HubError::NotARevision { .. })));
    assert!(matches!(resolve(ID, &HubOptions::default()), Err(HubError::NoCache)));
}
