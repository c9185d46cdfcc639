//! The state machine as openraft drives it: the replicated state in memory, snapshots beside it.
//!
//! Generic over openraft's runtime, and able to stand without files ([`Machine::in_memory`]).

use crate::{
    snapshot::SnapshotDir,
    types::{LogEntry, LogId, SnapshotMeta, StoredMembership, Types},
};
use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot},
};
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use zonekeeper_core::{Outcome, State, entry::Delta, id::NodeId};

/// Entries that are applied, shown to the sink and answered together, at most.
const BATCH: usize = 256;
/// So long they may take together, but for the last one: nobody waits for what comes behind his entry.
const SLICE: Duration = Duration::from_millis(2);

/// What one batch did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The state after it.
    pub state: Arc<State>,
    /// Log index of its last entry.
    pub index: u64,
    /// What its entries changed, in log order; refused entries and blank ones left out.
    pub deltas: Vec<Delta>,
    /// A snapshot took the place of the whole state: nothing is known of what changed.
    pub replaced: bool,
}

/// Hears of every applied batch, in log order, before the proposers of its entries get their answers.
///
/// Called on Raft's state-machine task: hand the batch over and return.
pub trait Sink: Send + Sync + 'static {
    /// A batch was applied.
    fn applied(&self, batch: Applied);
}

/// A snapshot, wherever it is.
#[derive(Debug, Clone)]
pub enum Image {
    /// A file of [`crate::snapshot`]'s format.
    File(PathBuf),
    /// A file that another node sent, already read and checked, still under its temporary name.
    Received(PathBuf, Arc<State>),
    /// The state itself; for the simulation.
    Memory(Arc<State>),
}

/// Handle to the state machine. Each Raft on it gets a handle of its own; an older one applies nothing any more.
#[derive(Clone)]
pub struct Machine {
    core: Arc<Core>,
    epoch: u64,
}

struct Core {
    now: Mutex<Now>,
    snapshots: Snapshots,
    applied: watch::Sender<u64>,
}

#[derive(Default)]
struct Now {
    epoch: u64,
    last: Option<LogId>,
    membership: StoredMembership,
    state: Arc<State>,
    sink: Option<Arc<dyn Sink>>,
    snapshot: Option<(SnapshotMeta, Image)>,
}

enum Snapshots {
    Files(SnapshotDir),
    Memory,
}

impl Machine {
    /// A machine without files, for the simulation: snapshots are shared states.
    pub fn in_memory(sink: Arc<dyn Sink>) -> Machine {
        Machine::new(Snapshots::Memory, Now { sink: Some(sink), ..Now::default() })
    }

    /// A machine that continues from the newest snapshot.
    pub(crate) fn on_disk(files: SnapshotDir, newest: Option<(SnapshotMeta, State)>) -> Machine {
        let mut now = Now::default();
        if let Some((meta, state)) = newest {
            now.last = meta.last_log_id;
            now.membership = meta.last_membership.clone();
            now.state = Arc::new(state);
            now.snapshot = Some((meta.clone(), Image::File(files.file(&meta))));
        }
        Machine::new(Snapshots::Files(files), now)
    }

    fn new(snapshots: Snapshots, now: Now) -> Machine {
        let (applied, _) = watch::channel(now.last.map_or(0, |l| l.index));
        Machine { core: Arc::new(Core { now: Mutex::new(now), snapshots, applied }), epoch: 0 }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.core.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same machine with a sink, for the first Raft on it.
    pub(crate) fn attach(self, sink: Arc<dyn Sink>) -> Machine {
        self.now().sink = Some(sink);
        self
    }

    /// A handle for the next Raft; those before it apply nothing any more.
    pub fn successor(&self) -> Machine {
        let mut now = self.now();
        now.epoch += 1;
        Machine { core: self.core.clone(), epoch: now.epoch }
    }

    /// The last applied state.
    pub fn state(&self) -> Arc<State> {
        self.now().state.clone()
    }

    /// Log index of the last applied entry; 0 before the first.
    pub fn index(&self) -> u64 {
        self.index_or_none().unwrap_or(0)
    }

    /// The last applied state and what a snapshot of it covers.
    pub(crate) fn present(&self) -> (SnapshotMeta, Arc<State>) {
        let now = self.now();
        let meta = SnapshotMeta { last_log_id: now.last, last_membership: now.membership.clone() };
        (meta, now.state.clone())
    }

    pub(crate) fn index_or_none(&self) -> Option<u64> {
        self.now().last.map(|l| l.index)
    }

    /// The index of the last applied entry, for waiting.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.core.applied.subscribe()
    }

    /// The directory of snapshot files; none in memory.
    pub(crate) fn files(&self) -> Option<&SnapshotDir> {
        match &self.core.snapshots {
            Snapshots::Files(files) => Some(files),
            Snapshots::Memory => None,
        }
    }

    /// Applies entries of the log before any Raft runs.
    pub(crate) fn replay(&self, entries: impl Iterator<Item = LogEntry>) {
        let mut now = self.now();
        for entry in entries {
            now.apply(&entry);
        }
        self.core.applied.send_replace(now.last.map_or(0, |l| l.index));
    }

    /// Applies one entry before any Raft runs, and says what came of it.
    pub(crate) fn step(&self, entry: &LogEntry) -> Outcome {
        self.now().apply(entry)
    }

    /// Applies entries from the front, as many as one slice of time holds.
    fn apply_slice<C: Types>(&self, batch: &mut VecDeque<EntryResponder<C>>) -> io::Result<()> {
        let began = Instant::now();
        let mut now = self.now();
        if now.epoch != self.epoch {
            return Err(io::Error::other("another raft runs on this state machine"));
        }
        let mut deltas = Vec::new();
        let mut answers: Vec<(ApplyResponder<C>, Outcome)> = Vec::new();
        while let Some((entry, responder)) = batch.pop_front() {
            let outcome = now.apply(&entry);
            if let Outcome::Applied(delta) = &outcome {
                deltas.push(delta.clone());
            }
            answers.extend(responder.map(|r| (r, outcome)));
            if began.elapsed() > SLICE {
                break;
            }
        }
        // The sink is called under the lock, so that batches reach it in order.
        now.tell(deltas, false);
        self.announce(now);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    fn install(&self, meta: &SnapshotMeta, state: Arc<State>, image: Image) -> io::Result<()> {
        let mut now = self.now();
        if now.epoch != self.epoch {
            return Err(io::Error::other("another raft runs on this state machine"));
        }
        now.last = meta.last_log_id;
        now.membership = meta.last_membership.clone();
        now.state = state;
        now.snapshot = Some((meta.clone(), image));
        now.tell(Vec::new(), true);
        self.announce(now);
        Ok(())
    }

    /// Tells those who wait, without the lock: one of them may hold the watched value while it reads the state. Only one
    /// Raft applies at a time, so the indices still come in order.
    fn announce(&self, now: MutexGuard<'_, Now>) {
        let last = now.last.map_or(0, |l| l.index);
        drop(now);
        self.core.applied.send_replace(last);
    }
}

impl Now {
    fn apply(&mut self, entry: &LogEntry) -> Outcome {
        let index = entry.log_id.index;
        let state = Arc::make_mut(&mut self.state);
        let outcome = match &entry.payload {
            EntryPayload::Normal(entry) => state.apply(index, entry),
            EntryPayload::Blank => {
                state.skip(index);
                Outcome::Applied(Delta { index, ..Delta::default() })
            }
            EntryPayload::Membership(membership) => {
                state.set_voters(index, membership.voter_ids().collect());
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Outcome::Applied(Delta { index, members: true, ..Delta::default() })
            }
        };
        self.last = Some(entry.log_id);
        outcome
    }

    fn tell(&self, deltas: Vec<Delta>, replaced: bool) {
        if let (Some(sink), Some(last)) = (&self.sink, self.last) {
            sink.applied(Applied { state: self.state.clone(), index: last.index, deltas, replaced });
        }
    }
}

/// Builds one snapshot of the state as it was when the builder was made.
pub struct Builder {
    machine: Machine,
    meta: SnapshotMeta,
    state: Arc<State>,
}

impl<C: Types> RaftSnapshotBuilder<C> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<Snapshot<crate::types::LeaderId, NodeId, openraft::BasicNode, Image>> {
        let image = match self.machine.files() {
            None => Image::Memory(self.state.clone()),
            Some(files) => {
                let (files, meta, state) = (files.clone(), self.meta.clone(), self.state.clone());
                Image::File(blocking(move || files.write(&meta, &state)).await?)
            }
        };
        let mut now = self.machine.now();
        // An installed snapshot may have overtaken this one.
        if now.snapshot.as_ref().is_none_or(|(meta, _)| meta.last_log_id <= self.meta.last_log_id) {
            now.snapshot = Some((self.meta.clone(), image.clone()));
        }
        Ok(Snapshot { meta: self.meta.clone(), snapshot: image })
    }
}

impl<C: Types> RaftStateMachine<C> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let now = self.now();
        Ok((now.last, now.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + OptionalSend,
    {
        loop {
            let mut batch = VecDeque::new();
            while batch.len() < BATCH
                && let Some(entry) = entries.next().await
            {
                batch.push_back(entry?);
            }
            if batch.is_empty() {
                return Ok(());
            }
            while !batch.is_empty() {
                self.apply_slice::<C>(&mut batch)?;
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (meta, state) = self.present();
        Builder { machine: self.clone(), meta, state }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Image) -> io::Result<()> {
        match snapshot {
            Image::Memory(state) => self.install(meta, state.clone(), Image::Memory(state)),
            Image::File(path) => {
                let file = path.clone();
                let (_, state) = blocking(move || Ok(crate::snapshot::read(&file)?)).await?;
                self.install(meta, Arc::new(state), Image::File(path))
            }
            Image::Received(received, state) => {
                let Some(files) = self.files().cloned() else {
                    return Err(io::Error::other("a snapshot file on a machine without files"));
                };
                let own = files.file(meta);
                let name = own.clone();
                blocking(move || files.adopt(&received, &name)).await?;
                self.install(meta, state, Image::File(own))
            }
        }
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<crate::types::LeaderId, NodeId, openraft::BasicNode, Image>>> {
        let now = self.now();
        Ok(now.snapshot.clone().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
