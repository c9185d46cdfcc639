//! Invariant 1: at most one assignment per (service, epoch), over all nodes and all time; epochs only grow.
//!
//! Source: design §5.1. IPv4 and IPv6 of a service are judged apart, so each is a lane with assignments of its own.

use super::{Step, Violation, lanes};
use crate::{
    State,
    id::{NodeId, ServiceId, SiteId},
    model::Family,
    state::{Basis, Epoch},
};
use alloc::{collections::BTreeMap, format, vec::Vec};

/// An assignment is the sites that are answered, and why these.
pub type Answer = (Vec<SiteId>, Basis);
/// Which assignment: of a service and family, by its epoch.
pub type Lane = (ServiceId, Family, Epoch);

/// Every assignment ever seen.
#[derive(Debug, Default)]
pub struct Epochs {
    seen: BTreeMap<Lane, Answer>,
}

impl Epochs {
    /// A node holds this state.
    pub fn observe(&mut self, node: NodeId, state: &State) -> Result<(), Violation> {
        for (id, service, family) in lanes(state) {
            let Some(a) = service.assignment.get(&family) else { continue };
            self.seen(node, (id.clone(), family, a.epoch), (a.sites.clone(), a.basis))?;
        }
        Ok(())
    }

    /// A node says that the assignment of this epoch is `answer`.
    pub fn seen(&mut self, node: NodeId, of: Lane, answer: Answer) -> Result<(), Violation> {
        let held = self.seen.entry(of.clone()).or_insert_with(|| answer.clone());
        if *held == answer {
            return Ok(());
        }
        let (id, family, epoch) = of;
        let text = format!("node {node}: {id} {family:?} has {answer:?} at {epoch:?}, which was {held:?}");
        Err(Violation::of(1, text))
    }
}

/// A new assignment has a greater epoch; an old one keeps its own, but in a new incarnation, which stamps all anew.
pub fn check(step: Step<'_>) -> Result<(), Violation> {
    for (id, service, family) in lanes(step.after) {
        let before = step.before.services.get(id).and_then(|s| s.assignment.get(&family));
        let (Some(old), Some(new)) = (before, service.assignment.get(&family)) else { continue };
        let anew = step.after.generation.incarnation > step.before.generation.incarnation;
        let same = old.sites == new.sites && old.basis == new.basis && !anew;
        if new.epoch < old.epoch || (new.epoch == old.epoch) != same {
            let text = format!("{id} {family:?} went from {old:?} to {new:?}");
            return Err(Violation::of(1, text));
        }
        if new.epoch > step.after.generation {
            return Err(Violation::of(1, format!("{id} {family:?} has an epoch of the future: {new:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::samples::{self, service_mut};

    #[test]
    fn the_same_epoch_with_another_answer_is_seen_on_any_node() {
        let (mut epochs, state) = (Epochs::default(), samples::state());
        assert_eq!(epochs.observe(1, &state), Ok(()));
        let mut other = state.clone();
        samples::assign(&mut other, &["b"]);
        assert_eq!(epochs.observe(2, &other).map_err(|v| v.invariant), Err(1));
    }

    #[test]
    fn an_epoch_is_neither_kept_nor_turned_back_by_a_move() {
        let before = samples::state();
        let mut after = before.clone();
        samples::assign(&mut after, &["b"]);
        let bad =
            |after: &State| check(Step { before: &before, entry: None, after }).map_err(|v| v.invariant);
        assert_eq!(bad(&after), Err(1), "kept");
        let at = before.generation.index;
        let epoch = |state: &mut State, index| {
            if let Some(a) = service_mut(state).assignment.get_mut(&Family::V4) {
                a.epoch.index = index;
            }
        };
        epoch(&mut after, 0);
        assert_eq!(bad(&after), Err(1), "turned back");
        epoch(&mut after, at + 1);
        assert_eq!(bad(&after), Err(1), "of the future");
        after.skip(at + 1);
        assert_eq!(bad(&after), Ok(()));
    }
}
