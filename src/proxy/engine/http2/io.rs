//! A connection's bytes as the `h2` crate reads and writes them. The crate flushes behind each frame of data; what is
//! written is gathered all the same, and [`Gathered::send`], which the connection's task calls when the crate has no more
//! for now, sends the frames of all streams in one call and one TLS record.

use super::{
    super::{buffer::Buffer, wire::Wire},
    account::Account,
};
use crate::socket;
use std::{
    cell::{Cell, RefCell},
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

/// Frames that wait to be sent.
pub(super) struct Gathered {
    wire: Rc<Wire>,
    bytes: RefCell<Buffer>,
    /// A backend's; clients are not asked again.
    progress: Option<Rc<Progress>>,
    /// Why sending them failed, until the crate is told.
    failed: RefCell<Option<io::Error>>,
}

impl Gathered {
    /// Sends them, as far as they go; the rest goes when the connection's task is polled because there is room again. What
    /// fails is what the crate writes or flushes next.
    pub(super) fn send(&self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(e)) = self.poll_send() {
            *self.failed.borrow_mut() = Some(e);
            cx.waker().wake_by_ref();
        }
    }

    fn poll_send(&self) -> Poll<io::Result<()>> {
        let mut bytes = self.bytes.borrow_mut();
        while !bytes.is_empty() {
            let wrote = self.wire.poll_write(bytes.bytes());
            self.note_sent();
            match ready!(wrote) {
                Ok(n) => bytes.consume(n),
                // The other end had ended before (a reset of a connection that had not is another error): its end is read
                // next, and tells more.
                Err(e) if self.progress.is_some() && e.kind() == io::ErrorKind::BrokenPipe => {
                    return Poll::Pending;
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        let flushed = self.wire.poll_flush();
        self.note_sent();
        flushed
    }

    fn note_sent(&self) {
        if let Some(progress) = &self.progress {
            progress.sent.set(self.wire.sent());
        }
    }

    fn check(&self) -> io::Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }
}

/// The connection under its frames.
pub(super) struct Io {
    gathered: Rc<Gathered>,
    read: Buffer,
    /// A client's; backends are not judged.
    account: Option<Rc<Account>>,
    reads: u32,
}

impl Io {
    /// A client's, with what was read already.
    pub(super) fn new(wire: Rc<Wire>, read: Buffer, account: Rc<Account>) -> Io {
        account.read(read.bytes().len());
        Io::of(wire, read, Some(account), None)
    }

    /// To a backend.
    pub(super) fn to(wire: Rc<Wire>, progress: Rc<Progress>) -> Io {
        let io = Io::of(wire, Buffer::default(), None, Some(progress));
        io.gathered.note_sent();
        io
    }

    fn of(wire: Rc<Wire>, read: Buffer, account: Option<Rc<Account>>, progress: Option<Rc<Progress>>) -> Io {
        let gathered = Gathered { wire, bytes: RefCell::default(), progress, failed: RefCell::default() };
        Io { gathered: Rc::new(gathered), read, account, reads: 0 }
    }

    /// What is written to it.
    pub(super) fn gathered(&self) -> Rc<Gathered> {
        self.gathered.clone()
    }

    fn note_read(&self, n: &io::Result<usize>) {
        let Some(progress) = &self.gathered.progress else { return };
        match n {
            Ok(1..) => progress.heard.set(true),
            Ok(0) => progress.acked.set(socket::bytes_acked(&*self.gathered.wire)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                progress.acked.set(socket::bytes_acked(&*self.gathered.wire)); // TLS whose end was not announced
            }
            Err(_) => {}
        }
    }

    fn count(&self, n: usize) {
        if let Some(account) = &self.account {
            account.read(n);
        }
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
            match this.gathered.wire.poll_read(&mut this.read) {
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
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let gathered = &self.gathered;
        gathered.check()?;
        if gathered.bytes.borrow().bytes().len() >= GATHER {
            ready!(gathered.poll_send())?;
        }
        let mut bytes = gathered.bytes.borrow_mut();
        let n = data.len().min(GATHER).min(bytes.room().len());
        bytes.append(&data[..n])?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.gathered.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathered.check()?;
        ready!(self.gathered.poll_send())?;
        self.gathered.wire.poll_shutdown()
    }
}
