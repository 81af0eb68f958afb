//! Proxies of the environment, and names that only a proxy knows.

use crate::child::Job;
use crate::model::file;
use crate::server::Server;
use crate::server::objects::{Object, Objects};
use crate::server::proxy::Proxy;
use crate::server::s3::{ACCESS_KEY_ID, S3, SECRET_ACCESS_KEY};
use crate::server::tls::Authority;

const MIB: u64 = 1 << 20;

fn site() -> Objects {
    Objects::default().with("/model.tensors", Object::new(file(&[3 * MIB])))
}

#[test]
fn http_goes_through_the_proxy_of_the_environment() {
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let proxy = Server::new(Proxy { site: site(), target: None });
        let job = Job::new("load", "http://object.test/model.tensors", "");
        let outcome = job.env(variable, proxy.url("")).run().expect_ok();
        assert_eq!(outcome.number("bytes"), 3 * MIB);
        assert_eq!(proxy.log()[0].host.as_deref(), Some("object.test"));
    }
}

#[test]
fn a_host_that_the_environment_excepts_is_asked_directly() {
    let server = Server::new(site());
    let proxy = Server::new(Proxy { site: site(), target: None });
    for (exception, through) in [("127.0.0.1", 0), ("object.test", 2)] {
        let job = Job::new("load", &server.url("/model.tensors"), "");
        job.env("HTTP_PROXY", proxy.url("")).env("NO_PROXY", exception).run().expect_ok();
        assert_eq!(proxy.requests(), through);
    }
    assert_eq!(server.requests(), 2);
}

#[test]
fn https_goes_through_a_tunnel() {
    let authority = Authority::new();
    let server = Server::secure(site(), authority.acceptor("object.test"));
    let proxy = Server::new(Proxy { site: site(), target: Some(server.address()) });
    let job = Job::new("load", "https://object.test/model.tensors", "");
    let job = job.env("HTTPS_PROXY", proxy.url("")).env("TZ_CA", authority.bundle());
    job.run().expect_ok();
    assert!(proxy.log().iter().all(|record| record.method == http::Method::CONNECT));
    assert_eq!(server.requests(), 2);
}

#[test]
fn s3_goes_through_the_proxy_too_and_knows_its_virtual_hosts() {
    for (endpoint, host, path) in [
        ("http://s3.test", "s3.test", "/bucket/model.tensors"),
        ("http://cwobject.com", "bucket.cwobject.com", "/model.tensors"),
    ] {
        let domain = endpoint.strip_prefix("http://");
        let s3 = S3::new(domain);
        let proxy = Server::new(Proxy { site: s3.clone(), target: None });
        let job = |name, from: &str, to: &str| {
            let job = Job::new(name, from, to).env("HTTP_PROXY", proxy.url(""));
            let job = job.env("TZ_ENDPOINT", endpoint).env("TZ_KEY_ID", ACCESS_KEY_ID);
            job.env("TZ_SECRET", SECRET_ACCESS_KEY).run().expect_ok()
        };
        let lens = (20 * MIB).to_string();
        job("save", &lens, "s3://bucket/model.tensors");
        assert!(s3.path("model.tensors").exists());
        let loaded = job("load", "s3://bucket/model.tensors", "");
        assert_eq!(loaded.number("bytes"), 20 * MIB);
        // Uploads ask the bucket for unfinished ones first.
        let log = proxy.log();
        assert!(log.iter().all(|record| record.host.as_deref() == Some(host)), "{log:?}");
        assert!(log[1..].iter().all(|record| record.path == path), "{log:?}");
    }
}
