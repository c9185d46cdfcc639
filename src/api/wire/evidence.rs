//! Who sees what: the reports that decisions are made from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zonekeeper_core::{
    evidence::{Colour, Kind},
    id::{NodeId, ServiceId, SiteId},
    model::Family,
};

/// Everything that the answering node has heard.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// Who reports, and who is silent.
    pub observers: Vec<Observer>,
    /// Client path: each endpoint with everybody's verdict.
    pub targets: Vec<Target>,
    /// Node path: heartbeats. Red here alone moves nothing.
    pub nodes: Vec<Path>,
    /// What sites declare of themselves.
    pub own: Vec<OwnWord>,
}

/// A member as an observer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Observer {
    /// The member.
    pub node: NodeId,
    /// Its site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// Whether its site's vote counts.
    pub votes: bool,
    /// Milliseconds since its last report arrived; absent: no report that still counts.
    pub age_ms: Option<u64>,
    /// Why it abstains, if it does.
    pub abstains: Option<String>,
}

/// One endpoint, and what each observer says of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceId,
    /// The site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// `v4` or `v6`.
    #[schema(value_type = String)]
    pub family: Family,
    /// What the cluster holds: `up`, `degraded`, `down`, or `unknown`.
    pub held: String,
    /// Verdicts by observer.
    pub verdicts: Vec<Path>,
    /// Why it is as it is: alarms and reasons of non-decisions.
    pub notes: Vec<String>,
}

/// One observer's verdict on one stream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Path {
    /// The observer.
    pub from: NodeId,
    /// Its site; absent when it is no member any more.
    #[schema(value_type = Option<String>)]
    pub from_site: Option<SiteId>,
    /// The observed node, on the node path.
    pub to: Option<NodeId>,
    /// `green`, `yellow` or `red`.
    #[schema(value_type = String)]
    pub colour: Colour,
    /// `refused`, `silent`, `unhealthy` or `draining`, unless green.
    #[schema(value_type = Option<String>)]
    pub kind: Option<Kind>,
    /// Milliseconds for which the colour has stood, at the observer, when it reported.
    pub stands_ms: u64,
    /// Milliseconds since the report arrived here.
    pub age_ms: u64,
}

/// What one node's site declares of itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OwnWord {
    /// The node.
    pub node: NodeId,
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceId,
    /// Healthy local backends.
    pub healthy: u32,
    /// All local backends.
    pub backends: u32,
    /// The node is going away on purpose.
    pub draining: bool,
}
