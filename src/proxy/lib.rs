//! The L4 and L7 proxy: listeners, routes and pools of one site, from the one published state.
//!
//! ```text
//! Published ──> supervisor thread ──> Live (listeners, pools, backends with their health) ──> worker threads
//!               binds, retries, refuses                 one swap                             accept, relay, exchange
//! ```
//!
//! - **Pure parts**: [`http1`] (the codec: heads, framing, rewriting; bytes in, bytes out) and `balance` (which backend).
//!   They know no socket and no runtime.
//! - **The engine** (`engine/`) is the only part that names tokio on the request path: one thread per worker, each with
//!   a current-thread runtime and listening sockets of its own (`SO_REUSEPORT`). One task drives the client's and
//!   the backend's connection. Another engine would replace that folder and nothing else.
//! - **Nothing crosses threads on the request path** but the atomics of [`LocalHealth`].
//!
//! # Architecture invariants
//!
//! - No request that a backend may have read is sent again, unless it is idempotent (RFC 9110 §9.2.2).
//! - A response that was cut short is never ended as if it were complete.
//! - Only what the codec parsed is forwarded: framing and hop-by-hop fields are written anew.

mod balance;
mod counters;
mod health;
pub mod http1;
mod latency;
mod live;
mod socket;
mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use zonekeeper_core::id::{ListenerId, SiteId};

pub use counters::{BackendCounters, Counters, ListenerCounters};
pub use health::{BackendHealth, Checked, LocalHealth, now_ms};

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

/// A running proxy. Dropped, it stops at once.
#[derive(Debug)]
pub struct Proxy {}

/// Something that the proxy could not do and retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The listener it concerns.
    pub listener: ListenerId,
    /// The address, when it is about one.
    pub addr: Option<SocketAddr>,
    /// What is wrong, and the remedy.
    pub message: String,
}

impl Proxy {
    /// Binds the listeners of the first publication and starts the workers. A listener that cannot be bound now is an
    /// error; one that cannot be bound later is a [`Problem`].
    pub fn start(
        _config: ProxyConfig,
        _published: Arc<arc_swap::ArcSwap<zonekeeper_core::Published>>,
        _health: Arc<LocalHealth>,
    ) -> Result<Proxy, BindError> {
        Ok(Proxy {})
    }
    /// The publication was swapped: take it over now. Without the call it is seen within a quarter of a second.
    pub fn refresh(&self) {}
    /// Where each listener listens now, in its order; an L4 listener that refuses keeps its address.
    pub fn local_addrs(&self) -> Vec<(ListenerId, SocketAddr)> {
        Vec::new()
    }
    /// What could not be done and is retried.
    pub fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
    /// All totals since the start.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }
    /// Stops accepting; what runs goes on, kept connections are closed after their request.
    pub fn drain(&self) {}
    /// Drains, waits for what runs at most for `deadline`, and stops. Returns the connections that were cut.
    pub async fn shutdown(self, deadline: Duration) -> u64 {
        let _ = deadline;
        0
    }
}
