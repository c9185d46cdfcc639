//! What operators do with members in the middle of faults, through the leader (production: `zonekeeper-consensus`,
//! `membership.rs`). Leadership goes only to a node that has nearly all of the log; a vote goes to any, which is harder.

use crate::{node::Node, world::World};
use openraft::{AsyncRuntime, ChangeMembers, async_runtime::WatchReceiver};
use openraft_rt_sim::SimRuntime;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use zonekeeper_core::id::NodeId;

/// An operator waits so long for one change.
const PATIENCE: Duration = Duration::from_secs(5);

/// The leader, as far as it knows, unless it is this node.
fn other_leader(world: &World, node: NodeId) -> Option<Arc<Node>> {
    world.all_running().into_iter().find(|n| n.id != node && n.raft.is_leader())
}

/// Makes a voter a learner, unless it leads.
pub async fn demote(world: &Arc<World>, node: NodeId) {
    let Some(leader) = other_leader(world, node) else { return };
    world.note(|| format!("n{} demotes n{node}", leader.id));
    let change = ChangeMembers::RemoveVoters(BTreeSet::from([node]));
    let _ = SimRuntime::timeout(PATIENCE, leader.raft.change_membership(change, true)).await;
}

/// Hands leadership to a node that has nearly all of the log.
pub async fn lead(world: &Arc<World>, node: NodeId) {
    let Some(leader) = other_leader(world, node) else { return };
    let metrics = leader.raft.metrics().borrow_watched().clone();
    let votes = metrics.membership_config.membership().voter_ids().any(|id| id == node);
    if votes && leader.has_log(node) {
        world.note(|| format!("n{} hands over to n{node}", leader.id));
        let _ = leader.raft.trigger().transfer_leader(node).await;
    }
}

/// Gives all nodes a vote again, if it can; whether all have one.
pub async fn promote_all(world: &Arc<World>) -> bool {
    let Some(leader) = other_leader(world, 0) else { return false };
    let all: BTreeSet<NodeId> = world.nodes().collect();
    let whole = || {
        let metrics = leader.raft.metrics().borrow_watched().clone();
        let configs = metrics.membership_config.membership().get_joint_config().clone();
        configs.len() == 1 && configs[0] == all
    };
    if !whole() {
        world.note(|| format!("n{} gives everybody a vote", leader.id));
        let change = ChangeMembers::AddVoterIds(all.clone());
        let _ = SimRuntime::timeout(PATIENCE, leader.raft.change_membership(change, true)).await;
    }
    whole()
}
