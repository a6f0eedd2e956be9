//! A client's connection, with what the HTTP library leaves to us: a client that takes nothing in is dropped, a refusal that the library
//! makes itself (a head that is too long, or no HTTP at all) becomes a problem, and a client that is still sending can read it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::problem::{Kind, Problem};

/// How long a client that is still sending is listened to after the last answer. Closing earlier resets the connection, and the client
/// may never see that answer.
const LINGER: Duration = Duration::from_millis(500);

/// How much of what it is still sending is thrown away.
const MOST_LINGER_BYTES: usize = 4 << 20;

/// A client's connection.
pub(crate) struct ClientStream {
    stream: TcpStream,
    stalled_write: Duration,
    /// Runs while the client takes nothing in.
    stalled: Option<Pin<Box<Sleep>>>,
    /// True once a line has ended in what was read since the last answer: the request line, at least.
    line_ended: bool,
    /// What is to be written before anything else.
    waiting: Vec<u8>,
    linger: Linger,
}

enum Linger {
    Open,
    Until(Pin<Box<Sleep>>, usize),
    Done,
}

impl ClientStream {
    /// Takes over a connection. A client that takes nothing in for `stalled_write` is dropped.
    pub(crate) fn new(stream: TcpStream, stalled_write: Duration) -> Self {
        Self { stream, stalled_write, stalled: None, line_ended: false, waiting: Vec::new(), linger: Linger::Open }
    }

    fn poll_raw_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let limit = self.stalled_write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            let written = self.poll_raw_write(cx, &waiting);
            self.waiting = waiting;
            let written = ready!(written)?;
            self.waiting.drain(..written.min(self.waiting.len()));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and forgets what the client is still sending.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        loop {
            let (until, left) = match &mut self.linger {
                Linger::Open => {
                    self.linger = Linger::Until(Box::pin(sleep(LINGER)), MOST_LINGER_BYTES);
                    continue;
                }
                Linger::Until(until, left) => (until, left),
                Linger::Done => return Poll::Ready(Ok(())),
            };
            let mut buffer = ReadBuf::new(&mut scratch);
            let ended = until.as_mut().poll(cx).is_ready()
                || match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => true,
                    Poll::Ready(Ok(())) => {
                        *left = left.saturating_sub(buffer.filled().len());
                        buffer.filled().is_empty() || *left == 0
                    }
                };
            if ended {
                self.linger = Linger::Done;
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        self.line_ended |= read.contains(&b'\n');
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
        if let Some((start, status)) = bare_refusal(bytes) {
            // Where not even the request line ended, it is the URL that is too long.
            let kind = match (status, self.line_ended) {
                (431, false) => Kind::UriTooLong,
                _ => Kind::of_status(status),
            };
            self.waiting.extend_from_slice(bytes.get(..start).unwrap_or_default());
            self.waiting.extend(whole_response(&Problem::of(kind)));
            return Poll::Ready(Ok(bytes.len()));
        }
        self.line_ended = false;
        self.poll_raw_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.linger, Linger::Open) {
            ready!(self.poll_waiting(cx))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_linger(cx)
    }
}

/// Where in these bytes an error begins that the HTTP library made itself, and its status: a head at their end without body and without
/// a type. Each of our own answers has a type, and none of our bodies ends like a head.
fn bare_refusal(bytes: &[u8]) -> Option<(usize, u16)> {
    const LONGEST: usize = 256;
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(LONGEST);
    let tail = bytes.get(from..)?;
    let start = tail.windows(10).rposition(|window| window == b"HTTP/1.1 4")?;
    let head = std::str::from_utf8(tail.get(start..)?).ok()?.to_ascii_lowercase();
    if head.contains("\r\ncontent-type:") || !head.contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    Some((from + start, head.get(9..12)?.parse().ok()?))
}

/// A problem as the last response of a connection.
pub(crate) fn whole_response(problem: &Problem) -> Vec<u8> {
    let body = problem.body();
    let status = problem.status();
    let reason = axum::http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
    let retry = if status == 503 { "retry-after: 1\r\n" } else { "" };
    let mut bytes = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\ncache-control: no-store\r\n{retry}connection: close\r\n\r\n",
        super::problem::PROBLEM_JSON,
        body.len()
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_of_the_library_is_taken_for_one() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";
        let ours = "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 0\r\n\r\n";
        let check = |bytes: &str, expected| assert_eq!(bare_refusal(bytes.as_bytes()), expected, "{bytes}");
        check(bare, Some((0, 431)));
        check(&format!("HTTP/1.1 200 OK\r\n\r\nbody{bare}"), Some((23, 431)));
        check(ours, None);
        check(&bare[..bare.len() - 1], None);
        check(&bare.replace("431 Request Header Fields Too Large", "200 OK"), None);
        check("HTTP/1.1 100 Continue\r\n\r\n", None);
        check("", None);
        check("\r\n\r\n", None);
    }
}
