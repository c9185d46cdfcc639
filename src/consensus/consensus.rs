//! The handle: open a data directory, start Raft on it, watch it.

use crate::{
    admission::Admission,
    clock::Clock,
    error::OpenError,
    gate::Gate,
    machine::{Applied, Machine, Sink},
    rebuild,
    status::{self, Heard, Status},
    store::{FlushTimes, Identity, Store},
    takeover::Words,
    timing,
    transfer::Incoming,
    transport::Transport,
    types::Raft,
};
use openraft::errors::Fatal;
use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};
use zonekeeper_core::{State, entry::Timing, id::NodeId, state::Generation};

/// Requests of this node under way at once; more are refused as busy.
pub(crate) const IN_FLIGHT: usize = 512;
/// From one refresh of the watched status to the next, when nothing happens.
const STATUS_EVERY: Duration = Duration::from_millis(200);
/// Changes of Raft's metrics that come closer together than this are one refresh.
const STATUS_PACE: Duration = Duration::from_millis(10);

/// A data directory that was checked and replayed up to what this node had published, ready to be served, with or
/// without a quorum.
pub struct Opened {
    node: NodeId,
    store: Store,
    machine: Machine,
}

impl Opened {
    /// The state at the published watermark (or at the newest snapshot, if that is later).
    pub fn state(&self) -> Arc<State> {
        self.machine.state()
    }

    /// Log index of [`Opened::state`].
    pub fn index(&self) -> u64 {
        self.machine.index()
    }

    /// Whose data this is; none in a new directory.
    pub fn identity(&self) -> Option<Identity> {
        self.store.identity()
    }

    /// No vote, no log, no snapshot: a node id that the cluster knows must not start on it.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty() && self.machine.index() == 0
    }

    /// Writes down, durably and for ever, whose data this is. Called once, by the first start of a node.
    pub async fn claim(&self, cluster: u128) -> io::Result<Identity> {
        self.store.claim(cluster, self.node).await
    }

    /// Starts Raft. `sink` hears of every applied batch from now on; `timing` is [`State::timing`] of the opened
    /// state, or the configured one on a node without a cluster.
    pub async fn start(
        self,
        transport: Arc<dyn Transport>,
        timing: Timing,
        sink: Arc<dyn Sink>,
    ) -> io::Result<Consensus> {
        let admission = Admission::new(!self.is_empty());
        let clock = Arc::new(Clock::new(self.machine.state().time));
        let (timing_tx, timing_rx) = watch::channel(timing);
        let tap = Tap { clock: clock.clone(), timing: timing_tx, inner: sink, time: Mutex::default() };
        let machine = self.machine.attach(Arc::new(tap));
        let raft =
            rebuild::raise(self.node, timing::config(timing), &self.store, &machine, &transport).await?;
        let (status, _) = watch::channel(status::of(&raft, Heard::default(), None)); // renewed at once by `follow_status`
        let consensus = Consensus {
            inner: Arc::new(Inner {
                node: self.node,
                store: self.store,
                machine,
                transport,
                clock,
                raft: RwLock::new(raft),
                gate: Gate::new(),
                admission,
                words: Words::new(self.node, timing),
                timing: tokio::sync::Mutex::new(Some(timing)),
                heard: Mutex::default(),
                permits: Semaphore::new(IN_FLIGHT),
                incoming: tokio::sync::Mutex::default(),
                status,
            }),
        };
        tokio::spawn(rebuild::follow(Arc::downgrade(&consensus.inner), timing_rx));
        tokio::spawn(follow_status(Arc::downgrade(&consensus.inner)));
        Ok(consensus)
    }
}

/// Raft on this node: propose, read, change members, watch. Clones are handles to the same Raft.
#[derive(Clone)]
pub struct Consensus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) node: NodeId,
    pub(crate) store: Store,
    pub(crate) machine: Machine,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<Clock>,
    /// Replaced when the timing changes; never locked across an await.
    pub(crate) raft: RwLock<Raft>,
    /// What writes pass on their way to `raft`.
    pub(crate) gate: Arc<Gate>,
    /// Whether this node takes part in Raft yet.
    pub(crate) admission: Admission,
    /// What other voters say of leaders that are gone.
    pub(crate) words: Words,
    /// The timing that `raft` runs; none after shutdown. Its lock serialises rebuilds.
    pub(crate) timing: tokio::sync::Mutex<Option<Timing>>,
    /// The leader's last word.
    heard: Mutex<Heard>,
    pub(crate) permits: Semaphore,
    /// The snapshot that is being received.
    pub(crate) incoming: tokio::sync::Mutex<Incoming>,
    status: watch::Sender<Status>,
}

impl Inner {
    pub(crate) fn raft(&self) -> Raft {
        self.raft.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The leader speaks, and says how long ago a quorum followed it.
    pub(crate) fn hear(&self, quorum_age_ms: Option<u64>) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).at(Instant::now(), quorum_age_ms);
    }

    pub(crate) fn status(&self) -> Status {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = self.store.failed().borrow().clone();
        let mut status = status::of(&self.raft(), heard, failed.clone());
        if self.gate.is_held() && failed.is_none() {
            status.replaced();
        }
        status.forget_leader(2 * timing::election_max_ms(self.machine.state().timing));
        status
    }
}

impl Consensus {
    /// Checks and replays a data directory. Blocking: call it before the runtime is busy, or on a blocking thread.
    ///
    /// `cluster` is what the node's certificate says, when it is known.
    pub fn open(dir: &Path, node: NodeId, cluster: Option<u128>) -> Result<Opened, OpenError> {
        let (store, machine) = crate::store::open(dir, node, cluster)?;
        Ok(Opened { node, store, machine })
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Whose data this node holds.
    pub fn identity(&self) -> Option<Identity> {
        self.inner.store.identity()
    }

    /// This node has no data and the leader has not let it in: it is new. When [`Consensus::failed`] says something now,
    /// the leader knows the node's id from before its disk was wiped, and the node has to go.
    pub fn is_fresh(&self) -> bool {
        !self.inner.admission.is_open()
    }

    /// The last applied state.
    pub fn state(&self) -> Arc<State> {
        self.inner.machine.state()
    }

    /// The node's view at this moment.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// The node's view, renewed on every change of Raft's metrics and at least every 200 ms.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Log index of the last applied entry, for waiting.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.machine.watch()
    }

    /// Becomes some text when the store can no longer write or Raft has broken down. The node must say so loudly, take
    /// no more part in Raft, and go on answering from what it has: a full disk stops writing, not answering.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.inner.store.failed()
    }

    /// The longest durable write since this was asked last, the one under way included: a disk that hangs shows too.
    pub fn slowest_flush(&self) -> Duration {
        self.inner.store.slowest_flush()
    }

    /// How long durable writes have taken since the start.
    pub fn flush_times(&self) -> FlushTimes {
        self.inner.store.flush_times()
    }

    /// Makes durable that this node publishes `index`; only then may the publication be swapped. Group-committed with
    /// everything else that the store writes. An older index than the last is nothing to do.
    pub async fn sync_watermark(&self, index: u64) -> io::Result<()> {
        self.inner.store.save_watermark(index).await
    }

    /// Takes no more part in Raft, for a reason that people should hear: a part of the node beside it has broken.
    pub async fn give_up(&self, why: &str) {
        self.inner.store.fail(why);
        self.shutdown().await;
    }

    /// A consistent backup: the last applied state, as a file that [`crate::restore`] reads. Blocking, and as large as
    /// the state.
    pub fn backup(&self) -> io::Result<(Generation, Vec<u8>)> {
        let (meta, state) = self.inner.machine.present();
        let mut file = Vec::new();
        crate::snapshot::write(&mut file, &meta, &state)?;
        Ok((state.generation, file))
    }

    /// Builds a snapshot soon.
    pub async fn snapshot(&self) {
        // A stopped Raft has nothing to snapshot, and its status says so.
        let _ = self.inner.raft().trigger().snapshot().await;
    }
}

/// Between the state machine and the node's sink: notes log time and the committed timing.
struct Tap {
    clock: Arc<Clock>,
    timing: watch::Sender<Timing>,
    inner: Arc<dyn Sink>,
    time: Mutex<zonekeeper_core::time::LogTime>,
}

impl Sink for Tap {
    fn applied(&self, batch: Applied) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        // Blank entries carry no time: counting from them would lose what has passed.
        if batch.state.time > *time {
            *time = batch.state.time;
            self.clock.applied(batch.state.time);
        }
        drop(time);
        if batch.state.cluster != 0 {
            self.timing.send_if_modified(|t| std::mem::replace(t, batch.state.timing) != batch.state.timing);
        }
        self.inner.applied(batch);
    }
}

async fn follow_status(inner: std::sync::Weak<Inner>) {
    use openraft::async_runtime::watch::WatchReceiver;
    let mut metrics = None; // kept from round to round: a fresh receiver has always something unseen
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let watched = metrics.get_or_insert_with(|| strong.raft().metrics());
        let status = strong.status();
        // Whoever leads nobody has no heartbeat to send and no election to begin: a hundred wakes a second for nothing.
        strong.raft().runtime_config().tick(!status.leads_nobody());
        strong.status.send_replace(status);
        drop(strong);
        match tokio::time::timeout(STATUS_EVERY, watched.changed()).await {
            Ok(Ok(())) => tokio::time::sleep(STATUS_PACE).await,
            Ok(Err(_)) => {
                metrics = None; // broken, stopped, or between two Rafts
                let Some(strong) = inner.upgrade() else { return };
                // while it is replaced or shut down it is not asked: openraft would log its answer as an error
                if strong.gate.is_open()
                    && let Err(fatal) = strong.raft().is_initialized().await
                    && !matches!(fatal, Fatal::Stopped)
                {
                    strong.store.fail(&format!("raft has broken down ({fatal}); restart this node, and report it with its log if that happens again"));
                }
                drop(strong);
                tokio::time::sleep(STATUS_EVERY).await;
            }
            Err(_) => {}
        }
    }
}
