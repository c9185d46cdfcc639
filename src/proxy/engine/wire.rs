//! One connection's bytes, plain or TLS, readable and writable from two halves of one task.

use super::{
    buffer::Buffer,
    timer::{Side, Timer},
};
use crate::socket;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

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

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection. Its methods take `&self`: a borrow never outlives one poll.
pub(crate) struct Wire {
    stream: RefCell<Stream>,
    tls: bool,
    written: Cell<u64>,
    read: Cell<u64>,
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        match &*self.stream.borrow() {
            Stream::Plain(s) => s.as_raw_fd(),
            Stream::Tls(s) => s.get_ref().0.as_raw_fd(),
        }
    }
}

macro_rules! each {
    ($self:ident, $s:ident => $e:expr) => {
        match &mut *$self.stream.borrow_mut() {
            Stream::Plain(s) => {
                let $s = Pin::new(s);
                $e
            }
            Stream::Tls(s) => {
                let $s = Pin::new(&mut **s);
                $e
            }
        }
    };
}

impl Wire {
    pub(crate) fn plain(stream: TcpStream) -> Wire {
        Wire {
            stream: RefCell::new(Stream::Plain(stream)),
            tls: false,
            written: Cell::new(0),
            read: Cell::new(0),
        }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Wire {
        Wire {
            stream: RefCell::new(Stream::Tls(Box::new(stream))),
            tls: true,
            written: Cell::new(0),
            read: Cell::new(0),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Bytes that the system took so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.get()
    }

    /// Bytes that were read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Closing it resets the connection.
    pub(crate) fn reset_on_close(&self) {
        match &*self.stream.borrow() {
            Stream::Plain(s) => socket::reset_on_close(s),
            Stream::Tls(s) => socket::reset_on_close(s.get_ref().0),
        }
    }

    /// A kept connection that is still open and quiet. Costs no system call while nothing happened.
    pub(crate) fn quiet(&self) -> bool {
        let would_block = |r: io::Result<usize>| r.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        match &*self.stream.borrow() {
            Stream::Plain(s) => would_block(s.try_read(&mut [0])),
            Stream::Tls(_) => false,
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(buffer.room());
        if room.remaining() == 0 {
            return Poll::Ready(Err(io::Error::other("the buffer is full")));
        }
        let polled = each!(self, s => s.poll_read(cx, &mut room));
        let n = room.filled().len();
        match polled {
            Poll::Pending => {
                buffer.wait();
                Poll::Pending
            }
            Poll::Ready(r) => {
                buffer.filled(n);
                self.read.set(self.read.get() + n as u64);
                Poll::Ready(r.map(|()| n))
            }
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
        poll_fn(|cx| match self.poll_read(cx, buffer) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Trouble::Closed)),
            Poll::Ready(Ok(n)) => Poll::Ready(Ok(n)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Trouble::Io)),
            Poll::Pending if timer.expired(side, cx) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending if stop() => Poll::Ready(Err(Trouble::Closed)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_write_all(&self, cx: &mut Context<'_>, data: &[u8], at: &mut usize) -> Poll<io::Result<()>> {
        while *at < data.len() {
            match ready!(each!(self, s => s.poll_write(cx, &data[*at..]))) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    *at += n;
                    self.written.set(self.written.get() + n as u64);
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        if self.tls { each!(self, s => s.poll_flush(cx)) } else { Poll::Ready(Ok(())) }
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&self, data: &[u8], timer: &Timer, side: Side) -> Result<(), Trouble> {
        let mut at = 0;
        poll_fn(|cx| match self.poll_write_all(cx, data, &mut at) {
            Poll::Ready(r) => Poll::Ready(r.map_err(|_| Trouble::Io)),
            Poll::Pending if timer.expired(side, cx) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Ends our direction; the other one goes on.
    pub(crate) async fn shutdown(&self, timer: &Timer, side: Side) -> Result<(), Trouble> {
        poll_fn(|cx| match each!(self, s => s.poll_shutdown(cx)) {
            Poll::Ready(r) => Poll::Ready(r.map_err(|_| Trouble::Io)),
            Poll::Pending if timer.expired(side, cx) => Poll::Ready(Err(Trouble::Timeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}
