//! What the node gives to the API: handles to its parts, and its local view.

use crate::{events::Events, metrics::Source, wire};
use arc_swap::ArcSwap;
use std::{sync::Arc, time::Instant};
use zonekeeper_consensus::Consensus;
use zonekeeper_core::{
    Published,
    decide::Note,
    evidence::Report,
    id::{NodeId, SiteId},
    time::LogTime,
};
use zonekeeper_dns::DnsFlags;
use zonekeeper_peer::keys::Keyring;
use zonekeeper_proxy::{Counters, LocalHealth};

/// Reads the proxy's totals.
pub type Totals = Arc<dyn Fn() -> Counters + Send + Sync>;

/// Handles to the parts of one node. Cheap to clone.
#[derive(Clone)]
pub struct Handles {
    /// This node.
    pub node: NodeId,
    /// Its site.
    pub site: SiteId,
    /// The one publication; read only.
    pub published: Arc<ArcSwap<Published>>,
    /// What the node's control loop knows and the state does not.
    pub local: Arc<ArcSwap<LocalView>>,
    /// Raft: proposals, linearizable reads, members.
    pub consensus: Consensus,
    /// Where events go; [`crate::serve`] feeds it from `published` and `local`.
    pub events: Events,
    /// The proxy's view of its backends; none on a node without a proxy.
    pub proxy: Option<Arc<LocalHealth>>,
    /// The proxy's totals; none on a node without one.
    pub totals: Option<Totals>,
    /// What DNS knows about itself, and of clients' whereabouts.
    pub dns: Arc<DnsFlags>,
    /// Metrics of the node's other parts, added to the API's own.
    pub metrics: Vec<Source>,
    /// The cluster keys: secrets are sealed and opened on the node.
    pub keyring: Keyring,
    /// SHA-256 of the cluster CA's certificate, for join tokens; none where the cluster has no keys (`serve`).
    pub ca_fingerprint: Option<[u8; 32]>,
    /// `/metrics` answers without a token to clients on loopback.
    pub open_metrics: bool,
}

/// What one node knows beside the replicated state. Written by the control loop on change and some times a second.
#[derive(Debug, Clone)]
pub struct LocalView {
    /// When this was written; ages count on from here.
    pub at: Instant,
    /// Log time at `at`, as the node counts it.
    pub log_now: LogTime,
    /// DNS and proxy are bound, as far as this node has them.
    pub ready: bool,
    /// Reports that still count, with their age in milliseconds.
    pub reports: Vec<(Report, u64)>,
    /// What the decider says, also on nodes that do not lead.
    pub notes: Vec<Note>,
    /// Why this node abstains from judging others, if it does.
    pub abstains: Option<String>,
    /// Connections to peers.
    pub links: Vec<(NodeId, wire::Link)>,
    /// What a person should look at on this node: ports that could not be bound, unworkable timing, a failed store.
    pub problems: Vec<wire::Problem>,
}

impl Default for LocalView {
    fn default() -> LocalView {
        LocalView {
            at: Instant::now(),
            log_now: LogTime(0),
            ready: false,
            reports: Vec::new(),
            notes: Vec::new(),
            abstains: None,
            links: Vec::new(),
            problems: Vec::new(),
        }
    }
}

impl LocalView {
    /// Milliseconds since this view was written.
    pub fn elapsed_ms(&self) -> u64 {
        self.at.elapsed().as_millis() as u64
    }
}

impl Handles {
    /// Log time now, as this node counts it: never before the last published entry.
    pub fn log_now(&self) -> LogTime {
        let local = self.local.load();
        local.log_now.plus(local.elapsed_ms()).max(self.published.load().state.time)
    }

    /// Whether the node answers from a state: it has published one, and its sockets are bound.
    pub fn is_ready(&self) -> bool {
        self.local.load().ready && self.published.load().generation.index > 0
    }
}
