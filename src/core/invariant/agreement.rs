//! Invariant 3: same applied index, same state hash, on all nodes.
//!
//! Source: design §5.3; it is Raft's State Machine Safety (Ongaro 2014, figure 3.2) plus the determinism of `apply`.

use super::Violation;
use crate::{State, id::NodeId};
use alloc::{collections::BTreeMap, format};

/// The hash that the first node had at each index.
#[derive(Debug, Default)]
pub struct Agreement {
    seen: BTreeMap<u64, (u128, NodeId)>,
}

impl Agreement {
    /// A node holds this state.
    pub fn observe(&mut self, node: NodeId, state: &State) -> Result<(), Violation> {
        self.seen(node, state.generation.index, state.hash())
    }

    /// A node says that its state at `index` has this hash.
    pub fn seen(&mut self, node: NodeId, index: u64, hash: u128) -> Result<(), Violation> {
        let (held, first) = *self.seen.entry(index).or_insert((hash, node));
        match held == hash {
            true => Ok(()),
            false => {
                let text = format!(
                    "at index {index} node {node} has hash {hash:032x}, node {first} had {held:032x}"
                );
                Err(Violation::of(3, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::samples;

    #[test]
    fn two_nodes_with_another_state_at_the_same_index_disagree() {
        let (mut agreement, state) = (Agreement::default(), samples::state());
        assert_eq!(agreement.observe(1, &state), Ok(()));
        assert_eq!(agreement.observe(2, &state), Ok(()));
        let other = State { automation: false, ..state.clone() };
        assert_eq!(agreement.observe(3, &other).map_err(|v| v.invariant), Err(3));
        let mut later = other;
        later.skip(state.generation.index + 1);
        assert_eq!(agreement.observe(3, &later), Ok(()));
    }
}
