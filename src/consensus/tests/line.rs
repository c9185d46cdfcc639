//! The line between the nodes of a test cluster.

use crate::{
    Transport, TransportError,
    wire::{self, BulkCall, BulkReply, RaftCall},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use zonekeeper_core::id::NodeId;
use zonekeeper_peer::{BoxFuture, Lane, Peers};

/// What went from node to node, and what is to go wrong there.
#[derive(Default)]
pub(super) struct Traffic(pub(super) Mutex<Seen>);

#[derive(Default)]
pub(super) struct Seen {
    /// How many requests went over the lane Control.
    pub(super) control: u64,
    /// What receivers answered to offers: where they want to go on.
    pub(super) offers: Vec<u64>,
    /// Offsets of the chunks that were sent.
    pub(super) chunks: Vec<u64>,
    /// Numbers of chunks whose answer is lost.
    pub(super) unanswered: Vec<usize>,
    /// Numbers of chunks that never arrive.
    pub(super) undelivered: Vec<usize>,
    /// Nodes that do not hear what the others say to their candidacy.
    pub(super) unheard: BTreeSet<NodeId>,
    /// Nodes that are cut off from all others, and not from each other.
    pub(super) cut: BTreeSet<NodeId>,
    /// The line to a node carries so many bytes a second of log and snapshots, and is busy until then: what the sender
    /// has given up is on it all the same.
    pub(super) thin: Option<(NodeId, u32, Instant)>,
    /// Bytes that the thin line has carried.
    pub(super) carried: usize,
}

impl Seen {
    /// When so many bytes have gone through to a node.
    fn through(&mut self, to: NodeId, bytes: usize) -> Instant {
        let now = Instant::now();
        match &mut self.thin {
            Some((node, rate, busy)) if *node == to => {
                self.carried += bytes;
                *busy = now.max(*busy) + Duration::from_secs(bytes as u64) / *rate;
                *busy
            }
            _ => now,
        }
    }
}

/// The real transport, with an eye on it and a finger on the lane of snapshots.
pub(super) struct Line {
    pub(super) node: NodeId,
    pub(super) peers: Arc<Peers>,
    pub(super) traffic: Arc<Traffic>,
}

impl Transport for Line {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        let through = {
            let mut seen = self.traffic.0.lock().unwrap();
            if seen.cut.contains(&self.node) != seen.cut.contains(&to) {
                let why = TransportError::Unreachable("the test has cut the line".into());
                return Box::pin(std::future::ready(Err(why)));
            }
            seen.control += u64::from(lane == Lane::Control);
            if lane == Lane::Heartbeat { Instant::now() } else { seen.through(to, request.len()) }
        };
        Box::pin(async move {
            let slow = through.duration_since(Instant::now());
            tokio::time::sleep(slow.min(deadline)).await;
            if slow > deadline {
                return Err(TransportError::Lost("the line is too thin for that".into()));
            }
            if lane != Lane::Bulk {
                let candidate = lane == Lane::Raft
                    && matches!(wire::decode(&request), Ok(RaftCall::Vote(_) | RaftCall::PreVote(_)));
                let reply = Transport::call(&*self.peers, to, lane, request, deadline - slow).await;
                return match candidate && self.traffic.0.lock().unwrap().unheard.contains(&self.node) {
                    true => Err(TransportError::Lost("the test has lost the answer".into())),
                    false => reply,
                };
            }
            let call: BulkCall = wire::decode(&request).unwrap();
            let cut = || Err(TransportError::Lost("the test has cut the line".into()));
            let number = self.traffic.0.lock().unwrap().chunks.len();
            if let BulkCall::Chunk { offset, .. } = call {
                let mut seen = self.traffic.0.lock().unwrap();
                seen.chunks.push(offset);
                if seen.undelivered.contains(&number) {
                    return cut();
                }
            }
            let reply = Transport::call(&*self.peers, to, lane, request, deadline).await?;
            let mut seen = self.traffic.0.lock().unwrap();
            match (call, wire::decode(&reply)) {
                (BulkCall::Offer(_), Ok(BulkReply::Have(offset))) => seen.offers.push(offset),
                (BulkCall::Chunk { .. }, _) if seen.unanswered.contains(&number) => return cut(),
                _ => {}
            }
            Ok(reply)
        })
    }
}
