//! A leader whose process is gone is replaced at once; who does it is decided in [`zonekeeper_core::takeover`].
//!
//! The node says when the network refuses what was connected ([`Consensus::process_gone`]). The word goes to the other
//! voters on two lanes: on the one that is always connected, and on the one on which the vote follows, which is
//! connected by it. Whose turn it is campaigns as the target of a leadership transfer does: openraft then marks its
//! request, so that voters do not hold to the lease of the old leader. All else of an election stands: the term, the
//! comparison of logs, the durable vote. A leader that lives in spite of all steps down when it hears of the new term,
//! and its reads were never sure of it: they are confirmed by a quorum (ReadIndex).

use crate::{
    consensus::Consensus,
    timing,
    types::{LogId, TypeConfig},
    wire::RaftCall,
};
use openraft::{async_runtime::watch::WatchReceiver, raft::TransferLeaderRequest};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use zonekeeper_core::{
    codec,
    entry::Timing,
    id::NodeId,
    takeover::{Act, LogEnd, Reign, Takeover, Word},
};
use zonekeeper_peer::Lane;

/// What this node was told of dead leaders.
pub(crate) struct Words(Mutex<Held>);

struct Held {
    takeover: Takeover,
    /// A task waits for this node's turn.
    waiting: bool,
}

fn words(node: NodeId, timing: Timing) -> Takeover {
    Takeover::new(node, timing::election_max_ms(timing), timing.heartbeat_ms())
}

impl Words {
    pub(crate) fn new(node: NodeId, timing: Timing) -> Words {
        Words(Mutex::new(Held { takeover: words(node, timing), waiting: false }))
    }

    /// Raft runs under another timing.
    pub(crate) fn retime(&self, node: NodeId, timing: Timing) {
        self.held().takeover = words(node, timing);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consensus {
    /// The process of a node is gone: its connection was lost and its host refuses a new one. If it is the leader, the
    /// voters that hear so replace it as soon as they are a majority. A false word costs an election and nothing else.
    pub fn process_gone(&self, dead: NodeId) {
        let Some((_, word)) = self.reign().filter(|(_, w)| w.reign.leader == dead) else { return };
        let voters = self.voters_now();
        if !voters.contains(&self.node()) {
            return;
        }
        tracing::info!(leader = dead, term = word.reign.term, "the leader's process is gone");
        let within = Duration::from_millis(timing::election_max_ms(self.state().timing));
        for to in voters.into_iter().filter(|to| ![dead, self.node()].contains(to)) {
            for lane in [Lane::Heartbeat, Lane::Raft] {
                let (transport, call) = (self.inner.transport.clone(), codec::bytes(&RaftCall::Gone(word)));
                // Who does not hear it waits for the lease.
                tokio::spawn(async move { transport.call(to, lane, call, within).await });
            }
        }
        self.hear_word(self.node(), word);
    }

    /// A word came in, from another voter or from this node.
    pub(crate) fn hear_word(&self, from: NodeId, word: Word) {
        self.inner.words.held().takeover.hear(from, word, self.inner.clock.mono());
        self.consider();
    }

    fn consider(&self) {
        let Some((request, own)) = self.reign() else { return };
        let (voters, now) = (self.voters_now(), self.inner.clock.mono());
        let mut held = self.inner.words.held();
        let this = self.clone();
        match held.takeover.act(own.reign, &voters, now) {
            Act::Nothing => {}
            Act::Wait(until) => {
                if !std::mem::replace(&mut held.waiting, true) {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(until.since(now))).await;
                        this.inner.words.held().waiting = false;
                        this.consider();
                    });
                }
            }
            Act::Take => {
                tracing::info!(from = own.reign.leader, term = own.reign.term, "taking over");
                // A vote that has changed meanwhile: another one leads.
                tokio::spawn(async move { this.inner.raft().handle_transfer_leader(request).await });
            }
        }
    }

    /// The leader that this node follows durably: as openraft wants it to be handed over by, and in a word.
    fn reign(&self) -> Option<(TransferLeaderRequest<TypeConfig>, Word)> {
        let flushed = self.inner.raft().watch_log_progress().get()?;
        if !flushed.vote.committed {
            return None; // nobody is known to lead
        }
        let reign = Reign { term: flushed.vote.leader_id.term, leader: flushed.vote.leader_id.node_id };
        let log = flushed.last_log_id.map(end).unwrap_or_default();
        let request = TransferLeaderRequest::new(flushed.vote, self.node(), flushed.last_log_id);
        Some((request, Word { reign, log }))
    }

    fn voters_now(&self) -> Vec<NodeId> {
        let metrics = self.inner.raft().metrics();
        metrics.borrow_watched().membership_config.membership().voter_ids().collect()
    }
}

fn end(log: LogId) -> LogEnd {
    LogEnd { term: log.leader_id.term, leader: log.leader_id.node_id, index: log.index }
}
