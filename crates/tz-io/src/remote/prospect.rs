//! Whether a request that failed is worth another try. Owns [`Prospect`].

use std::error::Error;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::retry::Failure;
use super::transport::{Last, cause};

/// A request that failed before its answer; `otherwise` says what becomes of one that may have been sent.
pub(crate) fn judged(error: reqwest::Error, otherwise: fn(String) -> Failure) -> Failure {
    let prospect = prospect(&error, error.is_connect());
    let is_ours = error.is_builder();
    let why = cause(error);
    match prospect {
        _ if is_ours => Failure::permanent(why),
        Prospect::Hopeless => Failure::permanent(why),
        Prospect::Poor => Failure::unreachable(why),
        Prospect::Good => otherwise(why),
    }
}

/// A connection that did not come about.
pub(crate) fn not_connected(error: io::Error) -> Failure {
    match prospect(&error, true) {
        Prospect::Hopeless => Failure::permanent(error.to_string()),
        Prospect::Poor => Failure::unreachable(error.to_string()),
        Prospect::Good => Failure::transient(error.to_string()),
    }
}

/// What another try may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// The same: a certificate of nobody we trust, a server that does not speak TLS.
    Hopeless,
    /// Most likely the same: nobody listens, no such name, something else than HTTP.
    Poor,
    Good,
}

/// Judges an error by its causes; `connecting` where it came before the request was sent.
pub(crate) fn prospect(error: &(dyn Error + 'static), connecting: bool) -> Prospect {
    // The types of the libraries for TLS, HTTP and names are no part of `reqwest`'s interface; their text is what
    // users see.
    let last = Last(error).to_string();
    let begins = |starts: &[&str]| starts.iter().any(|start| last.starts_with(start));
    if begins(&["invalid peer certificate"]) || connecting && has(error, io::ErrorKind::InvalidData)
    {
        Prospect::Hopeless
    } else if has(error, io::ErrorKind::ConnectionRefused)
        || last.ends_with("Name or service not known")
        || begins(&["invalid HTTP", "message head is too large"])
    {
        Prospect::Poor
    } else {
        Prospect::Good
    }
}

/// Whether a cause of the error is an I/O error of this kind.
fn has(error: &(dyn Error + 'static), kind: io::ErrorKind) -> bool {
    let own = error.downcast_ref::<io::Error>();
    // What an I/O error wraps is not its source: that is the source of what it wraps.
    let wrapped = own.and_then(io::Error::get_ref).map(|wrapped| wrapped as &(dyn Error + 'static));
    own.is_some_and(|own| own.kind() == kind)
        || [wrapped, error.source()].into_iter().flatten().any(|cause| has(cause, kind))
}

/// How long a server is asked that nobody reaches.
const UNREACHED_FOR: Duration = Duration::from_secs(3);

/// When a server was first found to be out of reach, unless it was reached since: for requests that a library repeats.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<Option<Instant>>);

impl Reach {
    /// Whether a request that failed like this is not to be repeated.
    pub(crate) fn is_lost(&self, prospect: Prospect) -> bool {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match prospect {
            Prospect::Hopeless => true,
            Prospect::Poor => since.get_or_insert_with(Instant::now).elapsed() >= UNREACHED_FOR,
            Prospect::Good => {
                *since = None;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(kind: io::ErrorKind, text: &'static str) -> io::Error {
        io::Error::other(Outer(io::Error::new(kind, text)))
    }

    #[derive(Debug, thiserror::Error)]
    #[error("error sending request")]
    struct Outer(#[source] io::Error);

    #[test]
    fn what_cannot_heal_is_told_from_what_may() {
        let garbled = (io::ErrorKind::InvalidData, "received corrupt message");
        for ((kind, text), connecting, expect) in [
            ((io::ErrorKind::ConnectionRefused, "connection refused"), true, Prospect::Poor),
            (garbled, true, Prospect::Hopeless),
            (garbled, false, Prospect::Good),
            (
                (io::ErrorKind::Other, "invalid peer certificate: Expired"),
                false,
                Prospect::Hopeless,
            ),
            ((io::ErrorKind::Other, "lookup: Name or service not known"), true, Prospect::Poor),
            ((io::ErrorKind::Other, "Temporary failure in name resolution"), true, Prospect::Good),
            ((io::ErrorKind::Other, "invalid HTTP version parsed"), false, Prospect::Poor),
            ((io::ErrorKind::ConnectionReset, "reset"), true, Prospect::Good),
            ((io::ErrorKind::UnexpectedEof, "tls handshake eof"), true, Prospect::Good),
        ] {
            let inner = io::Error::other(io::Error::new(kind, text));
            assert_eq!(prospect(&Outer(inner), connecting), expect, "{kind:?} {text}");
            assert_eq!(prospect(&wrapped(kind, text), connecting), expect, "{kind:?} {text}");
        }
    }

    #[test]
    fn a_server_that_is_reached_again_gets_its_time_back() {
        let reach = Reach::default();
        assert!(reach.is_lost(Prospect::Hopeless));
        assert!(!reach.is_lost(Prospect::Poor), "the first time");
        *reach.0.lock().unwrap() = Instant::now().checked_sub(UNREACHED_FOR);
        assert!(reach.is_lost(Prospect::Poor));
        assert!(!reach.is_lost(Prospect::Good));
        assert!(!reach.is_lost(Prospect::Poor), "the first time again");
    }
}
