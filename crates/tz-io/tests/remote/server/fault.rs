//! What can befall a request. Owns [`Fault`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::body::{self, End};
use super::socket::ResetSwitch;
use super::{Record, Reply, Site};

/// A fault and the requests that it befalls.
pub(crate) struct Rule {
    pub(crate) when: Box<dyn Fn(&Record) -> bool + Send>,
    pub(crate) fault: Fault,
}

/// What goes wrong with one request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection is reset after so many bytes of the body.
    Reset { after: usize },
    /// The connection is closed after so many bytes of the body.
    Truncate { after: usize },
    /// Nothing more comes after so many bytes of the body.
    Stall { after: usize },
    /// The connection is reset before any answer.
    HangUp,
    /// The request takes effect, and the connection is reset before the answer.
    Forget,
    /// No answer comes.
    Silence,
    /// The request is read whole and answered with this status, headers and text.
    Status(u16, &'static [(&'static str, &'static str)], &'static str),
    /// The request is read whole and sent elsewhere.
    Redirect(u16, String),
    /// The body comes in chunks and its length is not stated.
    Unframed,
    /// The body comes in small pieces, each on its own.
    Drip(usize),
    /// The answer is changed before it is sent.
    Edit(Arc<dyn Fn(&mut Reply) + Send + Sync>),
    /// This happens before the request is answered as usual.
    Before(Arc<dyn Fn() + Send + Sync>),
}

impl Fault {
    /// Changes a header of the answer.
    pub(crate) fn header(name: &'static str, value: &'static str) -> Self {
        Self::Edit(Arc::new(move |reply: &mut Reply| {
            reply.headers_mut().insert(name, value.parse().expect("a header"));
        }))
    }

    /// Takes a header from the answer.
    pub(crate) fn without(name: &'static str) -> Self {
        Self::Edit(Arc::new(move |reply: &mut Reply| {
            reply.headers_mut().remove(name);
        }))
    }

    pub(crate) fn before(happens: impl Fn() + Send + Sync + 'static) -> Self {
        Self::Before(Arc::new(happens))
    }

    /// The answer that the request gets; an error ends the connection without one.
    pub(crate) async fn befall(
        self,
        request: Request<Incoming>,
        site: &dyn Site,
        reset: &ResetSwitch,
    ) -> io::Result<Reply> {
        Ok(match self {
            Self::Reset { after } => {
                reset.on();
                site.reply(request).await.map(|body| body::cut(body, after, End::Break))
            }
            Self::Truncate { after } => {
                site.reply(request).await.map(|body| body::cut(body, after, End::Break))
            }
            Self::Stall { after } => {
                site.reply(request).await.map(|body| body::cut(body, after, End::Nothing))
            }
            Self::HangUp => {
                reset.on();
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Self::Forget => {
                reset.on();
                drop(site.reply(request).await);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Self::Silence => std::future::pending().await,
            Self::Status(status, headers, text) => {
                // Unread requests would turn the answer into a reset.
                let _ = request.into_body().collect().await;
                let mut reply = plain(status, text);
                for (name, value) in headers {
                    reply.headers_mut().insert(*name, value.parse().expect("a header"));
                }
                reply
            }
            Self::Redirect(status, place) => {
                let _ = request.into_body().collect().await;
                let mut reply = plain(status, "");
                reply.headers_mut().insert(header::LOCATION, place.parse().expect("a header"));
                reply
            }
            Self::Unframed => {
                let mut reply = site.reply(request).await;
                reply.headers_mut().remove(header::CONTENT_LENGTH);
                reply
            }
            Self::Drip(size) => site.reply(request).await.map(|body| body::drip(body, size)),
            Self::Edit(edit) => {
                let mut reply = site.reply(request).await;
                edit(&mut reply);
                reply
            }
            Self::Before(happens) => {
                // It may take a while, and ask this server for something.
                tokio::task::block_in_place(|| happens());
                site.reply(request).await
            }
        })
    }
}

/// An answer of this status and text.
pub(crate) fn plain(status: u16, text: impl Into<Bytes>) -> Reply {
    let text = text.into();
    let reply = Response::builder().status(status).header(header::CONTENT_LENGTH, text.len());
    reply.body(body::frames([text])).expect("a reply")
}

/// A foreign body as one of ours.
pub(crate) fn adopt<B>(body: B) -> body::ReplyBody
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    body.map_err(io::Error::other).boxed_unsync()
}
