//! The cluster's timing changes while it runs.

use super::{
    cluster::{Cluster, run, write},
    support::PATIENCE,
};
use crate::Consensus;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
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

/// A client that writes one entry after another until told to stop, each within [`PATIENCE`].
struct Writer {
    written: Arc<AtomicU64>,
    /// Ends with the last index.
    task: JoinHandle<u64>,
}

impl Writer {
    fn on(consensus: Consensus, stop: Arc<AtomicBool>) -> Writer {
        let written = Arc::new(AtomicU64::new(0));
        let count = written.clone();
        let task = tokio::spawn(async move {
            let mut last = 0;
            while !stop.load(Relaxed) {
                match consensus.propose_within(write("all the time"), PATIENCE).await {
                    Ok((index, _)) => last = index,
                    Err(error) => {
                        panic!("write {} of node {}: {error}", count.load(Relaxed), consensus.node())
                    }
                }
                count.fetch_add(1, Relaxed);
            }
            last
        });
        Writer { written, task }
    }

    /// Waits until it has written twice more: the second of them began after this call.
    async fn goes_on(&self) {
        let want = self.written.load(Relaxed) + 2;
        let reached = async {
            while self.written.load(Relaxed) < want && !self.task.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("a client is stuck");
    }
}

#[test]
fn clients_that_write_all_the_time_see_no_error_over_changes_of_the_timing() {
    run(async {
        let cluster = Cluster::of(3).await;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = [1, 1, 2, 3].map(|node| Writer::on(cluster.node(node).clone(), stop.clone()));
        for timing in [Timing::Wan, Timing::Lan].repeat(3) {
            set(&cluster, timing).await;
            cluster.node(3).propose(write("under the new timing")).await.unwrap();
            for client in &clients {
                client.goes_on().await;
            }
        }
        stop.store(true, Relaxed);
        for client in clients {
            let last = client.task.await.expect("a client saw an error");
            cluster.agree(last).await;
        }
    });
}
