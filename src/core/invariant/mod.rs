//! The invariants of the design (§5), each a checker in a file of its own.
//!
//! The simulation uses all of them; chaos those that need no more than a node shows ([`epoch::Epochs`],
//! [`progress::Progress`], [`agreement::Agreement`]); the tests of this crate [`step`], after each entry. A checker counts
//! for itself and never calls the rules that it judges ([`crate::evidence::Row::check`], [`crate::assign`]): a mistake
//! there must not hide itself.
//!
//! - Of one applied entry, from the states before and after it ([`step`]): [`epoch`] (1, in part), [`evidence`] (5),
//!   [`answers`] (6), [`restraint`] (7).
//! - Over all nodes and all time, with a memory: [`epoch::Epochs`] (1), [`progress::Progress`] (2),
//!   [`agreement::Agreement`] (3), [`acknowledged::Acknowledged`] (4), [`raft::Persisted`] (11).

pub mod acknowledged;
pub mod agreement;
pub mod answers;
pub mod epoch;
pub mod evidence;
pub mod progress;
pub mod raft;
pub mod restraint;
#[cfg(test)]
mod samples;

use crate::{Entry, State, id::ServiceId, model::Family, state::ServiceState};
use alloc::string::String;
use core::fmt;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the design, §5.
    pub invariant: u8,
    /// What was seen.
    pub text: String,
}

impl Violation {
    /// A violation of an invariant.
    pub fn of(invariant: u8, text: String) -> Violation {
        Violation { invariant, text }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}: {}", self.invariant, self.text)
    }
}

/// One applied entry with the states around it.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The state before.
    pub before: &'a State,
    /// The entry; none for Raft's own (blank ones and memberships).
    pub entry: Option<&'a Entry>,
    /// The state after.
    pub after: &'a State,
}

/// Checks one applied entry against every invariant that needs no memory.
pub fn step(step: Step<'_>) -> Result<(), Violation> {
    epoch::check(step)?;
    evidence::check(step)?;
    answers::check(step.after)?;
    restraint::check(step)
}

/// The lanes (service and family) of a state.
fn lanes(state: &State) -> impl Iterator<Item = (&ServiceId, &ServiceState, Family)> {
    state.services.iter().flat_map(|(id, s)| Family::ALL.into_iter().map(move |f| (id, &**s, f)))
}
