//! The handle of the transport: start, call, set, observe.

use crate::{
    Lane, LinkEvent, NodeId, PeerError, Refusal, RttStats, error::StartError, join::JoinHandler,
    keys::Credentials,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::sync::broadcast;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers calls of peers on one lane.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call. `from` is verified. At most 64 calls of a connection run at once. The future is dropped when
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
    /// Time between pings of an idle connection, and of the Heartbeat lane always. Default 500 ms.
    pub ping: Duration,
    /// Silence on a connection after which it is lost (ten times as long on the Bulk lane, whose chunks may take a
    /// while). Default 3 s. Must be larger than twice `ping`.
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
/// called.
#[derive(Debug, Clone)]
pub struct Peers {
    events: broadcast::Sender<LinkEvent>,
}

impl Peers {
    /// Starts the transport on the current tokio runtime.
    pub fn start(config: PeerConfig) -> Result<Peers, StartError> {
        let _ = config;
        Ok(Peers { events: broadcast::channel(256).0 })
    }

    /// Sets where the peers are. Links to nodes that are gone or have moved are closed; the Heartbeat lane to new
    /// ones connects at once, other lanes at the first call. This node's own entry is ignored.
    pub fn set_peers(&self, peers: BTreeMap<NodeId, SocketAddr>) {
        let _ = peers;
    }

    /// Sets who may connect (`None`: whoever has a certificate of the cluster). Connections of others are closed.
    pub fn set_allowed(&self, allowed: Option<BTreeSet<NodeId>>) {
        let _ = allowed;
    }

    /// Sets who answers calls on a lane.
    pub fn set_handler(&self, lane: Lane, handler: Arc<dyn Handler>) {
        let _ = (lane, handler);
    }

    /// Sets who decides on joins; without one, joins are refused.
    pub fn set_join(&self, handler: Arc<dyn JoinHandler>) {
        let _ = handler;
    }

    /// Sets the digest of the settings; peers see it within a ping.
    pub fn set_settings(&self, settings: u64) {
        let _ = settings;
    }

    /// The digest that a peer last told over the Heartbeat lane, `None` before the first contact. A peer with another
    /// digest is not refused, since it may be about to learn the new settings from the log over this very transport.
    pub fn peer_settings(&self, node: NodeId) -> Option<u64> {
        let _ = node;
        None
    }

    /// Changes certificate and trust bundle. New handshakes use them; connections are replaced one by one without
    /// losing a call.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), StartError> {
        let _ = credentials;
        Ok(())
    }

    /// Calls a peer. The deadline covers everything from connecting to the last byte of the answer.
    pub async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let _ = (lane, payload, deadline);
        Err(PeerError::Unknown(to))
    }

    /// Changes of the Heartbeat lanes from now on. Bounded: who falls 256 events behind is told so by
    /// `RecvError::Lagged` and reads [`Peers::connected`] instead.
    pub fn events(&self) -> broadcast::Receiver<LinkEvent> {
        self.events.subscribe()
    }

    /// Round trips of a peer's Heartbeat lane, `None` before the first.
    pub fn rtt(&self, node: NodeId) -> Option<RttStats> {
        let _ = node;
        None
    }

    /// Peers whose Heartbeat lane is connected.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    /// How often peers were refused here (as they connected or as we did), by reason.
    pub fn refusals(&self) -> Vec<(Refusal, u64)> {
        Vec::new()
    }

    /// Where peers connect, if this node listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Closes the listener and all connections, and returns when they are closed.
    pub async fn shutdown(&self) {}
}
