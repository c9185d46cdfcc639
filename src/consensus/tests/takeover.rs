//! A leader whose process is gone is replaced before its lease has run out.

use super::{
    cluster::{Cluster, run, write},
    support::PATIENCE,
};
use crate::Role;
use std::time::{Duration, Instant};
use zonekeeper_core::entry::Timing;

/// So slow that on any machine the way over the lease (5 heartbeats and an election) takes longer than the other.
const SLOW: Timing = Timing::Heartbeat { ms: 4_000 };
const LEASE: Duration = Duration::from_secs(20);

#[test]
fn the_survivors_replace_a_leader_that_the_network_calls_dead() {
    run(async {
        let mut cluster = Cluster::under(SLOW, 3).await;
        let (index, _) = cluster.node(1).propose(write("before")).await.unwrap();
        cluster.agree(index).await;
        cluster.stop(1).await;
        let at = Instant::now();
        cluster.node(3).process_gone(1);
        cluster.node(2).process_gone(1);
        let (index, _) = cluster.node(3).propose(write("after")).await.unwrap();
        assert!(at.elapsed() < LEASE / 2, "{:?}", at.elapsed());
        assert_eq!(cluster.node(2).status().leader, Some(2), "the lowest id of equal logs");
        cluster.agree(index).await;
    });
}

#[test]
fn one_voter_of_three_replaces_nobody_and_two_that_are_wrong_cost_an_election() {
    run(async {
        let cluster = Cluster::under(SLOW, 3).await;
        let (index, _) = cluster.node(1).propose(write("before")).await.unwrap();
        cluster.agree(index).await;
        let term = cluster.node(1).status().term;
        cluster.node(3).process_gone(1);
        cluster.node(2).process_gone(3); // who does not lead is not replaced
        cluster.node(1).process_gone(1);
        let (index, _) = cluster.node(2).propose(write("goes on")).await.unwrap();
        cluster.agree(index).await; // the better log leads
        assert_eq!(cluster.node(1).status().term, term);
        cluster.node(2).process_gone(1);
        // a write before it leads would make the old leader's log the better one
        let mut status = cluster.node(2).watch_status();
        let leads =
            tokio::time::timeout(PATIENCE, status.wait_for(|s| s.role == Role::Leader)).await.map(drop);
        assert!(leads.is_ok(), "{:?}", cluster.node(2).status());
        let (index, _) = cluster.node(1).propose(write("after")).await.unwrap();
        cluster.agree(index).await;
        assert_eq!(cluster.node(1).status().term, term + 1);
    });
}
