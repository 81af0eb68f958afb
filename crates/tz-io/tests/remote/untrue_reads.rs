//! Servers that answer reads with anything: only the bytes that were asked for replace a file.

use tz_io::{IoError, Location, copy};

use crate::model::{file, location, options, writing};
use crate::server::Server;
use crate::server::fault::Fault;
use crate::server::objects::{Object, Objects};
use crate::server::raw::Raw;

/// A copy from there fails, and the file at its destination stays.
#[track_caller]
fn check_kept(url: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("good.tensors");
    std::fs::write(&to, "good").expect("written");
    for direct in [true, false] {
        let mut options = options();
        options.direct = direct;
        options.retries = 0;
        let copied = copy(&location(url), &Location::File(to.clone()), &writing(options));
        assert!(matches!(copied, Err(IoError::Io { .. })), "{copied:?}");
        assert_eq!(std::fs::read(&to).expect("there"), b"good");
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    }
}

#[test]
fn a_refused_range_does_not_make_an_object_empty() {
    for head in [
        "content-length: 0",
        "content-length: 0\r\ncontent-range: bytes */0",
        "content-length: 0\r\ncontent-range: bytes */0\r\netag: \"e\"",
        "content-length: 0\r\ncontent-range: bytes */5",
        "content-length: 0\r\ncontent-range: bytes 0-0/0",
        "content-length: 0\r\ncontent-range: bytes */0\r\ncontent-range: bytes */5",
        "content-length: 0\r\ncontent-range: bytes */+0",
        "content-length: 0\r\ncontent-range: items */0",
        "content-length: 0\r\ncontent-range: bytes */",
        "content-length: 0\r\ncontent-range: bytes */*",
    ] {
        let server = Raw::new(format!("HTTP/1.1 416 Range Not Satisfiable\r\n{head}\r\n\r\n"));
        check_kept(&server.url("/model.tensors"));
        assert!(server.requests() > 0, "{head}");
    }
}

/// What the refusal says is held against the answer without a range.
#[test]
fn an_object_is_empty_where_the_whole_of_it_is() {
    let refusal = Fault::Status(416, &[("content-range", "bytes */0")], "");
    for direct in [true, false] {
        let mut options = options();
        options.direct = direct;
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("good.tensors");
        for (bytes, is_empty) in [(file(&[1000]), false), (Vec::new(), true)] {
            std::fs::write(&to, "good").expect("written");
            let server = Server::new(Objects::default().with("/m", Object::new(bytes)));
            server.fault(|record| record.range().is_some(), refusal.clone());
            let destination = Location::File(to.clone());
            let copied =
                copy(&location(&server.url("/m")), &destination, &writing(options.clone()));
            assert_eq!(copied.is_ok(), is_empty, "{copied:?}");
            let expect: &[u8] = if is_empty { b"" } else { b"good" };
            assert_eq!(std::fs::read(&to).expect("there"), expect);
            assert_eq!(server.requests(), 2, "the range, and all of it");
        }
    }
}

#[test]
fn an_entity_tag_is_a_word() {
    let body = "content-length: 10\r\ncontent-range: bytes 0-9/10\r\n\r\n0123456789";
    let long = format!("etag: \"{}\"", "e".repeat(8 << 10));
    for tags in [&*long, "etag: \"\u{e9}\"", "etag: \"a\"\r\netag: \"b\""] {
        let head = format!("HTTP/1.1 206 Partial Content\r\nconnection: close\r\n{tags}");
        let server = Raw::new(format!("{head}\r\n{body}"));
        check_kept(&server.url("/model.tensors"));
        assert!(server.requests() > 0, "{tags}");
    }
    for tags in [format!("etag: \"{}\"", "e".repeat((8 << 10) - 2)), "etag: ".to_owned()] {
        let head = format!("HTTP/1.1 206 Partial Content\r\nconnection: close\r\n{tags}");
        let server = Raw::new(format!("{head}\r\n{body}"));
        let source = location(&server.url("/any")).open(&options()).expect("a tag, or none");
        assert_eq!(source.len(), Some(10));
    }
}

#[test]
fn packed_data_is_refused() {
    let ranged = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-9/10";
    for start in [ranged, "HTTP/1.1 200 OK"] {
        let answer = |coding: &str| {
            let head = format!("{start}\r\ncontent-length: 10\r\nconnection: close\r\n{coding}");
            Raw::new(format!("{head}\r\n\r\n0123456789"))
        };
        for coding in ["gzip", "br", "identity, gzip", "identity\r\ncontent-encoding: zstd"] {
            let server = answer(&format!("content-encoding: {coding}"));
            check_kept(&server.url("/model.tensors"));
            for direct in [true, false] {
                let mut options = options();
                options.direct = direct;
                let opened = location(&server.url("/model.tensors")).open(&options);
                assert!(matches!(opened, Err(IoError::Io { .. })), "{coding} {opened:?}");
            }
        }
        for coding in ["identity", "Identity", "", "aws-chunked"] {
            let server = answer(&format!("content-encoding: {coding}"));
            location(&server.url("/any")).open(&options()).expect("not packed");
        }
    }
}

#[test]
fn only_the_range_that_was_asked_for_counts() {
    let text = "0123456789";
    for head in [
        // Another end.
        "content-length: 10\r\ncontent-range: bytes 0-9/100",
        "content-length: 10\r\ncontent-range: bytes 0-9/9",
        "content-length: 10\r\ncontent-range: bytes 0-9/*",
        "content-length: 10\r\ncontent-range: bytes 0-10/10",
        // Another length.
        "content-length: 9\r\ncontent-range: bytes 0-9/10",
        "content-length: 11\r\ncontent-range: bytes 0-9/10",
        // Signs.
        "content-length: +10\r\ncontent-range: bytes 0-9/10",
        "content-length: 10\r\ncontent-range: bytes +0-9/10",
        "content-length: 10\r\ncontent-range: bytes 0-+9/10",
        "content-length: 10\r\ncontent-range: bytes 0-9/+10",
        // Contradictions.
        "content-length: 10\r\ncontent-length: 9\r\ncontent-range: bytes 0-9/10",
        "content-length: 10, 9\r\ncontent-range: bytes 0-9/10",
        "content-length: 10\r\ncontent-range: bytes 0-9/10\r\ncontent-range: bytes 0-9/11",
        // Several ranges.
        "content-length: 10\r\ncontent-type: multipart/byteranges; boundary=x",
        "content-length: 10\r\ncontent-range: bytes 0-9/10\r\ncontent-type: Multipart/ByteRanges",
    ] {
        let head = format!("HTTP/1.1 206 Partial Content\r\n{head}\r\nconnection: close");
        let server = Raw::new(format!("{head}\r\n\r\n{text}"));
        check_kept(&server.url("/model.tensors"));
        assert!(server.requests() > 0, "{head}");
    }
    for range in ["0-9", "0-98", "1-99"] {
        let head = format!("content-length: 100\r\ncontent-range: bytes {range}/100");
        let head = format!("HTTP/1.1 206 Partial Content\r\n{head}\r\nconnection: close");
        check_kept(&Raw::new(format!("{head}\r\n\r\n{}", text.repeat(10))).url("/model.tensors"));
    }
    // The last byte belongs to no range.
    for body in [
        "transfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
        "\r\n0123456789x",
    ] {
        let head =
            "HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-range: bytes 0-9/10";
        check_kept(&Raw::new(format!("{head}\r\n{body}")).url("/model.tensors"));
    }
    let good = "content-length: 10\r\ncontent-range: bytes 0-9/10";
    let server = Raw::new(format!("HTTP/1.1 206 Partial Content\r\n{good}\r\n\r\n{text}"));
    let source = location(&server.url("/any")).open(&options()).expect("all of it");
    assert_eq!(source.len(), Some(10));
}

#[test]
fn a_stream_has_one_length() {
    for head in
        ["content-length: 10\r\ncontent-length: 9", "content-length: +10", "content-length: 1 0"]
    {
        let server = Raw::new(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n0123456789"));
        for direct in [true, false] {
            let mut options = options();
            (options.direct, options.retries) = (direct, 0);
            let opened = location(&server.url("/model.tensors")).open(&options);
            assert!(matches!(opened, Err(IoError::Io { .. })), "{head} {opened:?}");
        }
    }
}
