//! A new incarnation, begun by hand in the data directory of a node that stands still.
//!
//! Both ways end in the same log: a membership of this node alone, forced, then the entry [`Command::Recover`] and what
//! the operator needs to go on. They stand behind everything that the node had, so no index and no version is used twice,
//! and they are one batch: a crash leaves all of it or nothing.
//!
//! - [`recover`] keeps the log. Entries that no quorum is known to have confirmed are kept too: a client may have been
//!   told of them by the nodes that are lost.
//! - [`restore`] begins with the backup as a snapshot, under the id of a new cluster.

use super::{
    open::{self, Read},
    records::{self, Identity},
    witness::Fact,
};
use crate::{
    error::{AnewError, OpenError},
    machine::Machine,
    snapshot::{self, SnapshotError},
    types::{LeaderId, LogEntry, LogId, Payload, SnapshotMeta, Vote},
};
use openraft::{BasicNode, Membership};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};
use zonekeeper_core::{
    Command, Entry, Proposal, State, VERSION,
    codec::{CodecError, Kind},
    entry::{Member, Recovery},
    id::NodeId,
    time::LogTime,
};

/// What a new incarnation begins with.
#[derive(Debug, Clone)]
pub struct Anew {
    /// This node, the only member.
    pub node: NodeId,
    /// The cluster of its keys.
    pub cluster: u128,
    /// Its description.
    pub member: Member,
    /// Which command writes this, for the log.
    pub author: String,
    /// Why, in an operator's words.
    pub reason: String,
    /// The incarnation; none: the next one.
    pub incarnation: Option<u32>,
    /// Commands that follow, as an admin token.
    pub then: Vec<Command>,
    /// Milliseconds since the Unix epoch: real time has passed, and log time catches up.
    pub wall_ms: u64,
}

/// What a new incarnation began with.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The state.
    pub state: Arc<State>,
    /// Log index of the last entry that was there before.
    pub upto: u64,
}

/// Makes this node the only voter of its cluster. Blocking. The node must not run.
pub fn recover(dir: &Path, anew: &Anew) -> Result<Begun, AnewError> {
    if !dir.join(open::LOG_DIR).exists() {
        return Err(AnewError::Nothing(dir.to_owned()));
    }
    let read = open::read(dir, anew.node, Some(anew.cluster))?;
    if read.view.identity.is_none() || (read.entries.is_empty() && read.newest.is_none()) {
        return Err(AnewError::Nothing(dir.to_owned()));
    }
    begin(dir, read, anew, Vec::new(), None)
}

/// Makes this node the only voter of a new cluster that holds what a backup holds. Blocking.
pub fn restore(dir: &Path, backup: &Path, anew: &Anew) -> Result<Begun, AnewError> {
    let (meta, state) = snapshot::read(backup).map_err(|error| unreadable(backup, error))?;
    let Some(last) = meta.last_log_id.filter(|_| state.cluster != 0) else {
        return Err(AnewError::Foreign(backup.to_owned()));
    };
    if state.cluster == anew.cluster {
        return Err(AnewError::SameCluster(anew.cluster));
    }
    if state.cluster_version > VERSION {
        let why = format!("cluster version {}, this program knows {VERSION}", state.cluster_version);
        return Err(AnewError::Version { path: backup.to_owned(), why });
    }
    let mut read = open::read(dir, anew.node, Some(anew.cluster))?;
    if read.view.identity.is_some() || read.view.last.is_some() || read.view.vote.is_some() {
        return Err(AnewError::NotEmpty(dir.to_owned()));
    }
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    read.snapshots.clear().map_err(io)?; // of a restore that was cut short
    (read.newest, read.view.last) = (Some((meta.clone(), state.clone())), Some(last));
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(|error| io(std::io::Error::other(error.to_string())))?;
    let identity = Identity { cluster: anew.cluster, node: anew.node, uuid: u128::from_le_bytes(uuid) };
    let first = vec![(Kind::Identity, records::identity(&identity)), (Kind::Purged, records::purged(&last))];
    begin(dir, read, anew, first, Some((meta, state)))
}

/// A file that is no backup at all, or another version's, is not called damaged.
fn unreadable(path: &Path, error: SnapshotError) -> AnewError {
    match error {
        SnapshotError::Record(_, 0, CodecError::Magic | CodecError::Kind { .. }) => {
            AnewError::Foreign(path.to_owned())
        }
        SnapshotError::Record(_, _, why @ CodecError::Format(_)) => {
            AnewError::Version { path: path.to_owned(), why: why.to_string() }
        }
        error => AnewError::File(error),
    }
}

/// Appends the new incarnation behind what was read, or behind a backup, durably, after `apply` has agreed to it.
fn begin(
    dir: &Path,
    read: Read,
    anew: &Anew,
    first: Vec<(Kind, Vec<u8>)>,
    backup: Option<(SnapshotMeta, State)>,
) -> Result<Begun, AnewError> {
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    let Read { db, view, entries, mut witness, snapshots, newest } = read;
    let machine = Machine::on_disk(snapshots.clone(), newest);
    let known = machine.index_or_none();
    machine.replay(entries.into_iter().filter(|e| Some(e.log_id.index) > known));
    let last = view.last.max(machine.present().0.last_log_id);
    let upto = last.map_or(0, |l| l.index);
    let term = 1 + last.map_or(0, |l| l.leader_id.term).max(view.vote.map_or(0, |v| v.leader_id.term));

    let added = entries_of(&machine.state(), anew, LeaderId { term, node_id: anew.node }, upto + 1)?;
    let incarnation = machine.state().generation.incarnation;
    for entry in &added {
        if let zonekeeper_core::Outcome::Refused(why) = machine.step(entry) {
            return Err(AnewError::Refused(why));
        }
    }
    let state = machine.state();
    if state.generation.incarnation <= incarnation {
        return Err(AnewError::Refused("the new incarnation was not applied".into()));
    }

    if let Some((meta, state)) = backup {
        snapshots.write(&meta, &state).map_err(io)?;
    }
    let vote = Vote::new_committed(term, anew.node);
    let end = LogId::new(LeaderId { term, node_id: anew.node }, upto + added.len() as u64);
    let mut batch = sled::Batch::default();
    let meta = [
        (Kind::Vote, records::vote(&vote)),
        (Kind::Committed, records::committed(&Some(end))),
        (Kind::Watermark, records::watermark(end.index)),
    ];
    for (kind, record) in first.into_iter().chain(meta) {
        batch.insert(&records::meta_key(kind), record);
    }
    for entry in &added {
        let record = records::entry(entry);
        for (key, piece) in records::pieces(entry.log_id.index, &record) {
            batch.insert(&key, piece);
        }
    }
    db.apply_batch(batch).and_then(|()| db.flush()).map_err(|e| io(std::io::Error::other(e)))?;
    witness.after(&[Fact::Vote(vote), Fact::Last(end)]).map_err(io)?;
    Ok(Begun { state, upto })
}

/// The forced membership, the new incarnation, and what follows it.
fn entries_of(state: &State, anew: &Anew, leader: LeaderId, first: u64) -> Result<Vec<LogEntry>, AnewError> {
    let nodes = BTreeMap::from([(anew.node, BasicNode::new(anew.member.peer))]);
    let membership = Membership::new(vec![BTreeSet::from([anew.node])], nodes);
    let membership = membership.map_err(|e| AnewError::Refused(e.to_string()))?;
    let recovery = Recovery {
        incarnation: anew.incarnation.unwrap_or(state.generation.incarnation + 1),
        cluster: anew.cluster,
        node: anew.node,
        member: anew.member.clone(),
        reason: anew.reason.clone(),
    };
    let time = state.time.max(LogTime(anew.wall_ms));
    let by = |command| {
        Payload::Normal(Entry { time, proposal: Proposal::by(anew.author.clone(), command).into() })
    };
    let commands = std::iter::once(Command::Recover(recovery)).chain(anew.then.iter().cloned());
    let payloads = std::iter::once(Payload::Membership(membership)).chain(commands.map(by));
    let entry = |(i, payload)| LogEntry { log_id: LogId::new(leader, i), payload };
    Ok((first..).zip(payloads).map(entry).collect())
}
