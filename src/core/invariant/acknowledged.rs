//! Invariant 4: an acknowledged write is never lost; a timed-out write is unknown, never absent.
//!
//! Source: design §5.4. Writers use values of their own, so that each write can be found again: a node that has applied
//! the index of the acknowledgement holds the value.

use super::Violation;
use crate::{State, id::NodeId, name::Name, zone::RrSet};
use alloc::{collections::BTreeMap, format};

/// All acknowledged record edits, by log index.
#[derive(Debug, Default)]
pub struct Acknowledged {
    writes: BTreeMap<u64, (Name, RrSet)>,
    /// The index up to which a node has been found to hold all of them.
    verified: BTreeMap<NodeId, u64>,
}

impl Acknowledged {
    /// A client was told that this RRset stands in the zone since `index`. Its owner name must be of one write alone.
    pub fn acknowledge(&mut self, index: u64, zone: Name, set: RrSet) {
        for verified in self.verified.values_mut() {
            *verified = (*verified).min(index - 1); // nodes are often there before the client hears of it
        }
        self.writes.insert(index, (zone, set));
    }

    /// Log index of the newest acknowledged write; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.writes.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Number of acknowledged writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// A node holds this state: looks at the writes that it was not seen to hold yet.
    pub fn observe(&mut self, node: NodeId, state: &State) -> Result<(), Violation> {
        let (from, to) = (self.verified.get(&node).copied().unwrap_or(0), state.generation.index);
        if to > from {
            self.held(node, state, from + 1)?;
        }
        self.verified.insert(node, to); // also back, when a node begins again from its disk
        Ok(())
    }

    /// Looks at all writes, at the end of a run.
    pub fn all(&self, node: NodeId, state: &State) -> Result<(), Violation> {
        self.held(node, state, 0)
    }

    fn held(&self, node: NodeId, state: &State, from: u64) -> Result<(), Violation> {
        for (index, (zone, set)) in self.writes.range(from..=state.generation.index.max(from)) {
            let held = state.zones.get(zone).and_then(|z| z.get(&set.name, set.rtype));
            if *index <= state.generation.index && held.as_ref() != Some(set) {
                let at = state.generation.index;
                let text = format!("node {node} at index {at} lacks {}, acknowledged at {index}", set.name);
                return Err(Violation::of(4, text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::samples;

    #[test]
    fn a_node_past_the_index_of_an_acknowledged_write_must_hold_it() {
        let (mut acks, mut state) = (Acknowledged::default(), samples::state());
        let (zone, set) = samples::write(&mut state, 7);
        acks.acknowledge(state.generation.index, zone.clone(), set.clone());
        assert_eq!(acks.observe(1, &state), Ok(()));

        let lost = samples::without(&state, &zone, &set);
        assert_eq!(acks.observe(2, &lost).map_err(|v| v.invariant), Err(4));
        assert_eq!(acks.all(1, &lost).map_err(|v| v.invariant), Err(4));
    }

    #[test]
    fn a_node_that_is_behind_owes_nothing_yet() {
        let (mut acks, before) = (Acknowledged::default(), samples::state());
        let mut state = before.clone();
        let (zone, set) = samples::write(&mut state, 7);
        acks.acknowledge(state.generation.index, zone, set);
        assert_eq!(acks.observe(3, &before), Ok(()));
    }

    #[test]
    fn an_acknowledgement_that_arrives_late_is_checked_all_the_same() {
        let (mut acks, mut state) = (Acknowledged::default(), samples::state());
        let (zone, set) = samples::write(&mut state, 7);
        let lost = samples::without(&state, &zone, &set);
        assert_eq!(acks.observe(1, &lost), Ok(()));
        acks.acknowledge(state.generation.index, zone, set);
        assert_eq!(acks.observe(1, &lost).map_err(|v| v.invariant), Err(4));
    }
}
