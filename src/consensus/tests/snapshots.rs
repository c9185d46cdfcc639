//! A node that was away for long gets a snapshot.

use super::{
    cluster::{Cluster, run, write},
    import,
    support::PATIENCE,
};
use crate::ProposeError;
use std::net::SocketAddr;
use zonekeeper_core::{
    Command, Outcome, Proposal,
    entry::{Duty, Member, Timing},
    id::NodeId,
};

/// The leader stays whatever else this machine does: another one would still have its log and need no snapshot.
const CALM: Timing = Timing::Global;

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
                version: 1,
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
            let mut seen = cluster.traffic.0.lock().unwrap();
            (seen.unanswered, seen.undelivered) = (vec![2], vec![5]);
        }
        let index = leave_behind(&cluster, leader).await;
        cluster.start(3).await;
        cluster.agree(index).await;
        assert_eq!(import::visible(&cluster.node(3).state()), import::whole(PARTS));
        let left = std::fs::read_dir(cluster.base.path().join("3").join("snapshots")).unwrap();
        assert!(left.flatten().all(|file| file.path().extension().is_some_and(|e| e == "zks")));
        let seen = cluster.traffic.0.lock().unwrap();
        let chunk = seen.chunks[1];
        // The chunk whose answer was lost had arrived; the one that did not arrive was sent again.
        assert_eq!(seen.offers, [0, 3 * chunk, 5 * chunk], "{:?}", seen.chunks);
        let sent: Vec<u64> = seen.chunks.iter().map(|offset| offset / chunk).collect();
        assert_eq!(sent[..8], [0, 1, 2, 3, 4, 5, 5, 6]);
        assert!(sent[8..].iter().zip(7..).all(|(sent, number)| *sent == number), "{sent:?}");
    });
}

#[test]
fn a_snapshot_that_cannot_be_written_stops_the_writing_and_says_so() {
    run(async {
        let cluster = Cluster::of(1).await;
        let mut failed = cluster.node(1).failed();
        std::fs::remove_dir_all(cluster.base.path().join("1").join("snapshots")).unwrap();
        cluster.node(1).snapshot().await;
        let told = tokio::time::timeout(PATIENCE, failed.wait_for(Option::is_some)).await;
        let told = told.expect("nobody was told").unwrap().clone();
        assert!(
            told.is_some_and(|text| text.contains("raft has broken down") && text.contains("Free space"))
        );
        let refused = cluster.node(1).propose(write("too late")).await;
        assert!(matches!(refused, Err(ProposeError::Stopped(_))), "{refused:?}");
        let read = cluster.node(1).read_index(PATIENCE).await;
        assert!(matches!(read, Err(ProposeError::Stopped(_))), "nothing is linearizable there: {read:?}");
        assert!(cluster.node(1).status().stopped.is_some());
        assert_ne!(cluster.node(1).state().cluster, 0);
    });
}
