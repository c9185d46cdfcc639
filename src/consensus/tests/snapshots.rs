//! A node that was away for long gets a snapshot.

use super::{
    cluster::{Cluster, run, write},
    import,
    support::PATIENCE,
};
use crate::{
    Transport, TransportError,
    wire::{self, BulkCall, BulkReply},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use zonekeeper_core::{
    Command, Outcome, Proposal,
    entry::{Duty, Member, Timing},
    id::NodeId,
};
use zonekeeper_peer::{BoxFuture, Lane, Peers};

/// The leader stays whatever else this machine does: another one would still have its log and need no snapshot.
const CALM: Timing = Timing::Global;

/// What went over the lanes of snapshots, and what goes wrong there.
#[derive(Default)]
pub(super) struct Bulk(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// What receivers answered to offers: where they want to go on.
    offers: Vec<u64>,
    /// Offsets of the chunks that were sent.
    chunks: Vec<u64>,
    /// Numbers of chunks whose answer is lost.
    unanswered: Vec<usize>,
    /// Numbers of chunks that never arrive.
    undelivered: Vec<usize>,
}

/// The real transport, with an eye and a finger on the lane of snapshots.
pub(super) struct Line {
    pub(super) peers: Arc<Peers>,
    pub(super) bulk: Arc<Bulk>,
}

impl Transport for Line {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        if lane != Lane::Bulk {
            return Transport::call(&*self.peers, to, lane, request, deadline);
        }
        Box::pin(async move {
            let call: BulkCall = wire::decode(&request).unwrap();
            let cut = || Err(TransportError::Lost("the test has cut the line".into()));
            let number = self.bulk.0.lock().unwrap().chunks.len();
            if let BulkCall::Chunk { offset, .. } = call {
                let mut seen = self.bulk.0.lock().unwrap();
                seen.chunks.push(offset);
                if seen.undelivered.contains(&number) {
                    return cut();
                }
            }
            let reply = Transport::call(&*self.peers, to, lane, request, deadline).await?;
            let mut seen = self.bulk.0.lock().unwrap();
            match (call, wire::decode(&reply)) {
                (BulkCall::Offer(_), Ok(BulkReply::Have(offset))) => seen.offers.push(offset),
                (BulkCall::Chunk { .. }, _) if seen.unanswered.contains(&number) => return cut(),
                _ => {}
            }
            Ok(reply)
        })
    }
}

/// The leader's log begins behind a snapshot of all that it has; the index of an entry after it.
async fn leave_behind(cluster: &Cluster, leader: NodeId) -> u64 {
    let consensus = cluster.node(leader).clone();
    consensus.snapshot().await;
    let raft = consensus.inner.raft();
    let built = raft.wait(Some(PATIENCE)).metrics(|m| m.snapshot.is_some(), "a snapshot").await.unwrap();
    let upto = built.snapshot.unwrap().index;
    raft.trigger().purge_log(upto).await.unwrap();
    let purged = |m: &openraft::RaftMetrics<_>| m.purged.is_some_and(|p| p.index >= upto);
    raft.wait(Some(PATIENCE)).metrics(purged, "a purged log").await.unwrap();
    consensus.propose(write("behind the snapshot")).await.unwrap().0
}

#[test]
fn a_node_that_was_away_for_long_gets_a_snapshot() {
    run(async {
        let mut cluster = Cluster::under(CALM, 3).await;
        cluster.stop(3).await;
        let leader = cluster.leader().await;
        // More than a batch of replication: that much may be on its way to the node in memory.
        for number in 0..100 {
            let member = Member {
                site: "x".repeat(60).parse().unwrap(),
                duty: Duty::Witness,
                peer: SocketAddr::from(([127, 0, 0, 2], 1000 + number)),
                admin: None,
            };
            let put = Proposal::by("test", Command::PutMember(100 + u64::from(number), member));
            cluster.node(leader).propose(put).await.unwrap();
        }
        let index = leave_behind(&cluster, leader).await;
        cluster.start(3).await;
        cluster.agree(index).await;
        assert!(cluster.nodes[&3].heard.0.lock().unwrap().iter().any(|batch| batch.replaced));
        // And it starts again from that snapshot.
        cluster.node(3).sync_watermark(index).await.unwrap();
        cluster.stop(3).await;
        cluster.start(3).await;
        assert!(cluster.nodes[&3].opened.1 >= index);
        cluster.agree(index).await;
    });
}

#[test]
fn a_snapshot_of_many_chunks_goes_on_where_the_line_was_cut() {
    const PARTS: u32 = 60;
    run(async {
        let mut cluster = Cluster::under(CALM, 3).await;
        cluster.stop(3).await;
        let leader = cluster.leader().await;
        for command in [import::zone()].into_iter().chain(import::staged(PARTS)) {
            let (_, outcome) = cluster.node(leader).propose(Proposal::by("import", command)).await.unwrap();
            assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        }
        {
            let mut seen = cluster.bulk.0.lock().unwrap();
            (seen.unanswered, seen.undelivered) = (vec![2], vec![5]);
        }
        let index = leave_behind(&cluster, leader).await;
        cluster.start(3).await;
        cluster.agree(index).await;
        assert_eq!(import::visible(&cluster.node(3).state()), import::whole(PARTS));
        let seen = cluster.bulk.0.lock().unwrap();
        let chunk = seen.chunks[1];
        // The chunk whose answer was lost had arrived; the one that did not arrive was sent again.
        assert_eq!(seen.offers, [0, 3 * chunk, 5 * chunk], "{:?}", seen.chunks);
        let sent: Vec<u64> = seen.chunks.iter().map(|offset| offset / chunk).collect();
        assert_eq!(sent[..8], [0, 1, 2, 3, 4, 5, 5, 6]);
        assert!(sent[8..].iter().zip(7..).all(|(sent, number)| *sent == number), "{sent:?}");
    });
}
