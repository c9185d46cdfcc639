//! Frames: `type u8 | id u64 | body` (little endian) in an envelope of [`zonekeeper_core::codec`], which brings magic,
//! format version, length and checksum.

use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::Instant,
};
use zonekeeper_core::codec::{self, CodecError, HEADER, Kind, OVERHEAD};

/// Bytes of type and id before the body.
const PREFIX: usize = 9;
/// Largest handshake frame (hello, welcome, goodbye): a few dozen bytes today.
pub(crate) const HELLO_LIMIT: usize = 1 << 10;
/// Bytes read at once, at most; also the step in which a large frame's buffer grows, so that a length that was only
/// promised costs nothing.
const STEP: usize = 64 << 10;

/// What a frame is. Numbers are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Type {
    /// First frame of the caller.
    Hello = 1,
    /// First frame of the called.
    Welcome = 2,
    /// Last frame: why the connection ends.
    Goodbye = 3,
    /// A call.
    Request = 4,
    /// Its answer.
    Response = 5,
    /// Its answer, when the handler failed: UTF-8 text.
    Failure = 6,
    /// Its answer, when too many calls run: it was not handled.
    Busy = 7,
    /// Are you there? Carries the settings digest.
    Ping = 8,
    /// I am. Carries the settings digest.
    Pong = 9,
    /// A joiner's request.
    Join = 10,
    /// Its answer.
    Grant = 11,
    /// The answer to a call whose handler may have acted, but has no answer that could be sent: UTF-8 text.
    Broken = 12,
}

impl Type {
    fn of(byte: u8) -> Option<Type> {
        use Type::*;
        [Hello, Welcome, Goodbye, Request, Response, Failure, Busy, Ping, Pong, Join, Grant, Broken]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Type,
    /// Pairs an answer with its call.
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
}

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The connection ended, between two frames or within one, or failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a frame of ours, or larger than allowed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A frame of a type that we do not know or that does not belong here.
    #[error("unexpected frame type {0}")]
    Type(u8),
}

/// A frame as bytes.
pub(crate) fn encode(kind: Type, id: u64, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(PREFIX + body.len());
    payload.push(kind as u8);
    payload.extend_from_slice(&id.to_le_bytes());
    payload.extend_from_slice(body);
    codec::seal(Kind::Frame, &payload)
}

/// The inverse of [`encode`].
fn decode(mut record: Vec<u8>, limit: usize) -> Result<Frame, FrameError> {
    let payload = codec::open(Kind::Frame, &record, limit)?;
    let [kind, i0, i1, i2, i3, i4, i5, i6, i7, ..] = *payload else {
        return Err(CodecError::Short { have: payload.len(), want: PREFIX }.into());
    };
    let kind = Type::of(kind).ok_or(FrameError::Type(kind))?;
    record.truncate(record.len() - (OVERHEAD - HEADER));
    record.drain(..HEADER + PREFIX);
    Ok(Frame { kind, id: u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]), body: record })
}

/// Reads frames. [`Reader::next`] may be cancelled and called again without losing bytes.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    io: R,
    buffer: Vec<u8>,
    /// When the last bytes came.
    pub(crate) heard: Instant,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(io: R) -> Reader<R> {
        Reader { io, buffer: Vec::new(), heard: Instant::now() }
    }

    /// The connection; bytes that were read ahead are lost.
    pub(crate) fn into_inner(self) -> R {
        self.io
    }

    /// The next frame, whose body has at most `limit` bytes.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Frame, FrameError> {
        loop {
            let want = match self.buffer.get(..HEADER) {
                Some(header) => codec::payload_len(Kind::Frame, header, limit + PREFIX)? + OVERHEAD,
                None => HEADER,
            };
            if want > HEADER && self.buffer.len() >= want {
                let rest = self.buffer.split_off(want);
                return decode(std::mem::replace(&mut self.buffer, rest), limit + PREFIX);
            }
            self.buffer.reserve((want - self.buffer.len()).clamp(4 << 10, STEP));
            match self.io.read_buf(&mut self.buffer).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => self.heard = Instant::now(),
            }
        }
    }
}

/// Writes what comes through the queue until it closes or the connection fails. Frames that wait together leave in one
/// flush.
pub(crate) async fn write_queue<W: AsyncWrite + Unpin>(io: &mut W, queue: &mut mpsc::Receiver<Vec<u8>>) {
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(frame) = next {
            if io.write_all(&frame).await.is_err() {
                return; // the reader of this connection sees the same failure and reports it
            }
            next = queue.try_recv().ok();
        }
        if io.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], limit: usize) -> Result<Frame, FrameError> {
        Reader::new(bytes).next(limit).await
    }

    #[test]
    fn golden_bytes_of_a_frame() {
        let bytes = encode(Type::Ping, 2, &[9]);
        assert_eq!(
            bytes[..HEADER + PREFIX + 1],
            [0x5a, 0x4b, 1, 9, 10, 0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 9]
        );
    }

    #[tokio::test]
    async fn frames_are_read_one_after_the_other() {
        let bytes = [encode(Type::Request, 7, b"one"), encode(Type::Response, 7, &[0; 300_000])].concat();
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(
            reader.next(3).await.unwrap(),
            Frame { kind: Type::Request, id: 7, body: b"one".to_vec() }
        );
        assert_eq!(reader.next(300_000).await.unwrap().body.len(), 300_000);
        assert!(
            matches!(reader.next(3).await, Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof)
        );
    }

    #[tokio::test]
    async fn the_limit_is_on_the_body_and_seen_before_the_body_is_read() {
        let bytes = encode(Type::Request, 1, &[0; 100]);
        assert!(read(&bytes, 100).await.is_ok());
        assert!(matches!(read(&bytes[..HEADER], 99).await, Err(FrameError::Codec(CodecError::Large { .. }))));
    }

    #[tokio::test]
    async fn every_cut_and_every_flipped_bit_is_an_error_and_not_a_panic() {
        let bytes = encode(Type::Request, 1, b"body");
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], 64).await.is_err(), "cut {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, 64).await.is_err(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn an_empty_or_unknown_frame_is_an_error() {
        assert!(matches!(read(&codec::seal(Kind::Frame, b""), 64).await, Err(FrameError::Codec(_))));
        assert!(matches!(read(&codec::seal(Kind::Frame, &[200; 9]), 64).await, Err(FrameError::Type(200))));
    }
}
