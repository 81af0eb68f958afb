//! Credentials of every place sign requests that a real server accepts, and no others are sent.

use http::{Method, Request};
use hyper::body::Incoming;

use crate::child::Job;
use crate::model::{file, load, object, open, readers, signed};
use crate::server::fault::plain;
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};
use crate::server::tls::Authority;
use crate::server::{ReplyFuture, Server, Site};

const URI: &str = "s3://bucket/model.tensors";

/// A server that takes signed requests only, and its object.
fn private() -> Server {
    let s3 = S3::new(None);
    s3.put("model.tensors", &file(&[1 << 20]));
    Server::new(s3)
}

#[test]
fn keys_of_every_place_are_accepted() {
    let server = private();
    let endpoint = server.url("");
    let (id, secret) = (ACCESS_KEY_ID, SECRET_ACCESS_KEY);
    let host = server.address();
    let s3cmd = format!(
        "[default]\naccess_key = {id}\nsecret_key = {secret}\nhost_base = {host}\nuse_https = False\n"
    );
    let profile =
        format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    let named = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(named.path(), &s3cmd).expect("written");
    let job = || Job::new("load", URI, "").env("TZ_LOG", "1");
    let jobs = [
        (
            "given explicitly",
            job().env("TZ_KEY_ID", id).env("TZ_SECRET", secret).env("TZ_ENDPOINT", &endpoint),
        ),
        ("the s3cmd file given", job().env("TZ_CONFIG", named.path())),
        (
            "AWS_* environment variables",
            job()
                .env("AWS_ACCESS_KEY_ID", id)
                .env("AWS_SECRET_ACCESS_KEY", secret)
                .env("AWS_ENDPOINT_URL", &endpoint),
        ),
        (
            "S3_* environment variables",
            job()
                .env("S3_ACCESS_KEY_ID", id)
                .env("S3_SECRET_ACCESS_KEY", secret)
                .env("S3_ENDPOINT_URL", &endpoint),
        ),
        (
            "the AWS profile",
            job().home_file(".aws/credentials", &profile).env("AWS_ENDPOINT_URL", &endpoint),
        ),
        ("~/.s3cfg", job().home_file(".s3cfg", &s3cmd)),
    ];
    for (source, job) in jobs {
        let outcome = job.run().expect_ok();
        assert_eq!(outcome.number("bytes"), 1 << 20, "{source}");
        assert!(outcome.log.contains(&format!("credentials=\"{source}\"")), "{}", outcome.log);
    }
}

#[test]
fn a_wrong_key_is_refused_at_once() {
    let server = private();
    let job = Job::new("load", URI, "").env("TZ_ENDPOINT", server.url(""));
    let job = job.env("TZ_KEY_ID", ACCESS_KEY_ID).env("TZ_SECRET", "wrong");
    job.run().expect_error("read: the server answered 403 Forbidden");
    assert_eq!(server.requests(), 1);
}

#[test]
fn nobody_signs_for_public_buckets() {
    let s3 = S3::public();
    s3.put("model.tensors", &file(&[1 << 20]));
    let server = Server::new(s3);
    let explicitly = Job::new("load", URI, "")
        .env("TZ_ANONYMOUS", "1")
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    for job in [explicitly, Job::new("load", URI, "")] {
        job.env("TZ_ENDPOINT", server.url("")).run().expect_ok();
    }
    for record in server.log() {
        assert!(record.query.is_none() && record.header("authorization").is_none(), "{record:?}");
    }
    assert_eq!(server.requests(), 4);
}

#[test]
fn a_session_token_goes_with_every_request() {
    let s3 = S3::new(None);
    let server = Server::new(s3);
    let mut options = signed(&server);
    options.s3.session_token = Some("the/token+of=a session".to_owned());
    let source = crate::model::tensors(&[20 << 20]);
    let destination = object("model.tensors");
    tz_io::write(&source, &destination, &crate::model::writing(options.clone())).expect("signed");
    let remote = open(URI, &options).expect("signed");
    load(&remote, &tz_io::Selection::all(), &readers(2)).expect("signed");
    for record in server.log() {
        let header = record.header("x-amz-security-token").map(str::to_owned);
        let token = header.or_else(|| record.parameter("X-Amz-Security-Token"));
        assert_eq!(token.as_deref(), Some("the/token+of=a session"), "{record:?}");
    }
    assert!(server.requests() > 6);
}

/// Hands out the keys of the test server in every way that a cloud does, and knows who asks.
struct Cloud;

impl Site for Cloud {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let reply = match (request.method(), request.uri().path()) {
            (&Method::PUT, "/latest/api/token") => plain(200, "metadata token"),
            (_, path) if path.starts_with("/latest/meta-data/iam/security-credentials/") => {
                match (header("x-aws-ec2-metadata-token"), path.ends_with("/role")) {
                    (Some("metadata token"), true) => plain(200, keys()),
                    (Some("metadata token"), false) => plain(200, "role"),
                    _ => plain(401, ""),
                }
            }
            (_, "/container") if header("authorization") == Some("container token") => {
                plain(200, keys())
            }
            (&Method::POST, "/") => plain(200, assumed()),
            _ => plain(404, ""),
        };
        Box::pin(std::future::ready(reply))
    }
}

fn keys() -> String {
    format!(
        r#"{{"AccessKeyId":"{ACCESS_KEY_ID}","SecretAccessKey":"{SECRET_ACCESS_KEY}",
            "Token":"temporary","Expiration":"2099-01-01T00:00:00Z"}}"#
    )
}

fn assumed() -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <SessionToken>temporary</SessionToken><SecretAccessKey>{SECRET_ACCESS_KEY}</SecretAccessKey>\
         <Expiration>2099-01-01T00:00:00Z</Expiration><AccessKeyId>{ACCESS_KEY_ID}</AccessKeyId>\
         </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
}

#[test]
fn clouds_hand_out_temporary_keys() {
    let (server, cloud) = (private(), Server::new(Cloud));
    let authority = Authority::new();
    let tokens = Server::secure(Cloud, authority.acceptor("127.0.0.1"));
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "container token").expect("written");
    let job = || {
        let job = Job::new("load", URI, "").without("AWS_EC2_METADATA_DISABLED");
        job.env("AWS_ENDPOINT_URL_S3", server.url("")).env("TZ_LOG", "1")
    };
    let jobs = [
        (
            "the instance's metadata service",
            job().env("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.url("/")),
        ),
        (
            "the container's credential service",
            job()
                .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", cloud.url("/container"))
                .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path()),
        ),
        (
            "web identity",
            job()
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.path())
                .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/a")
                .env("AWS_ENDPOINT_URL_STS", tokens.url("/"))
                .env("TZ_CA", authority.bundle()),
        ),
    ];
    for (source, job) in jobs {
        let outcome = job.run().expect_ok();
        assert!(outcome.log.contains(&format!("credentials=\"{source}\"")), "{}", outcome.log);
    }
    for record in server.log() {
        assert_eq!(record.parameter("X-Amz-Security-Token").as_deref(), Some("temporary"));
    }
    assert_eq!((cloud.requests(), tokens.requests()), (4, 1));
}

#[test]
fn keys_at_hand_never_ask_the_cloud() {
    let (server, cloud) = (private(), Server::new(Cloud));
    let job = Job::new("load", URI, "")
        .without("AWS_EC2_METADATA_DISABLED")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.url(""))
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", cloud.url("/container"))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nonexistent")
        .env("TZ_ENDPOINT", server.url(""))
        .env("TZ_KEY_ID", ACCESS_KEY_ID)
        .env("TZ_SECRET", SECRET_ACCESS_KEY);
    job.run().expect_ok();
    assert_eq!(cloud.connections(), 0);
}
