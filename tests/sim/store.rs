//! A node's disk, and openraft's log store on it.
//!
//! Writes go to a queue: readable at once, durable after an fsync, in order. A crash keeps a random prefix of what was
//! not synced. The queue outlives the program, the [`Store`] handle does not: one of an older boot fails.

use crate::{
    bug::Bug,
    rng::{FNV, Rng, fnv},
    types::{C, LogEntry, LogId, SnapshotMeta, Vote, leader},
    world::World,
};
use openraft::{
    AsyncRuntime, LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};
use openraft_rt_sim::SimRuntime;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zonekeeper_core::{State, codec, id::NodeId, invariant::Violation};

/// A snapshot on disk.
#[derive(Debug)]
pub struct Image {
    /// What it covers.
    pub meta: SnapshotMeta,
    /// The state.
    pub state: Arc<State>,
}

impl Image {
    /// Log index of its last entry.
    pub fn index(&self) -> Option<u64> {
        self.meta.last_log_id.map(|l| l.index)
    }
}

/// One write.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "entries are most of them")]
pub enum Op {
    /// The vote.
    Vote(Vote),
    /// One log entry.
    Append(LogEntry),
    /// Removes what lies from this index on.
    Truncate(u64),
    /// Removes what lies up to this entry.
    Purge(LogId),
    /// The commit index, for a faster start.
    Committed(Option<LogId>),
    /// A snapshot in place of the one before.
    Image(Arc<Image>),
    /// The published watermark.
    Published(u64),
}

/// What a disk holds.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// The vote.
    pub vote: Option<Vote>,
    /// The log behind `purged`.
    pub log: BTreeMap<u64, LogEntry>,
    /// Last entry that was removed.
    pub purged: Option<LogId>,
    /// Last entry known as committed.
    pub committed: Option<LogId>,
    /// The newest snapshot.
    pub image: Option<Arc<Image>>,
    /// Index up to which DNS answered.
    pub published: u64,
}

impl Content {
    fn take(&mut self, op: &Op) {
        match op {
            Op::Vote(vote) => self.vote = Some(*vote),
            Op::Append(entry) => drop(self.log.insert(entry.index(), entry.clone())),
            Op::Truncate(first) => drop(self.log.split_off(first)),
            Op::Purge(id) => {
                self.log = self.log.split_off(&(id.index + 1));
                self.purged = Some(*id);
            }
            Op::Committed(id) => self.committed = *id,
            // as in the directory of snapshots, where the newest by name counts, whatever was written last
            Op::Image(image) => {
                if self.image.as_ref().is_none_or(|held| held.index() <= image.index()) {
                    self.image = Some(image.clone());
                }
            }
            Op::Published(index) => self.published = *index,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    durable: Content,
    readable: Content,
    pending: VecDeque<Op>,
    written: u64,
    synced: u64,
}

/// A disk. It outlives crashes.
#[derive(Debug)]
pub struct Disk {
    node: NodeId,
    queue: Mutex<Queue>,
}

impl Disk {
    /// An empty disk.
    pub fn new(node: NodeId) -> Disk {
        Disk { node, queue: Mutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a program reads.
    pub fn read<T>(&self, f: impl FnOnce(&Content) -> T) -> T {
        f(&self.queue().readable)
    }

    /// The program dies, or power is lost: a prefix of what was not synced is kept.
    pub fn crash(&self, rng: &mut Rng, bug: Option<Bug>) -> usize {
        let queue = &mut *self.queue();
        let keep = if rng.chance(500) { 0 } else { rng.range(0, queue.pending.len() as u64) as usize };
        let lost = queue.pending.len() - keep;
        for op in queue.pending.drain(..).take(keep) {
            queue.durable.take(&op);
        }
        if bug == Some(Bug::ForgottenVote) {
            queue.durable.vote = None;
        }
        queue.readable = queue.durable.clone();
        queue.synced = queue.written;
        lost
    }

    /// How many writes are durable, and how many there are.
    fn progress(&self) -> (u64, u64) {
        let queue = self.queue();
        (queue.synced, queue.written)
    }

    fn write(&self, op: Op) -> u64 {
        let queue = &mut *self.queue();
        queue.readable.take(&op);
        queue.pending.push_back(op);
        queue.written += 1;
        queue.written
    }

    /// Everything written before the fsync began is durable.
    fn synced(&self, upto: u64, bug: Option<Bug>) -> Vec<Op> {
        let queue = &mut *self.queue();
        let fresh = upto.saturating_sub(queue.synced) as usize;
        queue.synced = queue.synced.max(upto);
        if bug == Some(Bug::NoFsync) {
            let from = queue.pending.len() - (queue.written - queue.synced) as usize - fresh;
            return queue.pending.range(from..from + fresh).cloned().collect();
        }
        let ops: Vec<Op> = queue.pending.drain(..fresh).collect();
        ops.iter().for_each(|op| queue.durable.take(op));
        ops
    }
}

/// The log store of one boot.
#[derive(Clone)]
pub struct Store {
    world: Arc<World>,
    disk: Arc<Disk>,
    boot: u64,
    writer: Arc<tokio::sync::Mutex<()>>,
}

impl Store {
    /// Opens a disk, and checks what is found.
    pub fn open(world: &Arc<World>, node: NodeId) -> Store {
        let disk = world.disk(node);
        let found = disk.read(|d| {
            let ballot = d.vote.map(|v| (leader(&v.leader_id), v.committed));
            let log = d.log.iter().map(|(i, e)| (*i, leader(&e.log_id().leader_id))).collect();
            let image = d.image.as_ref().and_then(|i| i.index());
            world.checks().raft.opened(node, ballot, log, image)
        });
        world.found(found);
        Store { world: world.clone(), disk, boot: world.boot(node), writer: Arc::default() }
    }

    fn alive(&self) -> io::Result<()> {
        match self.world.boot(self.disk.node) == self.boot {
            true => Ok(()),
            false => Err(io::Error::other("this program is dead")),
        }
    }

    async fn durable(&self, op: Op) -> io::Result<()> {
        self.alive()?;
        let at = self.disk.write(op);
        self.flush(at).await
    }

    /// Keeps a snapshot.
    pub async fn keep(&self, image: Arc<Image>) -> io::Result<()> {
        self.durable(Op::Image(image)).await
    }

    /// Keeps the published watermark; only then may DNS answer from that index.
    pub async fn publish(&self, index: u64) -> io::Result<()> {
        self.durable(Op::Published(index)).await
    }

    /// One fsync at a time, for all that waits.
    async fn flush(&self, at: u64) -> io::Result<()> {
        let node = self.disk.node;
        let _turn = self.writer.lock().await;
        self.alive()?;
        let (synced, written) = self.disk.progress();
        if synced >= at {
            return Ok(());
        }
        let began = self.world.now();
        let (longest, full, failing) = {
            let host = &self.world.outside().hosts[&node];
            (host.fsync_ms, host.full, host.failing)
        };
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let takes = self.world.draw(|r| r.range(longest / 4, longest));
        self.world.sleep(takes).await;
        self.world.gate(node).await;
        self.alive()?;
        if failing {
            return Err(io::Error::other("fsync failed"));
        }
        if let Some(program) = self.world.running(node) {
            program.fsync_took(self.world.now() - began);
        }
        for op in self.disk.synced(written, self.world.setup.bug) {
            self.acknowledged(&op);
        }
        Ok(())
    }

    fn acknowledged(&self, op: &Op) {
        let node = self.disk.node;
        let truncated = |e: &LogEntry| self.disk.read(|d| !d.log.contains_key(&e.index()));
        if matches!(op, Op::Append(e) if truncated(e)) {
            return; // nobody counts on it any more
        }
        let mut checks = self.world.checks();
        let seen: Result<(), Violation> = match op {
            Op::Vote(v) => checks.raft.voted(node, (leader(&v.leader_id), v.committed)),
            Op::Append(e) => {
                let hash = fnv(FNV, &codec::bytes(&e.payload));
                checks.raft.appended(node, e.index(), leader(&e.log_id().leader_id), hash.into())
            }
            Op::Truncate(first) => checks.raft.truncated(node, *first),
            Op::Purge(id) => checks.raft.purged(node, id.index),
            Op::Image(_) => {
                let newest = self.disk.read(|d| d.image.as_ref().and_then(|i| i.index()));
                checks.raft.snapshotted(node, newest)
            }
            Op::Committed(_) | Op::Published(_) => Ok(()),
        };
        drop(checks);
        self.world.found(seen);
    }
}

impl RaftLogReader<C> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<LogEntry>> {
        self.alive()?;
        Ok(self.disk.read(|d| d.log.range(range).map(|(_, e)| e.clone()).collect()))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.alive()?;
        Ok(self.disk.read(|d| d.vote))
    }
}

impl RaftLogStorage<C> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        self.alive()?;
        Ok(self.disk.read(|d| {
            let last = d.log.values().next_back().map(|e| e.log_id());
            LogState { last_purged_log_id: d.purged, last_log_id: last.or(d.purged) }
        }))
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.durable(Op::Vote(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.alive()?;
        self.disk.write(Op::Committed(committed));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.disk.read(|d| d.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.alive()?;
        let at = entries.into_iter().map(|e| self.disk.write(Op::Append(e))).last().unwrap_or(0);
        let store = self.clone();
        drop(SimRuntime::spawn(async move { callback.io_completed(store.flush(at).await) }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.alive()?;
        let first = last.map_or(0, |l| l.index + 1);
        // from now on a crash may find these entries or not: whatever the disk made of it by then
        let seen = self.world.checks().raft.truncated(self.disk.node, first);
        self.world.found(seen);
        self.durable(Op::Truncate(first)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.durable(Op::Purge(upto)).await
    }
}
