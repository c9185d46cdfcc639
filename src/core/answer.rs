//! The DNS table: zones with the answers of services laid over them.

use crate::{entry::Delta, state::State};

/// Everything that DNS answers from, immutable.
#[derive(Debug, Clone, Default)]
pub struct DnsTable {}

impl DnsTable {
    /// Builds the table of a state.
    pub fn build(_state: &State) -> DnsTable {
        DnsTable {}
    }
    /// The table after a delta; shares what did not change.
    pub fn update(&self, state: &State, _delta: &Delta) -> DnsTable {
        DnsTable::build(state)
    }
}
