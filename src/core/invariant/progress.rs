//! Invariant 2: per node, the (serial, epoch) that DNS answers never goes back, restarts included.
//!
//! Source: design §5.2. Serials are compared as RFC 1982 §3.2 says, epochs by (incarnation, index). A memory of what
//! each node was seen to answer, so that it outlives the node's process; whoever observes says what was seen, be it a
//! state or an answer on the wire.

use super::{Violation, lanes};
use crate::{
    State,
    id::{NodeId, ServiceId},
    model::Family,
    name::Name,
    state::Epoch,
};
use alloc::{collections::BTreeMap, format};

/// The newest that each node was seen to answer.
#[derive(Debug, Default)]
pub struct Progress {
    serials: BTreeMap<(NodeId, Name), u32>,
    epochs: BTreeMap<(NodeId, ServiceId, Family), Epoch>,
}

impl Progress {
    /// A node answered with this serial for a zone.
    pub fn serial(&mut self, node: NodeId, zone: &Name, serial: u32) -> Result<(), Violation> {
        let held = self.serials.entry((node, zone.clone())).or_insert(serial);
        if older(serial, *held) {
            let text = format!("node {node}: the serial of {zone} went back from {held} to {serial}");
            return Err(Violation::of(2, text));
        }
        *held = serial;
        Ok(())
    }

    /// A node answered by the assignment of this epoch.
    pub fn epoch(
        &mut self,
        node: NodeId,
        service: &ServiceId,
        family: Family,
        epoch: Epoch,
    ) -> Result<(), Violation> {
        let held = self.epochs.entry((node, service.clone(), family)).or_insert(epoch);
        if epoch < *held {
            let text = format!(
                "node {node}: the epoch of {service} {family:?} went back from {held:?} to {epoch:?}"
            );
            return Err(Violation::of(2, text));
        }
        *held = epoch;
        Ok(())
    }

    /// A node publishes this state: all its zones and lanes.
    pub fn observe(&mut self, node: NodeId, state: &State) -> Result<(), Violation> {
        for (name, zone) in &state.zones {
            self.serial(node, name, zone.serial())?;
        }
        for (id, service, family) in lanes(state) {
            if let Some(a) = service.assignment.get(&family) {
                self.epoch(node, id, family, a.epoch)?;
            }
        }
        Ok(())
    }
}

/// RFC 1982 §3.2: `a` is before `b` when it lies up to half the number circle behind it. At exactly half the order is
/// undefined there; here it counts as back, since a step of 2^31 is never made.
fn older(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) <= 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::samples;
    use alloc::sync::Arc;

    fn zone() -> Name {
        "example.com.".parse().unwrap()
    }

    fn bad(result: Result<(), Violation>) -> bool {
        matches!(result, Err(v) if v.invariant == 2)
    }

    #[test]
    fn a_serial_that_goes_back_on_one_node_is_seen() {
        let mut p = Progress::default();
        for serial in [7, 7, 9] {
            assert_eq!(p.serial(1, &zone(), serial), Ok(()));
        }
        assert_eq!(p.serial(2, &zone(), 8), Ok(()), "another node may be behind");
        assert!(bad(p.serial(1, &zone(), 8)), "the same one may not, restarted or not");
        assert_eq!(
            p.serial(1, &"example.net.".parse().unwrap(), 1),
            Ok(()),
            "another zone counts for itself"
        );
    }

    #[test]
    fn serials_go_round_as_rfc_1982_says() {
        let mut p = Progress::default();
        assert_eq!(p.serial(1, &zone(), u32::MAX), Ok(()));
        assert_eq!(p.serial(1, &zone(), 3), Ok(()), "beyond 2^32 - 1 comes 0");
        assert!(bad(p.serial(1, &zone(), u32::MAX)));
        assert!(bad(p.serial(1, &zone(), 3 + (1 << 31))), "half the circle away has no order");
    }

    #[test]
    fn an_epoch_that_goes_back_is_seen() {
        let (mut p, state) = (Progress::default(), samples::state());
        let at = |index| Epoch { index, ..state.generation };
        assert_eq!(p.epoch(1, &samples::id(), Family::V4, at(5)), Ok(()));
        assert_eq!(p.epoch(1, &samples::id(), Family::V6, at(4)), Ok(()), "a lane of its own");
        assert!(bad(p.epoch(1, &samples::id(), Family::V4, at(4))));
        let restored = Epoch { incarnation: state.generation.incarnation + 1, index: 1 };
        assert_eq!(p.epoch(1, &samples::id(), Family::V4, restored), Ok(()), "a new incarnation is later");
    }

    #[test]
    fn a_node_that_publishes_an_older_state_after_a_restart_is_seen() {
        let (mut p, mut before) = (Progress::default(), samples::state());
        let advance = |s: &mut State| Arc::make_mut(s.zones.get_mut(&zone()).unwrap()).advance_serial();
        advance(&mut before); // from the declared serial on
        let mut after = before.clone();
        advance(&mut after);
        assert_eq!(p.observe(1, &after), Ok(()));
        assert_eq!(p.observe(1, &after), Ok(()), "the same again");
        assert!(bad(p.observe(1, &before)));
    }
}
