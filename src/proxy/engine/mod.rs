//! The engine: one thread per worker, each with a runtime, listening sockets and kept backend connections of its own.
//! The only folder that a different engine (a bare epoll loop, say) would replace.

mod accept;
mod buffer;
mod download;
mod exchange;
mod http;
mod relay;
mod timer;
mod upload;
mod upstream;
mod wire;

use crate::{
    health::LocalHealth,
    live::{Live, LiveListener, LivePool},
};
use arc_swap::ArcSwap;
use std::{
    cell::RefCell,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    thread::JoinHandle,
};
use timer::Timers;
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
};
use upstream::Kept;
use zonekeeper_core::id::ListenerId;

/// What all workers and the supervisor share.
#[derive(Debug)]
pub(crate) struct Shared {
    live: ArcSwap<Live>,
    version: AtomicU64,
    draining: AtomicBool,
    /// Client connections open now, over all listeners.
    pub(crate) connections: AtomicU64,
    /// Listening sockets that still accept, over all workers.
    pub(crate) accepting: AtomicU64,
    pub(crate) health: Arc<LocalHealth>,
}

impl Shared {
    pub(crate) fn new(health: Arc<LocalHealth>) -> Shared {
        Shared {
            live: ArcSwap::from_pointee(Live::default()),
            version: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            accepting: AtomicU64::new(0),
            health,
        }
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

    /// From now on kept connections end after their request.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Release);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Acquire)
    }
}

/// How a listening socket goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listening {
    /// It accepts.
    Open,
    /// It accepts what already waits, and closes.
    Drain,
    /// It closes at once: what waits is reset, what comes is refused.
    Refuse,
}

/// What the supervisor tells a worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// Accept from this socket for the listener.
    Listen(std::net::TcpListener, ListenerId, watch::Receiver<Listening>),
    /// Idle connections shall look at what changed.
    Wake,
}

/// A worker thread. It ends when its sender is dropped.
pub(crate) type Handle = (mpsc::UnboundedSender<Order>, JoinHandle<()>);

/// A worker's own state.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    timers: Rc<Timers>,
    view: RefCell<Rc<View>>,
}

/// A live table as one worker holds it, with the connections that it keeps to the backends.
pub(crate) struct View {
    version: u64,
    live: Arc<Live>,
    kept: Vec<Vec<Rc<Kept>>>,
}

impl View {
    /// The table at `version`; connections to backends that stay are taken over from `before`.
    fn new(version: u64, live: Arc<Live>, before: Option<&View>) -> View {
        let keep = |pool: &LivePool| pool.backends.iter().map(|b| Kept::take_over(b, before)).collect();
        View { version, kept: live.pools.iter().map(keep).collect(), live }
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
pub(crate) fn start(index: usize, shared: Arc<Shared>) -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(61).build()?;
    let (orders, inbox) = mpsc::unbounded_channel();
    let body = move || LocalSet::new().block_on(&runtime, run(index, shared, inbox));
    let thread = std::thread::Builder::new().name(format!("proxy-{index}")).spawn(body)?;
    Ok((orders, thread))
}

async fn run(index: usize, shared: Arc<Shared>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    let (version, live) = (shared.version.load(Acquire), shared.live());
    let view = RefCell::new(Rc::new(View::new(version, live, None)));
    let worker = Rc::new(Worker { shared, index, timers: Rc::default(), view });
    let timers = worker.timers.clone();
    tokio::task::spawn_local(async move { timers.run().await });
    tokio::task::spawn_local(upstream::sweep(worker.clone()));
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Listen(socket, id, state) => {
                tokio::task::spawn_local(accept::run(worker.clone(), socket, id, state));
            }
            Order::Wake => worker.timers.wake_all(),
        }
    }
}
