//! Bodies that are no tensor data, of which a server can send what it likes. Owns [`text`] and [`read`]: they take so
//! many bytes and so much time, whatever the answer announces.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;

/// Most bytes of such a body: documents of stores and tokens have a few thousand.
pub(crate) const MAX_ANSWER: usize = 64 << 10;

/// Time that the reason of a refusal gets to arrive; the status is an answer without it.
pub(crate) const REASON_PATIENCE: Duration = Duration::from_secs(5);

/// Why a body was not read to its end.
#[derive(Debug)]
pub(crate) enum Unread<E> {
    TooLong,
    Broken(E),
}

/// Reads a body of at most `most` bytes to the end of `bytes`; of a longer one, so many.
pub(crate) async fn read<B>(
    body: &mut B,
    most: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), Unread<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut room = most;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        let frame = frame.map_err(Unread::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        let (taken, left) = data.split_at(data.len().min(room));
        bytes.extend_from_slice(taken);
        if !left.is_empty() {
            return Err(Unread::TooLong);
        }
        room -= taken.len();
    }
    Ok(())
}

/// What of a refusal came in time.
pub(crate) async fn reason<B>(body: &mut B) -> String
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut bytes = Vec::new();
    // Cut off, broken or late: the status has been said, and what came of the reason is as good as any.
    let _ = tokio::time::timeout(REASON_PATIENCE, read(body, MAX_ANSWER, &mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text of an answer: of a success all of it, of a refusal what came in time.
pub(crate) async fn text(
    response: reqwest::Response,
    most: usize,
) -> Result<String, Unread<reqwest::Error>> {
    let is_success = response.status().is_success();
    let mut body = http::Response::<reqwest::Body>::from(response).into_body();
    if !is_success {
        return Ok(reason(&mut body).await);
    }
    let mut bytes = Vec::new();
    read(&mut body, most, &mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::runtime::block_on;
    use super::*;

    #[test]
    fn a_body_takes_no_more_than_it_may() {
        for (len, most, expect) in
            [(0, 0, true), (1, 0, false), (100, 100, true), (101, 100, false)]
        {
            let mut body = reqwest::Body::from(vec![7; len]);
            let mut bytes = Vec::new();
            let read = block_on(read(&mut body, most, &mut bytes));
            assert_eq!((read.is_ok(), bytes.len()), (expect, len.min(most)));
        }
    }
}
