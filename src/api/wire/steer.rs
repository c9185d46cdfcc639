//! Sites, services, overrides and decisions.

use super::Generation;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use utoipa::{IntoParams, ToSchema};
use zonekeeper_core::{
    entry::{self, Force},
    id::{NodeId, PoolId, ServiceId, SiteId},
    model::{self, Family},
    state::Basis,
};

/// A declared site.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Site {
    /// Its id.
    #[schema(value_type = String)]
    pub id: SiteId,
    /// For people.
    pub description: String,
    /// Its members.
    pub members: Vec<NodeId>,
    /// Whether one of them votes.
    pub votes: bool,
    /// An operator's word on the whole site.
    pub forced: Option<Override>,
    /// Its services.
    pub services: Vec<SiteService>,
}

/// A service at a site.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SiteService {
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceId,
    /// `v4` or `v6`.
    #[schema(value_type = String)]
    pub family: Family,
    /// `up`, `degraded`, `drained`, `down` or `forced down`: what counts for decisions.
    pub class: String,
    /// Whether DNS answers this site.
    pub answered: bool,
}

/// A service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its id.
    #[schema(value_type = String)]
    pub id: ServiceId,
    /// Its declaration.
    #[schema(value_type = Object)]
    pub declaration: model::Service,
    /// Log index of its last change.
    pub version: u64,
    /// Whether automation may move it: its own switch and the cluster's.
    pub automation: bool,
    /// Where an operator moved it, until that site fails.
    #[schema(value_type = Option<String>)]
    pub pinned: Option<SiteId>,
    /// One lane per family that has endpoints.
    pub lanes: Vec<Lane>,
}

/// One family of a service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Lane {
    /// `v4` or `v6`.
    #[schema(value_type = String)]
    pub family: Family,
    /// The sites that are answered, in the policy's order.
    #[schema(value_type = Vec<String>)]
    pub answered: Vec<SiteId>,
    /// Why these: `usable`, `drained`, `last-set` or `nothing`.
    #[schema(value_type = Option<String>)]
    pub basis: Option<Basis>,
    /// The decision that made this assignment.
    pub epoch: Option<Generation>,
    /// When.
    pub since: Option<String>,
    /// Each site.
    pub sites: Vec<LaneSite>,
}

/// One endpoint of a lane. What an operator forced is never mixed with what was observed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LaneSite {
    /// The site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// What DNS answers.
    #[schema(value_type = String)]
    pub addr: IpAddr,
    /// The port that is probed.
    pub port: u16,
    /// What was observed: `up`, `degraded`, `down`, or `unknown` when it was never judged.
    pub observed: String,
    /// Since when.
    pub since: Option<String>,
    /// When it last went down.
    pub failed: Option<String>,
    /// An operator's word, which counts before what was observed.
    pub forced: Option<Override>,
    /// `up`, `degraded`, `drained`, `down` or `forced down`: what counts for decisions.
    pub class: String,
    /// Whether DNS answers this site.
    pub answered: bool,
    /// Answered with a short TTL, because some sites see it red.
    pub suspect: bool,
    /// Why it is not (or still) answered.
    pub notes: Vec<String>,
}

/// What an override covers: a site; or a service at a site; or a backend of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The site; alone it covers every service there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub site: Option<SiteId>,
    /// The service; `site` says where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub service: Option<ServiceId>,
    /// The pool; `backend` says which of its backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub pool: Option<PoolId>,
    /// The backend's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub backend: Option<SocketAddr>,
}

impl Scope {
    /// A whole site.
    pub fn site(site: SiteId) -> Scope {
        Scope { site: Some(site), service: None, pool: None, backend: None }
    }

    /// One service at a site.
    pub fn service(service: ServiceId, site: SiteId) -> Scope {
        Scope { site: Some(site), service: Some(service), pool: None, backend: None }
    }
}

impl From<&entry::Scope> for Scope {
    fn from(scope: &entry::Scope) -> Scope {
        match scope.clone() {
            entry::Scope::Site(site) => Scope::site(site),
            entry::Scope::ServiceSite(service, site) => Scope::service(service, site),
            entry::Scope::Backend(pool, addr) => {
                Scope { site: None, service: None, pool: Some(pool), backend: Some(addr) }
            }
        }
    }
}

impl TryFrom<Scope> for entry::Scope {
    type Error = &'static str;
    fn try_from(scope: Scope) -> Result<entry::Scope, &'static str> {
        match scope {
            Scope { site: Some(site), service: None, pool: None, backend: None } => {
                Ok(entry::Scope::Site(site))
            }
            Scope { site: Some(site), service: Some(service), pool: None, backend: None } => {
                Ok(entry::Scope::ServiceSite(service, site))
            }
            Scope { site: None, service: None, pool: Some(pool), backend: Some(addr) } => {
                Ok(entry::Scope::Backend(pool, addr))
            }
            _ => Err("give a site, or a service and a site, or a pool and a backend"),
        }
    }
}

/// An override in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Override {
    /// What it covers.
    pub scope: Scope,
    /// `drain`, `up` or `down`.
    #[schema(value_type = String, example = "drain")]
    pub force: Force,
    /// Who said so: the token's name.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself; absent: never.
    pub expires: Option<String>,
}

/// An override to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOverride {
    /// What it covers.
    pub scope: Scope,
    /// `drain`, `up` or `down`.
    #[schema(value_type = String, example = "drain")]
    pub force: Force,
    /// Why, for whoever finds it later; 1 to 500 bytes.
    pub reason: String,
    /// Seconds until it ends by itself; absent: it stays until it is released.
    pub expires_in_s: Option<u64>,
}

/// Where a service is moved.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The site.
    #[schema(value_type = String)]
    pub to: SiteId,
}

/// On or off.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// On.
    pub on: bool,
}

/// A committed decision with its evidence.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// Its epoch: the generation that made it.
    pub epoch: Generation,
    /// When.
    pub time: String,
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceId,
    /// `v4` or `v6`.
    #[schema(value_type = String)]
    pub family: Family,
    /// Sites before.
    #[schema(value_type = Vec<String>)]
    pub from: Vec<SiteId>,
    /// Sites after.
    #[schema(value_type = Vec<String>)]
    pub to: Vec<SiteId>,
    /// `usable`, `drained`, `last-set` or `nothing`.
    #[schema(value_type = String)]
    pub basis: Basis,
    /// What caused it, in words.
    pub cause: String,
    /// The evidence, when automation decided.
    pub rows: Vec<Row>,
}

/// One row of evidence.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Row {
    /// The judged site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// `v4` or `v6`.
    #[schema(value_type = String)]
    pub family: Family,
    /// What was concluded: `up`, `degraded` or `down`.
    pub verdict: String,
    /// What the site declared of itself: why it was unable.
    pub own: Option<String>,
    /// One vote per voting site.
    pub votes: Vec<Vote>,
}

/// One site's vote.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Vote {
    /// The site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// `green`, `yellow`, `red (refused)`, ..., or `abstains`.
    pub vote: String,
}
