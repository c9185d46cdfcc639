//! Members come and go: each change goes through the leader, from any node.

use crate::{
    consensus::Consensus,
    error::ProposeError,
    propose::write_error,
    timing,
    types::{Raft, TypeConfig},
    wire::{Ask, Change, ControlReply, Done},
};
use openraft::{
    BasicNode, ChangeMembers, Instant as _, RaftMetrics,
    async_runtime::watch::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use zonekeeper_core::{
    entry::{Member, Timing},
    id::NodeId,
};

/// Log entries that a learner may lack when it is given a vote: it catches up with them in the time of a few commits.
const CLOSE: u64 = 100;
/// Between two tries of a change that waits for the one before.
const AGAIN: Duration = Duration::from_millis(20);
/// How often leadership is handed over to a node that is not elected: each time costs an election.
const TRIES: u32 = 3;

impl Consensus {
    /// Makes this empty node the first voter of a new cluster and waits until it leads. The caller then proposes
    /// `Command::Init`.
    pub async fn bootstrap(&self, member: &Member, within: Duration) -> Result<(), ProposeError> {
        let raft = self.inner.raft();
        self.inner.admission.open(); // its own first voter
        let members = BTreeMap::from([(self.node(), BasicNode::new(member.peer))]);
        match raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                return Err(ProposeError::Refused(
                    "this node belongs to a cluster already: its data directory is not empty".into(),
                ));
            }
            Err(error) => return Err(ProposeError::Unknown(error.to_string())),
        }
        let node = self.node();
        match wait(&raft, within, |m| m.current_leader == Some(node)).await {
            true => Ok(()),
            false => Err(ProposeError::Unknown(format!("this node did not become leader within {within:?}"))),
        }
    }

    /// Adds a node that receives the log, and waits until it has caught up; the log index of its membership. A node
    /// that is a member already is only waited for.
    pub async fn add_learner(
        &self,
        node: NodeId,
        addr: SocketAddr,
        within: Duration,
    ) -> Result<u64, ProposeError> {
        self.change_through_leader(Change::AddLearner(node, addr), within).await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn promote(&self, node: NodeId, within: Duration) -> Result<u64, ProposeError> {
        self.change_through_leader(Change::Promote(node), within).await
    }

    /// Makes a voter a learner.
    pub async fn demote(&self, node: NodeId, within: Duration) -> Result<u64, ProposeError> {
        self.change_through_leader(Change::Demote(node), within).await
    }

    /// Takes a node out of the cluster, dead or alive. Its id is never used again.
    pub async fn remove(&self, node: NodeId, within: Duration) -> Result<u64, ProposeError> {
        self.change_through_leader(Change::Remove(node), within).await
    }

    /// Hands leadership to a voter that is up to date, and waits until it leads.
    pub async fn transfer_leader(&self, to: NodeId, within: Duration) -> Result<(), ProposeError> {
        let until = Instant::now() + within;
        self.through_leader(Ask::Transfer(to), within).await?;
        match wait(&self.inner.raft(), left(until), |m| m.current_leader == Some(to)).await {
            true => Ok(()),
            false => Err(ProposeError::NotLeader { leader: self.status().leader }),
        }
    }

    async fn change_through_leader(&self, change: Change, within: Duration) -> Result<u64, ProposeError> {
        match self.through_leader(Ask::Change(change), within).await? {
            Done::Index(index) => Ok(index),
            Done::Wrote(..) => Err(ProposeError::Unknown("answer to another question".into())),
        }
    }

    /// Changes the membership as the leader. Runs to its end even if nobody waits for the answer any more: between the
    /// two steps of a joint change both the old and the new voters must agree to everything.
    pub(crate) async fn change(&self, change: Change, within: Duration) -> ControlReply {
        let (this, until) = (self.clone(), Instant::now() + within);
        let pass = self.inner.gate.enter(until).await?;
        let task = tokio::spawn(async move {
            let _pass = pass;
            this.change_here(change, until).await
        });
        match tokio::time::timeout(left(until), task).await {
            Ok(Ok(done)) => done.map(Done::Index),
            Ok(Err(_)) | Err(_) => {
                Err(ProposeError::Unknown(format!("no quorum confirmed the change within {within:?}")))
            }
        }
    }

    async fn change_here(&self, change: Change, until: Instant) -> Result<u64, ProposeError> {
        let raft = self.inner.raft();
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.current_leader != Some(self.node()) {
            return Err(ProposeError::NotLeader { leader: metrics.current_leader });
        }
        if let Change::Demote(node) | Change::Remove(node) = change
            && node == self.node()
            && let Some(next) = self.successor(&raft, until).await
        {
            // A leader that leaves would take writes for a moment more, and their proposers would hear no answer.
            self.hand_over(next, left(until)).await?;
            return Err(ProposeError::NotLeader { leader: Some(next) });
        }
        let within = left(until);
        match change {
            Change::AddLearner(node, addr) => self.add_here(&raft, node, addr, within).await,
            Change::Promote(node) => {
                self.ready(&raft, node, until).await?;
                self.voters(&raft, ChangeMembers::AddVoterIds(BTreeSet::from([node])), true, left(until))
                    .await
            }
            Change::Demote(node) => {
                not_last(&metrics, node)?;
                self.voters(&raft, ChangeMembers::RemoveVoters(BTreeSet::from([node])), true, within).await
            }
            Change::Remove(node) if is_voter(&metrics, node) => {
                not_last(&metrics, node)?;
                self.voters(&raft, ChangeMembers::RemoveVoters(BTreeSet::from([node])), false, within).await
            }
            Change::Remove(node) => {
                self.voters(&raft, ChangeMembers::RemoveNodes(BTreeSet::from([node])), false, within).await
            }
        }
    }

    async fn voters(
        &self,
        raft: &Raft,
        change: ChangeMembers<NodeId, BasicNode>,
        retain: bool,
        within: Duration,
    ) -> Result<u64, ProposeError> {
        let until = Instant::now() + within.mul_f32(0.9);
        let ask = || {
            let change = change.clone();
            async { raft.change_membership(change, retain).await.map(|done| done.log_id.index) }
        };
        changed(until, ask).await
    }

    async fn add_here(
        &self,
        raft: &Raft,
        node: NodeId,
        addr: SocketAddr,
        within: Duration,
    ) -> Result<u64, ProposeError> {
        let until = Instant::now() + within.mul_f32(0.9);
        let ask = || async move {
            raft.add_learner(node, BasicNode::new(addr), false).await.map(|done| done.log_id.index)
        };
        let index = changed(until, ask).await?;
        match wait(raft, left(until), |m| node == m.id || matched(m, node) >= Some(index)).await {
            true => Ok(index),
            false => {
                let metrics = raft.metrics().borrow_watched().clone();
                Err(behind(&metrics, node))
            }
        }
    }

    /// Hands leadership over, if this node has it.
    pub(crate) async fn hand_over(&self, to: NodeId, within: Duration) -> ControlReply {
        let (raft, until) = (self.inner.raft(), Instant::now() + within);
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.current_leader != Some(self.node()) {
            return Err(ProposeError::NotLeader { leader: metrics.current_leader });
        }
        if to == self.node() {
            // a leader that was cut off has not heard yet that another one leads
            return self.confirm(within).await.map(|_| Done::Index(0));
        }
        if !is_voter(&metrics, to) {
            return Err(ProposeError::Refused(format!("node {to} is not a voter: only a voter can lead")));
        }
        for _ in 0..TRIES {
            // A failed transfer leaves the cluster without a leader for an election (openraft #2088), which this node
            // may win again.
            self.ready(&raft, to, until).await?;
            let term = raft.metrics().borrow_watched().current_term;
            raft.trigger().transfer_leader(to).await.map_err(|e| ProposeError::Unknown(e.to_string()))?;
            let elected = |m: &RaftMetrics<TypeConfig>| {
                m.current_leader.is_some_and(|leader| leader != m.id || m.current_term > term)
            };
            if !wait(&raft, left(until), elected).await {
                break;
            }
            match raft.metrics().borrow_watched().current_leader {
                Some(leader) if leader == to => return Ok(Done::Index(0)),
                Some(leader) if leader == self.node() => {}
                leader => return Err(ProposeError::NotLeader { leader }),
            }
        }
        Err(ProposeError::Unknown(format!("node {to} did not take over")))
    }

    /// Waits until a node is [`ready`], as long as it takes to hear from one that lives: a leader that is new has heard from
    /// nobody yet.
    async fn ready(&self, raft: &Raft, node: NodeId, until: Instant) -> Result<(), ProposeError> {
        let timing = self.state().timing;
        let behind = |m: &RaftMetrics<TypeConfig>| {
            m.current_leader == Some(m.id)
                && matches!(ready(m, node, timing), Err(ProposeError::Behind { .. }))
        };
        wait(raft, patience(timing).min(left(until) / 2), |m| !behind(m)).await;
        let metrics = raft.metrics().borrow_watched().clone();
        match metrics.current_leader == Some(self.node()) {
            true => ready(&metrics, node, timing),
            false => Err(ProposeError::NotLeader { leader: metrics.current_leader }),
        }
    }

    /// The voter that leads best after this node, waited for in the same way; none when no other one answers.
    async fn successor(&self, raft: &Raft, until: Instant) -> Option<NodeId> {
        let timing = self.state().timing;
        let settled = |m: &RaftMetrics<TypeConfig>| {
            let alone = m.membership_config.membership().voter_ids().all(|id| id == m.id);
            alone || m.current_leader != Some(m.id) || successor(m, timing).is_some()
        };
        wait(raft, patience(timing).min(left(until) / 2), settled).await;
        successor(&raft.metrics().borrow_watched(), timing)
    }
}

/// What is left of the time for a change.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// A node that lives is heard from within this time.
fn patience(timing: Timing) -> Duration {
    Duration::from_millis(2 * timing::election_max_ms(timing))
}

/// The index of a change. It is asked for again while the one before is under way: a new leader does not know yet that that
/// was committed.
async fn changed<F>(until: Instant, ask: impl Fn() -> F) -> Result<u64, ProposeError>
where
    F: Future<Output = Result<u64, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>>,
{
    loop {
        let done = ask().await;
        let busy = matches!(
            &done,
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_)
            )))
        );
        if !busy || Instant::now() > until {
            return done.map_err(write_error);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn wait(
    raft: &Raft,
    within: Duration,
    mut until: impl FnMut(&RaftMetrics<TypeConfig>) -> bool,
) -> bool {
    let mut metrics = raft.metrics();
    let reached = async {
        loop {
            if until(&metrics.borrow_watched()) {
                return true;
            }
            if metrics.changed().await.is_err() {
                return false;
            }
        }
    };
    tokio::time::timeout(within, reached).await.unwrap_or(false)
}

fn is_voter(m: &RaftMetrics<TypeConfig>, node: NodeId) -> bool {
    m.membership_config.membership().voter_ids().any(|id| id == node)
}

fn matched(m: &RaftMetrics<TypeConfig>, node: NodeId) -> Option<u64> {
    m.replication.as_ref()?.get(&node)?.as_ref().map(|log| log.index)
}

fn behind(m: &RaftMetrics<TypeConfig>, node: NodeId) -> ProposeError {
    ProposeError::Behind { node, matched: matched(m, node).unwrap_or(0), last: m.last_log_index.unwrap_or(0) }
}

/// A node that gets a vote or the lead answers, and has nearly all of the log: otherwise the cluster would wait for it.
fn ready(m: &RaftMetrics<TypeConfig>, node: NodeId, timing: Timing) -> Result<(), ProposeError> {
    if m.membership_config.membership().get_node(&node).is_none() {
        return Err(ProposeError::Refused(format!("node {node} is not a member: add it as a learner first")));
    }
    if node == m.id {
        return Ok(());
    }
    let acked = m.heartbeat.as_ref().and_then(|h| h.get(&node).cloned().flatten());
    let answers = acked.is_some_and(|at| at.elapsed() <= patience(timing));
    let last = m.last_log_index.unwrap_or(0);
    match answers && matched(m, node).is_some_and(|index| index + CLOSE >= last) {
        true => Ok(()),
        false => Err(behind(m, node)),
    }
}

/// The voter that leads best after this node: one that answers and has most of the log.
fn successor(m: &RaftMetrics<TypeConfig>, timing: Timing) -> Option<NodeId> {
    let others = m.membership_config.membership().voter_ids().filter(|id| *id != m.id);
    others.filter(|id| ready(m, *id, timing).is_ok()).max_by_key(|id| matched(m, *id))
}

fn not_last(m: &RaftMetrics<TypeConfig>, node: NodeId) -> Result<(), ProposeError> {
    let mut others = m.membership_config.membership().voter_ids().filter(|id| *id != node);
    match others.next() {
        Some(_) => Ok(()),
        None => {
            Err(ProposeError::Refused(format!("node {node} is the last voter: promote another one first")))
        }
    }
}
