//! The L4 and L7 proxy: listeners, routes and pools of one site, from the one published state.
//!
//! ```text
//! Published ──> supervisor thread ──> Live (listeners, pools, backends with their health) ──> worker threads
//!               binds, retries, refuses                 one swap                             accept, relay, exchange
//! ```
//!
//! - **Pure parts**: [`http1`] (the codec: heads, framing, rewriting; bytes in, bytes out), `balance` (which backend),
//!   `outlier` (which one is left out for its errors) and `fixed` (answers of a route). They know no socket and no runtime.
//! - **The engine** (`engine/`) is one thread per worker, each with an epoll loop and listening sockets of its own
//!   (`SO_REUSEPORT`). One future per client connection drives the client's and the backend's socket. Another engine
//!   would replace that folder and nothing else; tokio is for the supervisor and the handle.
//! - **Nothing crosses threads on the request path** but the atomics of [`LocalHealth`].
//!
//! # Architecture invariants
//!
//! - No request that a backend may have read is sent again, unless it is idempotent (RFC 9110 §9.2.2) or its route says so.
//! - A response that was cut short is never ended as if it were complete.
//! - Only what the codec parsed is forwarded: framing and hop-by-hop fields are written anew.

mod access;
mod balance;
mod counters;
mod engine;
mod fixed;
mod health;
mod histogram;
pub mod http1;
mod latency;
mod live;
mod names;
mod outlier;
mod pool_state;
pub mod preamble;
mod queue;
mod rate;
mod socket;
mod sticky;
mod supervisor;
mod tls;

use arc_swap::ArcSwap;
use engine::Shared;
use names::Resolver;
use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Acquire},
    thread::JoinHandle,
    time::Duration,
};
use supervisor::{Command, Status, Supervisor};
use tokio::sync::{mpsc, oneshot};
use zonekeeper_core::{
    Published,
    id::{ListenerId, SiteId},
};

pub use access::TARGET as ACCESS_LOG;
pub use counters::{BackendCounters, Counters, ListenerCounters, PoolCounters};
pub use health::{BackendHealth, Checked, LocalHealth, now_ms};
pub use histogram::{BOUNDS_US, Times};
pub use tls::{CheckTls, Read as ReadCertificate, Validity, read_bundle, read_files};

/// How long idle connections have to end at the end of a hand-over.
const CLOSING: Duration = Duration::from_millis(200);

/// What a proxy needs to start.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// The site whose listeners and backends are used.
    pub site: SiteId,
    /// Worker threads, at least 1.
    pub workers: usize,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The first publication names a listener that cannot be opened.
    #[error("listener {listener} cannot listen on {addr}; is the port taken or reserved?")]
    Listen {
        /// The listener.
        listener: ListenerId,
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread or its runtime could not be made.
    #[error("a worker thread of the proxy cannot start")]
    Thread(#[source] io::Error),
}

/// Something that the proxy could not do and retries, or that needs a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The listener it concerns.
    pub listener: ListenerId,
    /// The address, when it is about one.
    pub addr: Option<SocketAddr>,
    /// What is wrong, and the remedy.
    pub message: String,
    /// The listener serves all the same.
    pub serves: bool,
}

/// A running proxy. Dropped, it stops at once.
#[derive(Debug)]
pub struct Proxy {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    status: Arc<Mutex<Status>>,
    threads: Vec<JoinHandle<()>>,
    _resolver: Resolver,
}

impl Proxy {
    /// Binds the listeners of the first publication and starts the workers. A listener that cannot be bound now is an
    /// error; one that cannot be bound later is a [`Problem`].
    pub fn start(
        config: ProxyConfig,
        published: Arc<ArcSwap<Published>>,
        health: Arc<LocalHealth>,
    ) -> Result<Proxy, BindError> {
        Proxy::take_over(config, published, health, &mut Vec::new())
    }

    /// As [`Proxy::start`], with sockets of another process where it had them ([`Proxy::sockets`]); they are taken out of
    /// `inherited`.
    pub fn take_over(
        config: ProxyConfig,
        published: Arc<ArcSwap<Published>>,
        health: Arc<LocalHealth>,
        inherited: &mut Vec<(String, OwnedFd)>,
    ) -> Result<Proxy, BindError> {
        let shared = Arc::new(Shared::new(health));
        let (mut orders, mut threads) = (Vec::new(), Vec::new());
        for index in 0..config.workers.max(1) {
            let (sender, thread) = engine::start(index, shared.clone()).map_err(BindError::Thread)?;
            orders.push(sender);
            threads.push(thread);
        }
        let resolver =
            Resolver::start(published.clone(), shared.health.clone()).map_err(BindError::Thread)?;
        let mut supervisor = Supervisor::new(published, shared.clone(), orders, std::mem::take(inherited));
        let bound = supervisor.reconcile();
        *inherited = supervisor.not_inherited();
        bound.map_err(|(listener, addr, source)| BindError::Listen { listener, addr, source })?;
        let status = supervisor.status();
        let (commands, inbox) = mpsc::unbounded_channel();
        threads.push(supervisor.spawn(inbox).map_err(BindError::Thread)?);
        tracing::info!(site = %config.site, workers = config.workers.max(1), "proxy started");
        Ok(Proxy { commands, shared, status, threads, _resolver: resolver })
    }

    /// The publication was swapped: take it over now. Without the call it is seen within a quarter of a second.
    pub fn refresh(&self) {
        let _ = self.commands.send(Command::Refresh);
    }

    /// Where each listener listens now; an L4 listener that refuses keeps its address.
    pub fn local_addrs(&self) -> Vec<(ListenerId, SocketAddr)> {
        self.read().addrs.clone()
    }

    /// What could not be done and is retried.
    pub fn problems(&self) -> Vec<Problem> {
        self.read().problems.clone()
    }

    /// All totals since the start.
    pub fn counters(&self) -> Counters {
        let live = self.shared.live();
        Counters {
            listeners: counters::of_listeners(&live),
            routes: counters::of_routes(&live),
            pools: counters::of_pools(&self.shared.health),
            backends: counters::of_backends(&self.shared.health),
        }
    }

    /// Stops accepting; what runs goes on, kept connections are closed after their request.
    pub fn drain(&self) {
        self.shared.drain(true);
        let _ = self.commands.send(Command::Drain);
    }

    /// The sockets, each with a name by which another process takes them over. While both have them, each connection
    /// goes to one of the two.
    pub async fn sockets(&self) -> Vec<(String, OwnedFd)> {
        let (reply, sockets) = oneshot::channel();
        let _ = self.commands.send(Command::Sockets(reply));
        sockets.await.unwrap_or_default()
    }

    /// Leaves the sockets to another process that accepts from them already: no more is accepted here, and what runs goes
    /// on for at most `linger`. A connection ends with its next answer; only at the end those end that wait for a
    /// request, since a client may just be sending one. Returns the connections that were cut.
    pub async fn leave(self, linger: Duration) -> u64 {
        self.shared.drain(false);
        let _ = self.commands.send(Command::Leave);
        self.settle(linger).await;
        self.shutdown(CLOSING).await
    }

    async fn settle(&self, deadline: Duration) -> u64 {
        let end = tokio::time::Instant::now() + deadline;
        let busy = || (self.shared.accepting.load(Acquire), self.shared.connections.load(Acquire));
        while busy() != (0, 0) && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        busy().1
    }

    /// Drains, waits for what runs at most for `deadline`, and stops. Returns the connections that were cut.
    pub async fn shutdown(mut self, deadline: Duration) -> u64 {
        self.drain();
        let cut = self.settle(deadline).await;
        let threads = std::mem::take(&mut self.threads);
        drop(self);
        let join = move || threads.into_iter().for_each(|t| drop(t.join()));
        let _ = tokio::task::spawn_blocking(join).await;
        cut
    }

    fn read(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
