//! The cluster's timing changes while it runs.

use super::{
    cluster::{Cluster, run, write},
    support::PATIENCE,
};
use crate::Consensus;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use zonekeeper_core::{Command, Outcome, Proposal, entry::Timing};

async fn set(cluster: &Cluster, timing: Timing) -> u64 {
    let set = Proposal::by("test", Command::SetTiming(timing));
    let (index, outcome) = cluster.node(2).propose(set).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    let runs = |node| cluster.node(node).inner.raft().config().heartbeat_interval == timing.heartbeat_ms();
    let rebuilt = async {
        while !(1..=3).all(runs) {
            tokio::time::sleep(Duration::from_millis(10)).await
        }
    };
    tokio::time::timeout(PATIENCE, rebuilt).await.expect("raft was not rebuilt");
    index
}

#[test]
fn a_new_timing_rebuilds_raft_under_a_running_cluster() {
    run(async {
        let cluster = Cluster::of(3).await;
        let index = set(&cluster, Timing::Heartbeat { ms: 120 }).await;
        cluster.agree(index).await;
        let (index, _) = cluster.node(3).propose(write("under the new timing")).await.unwrap();
        cluster.agree(index).await;
    });
}

/// Writes one entry after another until told to stop, each within [`PATIENCE`]; how many, and the last index.
async fn write_on(consensus: Consensus, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut count, mut last) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match consensus.propose_within(write("all the time"), PATIENCE).await {
            Ok((index, _)) => last = index,
            Err(error) => panic!("write {count} of node {}: {error}", consensus.node()),
        }
        count += 1;
    }
    (count, last)
}

#[test]
fn clients_that_write_all_the_time_see_no_error_over_changes_of_the_timing() {
    run(async {
        let cluster = Cluster::of(3).await;
        let stop = Arc::new(AtomicBool::new(false));
        let client = |node| tokio::spawn(write_on(cluster.node(node).clone(), stop.clone()));
        let clients = [1, 1, 2, 3].map(client);
        for timing in [Timing::Wan, Timing::Lan].repeat(3) {
            set(&cluster, timing).await;
            for _ in 0..10 {
                cluster.node(3).propose(write("under the new timing")).await.unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (count, last) = client.await.expect("a client saw an error");
            assert!(count > 6, "{count} writes are too few to mean anything");
            cluster.agree(last).await;
        }
    });
}
