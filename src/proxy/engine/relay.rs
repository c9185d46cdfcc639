//! Bytes both ways: L4 connections, and tunnels after an upgrade. Copied through a shared buffer, spliced when they are
//! many.

use super::{
    View, Worker,
    accept::Client,
    buffer::Buffer,
    preamble,
    splice::Splice,
    timer::{BURST, Side, Timer},
    upstream::{Carries, Lease},
    wire::Wire,
};
use crate::{
    access::{self, Entry, Of},
    balance, counters,
    health::now_us,
    live::{LiveListener, Split},
    outlier,
    pool_state::may_retry,
};
use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::{Poll, ready},
};
use zonekeeper_core::{id::PoolId, model::Balance};

/// How an L4 connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Each direction by itself, or the client before there was a backend.
    Closed,
    /// One end broke it.
    Broken,
    /// It was quiet for too long.
    Idle,
    /// Its address comes too often.
    Limited,
    /// No backend could be reached.
    Unserved,
    /// What came is no TLS greeting, or came too late.
    NoGreeting,
    /// No route takes the name in its greeting.
    UnknownName,
}

impl Ended {
    fn word(self) -> &'static str {
        match self {
            Ended::Closed => "closed",
            Ended::Broken => "broken",
            Ended::Idle => "idle",
            Ended::Limited => "limited",
            Ended::Unserved => "no backend",
            Ended::NoGreeting => "no greeting",
            Ended::UnknownName => "unknown name",
        }
    }
}

/// A sampled L4 connection.
pub(crate) struct Sampled {
    began_us: u64,
}

impl Sampled {
    /// One that begins; none when it is not sampled.
    pub(crate) fn begin(client: &Client, view: &View, index: usize) -> Option<Sampled> {
        let listener = view.listener(index);
        let number = listener.cells.of(client.worker.index).connections.load(Relaxed);
        access::sampled(listener.table.access_log, number).then(|| Sampled { began_us: now_us() })
    }

    /// It is over; the pool and the backend that it had.
    pub(crate) fn log(
        self,
        client: &Client,
        wire: &Wire,
        ended: Ended,
        (pool, backend): (Option<PoolId>, Option<SocketAddr>),
    ) {
        client.worker.shared.access.push(Entry {
            listener: (*client.listener).clone(),
            client: client.peer.ip(),
            of: Of::Connection { end: ended.word() },
            pool,
            backend,
            bytes: (wire.read(), wire.written()),
            took_us: now_us().saturating_sub(self.began_us),
        });
    }
}

/// Serves an L4 connection.
pub(crate) async fn serve(client: Client, wire: Wire, view: Rc<View>, index: usize) {
    let sampled = Sampled::begin(&client, &view, index);
    serve_route(client, wire, (view, index, 0), Buffer::default(), sampled).await;
}

/// Serves an L4 connection that takes this route; `read` came already.
pub(crate) async fn serve_route(
    client: Client,
    wire: Wire,
    (view, index, route): (Rc<View>, usize, usize),
    read: Buffer,
    sampled: Option<Sampled>,
) {
    let (ended, pool, lease) = forward(&client, &wire, (&view, index, route), read).await;
    if ended != Ended::Closed {
        wire.reset_on_close();
    }
    if let Some(sampled) = sampled {
        let pool = pool.map(|pool| view.pool(pool).table.id.clone());
        sampled.log(&client, &wire, ended, (pool, lease.map(|lease| lease.health().addr)));
    }
}

/// Forwards it to its end; the pool that it was for, and the lease of the backend that it had.
async fn forward(
    client: &Client,
    wire: &Wire,
    (view, index, route): (&Rc<View>, usize, usize),
    mut read: Buffer,
) -> (Ended, Option<usize>, Option<Lease>) {
    let listener = view.listener(index);
    let cell = listener.cells.of(client.worker.index);
    if limited(&client.worker, listener, client.peer.ip()) {
        counters::add(&cell.limited, 1);
        return (Ended::Limited, None, None);
    }
    if read.is_empty() && !wire.read_now(&mut read) {
        return (Ended::Closed, None, None); // the client has gone
    }
    let pool = listener.routes.get(route).and_then(Split::next);
    let connected = match pool {
        Some(pool) => connect(client, wire, view, pool, !read.is_empty()).await,
        None => None,
    };
    let Some((lease, backend)) = connected else {
        counters::add(&cell.failed, 1);
        return (Ended::Unserved, pool, None);
    };
    let idle_ms = listener.table.idle_timeout_ms;
    let announced = backend.written();
    let ok = relay(&client.timer, idle_ms, wire, &backend, (read, Buffer::default())).await;
    counters::add(&cell.bytes_in, wire.read());
    counters::add(&cell.bytes_out, wire.written());
    let totals = &lease.health().totals;
    totals.bytes_in.fetch_add(backend.written() - announced, Relaxed);
    totals.bytes_out.fetch_add(backend.read(), Relaxed);
    let ended = match ok {
        true => Ended::Closed,
        false if client.timer.expired(Side::Client) => Ended::Idle,
        false => Ended::Broken,
    };
    if !ok {
        // The other end shall see the cut that this one made (RFC 9293 §3.10.7.4), not an orderly end.
        backend.reset_on_close();
    }
    (ended, pool, Some(lease))
}

/// Whether an address comes more often than the listener allows.
pub(crate) fn limited(worker: &Worker, listener: &LiveListener, addr: IpAddr) -> bool {
    let Some(limit) = &listener.table.rate_limit else { return false };
    let key = balance::mix(balance::key_of_network(addr) ^ listener.seed);
    worker.shared.rates().take(limit, key, now_us()).is_err()
}

/// A connection to a backend of the pool; another one is tried when it fails. With `more` there are bytes for it.
async fn connect(
    client: &Client,
    wire: &Wire,
    view: &Rc<View>,
    pool: usize,
    more: bool,
) -> Option<(Lease, Wire)> {
    let ends = preamble::ends(client, wire, view.pool(pool));
    let table = &view.pool(pool).table;
    let key = balance::key_of_source(client.peer.ip());
    let mut exclude = Vec::new();
    for attempt in 0..=table.retries {
        if attempt > 0 && !may_retry(view.pool(pool)) {
            break;
        }
        let lease = Lease::take(view, pool, (None, key), &exclude, (wire, &client.timer)).await.ok()?;
        let totals = &lease.health().totals;
        totals.requests.fetch_add(1, Relaxed);
        if attempt > 0 {
            totals.retries.fetch_add(1, Relaxed);
        }
        let timed = table.balance == Balance::ResponseTime && !view.pool(pool).requests;
        let began = timed.then(now_us);
        let connected = lease.connect(&client.timer, ends, Carries::Bytes { more }).await;
        let took = began.map(|began| (now_us(), now_us().saturating_sub(began)));
        if let Some(backend) = connected {
            lease.health().answered(200);
            if let Some((now, took)) = took {
                lease.health().latency.record(now, took); // nothing else can be known of bytes
            }
            return Some((lease, backend));
        }
        totals.errors.fetch_add(1, Relaxed);
        if !lease.out_of_room() {
            if let Some((now, took)) = took {
                lease.health().latency.penalise(now, took);
            }
            outlier::failed(lease.pool(), lease.index(), lease.fault());
        }
        exclude.push(lease.index());
    }
    None
}

/// Relays until both directions ended, each by itself (half-close). False when one broke or was quiet for too long.
pub(crate) async fn relay(
    timer: &Timer,
    idle_ms: u32,
    client: &Wire,
    backend: &Wire,
    read: (Buffer, Buffer),
) -> bool {
    let (mut up, mut down) = (Direction::new(read.0), Direction::new(read.1));
    timer.arm(Side::Client, idle_ms);
    poll_fn(|_| {
        let before = (client.read(), backend.read(), client.written(), backend.written());
        let up_polled = up.poll(timer, client, backend, down.ended);
        let down_polled = down.poll(timer, backend, client, up.ended);
        if before != (client.read(), backend.read(), client.written(), backend.written()) {
            timer.arm(Side::Client, idle_ms);
        }
        match (up_polled, down_polled) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(false),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(true),
            _ if timer.expired(Side::Client) => Poll::Ready(false),
            _ => Poll::Pending,
        }
    })
    .await
}

/// One direction of a relay.
struct Direction {
    buffer: Buffer,
    splice: Splice,
    /// How the source ended, behind what the buffer holds.
    end: Option<io::Result<()>>,
    ended: bool,
}

impl Direction {
    fn new(buffer: Buffer) -> Direction {
        Direction { buffer, splice: Splice::default(), end: None, ended: false }
    }

    fn poll(&mut self, timer: &Timer, from: &Wire, to: &Wire, other_ended: bool) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..BURST {
            while !self.buffer.is_empty() {
                let data = self.buffer.bytes();
                if let Some(Ok(())) = self.end {
                    to.end_follows();
                }
                let n = ready!(to.poll_write(data))?;
                self.buffer.consume(n);
            }
            ready!(to.poll_flush())?;
            if let Some(end) = self.end.take() {
                end?;
                // When the other direction is over too, closing the connection says the same.
                if (!other_ended || !to.ends_by_closing()) && to.poll_shutdown()?.is_pending() {
                    self.end = Some(Ok(()));
                    return Poll::Pending;
                }
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            let n = if self.splice.on() {
                ready!(self.splice.poll(from, to, u64::MAX)).map_err(|_| io::ErrorKind::BrokenPipe)?
            } else {
                let n = ready!(from.poll_read(&mut self.buffer))?;
                self.splice.observe(n, from, to);
                n
            };
            self.end = if n == 0 { Some(Ok(())) } else { self.look_ahead(from) };
        }
        timer.reactor().again();
        Poll::Pending
    }

    /// The end that follows what was just read, if it is there: then both go in one packet.
    fn look_ahead(&mut self, from: &Wire) -> Option<io::Result<()>> {
        if self.splice.on() || !from.ending() || self.buffer.room().is_empty() {
            return None;
        }
        match from.poll_read(&mut self.buffer) {
            Poll::Ready(Ok(0)) => Some(Ok(())),
            Poll::Ready(Ok(_)) | Poll::Pending => None,
            Poll::Ready(Err(e)) => Some(Err(e)),
        }
    }
}
