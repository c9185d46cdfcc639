//! Which voter should lead: the best-connected one.
//!
//! Raft keeps a leader for as long as a quorum hears it. A voter that is cut off from it alone (a partial partition, the
//! topology that stopped Cloudflare's etcd in 2020) stays behind until the cut heals, although another voter hears
//! both. So the leader counts, by the heartbeats in everybody's reports, how many voters each voter hears, and hands over
//! to one that hears more than itself. Only a difference that lasts counts, and a try that came to nothing is not
//! repeated at once.

use crate::{
    evidence::{Colour, Evidence, Report},
    id::NodeId,
    time::Mono,
};
use alloc::{collections::BTreeSet, vec::Vec};

/// A voter must be better connected for so long, in milliseconds.
pub const STANDS_MS: u64 = 5_000;
/// From one handover to the next at least, in milliseconds.
pub const APART_MS: u64 = 30_000;

/// What the leader remembers of it; another leader starts anew.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    better: Option<(NodeId, Mono)>,
    tried: Option<Mono>,
}

impl Placement {
    /// To whom this leader should hand over now.
    pub fn look(
        &mut self,
        leader: NodeId,
        voters: &BTreeSet<NodeId>,
        evidence: &Evidence,
        now: Mono,
    ) -> Option<NodeId> {
        let reports: Vec<&Report> = evidence.fresh(now).map(|(report, _)| report).collect();
        let Some(best) = better(leader, voters, &reports) else {
            self.better = None;
            return None;
        };
        let since = match self.better {
            Some((held, since)) if held == best => since,
            _ => now,
        };
        self.better = Some((best, since));
        let rested = self.tried.is_none_or(|at| now.since(at) >= APART_MS);
        let due = rested && now.since(since) >= STANDS_MS;
        due.then(|| {
            self.tried = Some(now);
            best
        })
    }
}

/// The voter that hears most other voters, if these are more than the leader hears. The leader must hear it, and it must
/// trust its own senses.
fn better(leader: NodeId, voters: &BTreeSet<NodeId>, reports: &[&Report]) -> Option<NodeId> {
    let heard = |report: &Report| {
        let green = report.nodes.iter().filter(|(_, v)| v.colour == Colour::Green).map(|(node, _)| *node);
        green.filter(|node| *node != report.node && voters.contains(node)).collect::<BTreeSet<NodeId>>()
    };
    let own = heard(reports.iter().find(|r| r.node == leader)?);
    let candidates = reports.iter().filter(|r| own.contains(&r.node) && r.abstains.is_none());
    let best = candidates.map(|r| (heard(r).len(), core::cmp::Reverse(r.node))).max()?;
    (best.0 > own.len()).then_some(best.1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Verdict;
    use alloc::string::ToString;

    fn report(node: NodeId, green: &[NodeId], red: &[NodeId]) -> Report {
        let verdict = |colour| move |n: &NodeId| (*n, Verdict { colour, kind: None, age_ms: 0 });
        let nodes = green.iter().map(verdict(Colour::Green)).chain(red.iter().map(verdict(Colour::Red)));
        let (endpoints, own) = (Vec::new(), Vec::new());
        Report { node, seq: 1, abstains: None, endpoints, nodes: nodes.collect(), own }
    }

    fn best(voters: &[NodeId], reports: &[Report]) -> Option<NodeId> {
        let reports: Vec<&Report> = reports.iter().collect();
        better(1, &voters.iter().copied().collect(), &reports)
    }

    #[test]
    fn a_bridge_between_two_voters_leads_better_than_either() {
        let bridge = [report(1, &[2], &[3]), report(2, &[1, 3], &[])];
        assert_eq!(best(&[1, 2, 3], &bridge), Some(2), "3 does not reach the leader with a report");
        let whole = [report(1, &[2, 3], &[]), report(2, &[1, 3], &[]), report(3, &[1, 2], &[])];
        assert_eq!(best(&[1, 2, 3], &whole), None);
        let dead = [report(1, &[2], &[3]), report(2, &[1], &[3])];
        assert_eq!(best(&[1, 2, 3], &dead), None, "3 is heard by nobody");
    }

    #[test]
    fn learners_do_not_count_and_the_lowest_id_is_taken_among_equals() {
        let learner = [report(1, &[2], &[]), report(2, &[1, 9], &[])];
        assert_eq!(best(&[1, 2], &learner), None);
        let equals =
            [report(1, &[2, 3, 4], &[5]), report(4, &[1, 2, 3, 5], &[]), report(3, &[1, 2, 4, 5], &[])];
        assert_eq!(best(&[1, 2, 3, 4, 5], &equals), Some(3));
    }

    #[test]
    fn a_sick_voter_and_one_that_the_leader_does_not_hear_are_not_asked() {
        let mut sick = [report(1, &[2], &[3]), report(2, &[1, 3], &[])];
        sick[1].abstains = Some("slow".to_string());
        assert_eq!(best(&[1, 2, 3], &sick), None);
        let deaf = [report(1, &[2], &[3]), report(2, &[1], &[3]), report(3, &[1, 2], &[])];
        assert_eq!(best(&[1, 2, 3], &deaf), None);
    }

    #[test]
    fn only_a_difference_that_lasts_counts_and_a_handover_is_not_tried_again_at_once() {
        let (mut placement, mut evidence, voters) =
            (Placement::default(), Evidence::default(), [1, 2, 3].into());
        let mut look = |at: u64| {
            for mut report in [report(1, &[2], &[3]), report(2, &[1, 3], &[])] {
                report.seq = at;
                evidence.receive(report, Mono(at));
            }
            placement.look(1, &voters, &evidence, Mono(at))
        };
        assert_eq!((look(1_000), look(5_999)), (None, None));
        assert_eq!(look(6_000), Some(2));
        assert_eq!(look(35_999), None);
        assert_eq!(look(36_000), Some(2));
    }
}
