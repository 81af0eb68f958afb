//! A hub that sends listings elsewhere or without end, and one over TLS: where the token goes, and what is kept.

use std::process::Command;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::tempdir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tz_model::hub::{HubError, resolve};

use crate::server::{File, Listing, Server};
use crate::support::{ID, options, tree, usual, with_token};

const TOKEN: &str = "hf_0123456789";
/// Set for a child: the folder of its certificates.
const CHILD: &str = "TZ_HUB_CERTIFICATES";
/// What sockets may hold beyond what is read of a listing.
const HELD: usize = 64 << 20;

/// A private model comes whole, its listing and its weights by way of the content network, and nothing that it could
/// use goes there.
#[track_caller]
fn check_token(secure: Option<TlsAcceptor>) {
    let cache = tempdir().expect("a folder");
    let mut model = usual();
    model.token = Some(TOKEN);
    model.listing = Listing::Elsewhere;
    let server = match secure {
        Some(tls) => Server::secure(model, tls),
        None => Server::new(model),
    };
    resolve(ID, &with_token(options(cache.path(), &server), TOKEN)).expect("downloaded");
    let (network, hub): (Vec<_>, Vec<_>) =
        server.log().into_iter().partition(|record| record.to_network);
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.iter().all(|record| record.header("authorization") == Some(&bearer)));
    assert_eq!(network.len(), 2, "the listing and the weights");
    for record in network {
        for name in record.headers.keys() {
            assert!(["host", "accept", "user-agent"].contains(&name.as_str()), "{record:?}");
        }
        assert!(!format!("{record:?}").contains(TOKEN), "{record:?}");
    }
}

#[test]
fn the_token_stays_with_the_hub_when_the_listing_is_elsewhere() {
    check_token(None);
}

#[test]
fn the_token_stays_with_the_hub_over_tls() {
    if let Ok(folder) = std::env::var(CHILD) {
        let key = std::fs::read_to_string(format!("{folder}/key.pem")).unwrap();
        let issuer = Issuer::new(authority(), KeyPair::from_pem(&key).unwrap());
        return check_token(Some(acceptor(&issuer)));
    }
    // Only the system's certificates count, and a child has some of its own.
    let folder = tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = authority().self_signed(&key).unwrap();
    std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["lies::the_token_stays_with_the_hub_over_tls", "--exact", "--nocapture"])
        .env("SSL_CERT_FILE", folder.path().join("ca.pem"))
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("a certificate");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// Speaks TLS as 127.0.0.1.
fn acceptor(issuer: &Issuer<'_, KeyPair>) -> TlsAcceptor {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let key = KeyPair::generate().expect("a certificate");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder =
        builder.with_safe_default_protocol_versions().expect("a certificate").with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a certificate");
    let config = builder.with_single_cert(vec![certificate.der().clone()], key);
    TlsAcceptor::from(Arc::new(config.expect("a certificate")))
}

#[test]
fn a_listing_without_end_takes_no_memory() {
    for status in [200, 403, 404, 500] {
        let cache = tempdir().unwrap();
        let mut model = usual();
        model.listing = Listing::Endless(status);
        let server = Server::new(model);
        let error = resolve(ID, &options(cache.path(), &server)).unwrap_err();
        let expected = match (status, &error) {
            (200, HubError::Protocol { why, .. }) => why.contains("more than 16777216 bytes"),
            (403, HubError::Refused { .. }) | (404, HubError::NotFound { .. }) => true,
            (500, HubError::Server { .. }) => true,
            _ => false,
        };
        assert!(expected, "{status} {error:?}");
        assert!(server.endless() < HELD, "{}", server.endless());
        assert_eq!(tree(cache.path()), [""; 0]);
    }
}

#[test]
fn a_length_with_a_sign_is_none() {
    let cache = tempdir().unwrap();
    let mut model = usual();
    model.sign = "+";
    let server = Server::new(model);
    let error = resolve(ID, &options(cache.path(), &server)).unwrap_err();
    assert!(error.to_string().contains("its length is not stated"), "{error:?}");
}

#[test]
fn a_small_file_stays_small() {
    let cache = tempdir().unwrap();
    let mut model = usual();
    model.files.retain(|file| !file.name.ends_with(".json"));
    model.files.push(File::large("config.json", "{}"));
    model.sign = "99999999";
    let server = Server::new(model);
    let error = resolve(ID, &options(cache.path(), &server)).unwrap_err();
    assert!(error.to_string().contains("config.json: a file next to the weights"), "{error:?}");
    assert_eq!(server.sent(), [""; 0]);
}
