//! What the head of an answer says of the object, held against what was asked. Owns [`Identity`] and [`checked`].

use std::ops::Range;

use http::{HeaderMap, StatusCode, header};

use super::retry::{Failure, refusal};
use super::words::{content_length, digits, entity_tag, field};

/// What tells one version of an object from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Identity {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let date = headers.get(header::LAST_MODIFIED).and_then(|date| date.to_str().ok());
        let etag = entity_tag(headers)?.map(str::to_owned);
        Ok(Self { etag, last_modified: date.map(str::to_owned) })
    }

    /// A weak tag never satisfies `If-Match`, so only a strong one is sent; both are compared.
    pub(crate) fn strong_tag(&self) -> Option<&str> {
        self.etag.as_deref().filter(|tag| !tag.starts_with("W/"))
    }

    fn differs(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(first), Some(now)) => first != now,
            _ => {
                self.last_modified.is_some()
                    && other.last_modified.is_some()
                    && self.last_modified != other.last_modified
            }
        }
    }
}

/// What the head of an answer says.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) identity: Identity,
    pub(crate) total: Option<u64>,
    /// Whether the body is the range that was asked for, rather than the whole object.
    pub(crate) ranged: bool,
}

/// Holds the head of an answer against what was asked.
pub(crate) fn checked(
    status: StatusCode,
    headers: &HeaderMap,
    range: Option<&Range<u64>>,
    identity: Option<&Identity>,
) -> Result<Checked, Failure> {
    let (total, ranged) = match (status, range) {
        (StatusCode::PARTIAL_CONTENT, Some(range)) => (placed(headers, range)?, true),
        (StatusCode::OK, _) => {
            unencoded(headers)?;
            (content_length(headers)?, false)
        }
        // An empty object has no byte 0. A refusal alone makes it not that: it is asked for whole.
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) if range.start == 0 => {
            match field(headers, &header::CONTENT_RANGE)? {
                None | Some("bytes */0") if identity.is_none() => {
                    return Err(Failure::unsatisfiable());
                }
                _ => return Err(refusal(status, headers, identity.is_some())),
            }
        }
        _ => return Err(refusal(status, headers, identity.is_some())),
    };
    let now = Identity::of(headers)?;
    if identity.is_some_and(|identity| identity.differs(&now)) {
        return Err(Failure::changed());
    }
    Ok(Checked { identity: now, total, ranged })
}

/// Codings that leave the bytes as they are. `aws-chunked` describes how an object was uploaded: some stores keep the
/// word with the object, whose bytes they have unpacked.
const PLAIN_CODINGS: [&str; 3] = ["", "identity", "aws-chunked"];

/// Refuses data that was packed on the way, though nobody asked for that: the file has other bytes at other offsets.
pub(crate) fn unencoded(headers: &HeaderMap) -> Result<(), Failure> {
    let coding = field(headers, &header::CONTENT_ENCODING)?.unwrap_or_default();
    if PLAIN_CODINGS.iter().any(|plain| coding.eq_ignore_ascii_case(plain)) {
        return Ok(());
    }
    Err(Failure::permanent("an answer with a Content-Encoding"))
}

/// Length of the object that a partial answer is of, if that is the range which was asked for: to its end, or to that
/// of the object.
pub(crate) fn placed(headers: &HeaderMap, range: &Range<u64>) -> Result<Option<u64>, Failure> {
    unencoded(headers)?;
    let content_type = field(headers, &header::CONTENT_TYPE)?.unwrap_or_default();
    if content_type.to_ascii_lowercase().starts_with("multipart/byteranges") {
        return Err(Failure::permanent("the server answered several ranges"));
    }
    let placed = field(headers, &header::CONTENT_RANGE)?.and_then(parse_content_range);
    let (found, total) =
        placed.ok_or_else(|| Failure::permanent("an answer without a valid Content-Range"))?;
    let end = total.map_or(range.end, |total| total.min(range.end));
    if found != (range.start..end) {
        return Err(Failure::permanent("the server answered another range"));
    }
    if content_length(headers)?.is_some_and(|len| len != end - range.start) {
        return Err(Failure::permanent("an answer of another length than its range"));
    }
    Ok(total)
}

/// `bytes first-last/total`, total possibly `*`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = digits(first)?..digits(last)?.checked_add(1)?;
    let total = match total {
        "*" => None,
        total => Some(digits(total)?),
    };
    let is_one = !range.is_empty() && total.is_none_or(|total| range.end <= total);
    is_one.then_some((range, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/100"), Some((5..10, Some(100))));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0..1, None)));
        for bad in [
            "",
            "bytes */5",
            "bytes 5/9",
            "5-9/100",
            "bytes a-b/c",
            "bytes 9-5/100",
            "bytes 5-9/9",
            "bytes +5-9/100",
            "bytes 5-9/+100",
            "bytes 5-18446744073709551615/*",
            "bytes 5-9/100, bytes 20-29/100",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn identities() {
        let tag = |etag: &str| Identity { etag: Some(etag.into()), last_modified: None };
        let date = |date: &str| Identity { etag: None, last_modified: Some(date.into()) };
        assert!(tag("\"a\"").differs(&tag("\"b\"")) && !tag("\"a\"").differs(&tag("\"a\"")));
        assert!(date("x").differs(&date("y")) && !date("x").differs(&tag("\"a\"")));
        assert_eq!((tag("W/\"a\"").strong_tag(), tag("\"a\"").strong_tag()), (None, Some("\"a\"")));
    }
}
