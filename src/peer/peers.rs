//! The handle of the transport: start, call, set, observe.

use crate::{
    Lane, LinkEvent, NodeId, PeerError, Refusal, RttStats,
    error::StartError,
    join::JoinHandler,
    keys::Credentials,
    link::Remote,
    server,
    shared::{Shared, lock},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers calls of peers on one lane.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call. `from` is verified. At most 64 calls of a connection (Bulk: 8) run at once. The future is dropped when
    /// the connection ends: what must not stop half way is spawned by the handler. An error goes to the caller as
    /// [`PeerError::Remote`].
    fn handle(&self, from: NodeId, lane: Lane, payload: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>>;
}

impl<F, R> Handler for F
where
    F: Fn(NodeId, Lane, Vec<u8>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Vec<u8>, String>> + Send + 'static,
{
    fn handle(&self, from: NodeId, lane: Lane, payload: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(self(from, lane, payload))
    }
}

/// What the transport of one node needs to start.
#[derive(Debug)]
pub struct PeerConfig {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: u128,
    /// Its certificate, which must be of this node and cluster.
    pub credentials: Credentials,
    /// Where peers connect; `None` for a node that only calls (tests, tools).
    pub listen: Option<TcpListener>,
    /// Nodes that may connect; `None`: whoever has a certificate of the cluster.
    pub allowed: Option<BTreeSet<NodeId>>,
    /// Digest of settings on which all nodes should agree (Raft timing); see [`Peers::peer_settings`].
    pub settings: u64,
    /// Time between pings of an idle connection, and of the Heartbeat lane always. Default 500 ms, at least 10 ms.
    pub ping: Duration,
    /// Silence on a connection after which it is lost (ten times as long on the Bulk lane, whose chunks may take a
    /// while). Default 3 s, at least twice `ping`.
    pub silence: Duration,
}

impl PeerConfig {
    /// The configuration of a node with these credentials, everything else by default.
    pub fn new(credentials: Credentials, listen: Option<TcpListener>) -> PeerConfig {
        PeerConfig {
            node: credentials.node(),
            cluster: credentials.cluster(),
            credentials,
            listen,
            allowed: None,
            settings: 0,
            ping: Duration::from_millis(500),
            silence: Duration::from_secs(3),
        }
    }
}

/// The transport of one node. Cheap to clone; everything stops when the last clone is gone or [`Peers::shutdown`] is
/// called. (Handlers that hold a clone keep it alive: then shut it down.)
#[derive(Debug, Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    local: Option<SocketAddr>,
    _owner: Arc<Owner>,
}

/// Stops everything when the last handle is gone.
#[derive(Debug)]
struct Owner(CancellationToken);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Peers {
    /// Starts the transport on the current tokio runtime.
    pub fn start(mut config: PeerConfig) -> Result<Peers, StartError> {
        let listen = config.listen.take();
        let shared = Arc::new(Shared::new(&config)?);
        let mut local = None;
        if let Some(listener) = listen {
            listener.set_nonblocking(true).map_err(StartError::Listen)?;
            local = Some(listener.local_addr().map_err(StartError::Listen)?);
            let listener = tokio::net::TcpListener::from_std(listener).map_err(StartError::Listen)?;
            drop(shared.spawn(server::run(shared.clone(), listener)));
        }
        let owner = Arc::new(Owner(shared.stop.clone()));
        Ok(Peers { shared, local, _owner: owner })
    }

    /// Sets where the peers are. Links to nodes that are gone or have moved are closed; the Heartbeat lane to new
    /// ones connects at once, other lanes at the first call. This node's own entry is ignored. What the caller closes
    /// by this is not announced as an event.
    pub fn set_peers(&self, mut peers: BTreeMap<NodeId, SocketAddr>) {
        peers.remove(&self.shared.node);
        let mut remotes = self.shared.remotes.write().unwrap_or_else(PoisonError::into_inner);
        remotes.retain(|node, remote| {
            let stays = peers.get(node) == Some(&remote.addr);
            if !stays {
                remote.close();
            }
            stays
        });
        for (node, addr) in peers {
            remotes.entry(node).or_insert_with(|| Arc::new(Remote::new(&self.shared, node, addr)));
        }
    }

    /// Sets who may connect (`None`: whoever has a certificate of the cluster). Connections of others are closed.
    pub fn set_allowed(&self, allowed: Option<BTreeSet<NodeId>>) {
        self.shared.allowed.send_replace(allowed.map(Arc::new));
    }

    /// Sets who answers calls on a lane.
    pub fn set_handler(&self, lane: Lane, handler: Arc<dyn Handler>) {
        self.shared.handlers.write().unwrap_or_else(PoisonError::into_inner)[lane as usize] = Some(handler);
    }

    /// Sets who decides on joins; without one, joins are refused.
    pub fn set_join(&self, handler: Arc<dyn JoinHandler>) {
        *self.shared.join.write().unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    /// Sets the digest of the settings; peers see it within a ping.
    pub fn set_settings(&self, settings: u64) {
        self.shared.settings.store(settings, Relaxed);
    }

    /// The digest that a peer last told over the Heartbeat lane, `None` before the first contact. A peer with another
    /// digest is not refused, since it may be about to learn the new settings from the log over this very transport.
    pub fn peer_settings(&self, node: NodeId) -> Option<u64> {
        *lock(&self.shared.remote(node)?.stats.settings)
    }

    /// Changes certificate and trust bundle. New handshakes use them; connections are replaced one by one without
    /// losing a call.
    pub fn set_credentials(&self, credentials: &Credentials) -> Result<(), StartError> {
        self.shared.set_credentials(credentials)
    }

    /// The end of the certificate in use.
    pub fn expires(&self) -> SystemTime {
        self.shared.tls().identity.not_after
    }

    /// Calls a peer. The deadline covers everything from connecting to the last byte of the answer.
    pub async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        if payload.len() > lane.limit() {
            return Err(PeerError::TooLarge { have: payload.len(), limit: lane.limit() });
        }
        let remote = self.shared.remote(to).ok_or(PeerError::Unknown(to))?;
        match timeout(deadline, remote.link(lane).call(&payload)).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Timeout { node: to, after: deadline }),
        }
    }

    /// Changes of the Heartbeat lanes from now on. Bounded: who falls 256 events behind is told so by
    /// `RecvError::Lagged` and reads [`Peers::connected`] instead.
    pub fn events(&self) -> broadcast::Receiver<LinkEvent> {
        self.shared.events.subscribe()
    }

    /// Round trips of a peer's Heartbeat lane, `None` before the first.
    pub fn rtt(&self, node: NodeId) -> Option<RttStats> {
        lock(&self.shared.remote(node)?.stats.rtt).stats()
    }

    /// Peers whose Heartbeat lane is connected.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        let remotes = self.shared.remotes.read().unwrap_or_else(PoisonError::into_inner);
        remotes.iter().filter(|(_, remote)| remote.stats.up.load(Relaxed)).map(|(node, _)| *node).collect()
    }

    /// How often peers were refused here (as they connected or as we did), by reason.
    pub fn refusals(&self) -> Vec<(Refusal, u64)> {
        self.shared.refusals.snapshot()
    }

    /// Where peers connect, if this node listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Closes the listener and all connections, and returns when they are closed.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        *self.shared.handlers.write().unwrap_or_else(PoisonError::into_inner) = Default::default();
        *self.shared.join.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
