//! A client's stream: the request that was accepted, and the response to it.

use super::{
    super::{buffer::Buffer, reactor::Reactor},
    account::Account,
    bodies::{Bodies, broken},
    head,
    websocket::Accept,
};
use crate::http1::{MAX_FIELDS, Response, ResponseEdit};
use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::HeaderMap;
use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    rc::Rc,
    task::{Context, Poll},
};

/// A client's stream.
pub(crate) struct Stream2 {
    account: Rc<Account>,
    /// The connection is encrypted.
    tls: bool,
    /// It opens a WebSocket, and the backend has to say this.
    accept: Option<Accept>,
    respond: RefCell<SendResponse<Bytes>>,
    bodies: Bodies,
}

impl Stream2 {
    pub(super) fn new(
        reactor: Rc<Reactor>,
        account: Rc<Account>,
        (tls, accept): (bool, Option<Accept>),
        (respond, body): (SendResponse<Bytes>, RecvStream),
    ) -> Stream2 {
        let bodies = Bodies::new(reactor);
        bodies.receives(body);
        Stream2 { account, tls, accept, respond: RefCell::new(respond), bodies }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// What the backend has to say to the handshake of a WebSocket, where the stream opens one.
    pub(crate) fn accept(&self) -> Option<&Accept> {
        self.accept.as_ref()
    }

    /// Takes data of the request's body; 0 at its end.
    pub(crate) fn poll_read(&self, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let polled = self.bodies.poll_read(buffer);
        if let Poll::Ready(Ok(n)) = &polled {
            self.account.useful(*n);
        }
        polled
    }

    /// Sends a piece of the response's body.
    pub(crate) fn poll_write(&self, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.bodies.poll_write(data);
        if let Poll::Ready(Ok(n)) = &polled {
            self.account.useful(*n);
        }
        polled
    }

    /// Sends the response's head; `end` when it has no body.
    pub(crate) fn respond(&self, head: http::Response<()>, end: bool) -> io::Result<()> {
        let send = self.respond.borrow_mut().send_response(head, end).map_err(broken)?;
        self.bodies.sends(send, end);
        self.account.responded();
        Ok(())
    }

    /// Sends an interim response.
    pub(crate) fn inform(&self, head: http::Response<()>) -> io::Result<()> {
        self.respond.borrow_mut().send_informational(head).map_err(broken)
    }

    /// Sends the head of a whole response that is written as text, and returns where its body begins.
    pub(crate) fn answer(&self, text: &[u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let end = text.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(invalid)? + 4;
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let parsed = Response::parse(&text[..end], &mut room, false).map_err(|_| invalid())?;
        let head = head::response(&text[..end], &parsed, ResponseEdit::NONE).ok_or_else(invalid)?;
        self.respond(head, end == text.len())?;
        self.set_last(true);
        Ok(end)
    }

    /// Whether what is written next ends the response.
    pub(crate) fn set_last(&self, last: bool) {
        self.bodies.set_last(last);
    }

    /// Ends the response, where its last bytes did not do so.
    pub(crate) fn end(&self, trailers: Option<HeaderMap>) -> io::Result<()> {
        self.bodies.end(trailers)
    }

    /// Resets the stream: nothing of it looks complete.
    pub(crate) fn reset(&self, reason: Reason) {
        self.respond.borrow_mut().send_reset(reason);
    }

    /// Ready when the client took its request back, or the connection broke.
    pub(super) fn poll_cancelled(&self) -> Poll<()> {
        self.bodies.poll_reset().unwrap_or_else(|| {
            let waker = self.bodies.waker();
            self.respond.borrow_mut().poll_reset(&mut Context::from_waker(&waker)).map(drop)
        })
    }
}
