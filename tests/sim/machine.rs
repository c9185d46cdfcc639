//! The replicated state as openraft drives it, with every applied entry shown to the checkers.

use crate::{
    bug::Bug,
    store::{Image, Store},
    types::{C, LogId, SnapshotMeta, StoredMembership, leader},
    world::World,
};
use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    alias::SnapshotOf,
    entry::RaftEntry,
    storage::{EntryResponder, RaftStateMachine, Snapshot},
};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zonekeeper_core::{
    Entry, Outcome, State,
    entry::Delta,
    id::NodeId,
    invariant::Step,
    time::{LogClock, LogTime, Mono},
};

#[derive(Default)]
struct Now {
    last: Option<LogId>,
    membership: StoredMembership,
    state: Arc<State>,
    clock: LogClock,
    /// Entries up to here were applied by an earlier boot: a planted bug wants to know.
    replays_to: u64,
    skipped: bool,
}

/// The state machine of one boot.
#[derive(Clone)]
pub struct Machine {
    world: Arc<World>,
    store: Store,
    node: NodeId,
    boot: u64,
    born: u64,
    now: Arc<Mutex<Now>>,
}

impl Machine {
    /// Begins with the newest snapshot on disk.
    pub fn open(world: &Arc<World>, store: Store, node: NodeId) -> Machine {
        let (image, committed) = world.disk(node).read(|d| (d.image.clone(), d.committed));
        let mut now = Now { replays_to: committed.map_or(0, |c| c.index), ..Now::default() };
        if let Some(image) = image {
            (now.last, now.membership) = (image.meta.last_log_id, image.meta.last_membership.clone());
            now.clock.applied(image.state.time, Mono(0));
            now.state = image.state.clone();
        }
        let (boot, born) = (world.boot(node), world.clock(node));
        Machine { world: world.clone(), store, node, boot, born, now: Arc::new(Mutex::new(now)) }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> io::Result<()> {
        match self.world.boot(self.node) == self.boot {
            true => Ok(()),
            false => Err(io::Error::other("this program is dead")),
        }
    }

    /// The last applied state.
    pub fn state(&self) -> Arc<State> {
        self.now().state.clone()
    }

    /// The node's monotonic clock.
    pub fn mono(&self) -> Mono {
        Mono(self.world.clock(self.node) - self.born)
    }

    /// Log time as this node counts it.
    pub fn log_time(&self) -> LogTime {
        let (mono, wall) = (self.mono(), self.world.wall(self.node));
        self.now().clock.now(mono, wall)
    }

    /// The time for an entry that is proposed now.
    pub fn stamp(&self) -> LogTime {
        let (mono, wall) = (self.mono(), self.world.wall(self.node));
        self.now().clock.stamp(mono, wall)
    }

    /// Applies one entry and shows it to the checkers.
    fn take(&self, id: LogId, payload: EntryPayload<Entry, NodeId, openraft::BasicNode>) -> Outcome {
        let now = &mut *self.now();
        let before = now.state.clone();
        let mut state = (*before).clone();
        let blank = || Outcome::Applied(Delta { index: id.index, ..Delta::default() });
        let (entry, outcome) = match payload {
            EntryPayload::Blank => (None, (state.skip(id.index), blank()).1),
            EntryPayload::Membership(m) => {
                now.membership = StoredMembership::new(Some(id), m.clone());
                state.set_voters(id.index, m.voter_ids().collect());
                (None, blank())
            }
            EntryPayload::Normal(entry) => {
                let outcome = self.apply(now, &mut state, id.index, &entry);
                (Some(entry), outcome)
            }
        };
        now.last = Some(id);
        now.clock.applied(state.time, self.mono());
        now.state = Arc::new(state);
        self.show(id, Step { before: &before, entry: entry.as_ref(), after: &now.state }, &outcome);
        outcome
    }

    fn apply(&self, now: &mut Now, state: &mut State, index: u64, entry: &Entry) -> Outcome {
        let bug = self.world.setup.bug;
        if bug == Some(Bug::DroppedEntry) && self.boot > 1 && index <= now.replays_to && !now.skipped {
            now.skipped = matches!(entry.proposal.command, zonekeeper_core::Command::Configure(_));
            if now.skipped {
                state.skip(index);
                return Outcome::Refused("planted: dropped".into());
            }
        }
        let mut outcome = state.apply(index, entry);
        if let Some(bug) = bug {
            crate::bug::spoil(bug, self.node, &now.state, state, entry, &mut outcome);
        }
        outcome
    }

    fn show(&self, id: LogId, step: Step<'_>, outcome: &Outcome) {
        let (world, node) = (&self.world, self.node);
        let seen = world.checks().applied(node, id.index, leader(&id.leader_id), step);
        world.found(seen);
        world.note(|| {
            let what = step.entry.map_or("raft".into(), |e| crate::check::headline(e, outcome));
            format!("n{node} applied {} {what}", id.index)
        });
        world.moves(node, step);
    }
}

impl RaftStateMachine<C> for Machine {
    type SnapshotData = Arc<State>;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let now = self.now();
        Ok((now.last, now.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.world.gate(self.node).await;
            self.alive()?;
            let outcome = self.take(entry.log_id(), entry.payload);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Arc<State>) -> io::Result<()> {
        self.alive()?;
        let image = Image { meta: meta.clone(), state: snapshot.clone() };
        self.store.keep(Arc::new(image)).await?;
        self.alive()?;
        let mut now = self.now();
        (now.last, now.membership) = (meta.last_log_id, meta.last_membership.clone());
        now.clock.applied(snapshot.time, self.mono());
        now.state = snapshot;
        let seen = self.world.checks().installed(self.node, &now.state);
        self.world.found(seen);
        let (node, index) = (self.node, now.state.generation.index);
        self.world.note(|| format!("n{node} installed a snapshot to {index}"));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<C, Arc<State>>>> {
        let image = self.world.disk(self.node).read(|d| d.image.clone());
        Ok(image.map(|i| Snapshot { meta: i.meta.clone(), snapshot: i.state.clone() }))
    }
}

impl RaftSnapshotBuilder<C> for Machine {
    type SnapshotData = Arc<State>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<C, Arc<State>>> {
        self.alive()?;
        let (meta, state) = {
            let now = self.now();
            (
                SnapshotMeta { last_log_id: now.last, last_membership: now.membership.clone() },
                now.state.clone(),
            )
        };
        self.store.keep(Arc::new(Image { meta: meta.clone(), state: state.clone() })).await?;
        Ok(Snapshot { meta, snapshot: state })
    }
}
