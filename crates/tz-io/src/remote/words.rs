//! Words of servers: what they must be before they become a header, an address, a number or a message. Owns the checks,
//! and the little XML that answers of S3 are read with.
//!
//! Libraries put such words into requests as they come, and some panic where one does not fit (a line break in a token
//! of a metadata service). So every answer is checked here before a library sees it.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName};
use serde_json::Value;

use super::retry::Failure;

/// Longest word that is taken: session tokens have some 2,000 characters, and a request line holds 8,000.
const MAX_WORD: usize = 8 << 10;
/// Largest number in JSON: libraries add them to the time of day, which larger ones overflow.
const MAX_NUMBER: u64 = 1 << 53;
/// Longest code of an error: S3's longest has 48 characters.
const MAX_CODE: usize = 64;
/// Characters of a foreign text that a message holds.
const MAX_SHOWN: usize = 200;
/// Elements that repeat a key, which may hold any character and is only compared.
const KEYS: [&str; 4] = ["Key", "Location", "Prefix", "KeyMarker"];

/// Whether `text` may be used in a header or, percent-encoded, in a query.
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_WORD && is_printable(text)
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Whether `text` may be used in the path of an address as it is: a role, an account.
fn is_segment(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    is_word(text) && text.bytes().all(fits) && !matches!(text, "." | "..")
}

/// A number of digits and nothing else: Rust's own parser takes a sign.
#[must_use]
pub fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The one value of a header field: repeated it may be, contradicted not.
pub(crate) fn field<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h str>, Failure> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|value| value != first) {
        return Err(Failure::permanent(format!("an answer with two values of {name}")));
    }
    let text = first.to_str();
    text.map(Some).map_err(|_| Failure::permanent(format!("an answer with an odd {name}")))
}

/// The length that a head states.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let odd = || Failure::permanent("an answer whose Content-Length is no number");
    let text = field(headers, &header::CONTENT_LENGTH)?;
    text.map(|text| digits(text).ok_or_else(odd)).transpose()
}

/// The entity tag that a head states. It becomes a header of later requests.
pub(crate) fn entity_tag(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    match field(headers, &header::ETAG)?.filter(|tag| !tag.is_empty()) {
        Some(tag) if !is_word(tag) => Err(Failure::permanent("an answer with an odd etag")),
        tag => Ok(tag),
    }
}

/// Where the answer to a request of `object_store` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A bare text becomes part of the next address.
    Address,
    /// A bare text becomes a header.
    Header,
}

/// An answer of a store or of a service that hands out keys, if each of its words may go where libraries put them. A
/// bare text comes without the white space around it.
pub(crate) fn checked(body: &[u8], goes_to: Use) -> Result<&[u8], &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "the answer is no text")?.trim_ascii();
    let fits = match text.bytes().next() {
        None => true,
        Some(b'{' | b'[') => serde_json::from_str(text).is_ok_and(|value| is_json_fit(&value)),
        Some(b'<') => is_xml_fit(text),
        Some(_) => match goes_to {
            Use::Address => is_segment(text),
            Use::Header => is_word(text),
        },
    };
    let why = "the answer holds characters that are not allowed in a header or an address";
    fits.then_some(text.as_bytes()).ok_or(why)
}

fn is_json_fit(value: &Value) -> bool {
    let is_text_fit = |text: &str| text.len() <= MAX_WORD && is_printable(text);
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(number) => number.as_u64().is_none_or(|number| number <= MAX_NUMBER),
        Value::String(text) => is_text_fit(text),
        Value::Array(values) => values.iter().all(is_json_fit),
        Value::Object(fields) => {
            fields.iter().all(|(name, value)| is_text_fit(name) && is_json_fit(value))
        }
    }
}

/// Elements and text only: what else XML knows is used by nobody who means well.
fn is_xml_fit(xml: &str) -> bool {
    let mut element = "";
    xml.split('<').skip(1).all(|part| {
        let Some((tag, text)) = part.split_once('>') else { return false };
        if tag.starts_with('!') {
            return false;
        }
        if !tag.starts_with(['?', '/']) {
            let name = tag.split(|c: char| c.is_ascii_whitespace() || c == '/').next();
            element = name.and_then(|name| name.rsplit(':').next()).unwrap_or_default();
        }
        let text = unescaped(text.trim_ascii());
        let is_key = KEYS.contains(&element);
        text.len() <= MAX_WORD && (is_key || is_printable(&text))
    })
}

/// Whether `xml` is a whole document whose root is called `name`: a success of S3 says so.
pub(crate) fn is_document(xml: &str, name: &str) -> bool {
    opens(xml, name) && xml.trim_ascii().ends_with(&format!("</{name}>"))
}

/// Whether `xml` tells an error, whole or cut off, whatever status it came with.
pub(crate) fn is_error(xml: &str) -> bool {
    opens(xml, "Error")
}

/// Whether the root of `xml` is called `name`.
fn opens(xml: &str, name: &str) -> bool {
    let xml = xml.trim_ascii();
    let xml = match xml.strip_prefix("<?") {
        Some(declaration) => declaration.split_once("?>").map_or("", |(_, rest)| rest),
        None => xml,
    };
    let opened = xml.trim_ascii().strip_prefix('<').and_then(|xml| xml.strip_prefix(name));
    opened.is_some_and(|rest| rest.starts_with(['>', ' ', '\t', '\r', '\n']))
}

/// Text of the first `<name>` in `xml`.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// The same, if it may be used in a header or an address.
pub(crate) fn word_of(xml: &str, name: &str) -> Option<String> {
    element(xml, name).map(unescaped).filter(|text| is_word(text))
}

pub(crate) fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let named = after.split_once(';').and_then(|(name, after)| Some((entity(name)?, after)));
        match named {
            Some((character, after)) => {
                out.push(character);
                rest = after;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let hex = number.strip_prefix(['x', 'X']);
            let code = match hex {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

/// What the server said: its status and S3's code for the reason. The rest of its text may hold what it was sent:
/// key ids, signatures, session tokens.
pub(crate) fn answered(status: &str, text: &str) -> String {
    let is_code = |code: &&str| {
        code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    match element(text, "Code").filter(is_code) {
        Some(code) => format!("the server answered {status}: {code}"),
        None => format!("the server answered {status}"),
    }
}

/// A library's text as a message holds it: short, on one line, and without what it quotes of an answer.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    let text = text.split(['"', '`']).next().unwrap_or_default();
    let is_short = text.len() <= MAX_SHOWN;
    if is_short && !text.contains(char::is_control) {
        return text.into();
    }
    let cut: String = text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
    let dots = if is_short { "" } else { "…" };
    format!("{cut}{dots}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, goes_to: Use, expect: Option<&str>) {
        let found = checked(body.as_bytes(), goes_to).ok();
        assert_eq!(found, expect.map(str::as_bytes), "{body:?}");
    }

    #[test]
    fn bare_texts_fit_where_they_go() {
        check("a token==\n", Use::Header, Some("a token=="));
        check("role-1_a@b", Use::Address, Some("role-1_a@b"));
        check("", Use::Address, Some(""));
        for bad in ["tok\r\nX-Evil: 1", "tok\u{7f}", "tok\0", "toké"] {
            check(bad, Use::Header, None);
            check(bad, Use::Address, None);
        }
        for bad in ["a role", "../role", "..", "role?x=1", "role#x", "a/b", "%0a"] {
            check(bad, Use::Address, None);
        }
        check(&"x".repeat(MAX_WORD + 1), Use::Header, None);
        assert!(checked(b"\xff", Use::Header).is_err());
    }

    #[test]
    fn json_holds_words_and_times() {
        let good = r#"{"Token": "a/b+c=", "n": [1, null, true, -1.5], "expires_in": 3600}"#;
        check(good, Use::Header, Some(good));
        for bad in [
            r#"{"Token": "a\nb"}"#,
            r#"{"Token": "a\u0000b"}"#,
            r#"{"deep": [{"Token": "é"}]}"#,
            r#"{"a\nb": 1}"#,
            r#"{"expires_in": 18446744073709551615}"#,
            r#"{"Token": "a""#,
        ] {
            check(bad, Use::Header, None);
        }
    }

    #[test]
    fn xml_holds_words_and_keys() {
        let good = "<?xml version=\"1.0\"?>\n<R xmlns=\"http://x/\">\n <Key>é</Key> <Id>a&amp;b</Id> <E/>\n</R>";
        check(good, Use::Header, Some(good));
        for bad in [
            "<R><UploadId>a\nb</UploadId></R>",
            "<R><UploadId>a&#10;b</UploadId></R>",
            "<R><UploadId>a&#xA;b</UploadId></R>",
            "<R><SessionToken>é</SessionToken></R>",
            "<R><![CDATA[x]]></R>",
            "<!DOCTYPE a><R></R>",
            "<R",
        ] {
            check(bad, Use::Header, None);
        }
    }

    #[test]
    fn only_the_expected_document_is_a_success() {
        let name = "CompleteMultipartUploadResult";
        for good in [
            "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>",
            "  <?xml version=\"1.0\"?>\n\n<CompleteMultipartUploadResult xmlns=\"x\"><ETag/></CompleteMultipartUploadResult>\n",
        ] {
            assert!(is_document(good, name), "{good}");
        }
        for bad in [
            "",
            "  ",
            "<html></html>",
            "<Error><Code>InternalError</Code></Error>",
            "<CompleteMultipartUploadResult>",
            "<CompleteMultipartUploadResultX></CompleteMultipartUploadResult>",
            "<?xml",
        ] {
            assert!(!is_document(bad, name), "{bad}");
        }
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(digits("007"), Some(7));
        for bad in ["", "+7", "-7", " 7", "7 ", "7, 7", "0x7", "99999999999999999999"] {
            assert_eq!(digits(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_a_server_echoes_is_not_repeated() {
        let text = "<Error><Code>InvalidToken</Code><Token-0>secret</Token-0></Error>";
        assert_eq!(
            answered("403 Forbidden", text),
            "the server answered 403 Forbidden: InvalidToken"
        );
        assert_eq!(answered("403", "<Code>se:cret</Code>"), "the server answered 403");
        let long = format!("<Code>{}</Code>", "A".repeat(10 << 20));
        assert_eq!(answered("403", &long), "the server answered 403");
        assert_eq!(answered("502 Bad Gateway", "<html>"), "the server answered 502 Bad Gateway");
        assert_eq!(shown("invalid type: string \"secret\""), "invalid type: string ");
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a[2Jb");
        assert!(shown(&"é".repeat(1000)).chars().count() <= MAX_SHOWN + 1);
    }
}
