//! The engine: one thread per worker, each with an event loop, listening sockets and kept backend connections of its
//! own. One future per client connection drives both of its sockets over bare epoll ([`reactor`]).
//!
//! Why not tokio's current-thread runtime, which was here before: a fifth of a proxied request was spent outside of the
//! kernel, much of it in readiness atomics and wakers, and a connection cost it three more calls: a connection per HTTP
//! request was 0.96 of HAProxy's CPU then, 10 MB bodies 0.64. A kept connection's request spends a fifth outside of
//! the kernel (HAProxy a third) and takes four system calls; a connection of its own takes 16.8 in a TCP relay (HAProxy
//! 17.8). Where the worker is not busy, what a request costs depends on how often the worker sleeps: a faster proxy
//! does so more often, which is why a busy one rests between its rounds ([`reactor`]).
//!
//! CPU per request of one pinned worker (1 KiB over 64 connections, 10 MB over 4), as ratios. The first four: medians of
//! four starts of all programs, each of three rounds in random order; in brackets what single starts gave. The others:
//! medians of three rounds.
//!
//! | | to HAProxy 2.6 | to nginx 1.22 |
//! |---|---|---|
//! | HTTP, kept connections | 0.79 (0.72 to 0.86) | 0.83 |
//! | HTTP, a connection each | 0.75 (0.71 to 0.81) | 0.74 |
//! | TCP, kept connections | 0.81 (0.74 to 0.93) | 0.87 |
//! | TCP, a connection each | 0.80 (0.74 to 0.88); `client_first` 0.79 | 0.83; 0.78 |
//! | 10 MB over HTTP, over TCP | 0.25, 0.24 | 0.07, 0.20 |
//! | TLS, kept connections | 0.72 | 0.85 |
//! | TLS, a connection each | 0.33 | 1.12 |
//! | HTTP/2 over TLS | 0.95 | 0.69 |
//!
//! An idle connection takes some 900 bytes (HAProxy 1144), with TLS 4.9 KB (15.6).

mod accept;
mod bell;
mod buffer;
mod download;
mod exchange;
mod http;
mod http2;
mod passthrough;
mod preamble;
mod reactor;
mod relay;
mod splice;
mod stream;
mod summons;
mod timer;
mod tls;
mod udp;
mod unsent;
mod upload;
mod upstream;
mod wire;

use crate::{
    access::AccessLog,
    health::LocalHealth,
    live::{Live, LiveListener, LivePool},
    rate::Rates,
};
use accept::Watched;
pub(crate) use accept::{Fate, Handed, Listening};
use arc_swap::ArcSwap;
use reactor::{Notice, Reactor};
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{Acquire, Release},
        },
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::JoinHandle,
};
use summons::Summons;
use upstream::Kept;

/// The number of the event source that says that there are orders.
const ORDERS: u32 = u32::MAX;
/// How often kept connections are looked at, in milliseconds.
const SWEEP_MS: u64 = 1000;

/// What all workers and the supervisor share.
#[derive(Debug)]
pub(crate) struct Shared {
    live: ArcSwap<Live>,
    version: AtomicU64,
    draining: AtomicU8,
    /// Client connections open now, over all listeners.
    pub(crate) connections: AtomicU64,
    /// Listening sockets that still accept, over all workers.
    pub(crate) accepting: AtomicU64,
    pub(crate) health: Arc<LocalHealth>,
    pub(crate) access: Arc<AccessLog>,
    /// Made when the first limit is asked.
    rates: OnceLock<Rates>,
}

impl Shared {
    pub(crate) fn new(health: Arc<LocalHealth>) -> Shared {
        Shared {
            live: ArcSwap::from_pointee(Live::default()),
            version: AtomicU64::new(0),
            draining: AtomicU8::new(0),
            connections: AtomicU64::new(0),
            accepting: AtomicU64::new(0),
            health,
            access: Arc::default(),
            rates: OnceLock::new(),
        }
    }

    /// Who came how often.
    pub(crate) fn rates(&self) -> &Rates {
        self.rates.get_or_init(Rates::default)
    }

    /// What the workers serve from.
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Swaps it; a worker sees it with its next request or connection.
    pub(crate) fn publish(&self, live: Live) {
        self.live.store(Arc::new(live));
        self.version.fetch_add(1, Release);
    }

    /// From now on connections end after their next answer; with `idle`, those that wait for a request end now.
    pub(crate) fn drain(&self, idle: bool) {
        self.draining.fetch_max(1 + u8::from(idle), Release);
    }

    /// Connections end after their next answer.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Acquire) > 0
    }

    /// Connections that wait for a request end.
    pub(crate) fn closing(&self) -> bool {
        self.draining.load(Acquire) > 1
    }
}

/// What the supervisor tells a worker.
#[derive(Debug)]
enum Order {
    /// Accept from this socket.
    Open(Handed),
    /// Doors and idle connections shall look at what changed.
    Look,
}

/// The supervisor's line to a worker. The worker ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    orders: Option<Sender<Order>>,
    summons: Arc<Summons>,
}

impl Line {
    /// Accept from this socket.
    pub(crate) fn open(&self, door: Handed) {
        self.send(Order::Open(door));
    }

    /// The fate of a door or the configuration changed: look at it.
    pub(crate) fn look(&self) {
        self.send(Order::Look);
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
        self.summons.wake();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.orders = None;
        self.summons.wake();
    }
}

/// A worker's own state.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    reactor: Rc<Reactor>,
    doors: RefCell<Vec<Option<Watched>>>,
    view: RefCell<Rc<View>>,
    swept: Cell<u64>,
}

/// A live table as one worker holds it, with the connections that it keeps to the backends.
pub(crate) struct View {
    version: u64,
    live: Arc<Live>,
    kept: Vec<Vec<Rc<Kept>>>,
}

impl View {
    /// The table at `version`; connections to backends that stay are taken over from `before`, the others end.
    fn new(version: u64, live: Arc<Live>, before: Option<&View>) -> View {
        let keep = |pool: &LivePool| pool.backends.iter().map(|b| Kept::take_over(b, pool, before)).collect();
        let kept: Vec<Vec<Rc<Kept>>> = live.pools.iter().map(keep).collect();
        // A tunnel may hold the earlier view for hours.
        let left = |old: &&Rc<Kept>| !kept.iter().flatten().any(|k| Rc::ptr_eq(k, old));
        before.iter().flat_map(|v| v.kept.iter().flatten()).filter(left).for_each(|k| k.close());
        View { version, kept, live }
    }

    fn listener(&self, index: usize) -> &LiveListener {
        &self.live.listeners[index]
    }

    fn pool(&self, index: usize) -> &LivePool {
        &self.live.pools[index]
    }
}

impl Worker {
    /// The newest view; a comparison of numbers while nothing changed.
    fn view(&self) -> Rc<View> {
        let version = self.shared.version.load(Acquire);
        let view = self.view.borrow().clone();
        if view.version == version {
            return view;
        }
        let new = Rc::new(View::new(version, self.shared.live(), Some(&view)));
        *self.view.borrow_mut() = new.clone();
        new
    }
}

/// Starts a worker thread.
pub(crate) fn start(index: usize, shared: Arc<Shared>) -> io::Result<(Line, JoinHandle<()>)> {
    let summons = Arc::new(Summons::new()?);
    let (orders, inbox) = channel();
    let line = Line { orders: Some(orders), summons: summons.clone() };
    let body = move || {
        if let Err(e) = run(index, shared, &inbox, summons) {
            tracing::error!(worker = index, error = %e, "a worker of the proxy ended");
        }
    };
    Ok((line, std::thread::Builder::new().name(format!("proxy-{index}")).spawn(body)?))
}

fn run(index: usize, shared: Arc<Shared>, inbox: &Receiver<Order>, summons: Arc<Summons>) -> io::Result<()> {
    let (version, live) = (shared.version.load(Acquire), shared.live());
    let view = RefCell::new(Rc::new(View::new(version, live, None)));
    let reactor = Rc::new(Reactor::new(summons)?);
    reactor.watch(&*reactor.summons, ORDERS)?;
    let doors = RefCell::default();
    let worker = Rc::new(Worker { shared, index, reactor, doors, view, swept: Cell::new(0) });
    let mut open = true;
    while open {
        worker.reactor.turn(&mut |notice| match notice {
            Notice::Special(ORDERS) => open = worker.obey(inbox),
            Notice::Special(door) => accept::ready(&worker, door),
            Notice::Tick => worker.tick(),
        })?;
    }
    worker.reactor.end();
    Ok(())
}

impl Worker {
    /// Does what is ordered; false when there will be no more orders.
    fn obey(self: &Rc<Self>, inbox: &Receiver<Order>) -> bool {
        self.reactor.answer_summons();
        loop {
            match inbox.try_recv() {
                Ok(Order::Open(door)) => accept::open(self, door),
                Ok(Order::Look) => {
                    accept::close(self);
                    self.reactor.wake_all();
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn tick(&self) {
        accept::resume(self);
        let now = self.reactor.deadlines.now();
        if now.saturating_sub(self.swept.get()) >= SWEEP_MS {
            self.swept.set(now);
            upstream::sweep(&self.view(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small_and_a_request_has_its_own_room() {
        let (idle, request) = (size(http::serve), size(exchange::exchange));
        assert!(idle <= 968, "{idle} bytes wait for the next request; HAProxy's wait in 1165");
        assert!(request <= 2048, "{request} bytes are taken for each request");
    }
}
