//! The shell around [`zonekeeper_core::takeover`], as in production (`src/consensus/takeover.rs`): what the network says
//! of a leader's process goes to the other voters, and whose turn it is asks for votes by the way of a leadership
//! transfer.

use crate::{network::Lost, node::Node, world::World};
use openraft::{AsyncRuntime, async_runtime::WatchReceiver, raft::TransferLeaderRequest};
use openraft_rt_sim::SimRuntime;
use std::{sync::Arc, time::Duration};
use zonekeeper_core::{
    id::NodeId,
    takeover::{Act, LogEnd, Reign, Word},
};

/// A call that only passes a word on, or only connects.
const CALL: Duration = Duration::from_secs(1);

impl World {
    /// A program died and its host lives: whoever was connected to it is told, tries to connect again, and is refused,
    /// unless the program runs again by then.
    pub fn announce_death(self: &Arc<World>, dead: NodeId) {
        for to in self.nodes().filter(|n| *n != dead) {
            let world = self.clone();
            drop(SimRuntime::spawn(async move {
                let until = world.now() + 3_000;
                if world.segment(dead, to, until).await.is_err() {
                    return; // silence: the connection ends by its own deadline
                }
                world.gate(to).await;
                if world.call(to, dead, CALL, |_| async { Some(()) }).await == Err(Lost::Refused)
                    && let Some(node) = world.running(to)
                {
                    node.gone(dead);
                }
            }));
        }
    }

    /// The network lies: connections of these nodes to another one are reset, and new ones refused, though it lives.
    pub fn lie(self: &Arc<World>, about: NodeId, to: &[NodeId]) {
        for node in to.iter().filter(|n| **n != about).filter_map(|n| self.running(*n)) {
            node.gone(about);
        }
    }
}

impl Node {
    /// The network says that a node's process is gone.
    fn gone(self: &Arc<Self>, dead: NodeId) {
        if !self.world.setup.takeover {
            return;
        }
        let Some((_, word)) = self.reign().filter(|(_, w)| w.reign.leader == dead) else { return };
        self.world.note(|| format!("n{} lost {:?}", self.id, word.reign));
        self.word(self.id, word);
        for to in self.world.nodes().filter(|n| *n != self.id && *n != dead) {
            let node = self.clone();
            drop(SimRuntime::spawn(async move {
                let from = node.id;
                let send = move |peer: Arc<Node>| async move {
                    peer.word(from, word);
                    Some(())
                };
                let _ = node.world.call(from, to, CALL, send).await; // then it waits for the lease
            }));
        }
    }

    /// The leader that this node follows, as openraft wants it back, and this node's word about it.
    fn reign(&self) -> Option<(TransferLeaderRequest<crate::types::C>, Word)> {
        let flushed = self.raft.watch_log_progress().get()?;
        if !flushed.vote.committed {
            return None;
        }
        let id = flushed.vote.leader_id;
        let end = |l: crate::types::LogId| LogEnd {
            term: l.leader_id.term,
            leader: l.leader_id.node_id,
            index: l.index,
        };
        let log = flushed.last_log_id.map(end).unwrap_or_default();
        let request = TransferLeaderRequest::new(flushed.vote, self.id, flushed.last_log_id);
        Some((request, Word { reign: Reign { term: id.term, leader: id.node_id }, log }))
    }

    /// A word came in.
    fn word(self: &Arc<Self>, from: NodeId, word: Word) {
        let now = self.machine.mono();
        self.brain().takeover.hear(from, word, now);
        drop(SimRuntime::spawn(self.clone().consider()));
    }

    async fn consider(self: Arc<Self>) {
        while self.alive() {
            self.world.gate(self.id).await;
            let Some((request, own)) = self.reign() else { return };
            let voters: Vec<NodeId> =
                self.raft.metrics().borrow_watched().membership_config.membership().voter_ids().collect();
            let now = self.machine.mono();
            let act = self.brain().takeover.act(own.reign, &voters, now);
            match act {
                Act::Nothing => return,
                Act::Wait(until) => self.world.sleep(until.since(now)).await,
                Act::Take => {
                    self.world.note(|| format!("n{} takes over from {:?}", self.id, own.reign));
                    let _ = self.raft.handle_transfer_leader(request).await; // a vote that has changed: another leads
                }
            }
        }
    }
}
