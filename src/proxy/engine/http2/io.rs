//! A connection's bytes as the `h2` crate reads and writes them. What is written is gathered, so that the frames of a
//! round leave in one call and one TLS record.

use super::{
    super::{buffer::Buffer, wire::Wire},
    account::Account,
};
use crate::socket;
use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered before it is written, in bytes.
const GATHER: usize = 48 * 1024;
/// Reads before the other tasks have their turn.
const READS: u32 = 8;

/// How far a connection to a backend came: whether the other end can have read what was written last.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes that its TCP was given.
    sent: Cell<u64>,
    /// Of those, what the other end's TCP had acknowledged when its end was read.
    acked: Cell<Option<u64>>,
    /// Something came: its settings are known, for they come first (RFC 9113 §3.4).
    pub(super) heard: Cell<bool>,
}

impl Progress {
    /// Bytes that its TCP was given.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// On a connection that has ended: none of the bytes behind the first `before` can have been read. They never left, or
    /// the other end had ended before they came.
    pub(super) fn unread(&self, before: u64) -> bool {
        self.sent.get() <= before || self.acked.get().is_some_and(|n| n <= before)
    }
}

/// The connection under its frames.
pub(super) struct Io {
    wire: Rc<Wire>,
    read: Buffer,
    write: Buffer,
    /// A client's; backends are not judged.
    account: Option<Rc<Account>>,
    /// A backend's; clients are not asked again.
    progress: Option<Rc<Progress>>,
    reads: u32,
}

impl Io {
    /// With what was read already.
    pub(super) fn new(wire: Rc<Wire>, read: Buffer, account: Option<Rc<Account>>) -> Io {
        let io = Io { wire, read, write: Buffer::default(), account, progress: None, reads: 0 };
        io.count(io.read.bytes().len());
        io
    }

    /// To a backend.
    pub(super) fn to(wire: Rc<Wire>, progress: Rc<Progress>) -> Io {
        let io = Io { progress: Some(progress), ..Io::new(wire, Buffer::default(), None) };
        io.note_sent();
        io
    }

    fn note_sent(&self) {
        if let Some(progress) = &self.progress {
            progress.sent.set(self.wire.sent());
        }
    }

    fn note_read(&self, n: &io::Result<usize>) {
        let Some(progress) = &self.progress else { return };
        match n {
            Ok(1..) => progress.heard.set(true),
            Ok(0) => progress.acked.set(socket::bytes_acked(&*self.wire)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                progress.acked.set(socket::bytes_acked(&*self.wire)); // TLS whose end was not announced
            }
            Err(_) => {}
        }
    }

    fn count(&self, n: usize) {
        if let Some(account) = &self.account {
            account.read(n);
        }
    }

    fn poll_drain(&mut self) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            let wrote = self.wire.poll_write(self.write.bytes());
            self.note_sent();
            match ready!(wrote) {
                Ok(n) => self.write.consume(n),
                // The other end had ended before (a reset of a connection that had not is another error): its end is read
                // next, and tells more.
                Err(e) if self.progress.is_some() && e.kind() == io::ErrorKind::BrokenPipe => {
                    return Poll::Pending;
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            let flooded = this.account.as_ref().is_some_and(|a| a.flooded());
            if flooded || this.reads >= READS {
                this.reads = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match this.wire.poll_read(&mut this.read) {
                Poll::Pending => {
                    this.reads = 0;
                    return Poll::Pending;
                }
                Poll::Ready(n) => {
                    this.note_read(&n);
                    this.count(n?);
                }
            }
            this.reads += 1;
        }
        let n = this.read.bytes().len().min(to.remaining());
        to.put_slice(&this.read.bytes()[..n]);
        this.read.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.write.bytes().len() >= GATHER {
            ready!(self.poll_drain())?;
        }
        let n = data.len().min(GATHER);
        let room = self.write.room().len();
        let n = n.min(room);
        self.write.append(&data[..n])?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain())?;
        let flushed = self.wire.poll_flush();
        self.note_sent();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain())?;
        self.wire.poll_shutdown()
    }
}
