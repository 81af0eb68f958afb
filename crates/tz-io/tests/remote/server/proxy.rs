//! A forward proxy: every host is one site, and tunnels lead to one address. Owns [`Proxy`].

use std::net::SocketAddr;

use http::{Method, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::fault::{adopt, plain};
use super::{ReplyFuture, Site};

/// Answers for every host itself; where a tunnel is asked for, it leads to `target`, whatever the name.
pub(crate) struct Proxy<S> {
    pub(crate) site: S,
    pub(crate) target: Option<SocketAddr>,
}

impl<S: Site> Site for Proxy<S> {
    fn reply(&self, request: Request<Incoming>) -> ReplyFuture {
        if request.method() != Method::CONNECT {
            return self.site.reply(request);
        }
        let Some(target) = self.target else {
            return Box::pin(std::future::ready(plain(403, "no tunnels")));
        };
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(request).await.expect("a tunnel");
            let mut stream = TcpStream::connect(target).await.expect("the target");
            // Ends with whichever side ends.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
        });
        let opened = Response::new(adopt(Empty::new()));
        Box::pin(std::future::ready(opened))
    }
}
