//! A node that was away for long gets a snapshot.

use super::{
    cluster::{Cluster, run, write},
    import,
    support::PATIENCE,
};
use crate::ProposeError;
use std::{net::SocketAddr, time::Instant};
use zonekeeper_core::{
    Command, Outcome, Proposal,
    entry::{Duty, Member, Timing},
};

/// The leader stays whatever else this machine does: another one would still have its log and need no snapshot.
const CALM: Timing = Timing::Global;

/// The leader's log begins behind a snapshot of all that it has; the index of an entry after it.
async fn leave_behind(cluster: &Cluster) -> u64 {
    for _ in 0..10 {
        let leader = cluster.leader().await;
        let consensus = cluster.node(leader).clone();
        consensus.snapshot().await;
        let raft = consensus.inner.raft();
        let built = raft.wait(Some(PATIENCE)).metrics(|m| m.snapshot.is_some(), "a snapshot").await.unwrap();
        let upto = built.snapshot.unwrap().index;
        raft.trigger().purge_log(upto).await.unwrap();
        let purged = |m: &openraft::RaftMetrics<_>| m.purged.is_some_and(|p| p.index >= upto);
        let over = |m: &openraft::RaftMetrics<_>| purged(m) || m.current_leader != Some(m.id);
        let seen = raft.wait(Some(PATIENCE)).metrics(over, "a purged log").await.unwrap();
        // a busy machine may have made another one the leader, which has all of its log
        if purged(&seen) && seen.current_leader == Some(leader) {
            return consensus.propose(write("behind the snapshot")).await.unwrap().0;
        }
    }
    panic!("leadership moves all the time");
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
        let index = leave_behind(&cluster).await;
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
        let index = leave_behind(&cluster).await;
        cluster.start(3).await;
        cluster.agree(index).await;
        assert_eq!(import::visible(&cluster.node(3).state()), import::whole(PARTS));
        let left = std::fs::read_dir(cluster.base.path().join("3").join("snapshots")).unwrap();
        assert!(left.flatten().all(|file| file.path().extension().is_some_and(|e| e == "zks")));
        let seen = cluster.traffic.0.lock().unwrap();
        let chunks = &seen.chunks;
        // The chunk whose answer was lost had arrived; the one that did not arrive was sent again, and nothing else was.
        assert_eq!(seen.offers, [0, chunks[3], chunks[5]], "{chunks:?}");
        assert_eq!(chunks[5], chunks[6]);
        assert!(
            chunks.len() > 8
                && [&chunks[..6], &chunks[6..]].iter().all(|part| part.is_sorted_by(|a, b| a < b)),
            "{chunks:?}"
        );
    });
}

/// Log or snapshot: 3 MiB for node 3 over 10 Mbit/s, under the timing of a LAN.
async fn over_a_thin_line(by_snapshot: bool) {
    const PARTS: u32 = 48;
    let mut cluster = Cluster::of(3).await;
    cluster.stop(3).await;
    let leader = cluster.leader().await;
    for command in [import::zone()].into_iter().chain(import::staged(PARTS)) {
        let (_, outcome) = cluster.node(leader).propose(Proposal::by("import", command)).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }
    let index = match by_snapshot {
        true => leave_behind(&cluster).await,
        false => cluster.node(leader).propose(write("the last")).await.unwrap().0,
    };
    cluster.traffic.0.lock().unwrap().thin = Some((3, 1_250_000, Instant::now()));
    let at = Instant::now();
    cluster.start(3).await;
    cluster.agree(index).await;
    let carried = cluster.traffic.0.lock().unwrap().carried;
    eprintln!("{carried} bytes in {:?}", at.elapsed());
    assert_eq!(import::visible(&cluster.node(3).state()), import::whole(PARTS));
    let size = PARTS as usize * (63 << 10);
    assert!(
        (size * 7 / 8..size * 5 / 4).contains(&carried),
        "{carried} bytes for {size}: sent again and again"
    );
}

#[test]
fn a_thin_line_carries_a_large_log_once() {
    run(over_a_thin_line(false));
}

#[test]
fn a_thin_line_carries_a_snapshot_once() {
    run(over_a_thin_line(true));
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
