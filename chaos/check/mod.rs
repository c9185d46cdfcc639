//! What a run is judged by: the invariants of the design on what clients saw and what nodes showed.
//!
//! | check | invariant | file |
//! |---|---|---|
//! | one assignment per epoch, epochs grow | 1 | [`moves`] |
//! | serial and epoch never go back | 2 | [`progress`] |
//! | same index, same hash | 3 | [`progress`] |
//! | registers are linearizable, acknowledged names are there | 4 | [`writes`] |
//! | evidence of each move | 5 | [`moves`] |
//! | no empty answer, no missing answer on a live node | 6, 9 | [`answers`] |
//! | no move back inside the hold-down, none to a site that is dead | 7 | [`moves`] |
//! | no move without a fault on the site that is left | 10 | [`moves`] |
//! | everything heals in time, and writes are acknowledged after it | 9 | [`answers`] |
//! | what was planned did happen | | [`answers`] |
//!
//! Invariant 7 shows in these parts; 8 and 11 need a node's disk and stand in the simulation and in the storage tests.

pub mod answers;
pub mod linear;
pub mod moves;
pub mod progress;
pub mod windows;
pub mod writes;

use crate::record::Record;
use serde::{Deserialize, Serialize};

/// What one check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What should hold.
    pub check: String,
    /// Number of the invariant in the design, where it is one.
    pub invariant: Option<u8>,
    /// Whether it holds.
    pub good: bool,
    /// How much was looked at, or what is wrong, one line each.
    pub lines: Vec<String>,
}

/// More lines than this say nothing new.
const LINES: usize = 12;

impl Finding {
    /// A check that looked at so much and found this wrong. A check that had nothing to look at says so in `wrong`: it
    /// would hold whatever had happened.
    fn of(check: &str, invariant: impl Into<Option<u8>>, looked_at: String, wrong: Vec<String>) -> Finding {
        let (good, more) = (wrong.is_empty(), wrong.len().saturating_sub(LINES));
        let mut lines: Vec<String> = wrong.into_iter().take(LINES).collect();
        if good {
            lines = vec![looked_at];
        } else if more > 0 {
            lines.push(format!("and {more} more"));
        }
        Finding { check: check.into(), invariant: invariant.into(), good, lines }
    }
}

/// All checks.
pub fn all(record: &Record) -> Vec<Finding> {
    let mut out = vec![
        moves::one_assignment_per_epoch(record),
        progress::never_back(record),
        progress::same_index_same_hash(record),
        writes::linearizable(record),
        writes::nothing_acknowledged_is_lost(record),
        moves::evidence(record),
        answers::never_empty(record),
        moves::hold_down(record),
        moves::lives(record),
        answers::live_nodes_answer(record),
        moves::no_false_failover(record),
        answers::healed(record),
        answers::happened(record),
        answers::users(record),
    ];
    out.extend(moves::expected(record));
    out
}

/// Seconds, for people.
fn at(us: u64) -> String {
    format!("{:.3} s", us as f64 / 1e6)
}

#[cfg(test)]
pub(crate) mod samples;
