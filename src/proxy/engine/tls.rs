//! A TLS connection, of a client or to a backend: rustls without buffers of its own, over the loop's buffers. An idle
//! connection holds its keys and nothing else.

use super::{
    buffer::{Buffer, SIZE},
    stream::Stream,
};
use rustls::{
    ClientConfig, ServerConfig,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use rustls_pki_types::ServerName;
use std::{
    io,
    sync::Arc,
    task::{Poll, ready},
};

/// Plaintext encrypted at once: with the records' headers and tags, behind what waits, it fits into one buffer.
const PIECE: usize = 60 * 1024;
/// Encrypted bytes that may wait for company: a session ticket goes with the first response.
const WAITS: usize = 2 * 1024;

/// Which end we are.
enum End {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// A connection that speaks TLS.
pub(crate) struct Tls {
    stream: Stream,
    end: End,
    /// Read and not yet decrypted.
    incoming: Buffer,
    /// Bytes that the system took: encrypted ones, and what stood before them.
    sent: u64,
    /// Its TCP ended before it said so itself.
    cut: bool,
    state: State,
}

/// What came out of the records so far.
#[derive(Default)]
struct State {
    /// Decrypted and not yet taken.
    plain: Buffer,
    /// Encrypted and not yet sent.
    outgoing: Buffer,
    established: bool,
    /// The other end said that it sends no more (RFC 8446 §6.1).
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

/// What one step left to be done.
enum Step {
    Again,
    Done,
    Failed(io::Error),
}

impl State {
    /// Takes the records that came and encrypts what is wished.
    fn step<D>(
        &mut self,
        state: Result<ConnectionState<'_, '_, D>, rustls::Error>,
        wish: Wish<'_>,
        fulfilled: &mut bool,
    ) -> io::Result<Step> {
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    self.plain.append(record.map_err(broken)?.payload)?;
                }
                Ok(Step::Again)
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                match data.encode(self.outgoing.room()) {
                    Ok(n) => self.outgoing.filled(n),
                    Err(EncodeError::InsufficientSize(_)) => return Err(io::ErrorKind::OutOfMemory.into()),
                    Err(e) => return Err(broken(e)),
                }
                Ok(Step::Again)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done(); // it stands in `outgoing`
                Ok(Step::Again)
            }
            Ok(ConnectionState::PeerClosed) => {
                self.ended = true;
                Ok(Step::Again)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                (self.established, *fulfilled) = (true, true);
                let wrote = match wish {
                    Wish::Nothing => Ok(0),
                    Wish::Data(data) => traffic.encrypt(data, self.outgoing.room()),
                    Wish::End => traffic.queue_close_notify(self.outgoing.room()),
                };
                match wrote {
                    Ok(n) => self.outgoing.filled(n),
                    Err(EncryptError::InsufficientSize(_)) => return Err(io::ErrorKind::OutOfMemory.into()),
                    Err(e) => return Err(broken(e)),
                }
                Ok(Step::Done)
            }
            Ok(_) => Ok(Step::Done),
            Err(e) => Ok(Step::Failed(broken(e))),
        }
    }
}

impl Tls {
    /// With a client.
    pub(crate) fn new(stream: Stream, config: Arc<ServerConfig>) -> io::Result<Tls> {
        let end = End::Server(UnbufferedServerConnection::new(config).map_err(broken)?);
        Ok(Tls { stream, end, incoming: Buffer::default(), sent: 0, cut: false, state: State::default() })
    }

    /// With a backend of this name; it is greeted.
    pub(crate) fn to(
        stream: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Tls> {
        let end = End::Client(UnbufferedClientConnection::new(config, name).map_err(broken)?);
        let mut tls =
            Tls { stream, end, incoming: Buffer::default(), sent: 0, cut: false, state: State::default() };
        tls.drive(Wish::Nothing)?;
        Ok(tls)
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Counts what the system took before the handshake.
    pub(crate) fn count_before(&mut self, n: usize) {
        self.sent += n as u64;
    }

    /// Bytes that the system took so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Its TCP ended before it said so itself.
    pub(crate) fn cut(&self) -> bool {
        self.cut
    }

    /// The handshake agreed on HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        let agreed = match &self.end {
            End::Server(connection) => connection.alpn_protocol(),
            End::Client(connection) => connection.alpn_protocol(),
        };
        agreed == Some(b"h2")
    }

    /// Nothing but records of TLS itself (session tickets) came since all was read.
    pub(crate) fn quiet(&mut self) -> bool {
        loop {
            if !self.state.plain.is_empty() || self.state.ended {
                return false;
            }
            match self.poll_more() {
                Poll::Pending => return true,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return false,
            }
        }
    }

    /// Takes the records that came and encrypts what is wished; an error leaves an alert in `outgoing`.
    fn drive(&mut self, wish: Wish<'_>) -> io::Result<()> {
        let mut failure = None;
        let mut fulfilled = matches!(wish, Wish::Nothing);
        loop {
            let (discard, step) = match &mut self.end {
                End::Server(connection) => {
                    let UnbufferedStatus { discard, state, .. } =
                        connection.process_tls_records(self.incoming.bytes_mut());
                    (discard, self.state.step(state, wish, &mut fulfilled)?)
                }
                End::Client(connection) => {
                    let UnbufferedStatus { discard, state, .. } =
                        connection.process_tls_records(self.incoming.bytes_mut());
                    (discard, self.state.step(state, wish, &mut fulfilled)?)
                }
            };
            self.incoming.consume(discard);
            match step {
                Step::Again => {}
                Step::Failed(e) if failure.is_none() => failure = Some(e), // and once more, for the alert
                Step::Done | Step::Failed(_) => break,
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
            Poll::Ready(Ok(0)) => {
                self.cut = true;
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
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
            if self.state.established || !self.state.plain.is_empty() {
                return Poll::Ready(Ok(())); // what is left to be sent goes with what is written, or before the next wait
            }
            ready!(self.poll_flush())?;
            ready!(self.poll_more())?;
        }
    }

    /// Reads plaintext behind what the buffer holds; 0 at the client's orderly end.
    pub(crate) fn poll_read(&mut self, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        while self.state.plain.is_empty() && !self.state.ended {
            if self.state.outgoing.bytes().len() > WAITS && self.poll_flush()?.is_pending() {
                buffer.wait(); // answers to the client's records (key updates) do not pile up
                return Poll::Pending;
            }
            match self.poll_more() {
                Poll::Pending => {
                    let _ = self.poll_flush()?; // nothing waits longer than for what has come
                    buffer.wait();
                    return Poll::Pending;
                }
                Poll::Ready(r) => r?,
            }
        }
        if buffer.is_empty() {
            std::mem::swap(buffer, &mut self.state.plain);
            return Poll::Ready(Ok(buffer.bytes().len()));
        }
        let n = self.state.plain.bytes().len().min(buffer.room().len());
        if n == 0 && !self.state.plain.is_empty() {
            return Poll::Ready(Err(io::Error::other("the buffer is full")));
        }
        buffer.append(&self.state.plain.bytes()[..n])?;
        self.state.plain.consume(n);
        Poll::Ready(Ok(n))
    }

    /// Takes a piece of plaintext to be sent; [`Tls::poll_flush`] sends the rest of it.
    pub(crate) fn poll_write(&mut self, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.outgoing.bytes().len() > WAITS {
            ready!(self.poll_flush())?;
        }
        self.state.outgoing.gather();
        let piece = &data[..data.len().min(PIECE)];
        self.drive(Wish::Data(piece))?;
        if piece.len() == data.len() && self.stream.is_last() {
            self.say_end()?;
        }
        if let Poll::Ready(Err(e)) = self.poll_flush() {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// Sends what is encrypted.
    pub(crate) fn poll_flush(&mut self) -> Poll<io::Result<()>> {
        while !self.state.outgoing.is_empty() {
            let n = ready!(self.stream.poll_write(self.state.outgoing.bytes()))?;
            self.sent += n as u64;
            self.state.outgoing.consume(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Says that we send no more, and ends our direction.
    pub(crate) fn poll_shutdown(&mut self) -> Poll<io::Result<()>> {
        ready!(self.poll_flush())?;
        if self.state.established {
            self.say_end()?;
            ready!(self.poll_flush())?;
        }
        Poll::Ready(self.stream.shutdown())
    }

    fn say_end(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.state.said_end, true) { Ok(()) } else { self.drive(Wish::End) }
    }
}

const _: () = assert!(
    WAITS + PIECE + 5 * 64 <= SIZE,
    "four records with their headers and tags, what waits, and the end"
);
