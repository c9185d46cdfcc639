//! The data of one stream, both ways.

use super::super::{buffer::Buffer, reactor::Reactor};
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

pub(super) fn broken(e: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, e)
}

/// What is sent and received on a stream after its heads.
pub(super) struct Bodies {
    reactor: Rc<Reactor>,
    send: RefCell<Option<SendStream<Bytes>>>,
    receive: RefCell<Option<RecvStream>>,
    /// Received and not yet taken.
    chunk: RefCell<Bytes>,
    /// Nothing follows what is written next.
    last: Cell<bool>,
    ended: Cell<bool>,
}

impl Bodies {
    pub(super) fn new(reactor: Rc<Reactor>) -> Bodies {
        Bodies {
            reactor,
            send: RefCell::default(),
            receive: RefCell::default(),
            chunk: RefCell::default(),
            last: Cell::new(false),
            ended: Cell::new(false),
        }
    }

    /// What wakes the running task.
    pub(super) fn waker(&self) -> Waker {
        self.reactor.waker()
    }

    /// The head was sent; `ended` when nothing follows.
    pub(super) fn sends(&self, send: SendStream<Bytes>, ended: bool) {
        *self.send.borrow_mut() = Some(send);
        self.ended.set(ended);
    }

    /// The head was received.
    pub(super) fn receives(&self, receive: RecvStream) {
        *self.receive.borrow_mut() = Some(receive);
    }

    /// Takes data that came, behind what the buffer holds; the other end may then send as much again. 0 at the end.
    pub(super) fn poll_read(&self, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let (mut chunk, mut receive) = (self.chunk.borrow_mut(), self.receive.borrow_mut());
        let receive = receive.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        while chunk.is_empty() {
            match receive.poll_data(&mut Context::from_waker(&self.waker())) {
                Poll::Pending => {
                    buffer.wait();
                    return Poll::Pending;
                }
                Poll::Ready(None) => return Poll::Ready(Ok(0)),
                Poll::Ready(Some(data)) => *chunk = data.map_err(broken)?,
            }
        }
        let n = chunk.len().min(buffer.room().len());
        if n == 0 {
            return Poll::Ready(Err(io::Error::other("the buffer is full")));
        }
        buffer.append(&chunk[..n])?;
        chunk.advance(n);
        receive.flow_control().release_capacity(n).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    /// The trailers behind the data, once its end was read.
    pub(super) fn poll_trailers(&self) -> Poll<Option<HeaderMap>> {
        match &mut *self.receive.borrow_mut() {
            Some(receive) => {
                receive.poll_trailers(&mut Context::from_waker(&self.waker())).map(|t| t.ok().flatten())
            }
            None => Poll::Ready(None),
        }
    }

    /// Sends a piece, as much as the other end's windows allow.
    pub(super) fn poll_write(&self, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut send = self.send.borrow_mut();
        let send = send.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        if send.capacity() == 0 {
            send.reserve_capacity(data.len());
        }
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(&mut Context::from_waker(&self.waker()))) {
                Some(more) => drop(more.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let n = data.len().min(send.capacity());
        let end = self.last.get() && n == data.len();
        send.send_data(Bytes::copy_from_slice(&data[..n]), end).map_err(broken)?;
        self.ended.set(end);
        Poll::Ready(Ok(n))
    }

    /// Whether what is written next is the last.
    pub(super) fn set_last(&self, last: bool) {
        self.last.set(last);
    }

    /// Ends our direction, where its last bytes did not do so.
    pub(super) fn end(&self, trailers: Option<HeaderMap>) -> io::Result<()> {
        if self.ended.replace(true) {
            return Ok(());
        }
        let mut send = self.send.borrow_mut();
        let send = send.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        match trailers {
            Some(trailers) => send.send_trailers(trailers),
            None => send.send_data(Bytes::new(), true),
        }
        .map_err(broken)
    }

    /// Ready when the other end reset the stream; none before our head was sent.
    pub(super) fn poll_reset(&self) -> Option<Poll<()>> {
        let mut send = self.send.borrow_mut();
        let send = send.as_mut()?;
        Some(send.poll_reset(&mut Context::from_waker(&self.waker())).map(drop))
    }
}
