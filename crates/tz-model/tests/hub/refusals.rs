//! Models that the hub does not show, and where the token goes.

use tempfile::tempdir;
use tz_model::hub::{HubError, resolve};

use crate::server::{File, Server};
use crate::support::{ID, model, options, tree, usual, with_token};

const TOKEN: &str = "hf_0123456789";

#[test]
fn a_private_model_needs_the_token() {
    let cache = tempdir().unwrap();
    let mut private = usual();
    private.token = Some(TOKEN);
    let server = Server::new(private);
    let stranger = options(cache.path(), &server);

    let error = resolve(ID, &stranger).unwrap_err();
    assert!(matches!(error, HubError::Refused { status: 401, with_token: false, .. }), "{error}");
    assert!(error.to_string().contains("set HF_TOKEN"), "{error}");

    let error = resolve(ID, &with_token(stranger.clone(), "hf_wrong")).unwrap_err();
    assert!(matches!(error, HubError::Refused { status: 403, with_token: true, .. }), "{error}");
    let told = format!("{error} {error:?}");
    assert!(told.contains("gated") && !told.contains("hf_wrong"), "{told}");
    assert_eq!(tree(cache.path()), [""; 0]);

    resolve(ID, &with_token(stranger, TOKEN)).unwrap();
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let cache = tempdir().unwrap();
    let mut private = usual();
    private.token = Some(TOKEN);
    let server = Server::new(private);
    resolve(ID, &with_token(options(cache.path(), &server), TOKEN)).unwrap();
    let (network, hub): (Vec<_>, Vec<_>) =
        server.log().into_iter().partition(|record| record.to_network);
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.iter().all(|record| record.header("authorization") == Some(&bearer)));
    assert!(!network.is_empty());
    for record in network {
        assert!(!format!("{record:?}").contains(TOKEN), "{record:?}");
    }
}

#[test]
fn without_a_token_none_is_sent() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    resolve(ID, &options(cache.path(), &server)).unwrap();
    assert!(server.log().iter().all(|record| record.header("authorization").is_none()));
}

#[test]
fn what_the_hub_does_not_have() {
    let cache = tempdir().unwrap();
    let server = Server::new(usual());
    let known = options(cache.path(), &server);
    let error = resolve("facebook/opt-tony", &known).unwrap_err();
    assert!(
        matches!(&error, HubError::NotFound { id, .. } if id == "facebook/opt-tony"),
        "{error}"
    );
    let error = resolve(ID, &known.with_revision("v9")).unwrap_err();
    assert!(matches!(&error, HubError::NotFound { revision, .. } if revision == "v9"), "{error}");
}

#[test]
fn a_model_without_weights_is_none() {
    let cache = tempdir().unwrap();
    let server = Server::new(model(vec![
        File::new("config.json", "{}"),
        File::large("model.gguf", "not ours"),
    ]));
    let error = resolve(ID, &options(cache.path(), &server)).unwrap_err();
    assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
    assert_eq!(server.sent(), [""; 0]);
    assert_eq!(tree(cache.path()), [""; 0]);
}
