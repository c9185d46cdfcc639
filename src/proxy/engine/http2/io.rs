//! A connection's bytes as the `h2` crate reads and writes them. What is written is gathered, so that the frames of a
//! round leave in one call and one TLS record.

use super::{
    super::{buffer::Buffer, wire::Wire},
    account::Account,
};
use std::{
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

/// The connection under its frames.
pub(super) struct Io {
    wire: Rc<Wire>,
    read: Buffer,
    write: Buffer,
    /// A client's; backends are not judged.
    account: Option<Rc<Account>>,
    reads: u32,
}

impl Io {
    /// With what was read already.
    pub(super) fn new(wire: Rc<Wire>, read: Buffer, account: Option<Rc<Account>>) -> Io {
        let io = Io { wire, read, write: Buffer::default(), account, reads: 0 };
        io.count(io.read.bytes().len());
        io
    }

    fn count(&self, n: usize) {
        if let Some(account) = &self.account {
            account.read(n);
        }
    }

    fn poll_drain(&mut self) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            let n = ready!(self.wire.poll_write(self.write.bytes()))?;
            self.write.consume(n);
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
                Poll::Ready(n) => this.count(n?),
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
        self.wire.poll_flush()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain())?;
        self.wire.poll_shutdown()
    }
}
