//! Pools, backends and listeners of the proxy.

use super::steer::Override;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;
use zonekeeper_core::{
    id::{ListenerId, PoolId, SiteId},
    model::{Balance, Protocol},
};

/// A pool, with the health that the answering node sees.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    /// Its id.
    #[schema(value_type = String)]
    pub id: PoolId,
    /// `round-robin`, `least-connections`, `response-time`, `two-choices` or `hash`.
    #[schema(value_type = String)]
    pub balance: Balance,
    /// Whether backends are checked.
    pub checked: bool,
    /// What is hashed, as `cookie:NAME`, where the pool is balanced so.
    pub hash: Option<String>,
    /// Requests or connections that wait for a place at the answering node.
    pub waiting: u32,
    /// The cookie by which clients come back to their backend, where there is one.
    pub sticky: Option<String>,
    /// The backends of all sites.
    pub backends: Vec<Backend>,
}

/// A backend of a pool.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// Where it listens.
    #[schema(value_type = String)]
    pub addr: SocketAddr,
    /// The site whose proxy uses it; absent: every site's.
    #[schema(value_type = Option<String>)]
    pub site: Option<SiteId>,
    /// 1 to 255; 0 takes no new traffic.
    pub weight: u8,
    /// An operator's word.
    pub forced: Option<Override>,
    /// What the answering node's proxy sees: `up`, `down`, `ejected`, `trial` (it comes back
    /// with one request) or `unknown`; absent when it does not use it.
    pub observed: Option<String>,
    /// Requests or connections in flight at the answering node.
    pub in_flight: Option<u32>,
}

/// A listener.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Listener {
    /// Its id.
    #[schema(value_type = String)]
    pub id: ListenerId,
    /// `tcp`, `http` or `udp`.
    #[schema(value_type = String)]
    pub protocol: Protocol,
    /// Whether it terminates TLS.
    pub tls: bool,
    /// Clients' connections (of UDP: sessions) that are open at the answering node; absent when it does not serve it.
    pub connections: Option<u64>,
    /// Its addresses.
    pub binds: Vec<Bind>,
    /// Its routes; the first match wins.
    pub routes: Vec<RouteRule>,
}

/// An address of a listener.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Bind {
    /// The site whose proxies bind it; absent: every site's.
    #[schema(value_type = Option<String>)]
    pub site: Option<SiteId>,
    /// Address and port.
    #[schema(value_type = String)]
    pub addr: SocketAddr,
}

/// A route.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RouteRule {
    /// Its conditions in words; `every request` when there are none.
    pub when: String,
    /// What becomes of matching requests, in words.
    pub target: String,
    /// What is changed before they are forwarded, one change each.
    pub changes: Vec<String>,
    /// The pools that they go to; none when the route answers by itself.
    #[schema(value_type = Vec<String>)]
    pub pools: Vec<PoolId>,
}
