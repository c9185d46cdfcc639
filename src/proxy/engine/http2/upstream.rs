//! Connections to a backend that speaks HTTP/2: shared by the requests of a worker, and replaced when they end. Where the
//! backend is told who connects, each client's connection has its own, shared by that client's requests.

use super::{
    super::{
        buffer::{Buffer, Out},
        timer::{Side, Timer},
        wire::Wire,
    },
    bodies::{Bodies, broken},
    head,
    io::Io,
};
use crate::{http1::MAX_HEAD, preamble::Ends};
use bytes::Bytes;
use h2::{
    Reason,
    client::{self, ResponseFuture, SendRequest},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// What a backend may send on a stream before it is taken, in bytes.
const WINDOW: u32 = 256 * 1024;
/// And on all streams of a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What of a request waits for the connection, per stream, in bytes.
const SEND_BUFFER: usize = 32 * 1024;
/// Streams on one connection before another one is opened, where the backend allows more.
const STREAMS: usize = 100;

/// So many clients' own connections, before those without a request are looked for and closed.
const OWN: usize = 256;

/// One connection.
struct Connection {
    send: SendRequest<Bytes>,
    /// It takes requests.
    alive: Cell<bool>,
    open: Cell<usize>,
    quiet_since: Cell<u64>,
}

/// The connections of one worker to one backend.
#[derive(Default)]
pub(crate) struct Connections {
    shared: RefCell<Vec<Rc<Connection>>>,
    own: RefCell<Own>,
}

/// Connections that the backend was told to be these clients'.
#[derive(Default)]
struct Own {
    of: HashMap<Ends, Vec<Rc<Connection>>>,
    /// How many clients have one when the quiet ones are closed next: a multiple of those that were busy, so that looking
    /// at all of them is rare.
    full: usize,
}

impl Own {
    fn add(&mut self, ends: Ends, connection: Rc<Connection>) {
        if self.of.len() >= self.full.max(OWN) {
            self.keep(|c| c.open.get() > 0);
            self.full = 2 * self.of.len();
        }
        self.of.entry(ends).or_default().push(connection);
    }

    fn keep(&mut self, good: impl Fn(&Connection) -> bool) {
        self.of.retain(|_, connections| {
            connections.retain(|c| c.alive.get() && good(c));
            !connections.is_empty()
        });
    }
}

impl Connections {
    /// A stream on a connection that stands and has room, and is this client's where it is one client's.
    pub(crate) fn take(&self, timer: &Timer, ends: Option<Ends>) -> Option<Upstream2> {
        let takes = |connections: &[Rc<Connection>]| connections.iter().find(|c| c.takes()).cloned();
        let found = match ends {
            None => takes(&self.shared.borrow()),
            Some(ends) => self.own.borrow().of.get(&ends).and_then(|c| takes(c)),
        };
        found.map(|connection| Upstream2::new(connection, timer))
    }

    /// Shakes hands on a connection that was just opened, for this client where the backend was told so; none when it
    /// fails or takes too long.
    pub(crate) async fn add(
        &self,
        wire: Wire,
        ends: Option<Ends>,
        timer: &Timer,
        ms: u32,
    ) -> Option<Upstream2> {
        timer.arm(Side::Backend, ms);
        let io = Io::new(Rc::new(wire), Buffer::default(), None);
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD as u32)
            .max_send_buffer_size(SEND_BUFFER);
        let mut handshake = pin!(builder.handshake::<_, Bytes>(io));
        let shaken =
            poll_fn(|_| match handshake.as_mut().poll(&mut Context::from_waker(&timer.reactor().waker())) {
                Poll::Ready(done) => Poll::Ready(done.ok()),
                Poll::Pending if timer.expired(Side::Backend) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await;
        timer.disarm(Side::Backend);
        let (send, driver) = shaken?;
        let connection = Rc::new(Connection {
            send,
            alive: Cell::new(true),
            open: Cell::new(0),
            quiet_since: Cell::new(timer.now()),
        });
        match ends {
            None => self.shared.borrow_mut().push(connection.clone()),
            Some(ends) => self.own.borrow_mut().add(ends, connection.clone()),
        }
        timer.reactor().spawn(|of_driver| drive(driver, connection.clone(), of_driver));
        Some(Upstream2::new(connection, timer))
    }

    /// Forgets those that ended, and those that were quiet for `keep_ms`.
    pub(crate) fn sweep(&self, now: u64, keep_ms: u64) {
        let quiet = |c: &Connection| c.open.get() == 0 && now.saturating_sub(c.quiet_since.get()) >= keep_ms;
        self.shared.borrow_mut().retain(|c| c.alive.get() && !quiet(c));
        self.own.borrow_mut().keep(|c| !quiet(c));
    }

    /// Forgets all: each ends with its last stream.
    pub(crate) fn close(&self) {
        self.shared.borrow_mut().clear();
        self.own.borrow_mut().of.clear();
    }
}

/// Drives a connection to its end: the task of its own that its frames need.
async fn drive(driver: client::Connection<Io, Bytes>, connection: Rc<Connection>, timer: Timer) {
    let mut driver = pin!(driver);
    // The handle here would keep the connection open for ever.
    let weak = Rc::downgrade(&connection);
    drop(connection);
    poll_fn(|_| driver.as_mut().poll(&mut Context::from_waker(&timer.reactor().waker())).map(drop)).await;
    if let Some(connection) = weak.upgrade() {
        connection.alive.set(false);
    }
}

impl Connection {
    fn takes(&self) -> bool {
        self.alive.get() && self.open.get() < STREAMS.min(self.send.current_max_send_streams())
    }
}

/// One request's stream, from the moment it has its place.
pub(crate) struct Upstream2 {
    connection: Rc<Connection>,
    timer_now: u64,
    bodies: Bodies,
    response: RefCell<Option<ResponseFuture>>,
    /// The request was HEAD.
    head: Cell<bool>,
    refused: Cell<Option<Refused>>,
}

/// How a backend said that it did not look at the request (RFC 9113 §8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It takes no more on this connection (GOAWAY).
    Connection,
    /// It does not take this one (REFUSED_STREAM).
    Stream,
}

impl Drop for Upstream2 {
    fn drop(&mut self) {
        self.connection.open.set(self.connection.open.get() - 1);
        self.connection.quiet_since.set(self.timer_now);
    }
}

impl Upstream2 {
    fn new(connection: Rc<Connection>, timer: &Timer) -> Upstream2 {
        connection.open.set(connection.open.get() + 1);
        Upstream2 {
            connection,
            timer_now: timer.now(),
            bodies: Bodies::new(timer.reactor().clone()),
            response: RefCell::default(),
            head: Cell::new(false),
            refused: Cell::new(None),
        }
    }

    /// Sends the request, which is taken; `end` when it has no body. An error when the connection takes no more: nothing was
    /// sent.
    pub(crate) fn poll_begin(
        &self,
        request: &mut Option<Box<http::Request<()>>>,
        end: bool,
    ) -> Poll<io::Result<()>> {
        let mut send = self.connection.send.clone();
        let taken = ready!(send.poll_ready(&mut Context::from_waker(&self.bodies.waker())));
        let sent = taken.map_err(broken).and_then(|()| {
            let request = request.take().ok_or(io::ErrorKind::InvalidInput)?;
            self.head.set(request.method() == http::Method::HEAD);
            send.send_request(*request, end).map_err(broken)
        });
        match sent {
            Ok((response, body)) => {
                self.bodies.sends(body, end);
                *self.response.borrow_mut() = Some(response);
                Poll::Ready(Ok(()))
            }
            Err(e) => {
                self.connection.alive.set(false);
                Poll::Ready(Err(e))
            }
        }
    }

    /// The response's head as text, then its data; 0 at the end.
    pub(crate) fn poll_read(&self, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let mut waiting = self.response.borrow_mut();
        let Some(response) = &mut *waiting else {
            return self.bodies.poll_read(buffer).map_err(|e| self.note(e));
        };
        let waker = self.bodies.waker();
        let cx = &mut Context::from_waker(&waker);
        let mut text = Out::new();
        if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            head::response_text(interim.status(), interim.headers(), false, &mut text);
        } else {
            let response = match pin!(&mut *response).poll(cx) {
                Poll::Pending => {
                    buffer.wait();
                    return Poll::Pending;
                }
                Poll::Ready(response) => response.map_err(|e| self.note(broken(e)))?,
            };
            let (parts, body) = response.into_parts();
            head::response_text(
                parts.status,
                &parts.headers,
                body.is_end_stream() && !self.head.get(),
                &mut text,
            );
            self.bodies.receives(body);
            *waiting = None;
        }
        let _ = buffer.room();
        buffer.append(&text)?;
        Poll::Ready(Ok(text.len()))
    }

    /// Remembers what an error says of the request.
    fn note(&self, error: io::Error) -> io::Error {
        let of_h2 = error.get_ref().and_then(|e| e.downcast_ref::<h2::Error>());
        if let Some(e) = of_h2 {
            self.refused.set(match e.reason() {
                Some(Reason::REFUSED_STREAM) if e.is_reset() && e.is_remote() => Some(Refused::Stream),
                // It is told to those streams only that are above the last one that the backend looks at.
                _ if e.is_go_away() && e.is_remote() => Some(Refused::Connection),
                _ => None,
            });
            if !e.is_reset() {
                self.connection.alive.set(false);
            }
        }
        error
    }

    /// Whether, and how, the backend said that it did not look at the request.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused.get()
    }

    /// The response is late: the connection may be dead, and gets no more requests.
    pub(crate) fn retire(&self) {
        self.connection.alive.set(false);
    }

    pub(crate) fn poll_write(&self, data: &[u8]) -> Poll<io::Result<usize>> {
        self.bodies.poll_write(data)
    }

    pub(crate) fn set_last(&self, last: bool) {
        self.bodies.set_last(last);
    }

    /// Ends the request, where its last bytes did not do so.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.bodies.end(None)
    }

    /// The trailers behind the response, once its end was read.
    pub(crate) fn poll_trailers(&self) -> Poll<Option<http::HeaderMap>> {
        self.bodies.poll_trailers()
    }
}
