//! Invariant 11: the classic Raft properties hold on the persisted state; with it invariant 8 as far as one node's disk
//! goes: what was acknowledged is found again after a crash.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), figure 3.2 (log matching, leader completeness, state
//! machine safety) and §3.8 (vote and log are persistent). Leaders are ordered by (term, node), as the log's ids are,
//! so two candidates of one term are two ballots, and the greater wins.

use super::Violation;
use crate::id::NodeId;
use alloc::{collections::BTreeMap, format, string::String};

/// Who leads, or wants to: term and node.
pub type Leader = (u64, NodeId);

/// A vote: for whom, and whether a quorum granted it.
pub type Ballot = (Leader, bool);

/// What one node's disk is known to hold, because the node said so.
#[derive(Debug, Default)]
struct Disk {
    ballot: Option<Ballot>,
    log: BTreeMap<u64, Leader>,
    purged: Option<u64>,
    snapshot: Option<u64>,
    committed: Option<u64>,
}

/// All nodes' disks, and what they must agree on.
#[derive(Debug, Default)]
pub struct Persisted {
    disks: BTreeMap<NodeId, Disk>,
    /// Log matching: an index and a leader name one entry, by its hash.
    entries: BTreeMap<(u64, Leader), u128>,
    /// State machine safety: what was committed at an index.
    committed: BTreeMap<u64, Committed>,
}

/// A committed entry.
#[derive(Debug)]
struct Committed {
    /// Whose entry it is.
    of: Leader,
    /// Who committed it, at the latest: a leader commits the entries of earlier ones with its own first one (§3.6.2), and
    /// who applies an entry has voted for no earlier leader than that one. Leaders between the two may lack the entry.
    by: Leader,
}

fn bad<T>(text: String) -> Result<T, Violation> {
    Err(Violation::of(11, text))
}

impl Persisted {
    /// A vote was acknowledged as written. Votes only grow.
    pub fn voted(&mut self, node: NodeId, ballot: Ballot) -> Result<(), Violation> {
        let disk = self.disks.entry(node).or_default();
        if let Some(held) = disk.ballot.filter(|held| *held > ballot) {
            return bad(format!("node {node} voted {ballot:?} after {held:?}"));
        }
        disk.ballot = Some(ballot);
        Ok(())
    }

    /// An entry was acknowledged as written.
    pub fn appended(
        &mut self,
        node: NodeId,
        index: u64,
        leader: Leader,
        hash: u128,
    ) -> Result<(), Violation> {
        if *self.entries.entry((index, leader)).or_insert(hash) != hash {
            return bad(format!(
                "node {node} holds another entry at {index} of {leader:?}: logs do not match"
            ));
        }
        if let Some(other) = self.committed.get(&index).map(|c| c.of).filter(|of| *of != leader) {
            let disk = self.disks.get(&node);
            if disk.is_some_and(|d| d.committed >= Some(index)) {
                return bad(format!("node {node} overwrites the entry at {index}, committed by {other:?}"));
            }
        }
        let disk = self.disks.entry(node).or_default();
        if let Some((last, _)) = disk.log.last_key_value()
            && index > last + 1
            && disk.snapshot < Some(index - 1)
        {
            return bad(format!("node {node} appends {index} after {last}: its log has a hole"));
        }
        disk.log.insert(index, leader);
        Ok(())
    }

    /// Entries from `first` on were acknowledged as removed.
    pub fn truncated(&mut self, node: NodeId, first: u64) -> Result<(), Violation> {
        let disk = self.disks.entry(node).or_default();
        disk.log.split_off(&first);
        match disk.committed.filter(|c| first <= *c) {
            Some(c) => bad(format!("node {node} cuts its log from {first} on, but knows {c} as committed")),
            None => Ok(()),
        }
    }

    /// A snapshot up to `index` was acknowledged as written. The log may go on behind it at once, and lose what lies
    /// before later.
    pub fn snapshotted(&mut self, node: NodeId, index: Option<u64>) -> Result<(), Violation> {
        let disk = self.disks.entry(node).or_default();
        if disk.snapshot > index {
            return bad(format!(
                "node {node} replaces its snapshot to {:?} by one to {index:?}",
                disk.snapshot
            ));
        }
        disk.snapshot = index;
        Ok(())
    }

    /// Entries up to `index` were removed, because a snapshot holds them.
    pub fn purged(&mut self, node: NodeId, index: u64) -> Result<(), Violation> {
        let disk = self.disks.entry(node).or_default();
        let snapshot = disk.snapshot;
        disk.log = disk.log.split_off(&(index + 1));
        disk.purged = disk.purged.max(Some(index));
        if Some(index) > snapshot {
            return bad(format!(
                "node {node} removes its log up to {index}, its snapshot ends at {snapshot:?}"
            ));
        }
        Ok(())
    }

    /// A node applied an entry: it is committed, for ever and everywhere.
    pub fn applied(&mut self, node: NodeId, index: u64, leader: Leader) -> Result<(), Violation> {
        let disk = self.disks.entry(node).or_default();
        disk.committed = disk.committed.max(Some(index));
        let by = disk.ballot.map_or(leader, |(voted, _)| voted.max(leader));
        let held = self.committed.entry(index).or_insert(Committed { of: leader, by });
        if held.of != leader {
            return bad(format!(
                "node {node} applied the entry of {leader:?} at {index}, another node that of {:?}",
                held.of
            ));
        }
        held.by = held.by.min(by);
        Ok(())
    }

    /// A node became the leader with a log that ends at `last`: it must hold all that an earlier leader committed.
    pub fn leads(&mut self, node: NodeId, leader: Leader, last: u64) -> Result<(), Violation> {
        let earlier = self.committed.iter().rev().find(|(_, c)| c.by < leader);
        match earlier {
            Some((index, Committed { by, .. })) if *index > last => bad(format!(
                "node {node} leads as {leader:?} with a log to {last}, but {by:?} committed {index}"
            )),
            _ => Ok(()),
        }
    }

    /// A node opened its disk again and found this; what lies before its log is in the snapshot. It may hold more than
    /// was acknowledged, never less.
    pub fn opened(
        &mut self,
        node: NodeId,
        ballot: Option<Ballot>,
        log: BTreeMap<u64, Leader>,
        snapshot: Option<u64>,
    ) -> Result<(), Violation> {
        let disk = self.disks.entry(node).or_default();
        let held = core::mem::replace(disk, Disk { ballot, log, snapshot, ..*disk });
        if held.ballot > ballot {
            return bad(format!("node {node} forgot its vote {:?}, it finds {ballot:?}", held.ballot));
        }
        if held.snapshot > snapshot {
            return bad(format!(
                "node {node} lost its snapshot to {:?}, it finds {snapshot:?}",
                held.snapshot
            ));
        }
        if held.purged > snapshot {
            return bad(format!("node {node} has neither log nor snapshot up to {:?}", held.purged));
        }
        let log = &disk.log;
        let lost = held.log.iter().find(|(i, leader)| Some(**i) > snapshot && log.get(i) != Some(leader));
        match lost {
            Some((index, leader)) => bad(format!("node {node} lost the entry at {index} of {leader:?}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L1: Leader = (1, 1);
    const L2: Leader = (2, 2);

    fn is_bad(result: Result<(), Violation>) -> bool {
        matches!(result, Err(v) if v.invariant == 11)
    }

    fn three_entries(node: NodeId) -> Persisted {
        let mut p = Persisted::default();
        for i in 1..=3 {
            assert_eq!(p.appended(node, i, L1, u128::from(i)), Ok(()));
        }
        p
    }

    #[test]
    fn votes_only_grow_and_are_found_again() {
        let mut p = Persisted::default();
        assert_eq!(p.voted(1, (L2, false)), Ok(()));
        assert_eq!(p.voted(1, (L2, true)), Ok(()));
        assert!(is_bad(p.voted(1, (L1, true))));
        assert_eq!(p.opened(1, Some((L2, true)), BTreeMap::new(), None), Ok(()));
        assert!(is_bad(p.opened(1, Some((L2, false)), BTreeMap::new(), None)));
        assert!(is_bad(p.opened(1, None, BTreeMap::new(), None)));
    }

    #[test]
    fn an_index_and_a_leader_name_one_entry() {
        let mut p = three_entries(1);
        assert_eq!(p.appended(2, 1, L1, 1), Ok(()));
        assert!(is_bad(p.appended(2, 2, L1, 9)));
        assert!(is_bad(p.appended(1, 5, L1, 5)), "a hole");
    }

    #[test]
    fn what_is_committed_is_neither_overwritten_nor_cut() {
        let mut p = three_entries(1);
        assert_eq!(p.applied(1, 2, L1), Ok(()));
        assert!(is_bad(p.appended(1, 2, L2, 7)));
        assert!(is_bad(p.applied(2, 2, L2)));
        assert_eq!(p.truncated(1, 3), Ok(()));
        assert!(is_bad(p.truncated(1, 2)));
    }

    #[test]
    fn a_leader_holds_all_that_is_committed() {
        let mut p = three_entries(1);
        assert_eq!(p.applied(1, 3, L1), Ok(()));
        assert!(is_bad(p.leads(2, L2, 2)));
        assert_eq!(p.leads(2, L2, 3), Ok(()));
    }

    /// A candidate that hears of its votes late leads, although a later leader has committed what an earlier one wrote.
    #[test]
    fn a_leader_may_lack_what_a_later_one_committed() {
        const L3: Leader = (3, 1);
        let mut p = three_entries(1);
        assert_eq!(p.voted(1, (L3, true)), Ok(()));
        assert_eq!(p.applied(1, 3, L1), Ok(()));
        assert_eq!(p.leads(2, L2, 2), Ok(()));
        assert!(is_bad(p.leads(2, (4, 2), 2)));
        assert_eq!(p.voted(3, (L1, true)), Ok(()));
        assert_eq!(p.applied(3, 3, L1), Ok(()));
        assert!(is_bad(p.leads(2, L2, 2)), "the first one committed it itself");
    }

    #[test]
    fn a_crash_takes_nothing_that_was_acknowledged() {
        let mut p = three_entries(1);
        let found = |last: u64| -> BTreeMap<u64, Leader> { (1..=last).map(|i| (i, L1)).collect() };
        assert_eq!(p.opened(1, None, found(4), None), Ok(()), "more than was acknowledged");
        assert!(is_bad(p.opened(1, None, found(3), None)), "but what was found once stays");
        assert_eq!(three_entries(1).opened(1, None, found(2), Some(3)), Ok(()), "the snapshot holds it");
        assert_eq!(p.snapshotted(1, Some(2)), Ok(()));
        assert_eq!(p.purged(1, 2), Ok(()));
        assert!(is_bad(p.purged(1, 3)));
        assert!(is_bad(p.snapshotted(1, Some(1))), "an older one");
        assert!(is_bad(p.opened(1, None, found(9), Some(1))), "the snapshot is gone");
    }

    #[test]
    fn a_log_goes_on_behind_a_snapshot() {
        let mut p = three_entries(1);
        assert_eq!(p.snapshotted(1, Some(7)), Ok(()));
        assert!(is_bad(p.appended(1, 9, L1, 9)));
        assert_eq!(p.appended(1, 8, L1, 8), Ok(()));
    }
}
