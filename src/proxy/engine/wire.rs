//! One connection's bytes, plain or TLS, readable and writable from two halves of one task.

use super::{
    buffer::Buffer,
    http2::{Stream2, Upstream2},
    stream::Stream,
    timer::{Side, Timer},
    tls::Tls,
};
use crate::socket;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
    task::{Poll, ready},
};

/// After a last answer the client may still be sending; so long it is read from, so that the answer is not lost in a
/// reset (RFC 9112 §9.6).
pub(crate) const LINGER_MS: u32 = 1000;
/// And at most so many bytes.
const LINGER_BYTES: u64 = 256 * 1024;

/// Why reading or writing went no further.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The deadline is over.
    Timeout,
    /// The system said no.
    Io,
    /// The other end closed.
    Closed,
}

enum Kind {
    Plain(Stream),
    Tls(Box<RefCell<Tls>>),
    /// A stream of a connection with others: the bytes of its bodies.
    Http2(Rc<Stream2>),
    /// The same, of a connection to a backend.
    Upstream2(Box<Upstream2>),
}

/// A connection. Its methods take `&self`: a borrow never outlives one poll.
pub(crate) struct Wire {
    kind: Kind,
    written: Cell<u64>,
    read: Cell<u64>,
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        match &self.kind {
            Kind::Plain(s) => s.as_raw_fd(),
            Kind::Tls(t) => t.borrow().stream().as_raw_fd(),
            Kind::Http2(_) | Kind::Upstream2(_) => -1, // the connection has others' bytes, too
        }
    }
}

fn add(counter: &Cell<u64>, n: usize) {
    counter.set(counter.get() + n as u64);
}

impl Wire {
    fn of(kind: Kind) -> Wire {
        Wire { kind, written: Cell::new(0), read: Cell::new(0) }
    }

    pub(crate) fn plain(stream: Stream) -> Wire {
        Wire::of(Kind::Plain(stream))
    }

    pub(crate) fn tls(tls: Tls) -> Wire {
        Wire::of(Kind::Tls(Box::new(RefCell::new(tls))))
    }

    pub(crate) fn http2(stream: Rc<Stream2>) -> Wire {
        Wire::of(Kind::Http2(stream))
    }

    pub(crate) fn upstream(stream: Upstream2) -> Wire {
        Wire::of(Kind::Upstream2(Box::new(stream)))
    }

    pub(crate) fn is_tls(&self) -> bool {
        match &self.kind {
            Kind::Plain(_) | Kind::Upstream2(_) => false,
            Kind::Tls(_) => true,
            Kind::Http2(s) => s.is_tls(),
        }
    }

    /// Closing it says that all was sent; where it does not, that is told before.
    pub(crate) fn ends_by_closing(&self) -> bool {
        matches!(self.kind, Kind::Plain(_))
    }

    /// The handshake agreed on HTTP/2 (RFC 7301).
    pub(crate) fn speaks_http2(&self) -> bool {
        matches!(&self.kind, Kind::Tls(t) if t.borrow().speaks_http2())
    }

    /// The stream, when it is one of HTTP/2: heads go by it, and only bodies through here.
    pub(crate) fn stream2(&self) -> Option<&Stream2> {
        match &self.kind {
            Kind::Http2(s) => Some(s),
            _ => None,
        }
    }

    /// Whether what is written next is the last; a stream then ends with it.
    pub(crate) fn set_last(&self, last: bool) {
        match &self.kind {
            Kind::Http2(s) => s.set_last(last),
            Kind::Upstream2(s) => s.set_last(last),
            Kind::Plain(_) | Kind::Tls(_) => {}
        }
    }

    /// A connection's direction of ours is ended at once behind what is written from now on.
    pub(crate) fn end_follows(&self) {
        match &self.kind {
            Kind::Plain(s) => s.set_last(),
            Kind::Tls(t) => t.borrow().stream().set_last(),
            Kind::Http2(_) | Kind::Upstream2(_) => {} // others have it
        }
    }

    /// Nothing follows what was read or is there to be read.
    pub(crate) fn ending(&self) -> bool {
        matches!(&self.kind, Kind::Plain(s) if s.ending())
    }

    /// The stream, when it is one of HTTP/2 to a backend.
    pub(crate) fn upstream2(&self) -> Option<&Upstream2> {
        match &self.kind {
            Kind::Upstream2(s) => Some(s),
            _ => None,
        }
    }

    /// Sends a request's head, which has so many bytes as text, on a stream to a backend; `end` when it has no body.
    pub(crate) async fn begin(
        &self,
        stream: &Upstream2,
        (request, bytes): (Box<http::Request<()>>, usize),
        end: bool,
        timer: &Timer,
    ) -> Result<(), Trouble> {
        let mut request = Some(request);
        poll_fn(|_| match stream.poll_begin(&mut request, end) {
            Poll::Ready(Ok(())) => {
                add(&self.written, bytes);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Trouble::Io)),
            Poll::Pending if timer.expired(Side::Backend) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The connection itself, when its bytes are the ones that it carries.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        match &self.kind {
            Kind::Plain(s) => Some(s),
            Kind::Tls(_) | Kind::Http2(_) | Kind::Upstream2(_) => None,
        }
    }

    /// From now on the running task is told when the other end breaks it off.
    pub(crate) fn watch(&self) {
        match &self.kind {
            Kind::Plain(s) => s.watch(),
            Kind::Tls(t) => t.borrow().stream().watch(),
            Kind::Http2(_) | Kind::Upstream2(_) => {} // told by its connection
        }
    }

    /// The other end broke it off.
    pub(crate) fn broken(&self) -> bool {
        match &self.kind {
            Kind::Plain(s) => s.broken(),
            Kind::Tls(t) => t.borrow().stream().broken(),
            Kind::Http2(_) | Kind::Upstream2(_) => false,
        }
    }

    /// Its TCP has ended, whatever TLS said.
    pub(crate) fn ended(&self) -> bool {
        matches!(&self.kind, Kind::Tls(t) if t.borrow().cut())
    }

    /// Our end of it.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Plain(s) => s.local_addr(),
            Kind::Tls(t) => t.borrow().stream().local_addr(),
            Kind::Http2(_) | Kind::Upstream2(_) => None,
        }
    }

    /// Bytes that the system took so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.get()
    }

    /// Counts what its TCP was given before it was made, for [`Wire::sent`].
    pub(crate) fn count_before(&self, n: usize) {
        match &self.kind {
            Kind::Tls(t) => t.borrow_mut().count_before(n),
            _ => add(&self.written, n),
        }
    }

    /// Bytes that its TCP was given so far.
    pub(crate) fn sent(&self) -> u64 {
        match &self.kind {
            Kind::Tls(t) => t.borrow().sent(),
            _ => self.written.get(),
        }
    }

    /// Bytes that were read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Counts bytes that went from this connection to another without being read.
    pub(crate) fn count_spliced(&self, to: &Wire, n: usize) {
        add(&self.read, n);
        add(&to.written, n);
    }

    /// Closing it resets the connection.
    pub(crate) fn reset_on_close(&self) {
        match &self.kind {
            Kind::Plain(s) => socket::reset_on_close(s),
            Kind::Tls(t) => socket::reset_on_close(t.borrow().stream()),
            Kind::Http2(s) => s.reset(h2::Reason::INTERNAL_ERROR),
            Kind::Upstream2(_) => {} // dropped before its end, it resets itself
        }
    }

    /// A kept connection that is still open and quiet.
    pub(crate) fn quiet(&self) -> bool {
        match &self.kind {
            Kind::Plain(s) => s.quiet(),
            Kind::Tls(t) => t.borrow_mut().quiet(),
            Kind::Http2(_) | Kind::Upstream2(_) => false,
        }
    }

    /// Goes on with the TLS handshake until it is done, within the time of the side.
    pub(crate) async fn handshake(&self, timer: &Timer, side: Side) -> Result<(), Trouble> {
        let Kind::Tls(tls) = &self.kind else { return Ok(()) };
        poll_fn(|_| match tls.borrow_mut().poll_handshake() {
            Poll::Ready(r) => Poll::Ready(r.map_err(|_| Trouble::Io)),
            Poll::Pending if timer.expired(side) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Reads once behind what the buffer holds; 0 at the end. While nothing comes the buffer holds no more than its
    /// bytes need.
    pub(crate) fn poll_read(&self, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let polled = match &self.kind {
            Kind::Plain(stream) => {
                let room = buffer.room();
                if room.is_empty() {
                    return Poll::Ready(Err(io::Error::other("the buffer is full")));
                }
                let polled = stream.poll_read(room);
                match &polled {
                    Poll::Ready(Ok(n)) => buffer.filled(*n),
                    Poll::Pending => buffer.wait(),
                    Poll::Ready(Err(_)) => {}
                }
                polled
            }
            Kind::Tls(tls) => tls.borrow_mut().poll_read(buffer),
            Kind::Http2(s) => s.poll_read(buffer),
            Kind::Upstream2(s) => s.poll_read(buffer),
        };
        if let Poll::Ready(Ok(n)) = &polled {
            add(&self.read, *n);
        }
        polled
    }

    /// Reads once what a new connection brought with it, without waiting; afterwards the buffer holds no more than its
    /// bytes need. False when the connection broke.
    pub(crate) fn read_now(&self, buffer: &mut Buffer) -> bool {
        let Kind::Plain(stream) = &self.kind else { return true };
        let read = stream.read_now(buffer.room());
        if let Ok(Some(n)) = read {
            buffer.filled(n);
            add(&self.read, n);
        }
        buffer.wait();
        read.is_ok()
    }

    /// Writes some of it.
    pub(crate) fn poll_write(&self, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &self.kind {
            Kind::Plain(s) => s.poll_write(data),
            Kind::Tls(t) => t.borrow_mut().poll_write(data),
            Kind::Http2(s) => s.poll_write(data),
            Kind::Upstream2(s) => s.poll_write(data),
        };
        match polled {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(n)) => {
                add(&self.written, n);
                Poll::Ready(Ok(n))
            }
            other => other,
        }
    }

    /// Sends what was written and is still here.
    pub(crate) fn poll_flush(&self) -> Poll<io::Result<()>> {
        match &self.kind {
            Kind::Plain(_) | Kind::Http2(_) | Kind::Upstream2(_) => Poll::Ready(Ok(())),
            Kind::Tls(t) => t.borrow_mut().poll_flush(),
        }
    }

    /// Ends our direction.
    pub(crate) fn poll_shutdown(&self) -> Poll<io::Result<()>> {
        match &self.kind {
            Kind::Plain(s) => Poll::Ready(s.shutdown()),
            Kind::Tls(t) => t.borrow_mut().poll_shutdown(),
            Kind::Http2(s) => Poll::Ready(s.end(None)),
            Kind::Upstream2(s) => Poll::Ready(s.end()),
        }
    }

    /// Reads once behind what the buffer holds. [`Trouble::Closed`] when the other end sends no more.
    pub(crate) async fn fill(
        &self,
        buffer: &mut Buffer,
        timer: &Timer,
        side: Side,
    ) -> Result<usize, Trouble> {
        self.fill_unless(buffer, timer, side, || false).await
    }

    /// As [`Wire::fill`], but gives up as soon as `stop` says so.
    pub(crate) async fn fill_unless(
        &self,
        buffer: &mut Buffer,
        timer: &Timer,
        side: Side,
        stop: impl Fn() -> bool,
    ) -> Result<usize, Trouble> {
        poll_fn(|_| match self.poll_read(buffer) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Trouble::Closed)),
            Poll::Ready(Ok(n)) => Poll::Ready(Ok(n)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Trouble::Io)),
            Poll::Pending if timer.expired(side) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending if stop() => Poll::Ready(Err(Trouble::Closed)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_write_all(&self, data: &[u8], at: &mut usize) -> Poll<io::Result<()>> {
        while *at < data.len() {
            *at += ready!(self.poll_write(&data[*at..]))?;
        }
        self.poll_flush()
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&self, data: &[u8], timer: &Timer, side: Side) -> Result<(), Trouble> {
        let mut at = 0;
        poll_fn(|_| match self.poll_write_all(data, &mut at) {
            Poll::Ready(r) => Poll::Ready(r.map_err(|_| Trouble::Io)),
            Poll::Pending if timer.expired(side) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Ends our direction; the other one goes on.
    pub(crate) async fn shutdown(&self, timer: &Timer, side: Side) -> Result<(), Trouble> {
        poll_fn(|_| match self.poll_shutdown() {
            Poll::Ready(r) => Poll::Ready(r.map_err(|_| Trouble::Io)),
            Poll::Pending if timer.expired(side) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Ends our direction, and reads what a client still sends until it has seen that.
    pub(crate) async fn linger(&self, buffer: &mut Buffer, timer: &Timer) {
        timer.arm(Side::Client, LINGER_MS);
        if self.shutdown(timer, Side::Client).await.is_err() {
            return;
        }
        let until = self.read() + LINGER_BYTES;
        while self.read() < until {
            buffer.consume(buffer.bytes().len());
            if self.fill(buffer, timer, Side::Client).await.is_err() {
                return;
            }
        }
    }
}
