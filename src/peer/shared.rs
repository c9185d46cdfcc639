//! What all tasks of one transport share.

use crate::{
    Handler, JoinHandler, Lane, LinkEvent, NodeId, PeerConfig, StartError, keys::Credentials, link::Remote,
    refusal::Refusals, server::Incoming, tls::Tls,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{broadcast, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Link events kept for a slow reader; a cluster of 64 nodes that all vanish at once fits.
const EVENTS: usize = 256;

/// Shortest time between pings: a hundred a second for each connection.
const PING_MIN: Duration = Duration::from_millis(10);

/// The state behind a `Peers`.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) cluster: u128,
    pub(crate) ping: Duration,
    pub(crate) silence: Duration,
    pub(crate) tls: watch::Sender<Arc<Tls>>,
    pub(crate) allowed: watch::Sender<Option<Arc<BTreeSet<NodeId>>>>,
    pub(crate) settings: AtomicU64,
    pub(crate) remotes: RwLock<BTreeMap<NodeId, Arc<Remote>>>,
    pub(crate) handlers: RwLock<[Option<Arc<dyn Handler>>; Lane::ALL.len()]>,
    pub(crate) join: RwLock<Option<Arc<dyn JoinHandler>>>,
    pub(crate) events: broadcast::Sender<LinkEvent>,
    pub(crate) refusals: Refusals,
    pub(crate) incoming: Incoming,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    runtime: Handle,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared(node {})", self.node)
    }
}

/// Locks; a panic while it was held has left nothing half done in these small sections.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(config: &PeerConfig) -> Result<Shared, StartError> {
        let tls = checked(config.node, config.cluster, &config.credentials)?;
        Ok(Shared {
            node: config.node,
            cluster: config.cluster,
            // A timer needs a period, and silence is judged by pings that had time to come back.
            ping: config.ping.max(PING_MIN),
            silence: config.silence.max(config.ping.max(PING_MIN) * 2),
            tls: watch::Sender::new(Arc::new(tls)),
            allowed: watch::Sender::new(config.allowed.clone().map(Arc::new)),
            settings: AtomicU64::new(config.settings),
            remotes: RwLock::default(),
            handlers: RwLock::default(),
            join: RwLock::default(),
            events: broadcast::Sender::new(EVENTS),
            refusals: Refusals::default(),
            incoming: Incoming::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        })
    }

    /// Runs a task that is dropped, with all that it holds, when the transport stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let stop = self.stop.clone();
        let task = async move {
            let _ = stop.run_until_cancelled(task).await;
        };
        self.tasks.spawn_on(task, &self.runtime)
    }

    /// Takes new credentials of the same node.
    pub(crate) fn set_credentials(&self, credentials: &Credentials) -> Result<(), StartError> {
        let tls = checked(self.node, self.cluster, credentials)?;
        self.tls.send_replace(Arc::new(tls));
        Ok(())
    }

    /// The TLS configurations of the moment.
    pub(crate) fn tls(&self) -> Arc<Tls> {
        self.tls.borrow().clone()
    }

    /// The peer with this id.
    pub(crate) fn remote(&self, node: NodeId) -> Option<Arc<Remote>> {
        self.remotes.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Whether a peer has this address.
    pub(crate) fn knows(&self, ip: IpAddr) -> bool {
        let remotes = self.remotes.read().unwrap_or_else(PoisonError::into_inner);
        remotes.values().any(|remote| remote.addr.ip().to_canonical() == ip.to_canonical())
    }

    /// The handler of a lane.
    pub(crate) fn handler(&self, lane: Lane) -> Option<Arc<dyn Handler>> {
        self.handlers.read().unwrap_or_else(PoisonError::into_inner)[lane as usize].clone()
    }

    /// Whether a node may connect.
    pub(crate) fn allows(&self, node: NodeId) -> bool {
        self.allowed.borrow().as_ref().is_none_or(|set| set.contains(&node))
    }

    /// This node's settings digest as it goes on the wire.
    pub(crate) fn settings(&self) -> u64 {
        self.settings.load(Relaxed)
    }

    /// A peer has told its settings digest.
    pub(crate) fn saw_settings(&self, node: NodeId, settings: u64) {
        if let Some(remote) = self.remote(node) {
            remote.stats.saw_settings(settings);
        }
    }
}

fn checked(node: NodeId, cluster: u128, credentials: &Credentials) -> Result<Tls, StartError> {
    let (have_node, have_cluster) = (credentials.node(), credentials.cluster());
    if (have_node, have_cluster) != (node, cluster) {
        return Err(StartError::Identity { node, cluster, have_node, have_cluster });
    }
    Ok(Tls::new(credentials)?)
}
