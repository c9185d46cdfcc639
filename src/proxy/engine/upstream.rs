//! Connections to backends: opened, kept, and checked before they are used again.

use super::{
    View,
    buffer::Out,
    http2::{Connections, Turn, Upstream2},
    stream::Stream,
    timer::{Side, Timer},
    tls::Tls,
    wire::Wire,
};
use crate::{
    balance::{self, Choice, Place},
    health::{BackendHealth, Fault},
    http1::Answer,
    live::LivePool,
    preamble::{self, Ends},
    socket,
    tls::Client,
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};

/// Quiet connections kept per backend and worker: as many as a busy worker has requests in flight.
const KEEP: usize = 256;
/// A connection that is quiet for longer is closed; most servers close it after 60 s themselves.
const KEEP_MS: u64 = 30_000;
/// How often those who wait for a place look by themselves.
const LOOK_MS: u32 = 100;

/// The quiet connections of one worker to one backend.
pub(crate) struct Kept {
    health: Arc<BackendHealth>,
    idle: RefCell<Vec<Idle>>,
    http2: Connections,
    /// Nothing more is kept: no view will take it over.
    closed: Cell<bool>,
    /// What they were opened with.
    tls: Option<Arc<Client>>,
}

/// A quiet connection.
struct Idle {
    wire: Wire,
    since: u64,
    /// The client's connection that it was announced as: it can serve no other.
    ends: Option<Ends>,
}

/// A connection that its backend takes for one user's, kept with that client's own: no other client has it, and it ends with
/// that one (RFC 4559 §6).
pub(crate) struct Private {
    kept: Rc<Kept>,
    wire: Wire,
    ends: Option<Ends>,
}

impl Private {
    /// Whose it is among the pool's backends.
    pub(crate) fn backend(&self, view: &View, pool: usize) -> Option<usize> {
        view.kept[pool].iter().position(|kept| Rc::ptr_eq(kept, &self.kept))
    }
}

impl Kept {
    /// The kept connections of a backend, from an earlier view if it had some.
    pub(crate) fn take_over(health: &Arc<BackendHealth>, pool: &LivePool, before: Option<&View>) -> Rc<Kept> {
        let same = |k: &&Rc<Kept>| {
            let tls = match (&k.tls, &pool.tls) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            tls && Arc::ptr_eq(&k.health, health)
        };
        let found = before.and_then(|v| v.kept.iter().flatten().find(same).cloned());
        found.unwrap_or_else(|| {
            Rc::new(Kept {
                health: health.clone(),
                idle: RefCell::default(),
                http2: Connections::default(),
                closed: Cell::new(false),
                tls: pool.tls.clone(),
            })
        })
    }

    /// The one that was used last for these ends, if it is still open and quiet.
    fn take(&self, ends: Option<Ends>) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        // Nearly always the last one; a pool that tells its backends since now, or no more, has others.
        let next = || idle.iter().rposition(|i| i.ends == ends).map(|at| idle.remove(at));
        std::iter::from_fn(next).map(|i| i.wire).find(Wire::quiet)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn give(&self, wire: Wire, now_ms: u64, ends: Option<Ends>) {
        let mut idle = self.idle.borrow_mut();
        if wire.upstream2().is_some() || self.closed.get() {
            return; // its connection is kept where it runs
        }
        if idle.len() >= KEEP && ends.is_some() {
            idle.remove(0); // of a client that has most likely gone
        }
        if idle.len() < KEEP {
            idle.push(Idle { wire, since: now_ms, ends });
        }
    }

    /// Ends those that are quiet, and each other one with its request.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        self.http2.close();
    }

    fn sweep(&self, now: u64) {
        self.idle.borrow_mut().retain(|i| now.saturating_sub(i.since) < KEEP_MS && i.wire.quiet());
        self.http2.sweep(now, KEEP_MS);
    }
}

/// Closes what the backends closed and what was quiet for too long; once a second.
pub(crate) fn sweep(view: &View, now_ms: u64) {
    view.kept.iter().flatten().for_each(|k| k.sweep(now_ms));
}

/// What a connection to a backend is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// HTTP, which TLS agrees on (RFC 7301).
    Requests,
    /// Whatever the client of L4 says; with `more` there are bytes for it.
    Bytes {
        /// There are.
        more: bool,
    },
}

/// A place on a backend; given back when dropped.
pub(crate) struct Lease {
    view: Rc<View>,
    pool: u32,
    backend: u32,
    trial: bool,
    /// Others that were tried before it.
    tried: Vec<usize>,
    /// This machine had nothing left to connect with.
    out_of_room: Cell<bool>,
    /// What the backend's fault is, if it fails now.
    fault: Cell<Fault>,
}

impl Lease {
    /// Chooses a backend of the pool that is not in `exclude`: the one that the client had before, or by `key` where the
    /// pool hashes, or as it is balanced. Where all are at their limit, the pool's queue is joined, until the client of `wire` breaks off.
    pub(crate) async fn take(
        view: &Rc<View>,
        pool: usize,
        (before, key): (Option<usize>, u64),
        exclude: &[usize],
        (wire, timer): (&Wire, &Timer),
    ) -> Result<Lease, Answer> {
        let live = view.pool(pool);
        let (queue, totals) = (&live.state.queue, &live.state.totals);
        let same = |exclude| balance::choose_same(live, before?, exclude, timer.now());
        let choose =
            |exclude| same(exclude).unwrap_or_else(|| balance::choose(live, key, exclude, timer.now()));
        let lease = |backend| Lease::new(view, pool, backend, exclude);
        if live.table.max_connections == 0 || queue.len() == 0 {
            match choose(exclude) {
                Choice::Backend(backend) => return Ok(lease(backend)),
                Choice::Nothing => return Err(Answer::Unavailable),
                Choice::Full => {}
            }
        }
        let line = timer.reactor().summons.clone();
        let Some(turn) = queue.join(live.table.max_queue, line, timer.task()) else {
            totals.overflowed.fetch_add(1, Relaxed);
            return Err(Answer::QueueFull);
        };
        totals.queued.fetch_add(1, Relaxed);
        wire.watch();
        let until = timer.now() + u64::from(live.table.queue_timeout_ms);
        let chosen = poll_fn(|_| {
            if turn.first() {
                match choose(exclude) {
                    Choice::Backend(backend) => return Poll::Ready(Ok(lease(backend))),
                    Choice::Nothing => return Poll::Ready(Err(Answer::Unavailable)),
                    Choice::Full => {}
                }
            }
            if timer.now() >= until {
                totals.timed_out.fetch_add(1, Relaxed);
                return Poll::Ready(Err(Answer::QueueTimeout));
            }
            if wire.broken() {
                return Poll::Ready(Err(Answer::Unavailable));
            }
            // A backend that comes back, or a limit that is raised, wakes nobody.
            timer.arm(Side::Backend, LOOK_MS.min((until - timer.now()) as u32));
            Poll::Pending
        })
        .await;
        timer.disarm(Side::Backend);
        chosen
    }

    /// A place on a backend that has one now, for a client by its address.
    pub(crate) fn now(view: &Rc<View>, pool: usize, client: IpAddr, now_ms: u64) -> Option<Lease> {
        match balance::choose(view.pool(pool), balance::key_of_source(client), &[], now_ms) {
            Choice::Backend(backend) => Some(Lease::new(view, pool, backend, &[])),
            Choice::Full | Choice::Nothing => None,
        }
    }

    fn new(view: &Rc<View>, pool: usize, backend: Place, tried: &[usize]) -> Lease {
        let Place { index, trial } = backend;
        let (pool, backend) = (pool as u32, index as u32); // small, since each request holds a lease
        Lease {
            view: view.clone(),
            pool,
            backend,
            trial,
            tried: tried.to_vec(),
            out_of_room: Cell::new(false),
            fault: Cell::new(Fault::Requests),
        }
    }

    /// The connection was not even tried: that says nothing of the backend.
    pub(crate) fn out_of_room(&self) -> bool {
        self.out_of_room.get()
    }

    /// What the backend's fault is, if it fails now.
    pub(crate) fn fault(&self) -> Fault {
        self.fault.get()
    }

    /// Whether a backend that was not tried yet has a place now.
    pub(crate) fn others(&self, now_ms: u64) -> bool {
        let pool = self.pool();
        let max = pool.table.max_connections;
        let takes = |i: usize, backend: &BackendHealth| {
            let room = max == 0 || backend.inflight() < max;
            room && backend.usable(&pool.table.backends[i], now_ms) && !backend.tried_now()
        };
        let mut all = pool.backends.iter().enumerate();
        all.any(|(i, backend)| i != self.index() && !self.tried.contains(&i) && takes(i, backend))
    }

    pub(crate) fn index(&self) -> usize {
        self.backend as usize
    }

    pub(crate) fn pool(&self) -> &LivePool {
        self.view.pool(self.pool as usize)
    }

    pub(crate) fn health(&self) -> &Arc<BackendHealth> {
        &self.pool().backends[self.index()]
    }

    pub(crate) fn kept(&self) -> &Rc<Kept> {
        &self.view.kept[self.pool as usize][self.index()]
    }

    /// The client's private connection, if it leads to this backend in the same way and is still open and quiet.
    pub(crate) fn take_private(
        &self,
        private: &mut Option<Box<Private>>,
        ends: Option<Ends>,
    ) -> Option<Wire> {
        let ours = |p: &mut Box<Private>| Rc::ptr_eq(&p.kept, self.kept()) && p.ends == ends;
        let wire = private.take_if(ours)?.wire;
        (!self.pool().table.http2 && wire.quiet()).then_some(wire)
    }

    /// Keeps a connection as the client's private one.
    pub(crate) fn keep_private(&self, private: &mut Option<Box<Private>>, wire: Wire, ends: Option<Ends>) {
        // One of HTTP/2 has others' streams meanwhile: no server may authenticate it.
        if wire.upstream2().is_none() {
            *private = Some(Box::new(Private { kept: self.kept().clone(), wire, ends }));
        }
    }

    /// A place on a connection that stands.
    pub(crate) fn take_kept(&self, timer: &Timer, ends: Option<Ends>) -> Option<Wire> {
        match self.pool().table.http2 {
            true => self.kept().http2.take(timer, ends).map(Wire::upstream),
            false => self.kept().take(ends),
        }
    }

    /// A place on a connection that is opened for it.
    pub(crate) async fn open(&self, timer: &Timer, ends: Option<Ends>) -> Option<Wire> {
        let opened = if self.pool().table.http2 {
            let opened = Box::pin(self.open2(timer, ends)); // rare, and requests do not hold its room
            opened.await.map(Wire::upstream)
        } else {
            self.connect(timer, ends, Carries::Requests).await
        };
        if opened.is_some() {
            self.fault.set(Fault::Requests);
        }
        opened
    }

    /// The same for HTTP/2: a burst waits for one connection, and there are not more than may be.
    async fn open2(&self, timer: &Timer, ends: Option<Ends>) -> Option<Upstream2> {
        let (connections, ms) = (&self.kept().http2, self.pool().table.connect_timeout_ms);
        let turn = match ends {
            Some(_) => None,
            None => match connections.turn(timer, ms).await {
                Turn::Stands(stream) => return Some(stream),
                Turn::Failed => {
                    self.fault.set(Fault::Handshake); // whoever opened it says if it was the connection
                    return None;
                }
                Turn::Ours(turn) => Some(turn),
            },
        };
        let opened = match self.connect(timer, ends, Carries::Requests).await {
            Some(wire) => connections.add(wire, ends, timer, ms).await,
            None => None,
        };
        if let Some(turn) = turn {
            turn.end(opened.is_some());
        }
        opened
    }

    /// Tells whose connection it is, where the pool's backends are told; in how many bytes, none when they are not taken.
    async fn announce(&self, stream: &Stream, timer: &Timer, ends: Option<Ends>) -> Option<usize> {
        let (Some(version), Some(ends)) = (self.pool().table.send_proxy, ends) else { return Some(0) };
        let mut header = Out::new();
        preamble::write(version, ends, &mut header);
        let mut at = 0;
        poll_fn(|_| {
            while at < header.len() {
                match stream.poll_write(&header[at..]) {
                    Poll::Ready(Ok(n)) if n > 0 => at += n,
                    Poll::Ready(_) => return Poll::Ready(None),
                    Poll::Pending if timer.expired(Side::Backend) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Some(at))
        })
        .await
    }

    /// Shakes hands where the pool has TLS; none when the backend is not who it shall be. So many bytes were sent `before`.
    async fn encrypt(&self, stream: Stream, before: usize, timer: &Timer, carries: Carries) -> Option<Wire> {
        let table = &self.pool().table;
        if table.tls.is_none() {
            let wire = Wire::plain(stream);
            wire.count_before(before);
            return Some(wire);
        }
        let client = self.pool().tls.as_ref()?;
        let config = match carries {
            Carries::Requests => client.config(),
            Carries::Bytes { .. } => client.of_bytes(),
        };
        let tls = Tls::to(stream, config.clone(), client.name(self.health().addr.ip())).ok()?;
        let wire = Wire::tls(tls);
        wire.count_before(before);
        let shaken = wire.handshake(timer, Side::Backend).await;
        (shaken.is_ok() && (!table.http2 || wire.speaks_http2())).then_some(wire)
    }

    /// Opens a connection, for these ends where the backend is told; none when it is refused or takes too long.
    pub(crate) async fn connect(&self, timer: &Timer, ends: Option<Ends>, carries: Carries) -> Option<Wire> {
        let table = &self.pool().table;
        self.fault.set(Fault::Connect);
        let more =
            carries != Carries::Bytes { more: false } || table.tls.is_some() || table.send_proxy.is_some();
        let stream = Stream::connect(self.health().addr, more, timer.reactor());
        let stream = stream.inspect_err(|e| self.out_of_room.set(socket::out_of_room(e))).ok()?;
        timer.arm(Side::Backend, table.connect_timeout_ms);
        let connected = poll_fn(|_| match stream.poll_connected() {
            Poll::Ready(r) => Poll::Ready(r.is_ok()),
            Poll::Pending if timer.expired(Side::Backend) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await;
        if connected {
            self.fault.set(Fault::Handshake);
        }
        let announced = if connected { self.announce(&stream, timer, ends).await } else { None };
        let wire = match announced {
            Some(before) => self.encrypt(stream, before, timer, carries).await,
            None => None,
        };
        timer.disarm(Side::Backend);
        wire
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        balance::release(self.pool(), Place { index: self.index(), trial: self.trial });
    }
}
