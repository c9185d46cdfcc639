//! A node without data: let in when it is new, and never under an id that the cluster knows.

use super::{
    cluster::{Cluster, run, write},
    support::PATIENCE,
};
use crate::{Lane, ProposeError, Role, wire::RaftCall};
use zonekeeper_core::{Command, Proposal, codec, entry::Cause};

#[test]
fn a_new_node_waits_to_be_let_in() {
    run(async {
        let cluster = Cluster::of(2).await;
        assert!(!cluster.node(1).is_fresh(), "it founded the cluster");
        assert!(!cluster.node(2).is_fresh(), "it was added");
    });
}

/// The wiped voter would make a majority with the leader that it forgot, or with a node that lacks what it confirmed.
#[test]
fn a_voter_that_lost_its_data_is_denied_and_the_others_go_on() {
    run(async {
        let mut cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let lost = if leader == 3 { 2 } else { 3 };
        let (index, _) = cluster.node(leader).propose(write("before")).await.unwrap();
        cluster.agree(index).await;
        cluster.stop(lost).await;
        cluster.wipe(lost);
        cluster.start(lost).await;
        let mut failed = cluster.node(lost).failed();
        let why = tokio::time::timeout(PATIENCE, failed.wait_for(Option::is_some)).await;
        let why = why.expect("it was not denied").unwrap().clone().unwrap();
        assert!(why.contains(&format!("member remove {lost} --yes")), "{why}");
        assert!(cluster.node(lost).is_fresh());
        assert_eq!(cluster.node(lost).status().last_log, 0, "it took nothing");
        cluster.node(leader).propose(write("after")).await.unwrap();
        assert_ne!(cluster.node(leader).status().role, Role::Stopped);
    });
}

/// With the wiped node's vote there would be a majority; without it there is none, and nothing is written.
#[test]
fn a_voter_that_lost_its_data_makes_no_majority() {
    run(async {
        let mut cluster = Cluster::of(3).await;
        cluster.stop(1).await;
        cluster.stop(3).await;
        cluster.wipe(3);
        cluster.start(3).await;
        let short = std::time::Duration::from_secs(3);
        let written = cluster.node(2).propose_within(write("nobody confirms this"), short).await;
        assert!(written.is_err(), "{written:?}");
        assert!(cluster.node(3).is_fresh());
        cluster.start(1).await;
        let (index, _) = cluster.node(2).propose(write("a majority is back")).await.unwrap();
        assert!(index > 0);
    });
}

#[test]
fn a_learner_that_lost_its_data_is_denied_by_the_leader_that_fed_it() {
    run(async {
        let mut cluster = Cluster::of(2).await;
        let leader = cluster.leader().await;
        let learner = 3 - leader;
        cluster.node(leader).demote(learner, PATIENCE).await.unwrap();
        cluster.stop(learner).await;
        cluster.wipe(learner);
        cluster.start(learner).await;
        let mut failed = cluster.node(learner).failed();
        let denied = tokio::time::timeout(PATIENCE, failed.wait_for(Option::is_some)).await.map(drop); // its lock
        assert!(denied.is_ok(), "it was not denied");
        cluster.node(leader).propose(write("after")).await.unwrap();
    });
}

#[test]
fn a_node_speaks_for_itself_alone() {
    run(async {
        let cluster = Cluster::of(2).await;
        let node = cluster.node(1);
        let vote = openraft::impls::Vote::new(99, 7);
        let call = RaftCall::Vote(openraft::raft::VoteRequest::new(vote, None));
        let refused = node.handler().handle(2, Lane::Raft, codec::bytes(&call)).await.unwrap_err();
        assert_eq!(refused, "node 2 speaks in the name of node 7");
        assert!(node.status().term < 99);
    });
}

#[test]
fn automation_is_not_taken_from_another_node() {
    run(async {
        let cluster = Cluster::of(2).await;
        let leader = cluster.leader().await;
        let proposal = Proposal { reads: Vec::new(), cause: Cause::Automation, command: Command::Tick };
        let forged = cluster.node(3 - leader).propose(proposal.clone()).await;
        assert!(
            matches!(&forged, Err(ProposeError::Refused(why)) if why.contains("automation")),
            "{forged:?}"
        );
        cluster.node(leader).propose_as_leader(proposal, PATIENCE).await.unwrap();
    });
}
