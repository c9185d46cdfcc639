//! A terminated TLS connection: rustls without buffers of its own, over the loop's buffers. An idle connection holds
//! its keys and nothing else.

use super::{
    buffer::{Buffer, SIZE},
    stream::Stream,
};
use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use std::{
    io,
    sync::Arc,
    task::{Poll, ready},
};

/// Plaintext encrypted at once: with the records' headers and tags it fits into one buffer.
const PIECE: usize = 60 * 1024;

/// A connection that speaks TLS to its client.
pub(crate) struct Tls {
    stream: Stream,
    connection: UnbufferedServerConnection,
    /// Read and not yet decrypted.
    incoming: Buffer,
    /// Decrypted and not yet taken.
    plain: Buffer,
    /// Encrypted and not yet sent.
    outgoing: Buffer,
    established: bool,
    /// The client said that it sends no more (RFC 8446 §6.1).
    ended: bool,
    said_end: bool,
}

/// What shall be encrypted once nothing else stands before it.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Nothing,
    Data(&'a [u8]),
    End,
}

fn broken(e: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

impl Tls {
    pub(crate) fn new(stream: Stream, config: Arc<ServerConfig>) -> io::Result<Tls> {
        Ok(Tls {
            stream,
            connection: UnbufferedServerConnection::new(config).map_err(broken)?,
            incoming: Buffer::default(),
            plain: Buffer::default(),
            outgoing: Buffer::default(),
            established: false,
            ended: false,
            said_end: false,
        })
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The handshake agreed on HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        self.connection.alpn_protocol() == Some(b"h2")
    }

    /// Takes the records that came and encrypts what is wished; an error leaves an alert in `outgoing`.
    fn drive(&mut self, wish: Wish<'_>) -> io::Result<()> {
        let mut failure = None;
        let mut fulfilled = matches!(wish, Wish::Nothing);
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(self.incoming.bytes_mut());
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.append(record.map_err(broken)?.payload)?;
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    match data.encode(self.outgoing.room()) {
                        Ok(n) => self.outgoing.filled(n),
                        Err(EncodeError::InsufficientSize(_)) => {
                            return Err(io::ErrorKind::OutOfMemory.into());
                        }
                        Err(e) => return Err(broken(e)),
                    }
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done(); // it stands in `outgoing`
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    true
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    (self.established, fulfilled) = (true, true);
                    let wrote = match wish {
                        Wish::Nothing => Ok(0),
                        Wish::Data(data) => traffic.encrypt(data, self.outgoing.room()),
                        Wish::End => traffic.queue_close_notify(self.outgoing.room()),
                    };
                    match wrote {
                        Ok(n) => self.outgoing.filled(n),
                        Err(EncryptError::InsufficientSize(_)) => {
                            return Err(io::ErrorKind::OutOfMemory.into());
                        }
                        Err(e) => return Err(broken(e)),
                    }
                    false
                }
                Ok(_) => false,
                Err(e) if failure.is_none() => {
                    failure = Some(broken(e)); // and once more, for the alert
                    true
                }
                Err(_) => false,
            };
            self.incoming.consume(discard);
            if !more {
                break;
            }
        }
        match failure {
            Some(e) => Err(e),
            None if fulfilled => Ok(()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Reads more from the client.
    fn poll_more(&mut self) -> Poll<io::Result<()>> {
        let room = self.incoming.room();
        if room.is_empty() {
            return Poll::Ready(Err(io::Error::other("a record is too large")));
        }
        match self.stream.poll_read(room) {
            Poll::Pending => {
                self.incoming.wait();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(n)) => {
                self.incoming.filled(n);
                let driven = self.drive(Wish::Nothing);
                if driven.is_err() {
                    let _ = self.poll_flush(); // the alert, if it fits
                }
                Poll::Ready(driven)
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
        }
    }

    /// Goes on with the handshake until it is done.
    pub(crate) fn poll_handshake(&mut self) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush())?;
            if self.established || !self.plain.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_more())?;
        }
    }

    /// Reads plaintext behind what the buffer holds; 0 at the client's orderly end.
    pub(crate) fn poll_read(&mut self, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        while self.plain.is_empty() && !self.ended {
            if !self.outgoing.is_empty() && self.poll_flush()?.is_pending() {
                buffer.wait(); // an answer to the client's records (a key update) goes first, and none piles up
                return Poll::Pending;
            }
            match self.poll_more() {
                Poll::Pending => {
                    buffer.wait();
                    return Poll::Pending;
                }
                Poll::Ready(r) => r?,
            }
        }
        if buffer.is_empty() {
            std::mem::swap(buffer, &mut self.plain);
            return Poll::Ready(Ok(buffer.bytes().len()));
        }
        let n = self.plain.bytes().len().min(buffer.room().len());
        if n == 0 && !self.plain.is_empty() {
            return Poll::Ready(Err(io::Error::other("the buffer is full")));
        }
        buffer.append(&self.plain.bytes()[..n])?;
        self.plain.consume(n);
        Poll::Ready(Ok(n))
    }

    /// Takes a piece of plaintext to be sent; [`Tls::poll_flush`] sends the rest of it.
    pub(crate) fn poll_write(&mut self, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush())?;
        let piece = &data[..data.len().min(PIECE)];
        self.drive(Wish::Data(piece))?;
        if let Poll::Ready(Err(e)) = self.poll_flush() {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// Sends what is encrypted.
    pub(crate) fn poll_flush(&mut self) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let n = ready!(self.stream.poll_write(self.outgoing.bytes()))?;
            self.outgoing.consume(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Says that we send no more, and ends our direction.
    pub(crate) fn poll_shutdown(&mut self) -> Poll<io::Result<()>> {
        ready!(self.poll_flush())?;
        if self.established && !self.said_end {
            self.said_end = true;
            self.drive(Wish::End)?;
            ready!(self.poll_flush())?;
        }
        Poll::Ready(self.stream.shutdown())
    }
}

const _: () = assert!(PIECE + 4 * 64 <= SIZE, "four records with their headers and tags");
