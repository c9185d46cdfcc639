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
    io::{Gathered, Io, Progress},
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
    task::{Context, Poll, Waker, ready},
};

/// What a backend may send on a stream before it is taken, in bytes.
const WINDOW: u32 = 256 * 1024;
/// And on all streams of a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What small frames of DATA may cost that wait, in bytes: `h2` counts 256 less its data for each. All of the window in
/// messages of 16 bytes costs 15 times the window, and clients that are slow are no reason to end the connection of others.
const SMALL_FRAMES: usize = 16 * CONNECTION_WINDOW as usize;
/// What of a request waits for the connection, per stream, in bytes.
const SEND_BUFFER: usize = 32 * 1024;
/// Streams on one connection before another one is opened, where the backend allows more.
const STREAMS: usize = 100;

/// Connections of one worker to one backend, but for clients' own; beyond, requests wait for a stream on one of them.
const CONNECTIONS: usize = 32;
/// So many clients' own connections, before those without a request are looked for and closed.
const OWN: usize = 256;

/// One connection.
struct Connection {
    send: SendRequest<Bytes>,
    /// It takes requests.
    alive: Cell<bool>,
    open: Cell<usize>,
    quiet_since: Cell<u64>,
    progress: Rc<Progress>,
}

/// The connections of one worker to one backend.
#[derive(Default)]
pub(crate) struct Connections {
    shared: RefCell<Vec<Rc<Connection>>>,
    own: RefCell<Own>,
    opening: Opening,
}

/// The opening of a shared connection: one at a time, the requests of a burst wait for it.
#[derive(Default)]
struct Opening {
    running: Cell<bool>,
    /// How many ended.
    ended: Cell<u64>,
    /// The last one failed.
    failed: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

/// Whose turn it is to open a shared connection.
pub(crate) enum Turn<'c> {
    /// Ours; nobody else does until it is dropped.
    Ours(Opens<'c>),
    /// Nobody's: there is a stream.
    Stands(Upstream2),
    /// Somebody's whose connection was not made.
    Failed,
}

/// The right to open a shared connection. Dropped without a word, the request went away.
pub(crate) struct Opens<'c>(&'c Opening);

impl Opens<'_> {
    /// What it came to.
    pub(crate) fn end(self, stands: bool) {
        self.0.failed.set(!stands);
    }
}

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.ended.set(self.0.ended.get() + 1);
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }
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

    /// Who opens a shared connection now. One that others open is waited for; at the limit there are the streams of those
    /// that stand.
    pub(crate) async fn turn(&self, timer: &Timer, ms: u32) -> Turn<'_> {
        timer.arm(Side::Backend, ms);
        let (opening, mut waits_for) = (&self.opening, None);
        let turn = poll_fn(|_| {
            if waits_for.is_some_and(|n| n != opening.ended.get()) {
                waits_for = None;
                if opening.failed.get() {
                    return Poll::Ready(Turn::Failed);
                }
                // The newest: those before it may be as dead as the one that was tried.
                if let Some(found) = self.shared.borrow().iter().rev().find(|c| c.takes()) {
                    return Poll::Ready(Turn::Stands(Upstream2::new(found.clone(), timer)));
                }
            }
            if let Some(found) = self.at_limit() {
                return Poll::Ready(Turn::Stands(Upstream2::new(found, timer)));
            }
            if !opening.running.replace(true) {
                opening.failed.set(false);
                return Poll::Ready(Turn::Ours(Opens(opening)));
            }
            if waits_for.is_none() {
                waits_for = Some(opening.ended.get());
                opening.waiting.borrow_mut().push(timer.reactor().waker());
            }
            if timer.expired(Side::Backend) { Poll::Ready(Turn::Failed) } else { Poll::Pending }
        })
        .await;
        timer.disarm(Side::Backend);
        turn
    }

    /// The one with the fewest streams, where no more may be opened.
    fn at_limit(&self) -> Option<Rc<Connection>> {
        let shared = self.shared.borrow();
        let alive = || shared.iter().filter(|c| c.alive.get());
        if alive().count() < CONNECTIONS {
            return None;
        }
        alive().min_by_key(|c| c.open.get()).cloned()
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
        let progress = Rc::new(Progress::default());
        let io = Io::to(Rc::new(wire), progress.clone());
        let gathered = io.gathered();
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAMES)
            .max_header_list_size(MAX_HEAD as u32)
            .initial_max_send_streams(1) // more when it said how many: what is beyond is refused
            .max_send_buffer_size(SEND_BUFFER);
        let mut handshake = pin!(builder.handshake::<_, Bytes>(io));
        let shaken = poll_fn(|_| {
            let waker = timer.reactor().waker();
            let cx = &mut Context::from_waker(&waker);
            let polled = handshake.as_mut().poll(cx);
            gathered.send(cx);
            match polled {
                Poll::Ready(done) => Poll::Ready(done.ok()),
                Poll::Pending if timer.expired(Side::Backend) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        timer.disarm(Side::Backend);
        let (send, driver) = shaken?;
        let connection = Rc::new(Connection {
            send,
            alive: Cell::new(true),
            open: Cell::new(0),
            quiet_since: Cell::new(timer.now()),
            progress,
        });
        match ends {
            None => self.shared.borrow_mut().push(connection.clone()),
            Some(ends) => self.own.borrow_mut().add(ends, connection.clone()),
        }
        timer.reactor().spawn(|of_driver| drive(driver, gathered, connection.clone(), of_driver));
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
async fn drive(
    driver: client::Connection<Io, Bytes>,
    gathered: Rc<Gathered>,
    connection: Rc<Connection>,
    timer: Timer,
) {
    let mut driver = pin!(driver);
    // The handle here would keep the connection open for ever.
    let weak = Rc::downgrade(&connection);
    drop(connection);
    poll_fn(|_| {
        let waker = timer.reactor().waker();
        let cx = &mut Context::from_waker(&waker);
        let ended = driver.as_mut().poll(cx);
        gathered.send(cx);
        ended.map(drop)
    })
    .await;
    if let Some(connection) = weak.upgrade() {
        connection.alive.set(false);
    }
}

impl Connection {
    fn takes(&self) -> bool {
        let most = if self.progress.heard.get() { self.send.current_max_send_streams() } else { STREAMS };
        self.alive.get() && self.open.get() < STREAMS.min(most)
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
    /// Bytes that the connection's TCP was given before.
    before: Cell<u64>,
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
            before: Cell::new(0),
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
            self.before.set(self.connection.progress.sent());
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

    /// The connection has ended: nothing of the request can have been read.
    pub(crate) fn unread(&self) -> bool {
        self.connection.progress.unread(self.before.get())
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
