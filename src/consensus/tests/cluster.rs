//! Nodes with real stores and real mutual TLS on loopback, in one process.

use super::{
    line::{Line, Traffic},
    support::PATIENCE,
};
use crate::{Applied, Consensus, ProposeError, Role, Sink};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use zonekeeper_core::{
    Command, Outcome, Proposal,
    entry::{Duty, Init, Member, Timing},
    id::NodeId,
};
use zonekeeper_peer::{Lane, PeerConfig, Peers, keys::Ca};

const CLUSTER: u128 = 0x5a;

/// What a node's sink heard.
#[derive(Default)]
pub(super) struct Heard(pub(super) Mutex<Vec<Applied>>);

impl Sink for Heard {
    fn applied(&self, batch: Applied) {
        self.0.lock().unwrap().push(batch);
    }
}

pub(super) struct Running {
    pub(super) consensus: Consensus,
    peers: Arc<Peers>,
    pub(super) heard: Arc<Heard>,
    /// State and index as they were before Raft ran.
    pub(super) opened: (u128, u64),
}

pub(super) struct Cluster {
    pub(super) base: TempDir,
    ca: Ca,
    addrs: BTreeMap<NodeId, SocketAddr>,
    pub(super) nodes: BTreeMap<NodeId, Running>,
    /// All that goes from node to node.
    pub(super) traffic: Arc<Traffic>,
    timing: Timing,
}

pub(super) fn write(author: &str) -> Proposal {
    Proposal::by(author, Command::Tick)
}

fn init(timing: Timing) -> Proposal {
    Proposal::by("test", Command::Init(Init { cluster: CLUSTER, version: 1, timing }))
}

impl Cluster {
    /// A cluster that finds a new leader soon.
    pub(super) async fn of(voters: u64) -> Cluster {
        Cluster::under(Timing::Lan, voters).await
    }

    /// Node 1 alone, leading, with its first entry; then the others as voters.
    pub(super) async fn under(timing: Timing, voters: u64) -> Cluster {
        let listeners: BTreeMap<_, _> =
            (1..=voters).map(|node| (node, TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        let addrs = listeners.iter().map(|(node, l)| (*node, l.local_addr().unwrap())).collect();
        let mut cluster = Cluster {
            base: TempDir::new().unwrap(),
            ca: Ca::create(CLUSTER).unwrap(),
            addrs,
            nodes: BTreeMap::new(),
            traffic: Arc::default(),
            timing,
        };
        for (node, listener) in listeners {
            cluster.start_on(node, listener).await;
        }
        let first = cluster.node(1);
        let member = Member {
            site: "a".parse().unwrap(),
            duty: Duty::Full,
            peer: cluster.addrs[&1],
            admin: None,
            version: 1,
        };
        first.bootstrap(&member, PATIENCE).await.unwrap();
        let (_, outcome) = first.propose(init(timing)).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        for node in 2..=voters {
            first.add_learner(node, cluster.addrs[&node], PATIENCE).await.unwrap();
            first.promote(node, PATIENCE).await.unwrap();
        }
        cluster
    }

    pub(super) async fn start(&mut self, node: NodeId) {
        let listener = TcpListener::bind(self.addrs[&node]).unwrap();
        self.start_on(node, listener).await;
    }

    async fn start_on(&mut self, node: NodeId, listener: TcpListener) {
        let credentials = self.ca.issue(node, &"a".parse().unwrap(), Duration::from_secs(3600)).unwrap();
        let peers = Arc::new(Peers::start(PeerConfig::new(credentials, Some(listener))).unwrap());
        peers.set_peers(self.addrs.clone());
        let opened = Consensus::open(&self.base.path().join(node.to_string()), node, Some(CLUSTER)).unwrap();
        opened.claim(CLUSTER).await.unwrap();
        let before = (opened.state().hash(), opened.index());
        let timing = if opened.is_empty() { self.timing } else { opened.state().timing };
        let heard = Arc::new(Heard::default());
        let line = Arc::new(Line { node, peers: peers.clone(), traffic: self.traffic.clone() });
        let consensus = opened.start(line, timing, heard.clone()).await.unwrap();
        for lane in [Lane::Heartbeat, Lane::Raft, Lane::Bulk, Lane::Control] {
            peers.set_handler(lane, consensus.handler());
        }
        self.nodes.insert(node, Running { consensus, peers, heard, opened: before });
    }

    pub(super) async fn stop(&mut self, node: NodeId) {
        let running = self.nodes.remove(&node).unwrap();
        running.consensus.shutdown().await;
        running.peers.shutdown().await;
    }

    /// The disk of a stopped node is lost.
    pub(super) fn wipe(&self, node: NodeId) {
        std::fs::remove_dir_all(self.base.path().join(node.to_string())).unwrap();
    }

    pub(super) fn node(&self, node: NodeId) -> &Consensus {
        &self.nodes[&node].consensus
    }

    pub(super) async fn leader(&self) -> NodeId {
        let mut nodes = self.nodes.values().cycle();
        let found = async {
            loop {
                let status = nodes.next().unwrap().consensus.status();
                if status.role == Role::Leader && status.leads(1000) {
                    return status.node;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("no leader")
    }

    /// All running nodes have applied `index`, and hold the same state when they are at the same index.
    pub(super) async fn agree(&self, index: u64) {
        let mut hashes = BTreeMap::new();
        for (node, running) in &self.nodes {
            let mut applied = running.consensus.watch_applied();
            let reached = tokio::time::timeout(PATIENCE, applied.wait_for(|a| *a >= index)).await.is_ok();
            assert!(reached, "node {node}: {:?}", running.consensus.status());
            let state = running.consensus.state();
            let hash = state.hash();
            assert_eq!(
                *hashes.entry(state.generation).or_insert(hash),
                hash,
                "node {node} at {}",
                state.generation.index
            );
        }
    }
}

pub(super) fn run(test: impl Future<Output = ()>) {
    super::support::runtime().block_on(test);
}

#[test]
fn a_follower_forwards_writes_and_reads_what_was_written() {
    run(async {
        let cluster = Cluster::of(3).await;
        let (index, outcome) = cluster.node(3).propose(write("through a follower")).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)));
        for node in 1..=3 {
            assert!(cluster.node(node).read_index(PATIENCE).await.unwrap() >= index);
            assert!(cluster.node(node).state().generation.index >= index);
        }
        cluster.agree(index).await;
        let status = cluster.node(2).status();
        assert_eq!(status.voters.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((status.leader, status.role), (Some(1), Role::Follower));
        assert!(status.leader_heard_ms.is_some_and(|ms| ms < 5000), "{status:?}");
        // The sink heard each index once, in order, up to the write.
        let heard = cluster.nodes[&2].heard.0.lock().unwrap();
        assert!(heard.windows(2).all(|w| w[0].index < w[1].index));
        assert!(heard.iter().any(|batch| batch.deltas.iter().any(|delta| delta.index == index)));
    });
}

#[test]
fn an_entry_that_is_too_large_is_refused_with_the_way_to_send_it() {
    run(async {
        let cluster = Cluster::of(1).await;
        let error = cluster.node(1).propose(super::support::proposal(1, 70_000)).await.unwrap_err();
        assert!(matches!(error, ProposeError::TooLarge(_)) && error.to_string().contains("stage"), "{error}");
        let led = cluster.node(1).propose_as_leader(super::support::proposal(1, 70_000), PATIENCE).await;
        assert!(matches!(led, Err(ProposeError::TooLarge(_))), "{led:?}");
    });
}

#[test]
fn without_a_quorum_nothing_is_claimed_and_the_state_is_still_there() {
    run(async {
        let mut cluster = Cluster::of(3).await;
        cluster.stop(2).await;
        cluster.stop(3).await;
        let short = Duration::from_millis(1500);
        let error = cluster.node(1).propose_within(write("alone"), short).await.unwrap_err();
        assert!(matches!(
            error,
            ProposeError::Unknown(_) | ProposeError::NoLeader | ProposeError::NotLeader { .. }
        ));
        assert!(cluster.node(1).read_index(short).await.is_err());
        assert_eq!(cluster.node(1).state().cluster, CLUSTER);
        let mut status = cluster.node(1).watch_status();
        let nobody = tokio::time::timeout(PATIENCE, status.wait_for(|s| s.leader.is_none())).await.map(drop);
        assert!(nobody.is_ok(), "a node that nobody follows is not shown as the leader");
    });
}

/// Without a quorum openraft's leader goes on speaking now and then to those on its side of the cut.
#[test]
fn a_minority_with_the_leader_in_it_knows_its_age() {
    run(async {
        let cluster = Cluster::of(5).await;
        let leader = cluster.leader().await;
        let follower = if leader == 1 { 2 } else { 1 };
        cluster.traffic.0.lock().unwrap().cut = [leader, follower].into();
        for node in [leader, follower] {
            let mut status = cluster.node(node).watch_status();
            let old = status.wait_for(|s| s.quorum_age_ms.is_some_and(|ms| ms > 3000) && s.leader.is_none());
            let seen = tokio::time::timeout(PATIENCE, old).await.map(drop);
            assert!(seen.is_ok(), "node {node} takes itself for fresh: {:?}", cluster.node(node).status());
        }
        cluster.traffic.0.lock().unwrap().cut.clear();
        let fresh = |s: &crate::Status| s.quorum_age_ms.is_some_and(|ms| ms < 1000) && s.leader.is_some();
        let mut status = cluster.node(follower).watch_status();
        assert!(
            tokio::time::timeout(PATIENCE, status.wait_for(fresh)).await.is_ok(),
            "{:?}",
            *status.borrow()
        );
    });
}

#[test]
fn a_write_that_waits_for_a_leader_asks_now_and_then() {
    run(async {
        // An election takes seconds here, and until then the follower holds on to the leader that is gone.
        let mut cluster = Cluster::under(Timing::Heartbeat { ms: 1000 }, 2).await;
        cluster.stop(1).await;
        cluster.traffic.0.lock().unwrap().control = 0;
        let short = Duration::from_secs(1);
        cluster.node(2).propose_within(write("to nobody"), short).await.unwrap_err();
        let asked = cluster.traffic.0.lock().unwrap().control;
        assert!((1..=25).contains(&asked), "asked {asked} times in a second");
    });
}

#[test]
fn the_others_go_on_when_the_leader_stops_and_it_returns_with_what_it_had_published() {
    run(async {
        let mut cluster = Cluster::of(3).await;
        let (index, _) = cluster.node(1).propose(write("before")).await.unwrap();
        cluster.node(1).sync_watermark(index).await.unwrap();
        let hash = cluster.node(1).state().hash();
        cluster.stop(1).await;
        let (after, _) = cluster.node(2).propose(write("after")).await.unwrap();
        cluster.start(1).await;
        // Before it has heard anybody.
        let (opened, at) = cluster.nodes[&1].opened;
        assert!(at > index || (at, opened) == (index, hash), "opened at {at}, published {index}");
        cluster.agree(after).await;
    });
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_unseating_the_leader() {
    run(async {
        let cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let (away, term) = (1 + leader % 3, cluster.node(leader).status().term);
        cluster.traffic.0.lock().unwrap().cut = [away].into();
        let mut status = cluster.node(away).watch_status();
        let alone = tokio::time::timeout(PATIENCE, status.wait_for(|s| s.leader.is_none())).await.map(drop);
        assert!(alone.is_ok(), "it never missed its leader");
        // ten elections long it asks for votes that it cannot get
        tokio::time::sleep(Duration::from_millis(10 * crate::election_max_ms(Timing::Lan))).await;
        cluster.traffic.0.lock().unwrap().cut.clear();
        let (index, _) = cluster.node(leader).propose(write("while it comes back")).await.unwrap();
        cluster.agree(index).await;
        let now = cluster.node(leader).status();
        assert_eq!((now.term, now.leader), (term, Some(leader)), "the leader was unseated");
        assert_eq!(cluster.node(away).status().term, term, "it began elections that it could not win");
    });
}

#[test]
fn a_whole_cluster_restarts_from_disk() {
    run(async {
        let mut cluster = Cluster::of(3).await;
        let (index, _) = cluster.node(1).propose(write("kept")).await.unwrap();
        for node in 1..=3 {
            cluster.stop(node).await;
        }
        for node in 1..=3 {
            cluster.start(node).await;
        }
        assert!(cluster.node(2).read_index(PATIENCE).await.unwrap() >= index);
        cluster.agree(index).await;
        assert_eq!(cluster.node(3).state().cluster, CLUSTER);
    });
}

/// A leader that is new has heard from nobody yet, which says nothing of whom it is to hand over to.
#[test]
fn leadership_that_has_just_moved_moves_on() {
    run(async {
        let cluster = Cluster::of(3).await;
        for turn in 1..=12 {
            let to = 1 + turn % 3;
            cluster.node(1).transfer_leader(to, PATIENCE).await.unwrap();
        }
    });
}

/// The one that is to take over campaigns and is not elected: the old leader is again, then a third one.
#[test]
fn leadership_goes_where_it_was_sent_though_another_was_elected() {
    run(async {
        let cluster = Cluster::of(3).await;
        for unheard in [[2, 3], [1, 2]] {
            cluster.node(1).transfer_leader(1, PATIENCE).await.unwrap();
            cluster.traffic.0.lock().unwrap().unheard = unheard.into();
            let term = cluster.node(3).status().term;
            let transfer = cluster.node(3).transfer_leader(2, PATIENCE);
            let heard = async {
                let mut status = cluster.node(3).watch_status();
                let elected = status.wait_for(|s| s.term > term && s.leader.is_some());
                assert!(tokio::time::timeout(PATIENCE, elected).await.is_ok(), "a leader in a new term");
                cluster.traffic.0.lock().unwrap().unheard.clear();
            };
            let (transferred, ()) = tokio::join!(transfer, heard);
            transferred.unwrap();
            assert_eq!(cluster.leader().await, 2);
        }
    });
}

#[test]
fn a_leader_that_is_new_hands_over_before_it_leaves() {
    run(async {
        let cluster = Cluster::of(3).await;
        cluster.node(1).transfer_leader(2, PATIENCE).await.unwrap();
        cluster.node(2).demote(2, PATIENCE).await.unwrap();
        let mut status = cluster.node(2).watch_status();
        let left = status.wait_for(|s| s.role == Role::Learner && s.learners.contains_key(&2));
        assert!(tokio::time::timeout(PATIENCE, left).await.is_ok(), "{:?}", cluster.node(2).status());
        cluster.node(2).propose(write("through another one")).await.unwrap();
    });
}

#[test]
fn a_leader_that_was_cut_off_is_not_taken_at_its_word() {
    run(async {
        let cluster = Cluster::of(3).await;
        let old = cluster.leader().await;
        cluster.traffic.0.lock().unwrap().cut = [old].into();
        let mut status = cluster.node(1 + old % 3).watch_status();
        let next = status.wait_for(|s| s.leader.is_some_and(|leader| leader != old));
        assert!(tokio::time::timeout(PATIENCE, next).await.is_ok(), "the others elect a leader");
        let asked = cluster.node(old).transfer_leader(old, Duration::from_millis(300)).await;
        assert!(asked.is_err(), "it still takes itself for the leader: {asked:?}");
        cluster.traffic.0.lock().unwrap().cut.clear();
        cluster.node(old).transfer_leader(old, PATIENCE).await.unwrap();
        assert_eq!(cluster.leader().await, old);
    });
}

#[test]
fn leadership_moves_on_request_and_members_leave_the_leader_included() {
    run(async {
        let cluster = Cluster::of(3).await;
        cluster.node(1).transfer_leader(2, PATIENCE).await.unwrap();
        assert_eq!(cluster.leader().await, 2);
        cluster.node(1).propose(write("after the transfer")).await.unwrap();
        // Asked of a follower; then the leader itself leaves.
        cluster.node(3).demote(1, PATIENCE).await.unwrap();
        cluster.node(3).remove(1, PATIENCE).await.unwrap();
        cluster.node(2).remove(2, PATIENCE).await.unwrap();
        let (index, _) = cluster.node(3).propose(write("alone again")).await.unwrap();
        assert!(cluster.node(3).read_index(PATIENCE).await.unwrap() >= index);
        let status = cluster.node(3).status();
        assert_eq!(status.voters.keys().copied().collect::<Vec<_>>(), [3]);
        assert!(status.learners.is_empty());
        let last = cluster.node(3).remove(3, PATIENCE).await.unwrap_err();
        assert!(last.to_string().contains("last voter"), "{last}");
    });
}

#[test]
fn a_learner_that_does_not_answer_is_not_given_a_vote() {
    run(async {
        let cluster = Cluster::of(1).await;
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let short = Duration::from_secs(1);
        let error = cluster.node(1).add_learner(7, nobody, short).await.unwrap_err();
        assert!(matches!(error, ProposeError::Behind { node: 7, .. }), "{error}");
        assert!(matches!(cluster.node(1).promote(7, short).await, Err(ProposeError::Behind { node: 7, .. })));
        cluster.node(1).remove(7, PATIENCE).await.unwrap();
        cluster.node(1).propose(write("goes on")).await.unwrap();
    });
}
