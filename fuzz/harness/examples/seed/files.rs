//! Seeds of the targets that read whole files: `.tensors`, PyTorch's archives, answers of servers.

use std::fs;
use std::io;

use fuzz_harness::{fixtures, options, seeds, tensors_in};
use tz_format::{FrontDecoder, Limits, Step, testing};

use crate::Corpus;

/// How files are read: from memory, a stream, the disk; each without secrets and with.
const WAYS: [u8; 6] = [0, 1, 2, 4, 5, 6];
/// Longest fixture that is a seed as it is.
const MAX_LEN: usize = 48 << 10;

pub(crate) fn write(corpus: &Corpus) -> io::Result<()> {
    for flavour in 0..4 {
        let file = testing::build(testing::specs(), options(flavour));
        for way in WAYS {
            let name = format!("flavour-{flavour}-{way}");
            corpus.seed("read", &name, &[&[way], &*file].concat())?;
        }
    }
    for (name, file) in ["valid", "sealed"].into_iter().flat_map(tensors_in) {
        if file.len() <= MAX_LEN {
            corpus.seed("read", &name, &[&[4], &*file].concat())?;
        }
        let front = FrontDecoder::new(Limits::default()).step(&file);
        let Ok(Step::Done(front)) = front else { continue };
        if let Some(record) = &front.extension.key_slots {
            for authentic in [0, 1] {
                let name = format!("{name}-{authentic}");
                corpus.seed("key_slots", &name, &[&[authentic], &**record].concat())?;
            }
        }
    }
    for (i, number) in (0..seeds()).zip(0..) {
        for way in WAYS {
            let choices = [&[way, number], &*testing::paint(7 * (i as u64 % 20))].concat();
            corpus.seed("damage", &format!("{i}-{way}"), &choices)?;
        }
    }
    torch(corpus)?;
    http(corpus)
}

fn torch(corpus: &Corpus) -> io::Result<()> {
    for entry in fs::read_dir(fixtures().join("foreign/torch"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".pt") && !name.ends_with(".bin") {
            continue;
        }
        let file = fs::read(&path)?;
        corpus.seed("torch", &name, &[&[0], &*file].concat())?;
        // Protocol 2 begins so; the archive's next record ends it.
        let find = |from: usize, what: &[u8]| {
            let rest = file.get(from..).unwrap_or_default();
            rest.windows(what.len()).position(|bytes| bytes == what).map(|at| from + at)
        };
        let start = find(0, b"data.pkl").and_then(|at| find(at, b"\x80"));
        if let Some((start, end)) = start.and_then(|start| Some((start, find(start, b"PK")?))) {
            corpus.seed("torch", &format!("{name}-pickle"), &[&[1], &file[start..end]].concat())?;
        }
    }
    Ok(())
}

fn http(corpus: &Corpus) -> io::Result<()> {
    let specs = testing::specs().into_iter().take(4).collect();
    let file = testing::build(specs, options(0));
    let (len, last) = (file.len(), file.len() - 1);
    let ranged = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-{last}/{len}\r\ncontent-length: {len}\r\n\
         etag: \"a\"\r\nlast-modified: Wed, 21 Oct 2026 07:28:00 GMT\r\n\r\n"
    );
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n");
    let endless = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned();
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{len:x}\r\n");
    for (name, head) in
        [("ranged", ranged), ("whole", whole), ("endless", endless), ("chunked", chunked)]
    {
        corpus.seed("http_answer", name, &[head.as_bytes(), &file, b"\r\n0\r\n\r\n"].concat())?;
    }
    // A file whose second half comes by a second request.
    let half = 512 << 10;
    let parts = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-{}/{}\r\ncontent-length: {half}\r\n\r\n",
        half - 1,
        half * 2,
    );
    corpus.seed(
        "http_answer",
        "parts",
        &[parts.as_bytes(), &file, b"\x1e\x1eHTTP/1.1 206 OK\r\n\r\n"].concat(),
    )?;
    let refusals = "HTTP/1.1 503 Slow Down\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n\x1e\x1eHTTP/1.1 416 No\r\n\r\n";
    corpus.seed("http_answer", "refusals", refusals.as_bytes())
}
