//! The routes of a listener: which requests, and what becomes of them.

use super::RateLimit;
use crate::id::PoolId;
use alloc::{string::String, vec::Vec};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// A route of a listener: all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Encoded", into = "Encoded")]
pub struct Route {
    /// Any of these; `*.example.com` matches one or more labels; empty matches every host.
    pub hosts: Vec<String>,
    /// Any of these, as they are written; empty matches every method.
    pub methods: Vec<String>,
    /// What the path is.
    pub path: PathMatch,
    /// Query parameter name and value, as they stand in the target; an empty value asks for presence.
    pub query: Option<(String, String)>,
    /// Header name (lower case) and value; an empty value asks for presence.
    pub header: Option<(String, String)>,
    /// Cookie name and value; an empty value asks for presence.
    pub cookie: Option<(String, String)>,
    /// The client is in any of these; empty matches every client.
    pub sources: Vec<Network>,
    /// What becomes of matching requests.
    pub target: Target,
    /// What is changed before they are forwarded.
    pub rewrite: Rewrite,
    /// What holds for them in place of what the pool and the listener say.
    pub limits: RouteLimits,
    /// They are taken at this rate, which is the route's own; beside it the listener's holds.
    pub rate_limit: Option<RateLimit>,
    /// What is changed in the response before the client gets it. Since version 2.
    pub response: ResponseRewrite,
}

/// A route as it is stored and sent. The fields of version 1 stay as they are; what came later is in the target's last
/// variant, which only routes that have it need.
#[derive(Serialize, Deserialize)]
struct Encoded {
    hosts: Vec<String>,
    methods: Vec<String>,
    path: PathMatch,
    query: Option<(String, String)>,
    header: Option<(String, String)>,
    cookie: Option<(String, String)>,
    sources: Vec<Network>,
    target: EncodedTarget,
    rewrite: Rewrite,
    limits: RouteLimits,
    rate_limit: Option<RateLimit>,
}

/// The variants of [`Target`] as version 1 knew them, and what came later. Append-only: a new variant of `Target` goes
/// after `With`.
#[derive(Serialize, Deserialize)]
enum EncodedTarget {
    Pools(Vec<(PoolId, u8)>),
    Redirect(Redirect),
    Respond(Respond),
    Idempotent(Vec<(PoolId, u8)>),
    With(Target, ResponseRewrite),
}

impl From<Route> for Encoded {
    fn from(route: Route) -> Encoded {
        let Route {
            hosts, methods, path, query, header, cookie, sources, rewrite, limits, rate_limit, ..
        } = route;
        let target = match (route.response, route.target) {
            (response, target) if response != ResponseRewrite::default() => {
                EncodedTarget::With(target, response)
            }
            (_, Target::Pools(pools)) => EncodedTarget::Pools(pools),
            (_, Target::Redirect(redirect)) => EncodedTarget::Redirect(redirect),
            (_, Target::Respond(respond)) => EncodedTarget::Respond(respond),
            (_, Target::Idempotent(pools)) => EncodedTarget::Idempotent(pools),
        };
        Encoded { hosts, methods, path, query, header, cookie, sources, target, rewrite, limits, rate_limit }
    }
}

impl From<Encoded> for Route {
    fn from(encoded: Encoded) -> Route {
        let Encoded {
            hosts, methods, path, query, header, cookie, sources, rewrite, limits, rate_limit, ..
        } = encoded;
        let (target, response) = match encoded.target {
            EncodedTarget::Pools(pools) => (Target::Pools(pools), ResponseRewrite::default()),
            EncodedTarget::Redirect(redirect) => (Target::Redirect(redirect), ResponseRewrite::default()),
            EncodedTarget::Respond(respond) => (Target::Respond(respond), ResponseRewrite::default()),
            EncodedTarget::Idempotent(pools) => (Target::Idempotent(pools), ResponseRewrite::default()),
            EncodedTarget::With(target, response) => (target, response),
        };
        Route {
            hosts,
            methods,
            path,
            query,
            header,
            cookie,
            sources,
            target,
            rewrite,
            limits,
            rate_limit,
            response,
        }
    }
}

impl Route {
    /// A route without conditions to one pool.
    pub fn to(pool: PoolId) -> Route {
        Route { target: Target::Pools(alloc::vec![(pool, 1)]), ..Route::default() }
    }

    /// The cluster version that first knows it.
    pub fn since(&self) -> u32 {
        if self.target.idempotent() || self.response != ResponseRewrite::default() { 2 } else { 1 }
    }

    /// The pools that it leads to.
    pub fn pools(&self) -> impl Iterator<Item = &PoolId> {
        self.target.pools().iter().map(|(pool, _)| pool)
    }

    /// Takes the same requests as another one, whatever becomes of them.
    pub fn takes_the_same(&self, other: &Route) -> bool {
        let of = |r: &Route| {
            let Route { hosts, methods, path, query, header, cookie, sources, .. } = r.clone();
            Route { hosts, methods, path, query, header, cookie, sources, ..Route::default() }
        };
        of(self) == of(other)
    }

    /// Takes every request.
    pub fn unconditional(&self) -> bool {
        self.hosts.is_empty()
            && self.methods.is_empty()
            && self.path == PathMatch::Any
            && self.query.is_none()
            && self.header.is_none()
            && self.cookie.is_none()
            && self.sources.is_empty()
    }
}

/// A condition on the path without the query.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PathMatch {
    /// Every path.
    #[default]
    Any,
    /// Prefix at a segment boundary.
    Prefix(String),
    /// Exactly this.
    Exact(String),
    /// A regular expression that matches the whole path.
    Regex(String),
}

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Network {
    /// Any address of it.
    pub addr: IpAddr,
    /// How many bits count: up to 32, or 128.
    pub bits: u8,
}

impl Network {
    /// Whether the address is in it; an IPv4 address that came mapped into IPv6 is the IPv4 address.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                (net.to_bits() ^ a.to_bits()).checked_shr(32 - bits.min(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                (net.to_bits() ^ a.to_bits()).checked_shr(128 - bits.min(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Whether the address is in one of the networks.
pub fn within(networks: &[Network], addr: IpAddr) -> bool {
    networks.iter().any(|n| n.contains(addr))
}

/// What becomes of a request. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// It goes to one of these pools, in proportion to their weights (1 to 255).
    Pools(Vec<(PoolId, u8)>),
    /// It is answered with another place.
    Redirect(Redirect),
    /// It is answered.
    Respond(Respond),
    /// It goes to one of these pools, and may be sent twice, whatever its method. Since version 2.
    Idempotent(Vec<(PoolId, u8)>),
}

impl Target {
    /// The pools that it leads to, with their weights.
    pub fn pools(&self) -> &[(PoolId, u8)] {
        match self {
            Target::Pools(pools) | Target::Idempotent(pools) => pools,
            Target::Redirect(_) | Target::Respond(_) => &[],
        }
    }

    /// Leads to pools.
    pub fn forwards(&self) -> bool {
        matches!(self, Target::Pools(_) | Target::Idempotent(_))
    }

    /// Requests may be sent twice, whatever their method.
    pub fn idempotent(&self) -> bool {
        matches!(self, Target::Idempotent(_))
    }
}

impl Default for Target {
    /// Nowhere.
    fn default() -> Target {
        Target::Pools(Vec::new())
    }
}

/// `Location` of a redirect: what is not named stays as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host, with a port if one is wanted.
    pub host: Option<String>,
    /// Path, in place of path and query.
    pub path: Option<String>,
}

/// A response that no backend gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// Changes to a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rewrite {
    /// In place of what the path condition matched: the prefix, or the whole path, with `$1` for what a regular expression
    /// caught; in front of the path where there is no condition.
    pub path: Option<String>,
    /// In place of the host.
    pub host: Option<String>,
    /// Header names (lower case) and values, in place of what came under these names.
    pub set: Vec<(String, String)>,
    /// Header names (lower case) that are left out.
    pub remove: Vec<String>,
}

/// Changes to a response: to a backend's, and to that which a route gives by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResponseRewrite {
    /// Header names (lower case) and values, in place of what came under these names.
    pub set: Vec<(String, String)>,
    /// Header names (lower case) that are left out.
    pub remove: Vec<String>,
}

/// A route's own limits; none: the pool's or the listener's holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RouteLimits {
    /// Longest wait for the first byte of a response, in milliseconds.
    pub response_timeout_ms: Option<u32>,
    /// How often a request is tried on another backend.
    pub retries: Option<u8>,
    /// Largest request body, in bytes; 0 for no limit.
    pub max_body: Option<u64>,
    /// Longest time from a request's head to the end of its response, in milliseconds; 0 for no limit.
    pub request_timeout_ms: Option<u32>,
}
