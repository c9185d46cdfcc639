//! What a run is made of, before anything happens: a scenario's timeline, or one drawn from a seed.

use crate::{fault::Step, wan::Link};
use serde::{Deserialize, Serialize};

/// A plan. It stands in the file of its run, from which it can be replayed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the scenario.
    pub name: String,
    /// What it shows, for people.
    pub about: String,
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// Sites, with one node each.
    pub sites: usize,
    /// The links between sites; none: as near as the kernel makes them.
    pub link: Option<Link>,
    /// Round trips of single pairs of sites in milliseconds, by places from 0, where they are not as `link` says.
    #[serde(default)]
    pub pairs: Vec<(usize, usize, u32)>,
    /// Raft timing as the API takes it: `lan`, `wan` or `global`.
    pub timing: String,
    /// How many must agree before the service leaves a site: `majority` or `unanimous`.
    #[serde(default = "majority")]
    pub quorum: String,
    /// The timeline, in order of time.
    pub steps: Vec<Step>,
    /// When the load ends, in milliseconds; what still lasts ends too, and everything must heal.
    pub lasts_ms: u64,
    /// Everything heals so soon after the last fault.
    pub heal_within_ms: u64,
    /// What must come of it.
    pub expect: Expect,
}

impl Plan {
    /// Whether its faults are drawn from the seed.
    pub fn drawn(&self) -> bool {
        self.name == SOAK
    }
}

/// Name of the plans whose faults are drawn.
pub const SOAK: &str = "soak";

fn majority() -> String {
    "majority".into()
}

/// What must come of a run, beside the invariants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Nothing in particular.
    Anything,
    /// Automation moves nothing.
    Stays,
    /// Automation moves nothing, and while the last fault lasts another node leads than the one that led.
    Elects,
    /// Automation moves nothing, and a site is shown as degraded.
    Degraded,
    /// Automation moves nothing, and alarms that too few can judge a site.
    Disarmed,
    /// Every node that hears a majority has left the site that was answered, so many milliseconds after the first fault
    /// that hit it.
    Moves {
        /// Milliseconds.
        within_ms: u64,
    },
    /// The same, and it is left once only.
    MovesOnce {
        /// Milliseconds.
        within_ms: u64,
    },
}
