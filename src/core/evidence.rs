//! Reports of all observers, and the row that a decision carries.

use crate::{
    id::{NodeId, ServiceId, SiteId},
    model::Family,
};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// What is judged: one family of one service at one site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The service.
    pub service: ServiceId,
    /// The site.
    pub site: SiteId,
    /// The family.
    pub family: Family,
}

/// The colour of a stream of observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Works.
    Green,
    /// Not sure.
    Yellow,
    /// Does not work.
    Red,
}

/// What kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The host answers: nobody listens, or the connection was reset.
    Refused,
    /// Nothing comes back.
    Silent,
    /// The answer is wrong, or too few backends are healthy.
    Unhealthy,
    /// The site says that it wants no new traffic.
    Draining,
}

/// A detector's word on one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The colour.
    pub colour: Colour,
    /// The trouble, unless green.
    pub kind: Option<Kind>,
    /// How long the colour stands, in milliseconds at the observer.
    pub age_ms: u64,
}

/// What a site says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfReport {
    /// The service.
    pub service: ServiceId,
    /// Healthy local backends.
    pub healthy: u32,
    /// All local backends.
    pub backends: u32,
    /// The node is going away on purpose.
    pub draining: bool,
}

/// Everything one node sees, sent to all voters on change and as a refresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who observes.
    pub node: NodeId,
    /// Counts up; an older one is ignored.
    pub seq: u64,
    /// Why this observer abstains, if it does (Lifeguard: it may be sick itself).
    pub abstains: Option<String>,
    /// Client path: endpoints of other sites.
    pub endpoints: Vec<(Target, Verdict)>,
    /// Node path: heartbeats of other nodes.
    pub nodes: Vec<(NodeId, Verdict)>,
    /// What the observer's own site declares.
    pub own: Vec<SelfReport>,
}

/// A site's vote on a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vote {
    /// Its observers agree that it works, or one of them reaches it.
    Green,
    /// Not sure.
    Yellow,
    /// None of its observers reaches it.
    Red(Kind),
    /// Sick, silent, or without a probe of this target.
    Abstain,
}

/// The evidence on one target, as the entry carries it: `apply` counts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What is judged.
    pub target: Target,
    /// One vote per voting site; the suspect's own is not among them.
    pub votes: Vec<(SiteId, Vote)>,
    /// What the site declares of itself: unable, and why.
    pub own: Option<Kind>,
    /// What automation concludes.
    pub verdict: Standing,
}

/// What the cluster holds of one target. Orders from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Usable.
    Up,
    /// Red from fewer than a majority: shown, alarmed, not moved.
    Degraded,
    /// Red from a majority, or by its own word.
    Down,
}
