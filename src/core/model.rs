//! The declared objects: what an operator writes in `cluster-config/*.toml`. Every value here is validated already.

use crate::{
    id::{ListenerId, PoolId, ServiceId, SiteId},
    name::Name,
};
use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

mod nearest;
mod proxy;
mod route;
pub use nearest::{Area, AreaError, Location, Nearest};
pub use proxy::{
    Backend, BackendTls, Balance, Bind, Certificate, HashKey, Http2, Listener, NamedBackend, Pool, Protocol,
    ProxyHeader, RateLimit, Tls, TlsFiles,
};
pub use route::{
    Network, PathMatch, Redirect, Respond, ResponseRewrite, Rewrite, Route, RouteLimits, Target, within,
};

/// IPv4 or IPv6: the endpoints of a site are judged apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Answered as A records.
    V4,
    /// Answered as AAAA records.
    V6,
}

impl Family {
    /// Both, in order.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];
    /// The family of an address.
    pub fn of(addr: IpAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// A declared site.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Site {
    /// Free text for people.
    pub description: String,
    /// Where on earth it is, for services that answer by distance.
    pub location: Option<Location>,
}

/// How an endpoint or a backend is probed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From one probe to the next; 50 ms to 1 h.
    pub interval_ms: u32,
    /// A probe that takes longer has failed; at most the interval... or longer, then probes do not overlap.
    pub timeout_ms: u32,
    /// Successes in a row until green.
    pub rise: u8,
    /// Failures in a row until red. A refused connection is confirmed at once and does not wait for the interval.
    pub fall: u8,
    /// Each interval is spread by up to so many percent.
    pub jitter_percent: u8,
    /// Silence shorter than this is never red; of a pool's check 0.
    pub patience_ms: u32,
}

/// What a probe asks. Variants are append-only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CheckKind {
    /// The connection is accepted.
    Tcp,
    /// `GET path` in HTTP/1.1 is answered with an expected status and text.
    Http(HttpCheck),
    /// The same in HTTP/2, which is not asked for: by prior knowledge without TLS (RFC 9113 §3.3), agreed on with it. Since
    /// version 2.
    Http2(HttpCheck),
    /// `grpc.health.v1.Health/Check` answers SERVING. Since version 2.
    Grpc(GrpcCheck),
}

/// A request and the answer that is expected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HttpCheck {
    /// TLS first. The certificate must be valid for `host` unless `verify` is off.
    pub tls: bool,
    /// Verify the certificate.
    pub verify: bool,
    /// The `Host` header and the TLS server name; the service's first name when empty.
    pub host: String,
    /// The path with query.
    pub path: String,
    /// Lowest expected status.
    pub status_min: u16,
    /// Highest expected status.
    pub status_max: u16,
    /// Text that the first 64 KiB of the body must contain; empty for none.
    pub body: String,
}

/// The question of gRPC's health checking protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GrpcCheck {
    /// TLS first, as of an [`HttpCheck`].
    pub tls: bool,
    /// Verify the certificate.
    pub verify: bool,
    /// `:authority` and the TLS server name; the service's first name when empty.
    pub host: String,
    /// The service that is asked about; empty for the server as a whole.
    pub service: String,
}

/// One public address by which clients reach a service at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address that DNS answers.
    pub addr: IpAddr,
    /// The port that is probed.
    pub port: u16,
}

/// Where a service is answered from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The first usable site of the list.
    Failover(Vec<SiteId>),
    /// One site per answer, in proportion to its weight (1 to 255).
    Weighted(BTreeMap<SiteId, u8>),
    /// Every usable site at once.
    All,
    /// The usable site that is nearest to the client.
    Nearest(Box<Nearest>),
}

/// What is answered when no site is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenAllDown {
    /// The least bad set: degraded, drained, the last; never what an operator forced down.
    FailOpen,
    /// NODATA.
    NoData,
    /// SERVFAIL.
    ServFail,
}

/// When a site that recovered is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failback {
    /// After so many milliseconds of health.
    Auto {
        /// Healthy for at least so long.
        healthy_ms: u64,
    },
    /// When an operator says so.
    Manual,
}

/// How many voting sites must see red.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quorum {
    /// More than half of all voting sites.
    Majority,
    /// Every voting site but the suspect.
    Unanimous,
}

/// A declared service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The names that answer with this service; the apex of a zone is allowed.
    pub names: Vec<Name>,
    /// Where it is answered from.
    pub policy: Policy,
    /// Endpoints per site, at most one per family and site.
    pub endpoints: BTreeMap<SiteId, Vec<Endpoint>>,
    /// TTL of its answers, in seconds.
    pub ttl: u32,
    /// How the other sites probe its endpoints; none: only the site's own declaration counts.
    pub check: Option<Check>,
    /// The proxy pool behind the endpoints: the site declares itself unable when fewer than `min_backends` are healthy.
    pub pool: Option<PoolId>,
    /// Healthy local backends that a site needs.
    pub min_backends: u32,
    /// What is answered when no site is usable.
    pub when_all_down: WhenAllDown,
    /// After a site's failure it is not used again for so many milliseconds.
    pub hold_down_ms: u64,
    /// With each failure that follows closely on another the hold-down doubles, up to so many milliseconds.
    pub hold_down_max_ms: u64,
    /// When a recovered site is used again.
    pub failback: Failback,
    /// How many voting sites must see red.
    pub quorum: Quorum,
    /// Automation never leaves fewer usable answers.
    pub min_answers: u32,
    /// Automation for this service.
    pub automation: bool,
}

impl Service {
    /// The hold-down of a site that failed so many times in short order, the last time not counted, in milliseconds.
    pub fn hold_down(&self, flaps: u8) -> u64 {
        let grown = self.hold_down_ms.saturating_mul(1 << flaps.min(32));
        grown.min(self.hold_down_max_ms.max(self.hold_down_ms))
    }

    /// The endpoint of a site in one family.
    pub fn endpoint(&self, site: &SiteId, family: Family) -> Option<&Endpoint> {
        self.endpoints.get(site)?.iter().find(|e| Family::of(e.addr) == family)
    }
    /// The sites with an endpoint of this family, in the policy's order.
    pub fn sites(&self, family: Family) -> Vec<&SiteId> {
        let has = |s: &&SiteId| self.endpoint(s, family).is_some();
        match &self.policy {
            Policy::Failover(order) => order.iter().filter(has).collect(),
            Policy::Weighted(weights) => weights.keys().filter(has).collect(),
            Policy::All => self.endpoints.keys().filter(has).collect(),
            Policy::Nearest(nearest) => nearest.sites.iter().filter(has).collect(),
        }
    }
}

/// Who edits a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneOwner {
    /// Declared in a file; `plan` shows edits made elsewhere as drift.
    File,
    /// Edited through the API.
    Api,
}

/// One change of the declared configuration. Enum order is for ever (see [`crate::codec`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Creates or replaces a site.
    PutSite(SiteId, Site),
    /// Removes a site that nothing refers to.
    RemoveSite(SiteId),
    /// Creates or replaces a service.
    PutService(ServiceId, Box<Service>),
    /// Removes a service.
    RemoveService(ServiceId),
    /// Creates or replaces a pool.
    PutPool(PoolId, Box<Pool>),
    /// Removes a pool that nothing refers to.
    RemovePool(PoolId),
    /// Creates or replaces a listener.
    PutListener(ListenerId, Box<Listener>),
    /// Removes a listener.
    RemoveListener(ListenerId),
    /// Creates an empty zone or changes its owner.
    PutZone(Name, ZoneOwner),
    /// Removes a zone with all its records.
    RemoveZone(Name),
    /// Creates or replaces RRsets of one zone.
    PutRecords(Name, Vec<crate::zone::RrSet>),
    /// Removes RRsets (owner, type) of one zone.
    RemoveRecords(Name, Vec<(Name, u16)>),
}

impl Change {
    /// The cluster version that first knows this change (see [`Command::since`](crate::Command::since)).
    pub fn since(&self) -> u32 {
        let check = match self {
            Change::PutService(_, service) => service.check.as_ref(),
            Change::PutPool(_, pool) => pool.check.as_ref(),
            Change::PutListener(_, listener) => return listener.since(),
            _ => None,
        };
        match check.map(|check| &check.kind) {
            Some(CheckKind::Http2(_) | CheckKind::Grpc(_)) => 2,
            Some(CheckKind::Tcp | CheckKind::Http(_)) | None => 1,
        }
    }
}
