//! A client's connection: its streams are accepted here and run as tasks of their own.

use super::{
    super::{
        accept::Client,
        buffer::{Buffer, Out},
        http::{self, End, Session},
        timer::Side,
        wire::Wire,
    },
    account::{Account, Open},
    head,
    io::{Gathered, Io},
    stream::Stream2,
    websocket::Key,
};
use crate::{counters, http1::MAX_HEAD};
use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

/// Streams of a connection at once (RFC 9113 §5.1.2 recommends at least 100).
const STREAMS: u32 = 128;
/// What a client may send on a stream before it is taken, in bytes: an upload over 100 ms gets 20 Mbit/s.
const WINDOW: u32 = 256 * 1024;
/// And on all streams of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What small frames of DATA may cost that wait, in bytes: `h2` counts 256 less its data for each, about what it holds. A
/// stream's window in messages of 16 bytes costs 15 times the window, and a backend that is slow to take one stream is no
/// reason to end the connection with all of them.
const SMALL_FRAMES: usize = 16 * WINDOW as usize;
/// What of a response waits for the connection, per stream, in bytes.
const SEND_BUFFER: usize = 32 * 1024;
/// How long the last frames may take.
const CLOSE_MS: u32 = 1000;

type Connection = server::Connection<Io, Bytes>;
type Accepted = (::http::Request<RecvStream>, SendResponse<Bytes>);

/// Serves a connection to its end; `read` came already.
pub(crate) async fn serve(mut client: Client, wire: Wire, read: Buffer) {
    // Its streams have no address of their own.
    client.destination = client.destination.or_else(|| wire.local_addr().map(Box::new));
    let (wire, account) = (Rc::new(wire), Rc::new(Account::default()));
    let view = client.worker.view();
    let Some(index) = view.live.find(&client.listener) else { return };
    let listener = view.listener(index);
    client.timer.arm(Side::Client, listener.table.header_timeout_ms);
    let io = Io::new(wire.clone(), read, account.clone());
    let gathered = io.gathered();
    let Some(connection) = handshake(&client, io).await else {
        return counters::add(&listener.cells.of(client.worker.index).refused, 1);
    };
    let idle_ms = listener.table.idle_timeout_ms;
    let mut served =
        Served { client, wire, account, connection, gathered, idle_ms, told: (0, 0), version: view.version };
    drop(view);
    while let Some(accepted) = served.next().await {
        served.begin(accepted);
    }
    served.close().await;
}

async fn handshake(client: &Client, io: Io) -> Option<Connection> {
    let mut builder = server::Builder::new();
    builder
        .enable_connect_protocol() // WebSocket (RFC 8441 §3)
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buffer_size(SEND_BUFFER);
    let gathered = io.gathered();
    let mut handshake = pin!(builder.handshake(io));
    let shaken = poll_fn(|_| {
        let waker = client.timer.reactor().waker();
        let cx = &mut Context::from_waker(&waker);
        let polled = handshake.as_mut().poll(cx);
        gathered.send(cx);
        match polled {
            Poll::Ready(done) => Poll::Ready(done.ok()),
            Poll::Pending if client.timer.expired(Side::Client) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    client.timer.disarm(Side::Client);
    shaken
}

struct Served {
    client: Client,
    wire: Rc<Wire>,
    account: Rc<Account>,
    connection: Connection,
    gathered: Rc<Gathered>,
    idle_ms: u32,
    /// Bytes that the listener's counters have.
    told: (u64, u64),
    /// The configuration that was looked at last.
    version: u64,
}

impl Served {
    /// The next stream; none when there will be no more.
    async fn next(&mut self) -> Option<Accepted> {
        let (mut idle, mut ending) = (false, false);
        self.account.tell(self.client.timer.reactor().waker());
        poll_fn(|_| {
            let waker = self.client.timer.reactor().waker();
            if self.account.flooded() {
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(None);
            }
            if !ending && self.leaves() {
                ending = true;
                self.connection.graceful_shutdown();
            }
            let cx = &mut Context::from_waker(&waker);
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(accepted))) => return Poll::Ready(Some(accepted)),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => self.gathered.send(cx),
            }
            let timer = &self.client.timer;
            match (self.account.open() == 0, idle) {
                (true, false) => timer.arm(Side::Client, self.idle_ms),
                (false, true) => timer.disarm(Side::Client),
                _ => {}
            }
            idle = self.account.open() == 0;
            if idle && timer.expired(Side::Client) {
                self.connection.abrupt_shutdown(Reason::NO_ERROR);
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// The worker drains, or the listener is no longer configured: no new streams.
    fn leaves(&mut self) -> bool {
        let worker = &self.client.worker;
        if worker.shared.draining() {
            return true;
        }
        let view = worker.view();
        let changed = std::mem::replace(&mut self.version, view.version) != view.version;
        changed && view.live.find(&self.client.listener).is_none()
    }

    fn begin(&mut self, (request, respond): Accepted) {
        self.count();
        self.client.timer.disarm(Side::Client);
        let (parts, body) = request.into_parts();
        let mut text = Out::new();
        let key = Key::of(&parts);
        head::request(&parts, !body.is_end_stream(), key.as_ref(), &mut text);
        self.account.useful(text.len());
        let reactor = self.client.timer.reactor().clone();
        let tls = self.wire.is_tls();
        let accept = key.map(|k| k.accept());
        let stream = Stream2::new(reactor.clone(), self.account.clone(), (tls, accept), (respond, body));
        let open = Open::new(&self.account);
        reactor.spawn(|timer| run(self.client.of_stream(timer), Rc::new(stream), text, open));
    }

    /// Tells the listener's counters what the connection moved.
    fn count(&mut self) {
        let view = self.client.worker.view();
        if let Some(index) = view.live.find(&self.client.listener) {
            let cell = view.listener(index).cells.of(self.client.worker.index);
            let now = (self.wire.read(), self.wire.written());
            counters::add(&cell.bytes_in, now.0 - self.told.0);
            counters::add(&cell.bytes_out, now.1 - self.told.1);
            self.told = now;
        }
    }

    /// Sends the last frames, and waits until the client has them.
    async fn close(mut self) {
        self.client.timer.arm(Side::Client, CLOSE_MS);
        let sent = poll_fn(|_| {
            let waker = self.client.timer.reactor().waker();
            let cx = &mut Context::from_waker(&waker);
            let closed = self.connection.poll_closed(cx);
            self.gathered.send(cx);
            match closed {
                Poll::Ready(_) => Poll::Ready(true),
                Poll::Pending if self.client.timer.expired(Side::Client) => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        self.count();
        if sent {
            self.wire.linger(&mut Buffer::default(), &self.client.timer).await;
        }
    }
}

/// Serves one stream to its end, or until the client takes it back.
async fn run(client: Client, stream: Rc<Stream2>, text: Out, mut open: Open) {
    let mut session = Session::new(client, Wire::http2(stream.clone()), Buffer::default());
    let ended = {
        let mut served = pin!(http::serve_text(&mut session, &text));
        poll_fn(|cx| match served.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => stream.poll_cancelled().map(|()| None),
        })
        .await
    };
    session.count_answer(false);
    let broke = matches!(ended, Some(End::Close | End::Reset));
    if ended.is_none() || (broke && stream.poll_cancelled().is_ready()) {
        open.cancel();
    }
    match ended {
        Some(End::Reset) if stream.accept().is_some() => stream.reset(Reason::CANCEL), // RFC 8441 §5
        Some(End::Reset) => stream.reset(Reason::INTERNAL_ERROR),
        _ => {}
    }
}
