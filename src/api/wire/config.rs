//! The declared configuration: what runs, and changes to it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;
use zonekeeper_config::ClusterConfig;
use zonekeeper_core::{
    id::{ListenerId, PoolId, ServiceId, SiteId},
    model::{self, Change, ZoneOwner},
    name::Name,
    zone::RrSet,
};

/// What runs, as it would be declared.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// Log index of the last change; a plan made on this is refused once it has moved on.
    pub revision: u64,
    /// Sites that vote.
    #[schema(value_type = Vec<String>)]
    pub voters: BTreeSet<SiteId>,
    /// Sites.
    #[schema(value_type = Object)]
    pub sites: BTreeMap<SiteId, model::Site>,
    /// Services.
    #[schema(value_type = Object)]
    pub services: BTreeMap<ServiceId, model::Service>,
    /// Pools.
    #[schema(value_type = Object)]
    pub pools: BTreeMap<PoolId, model::Pool>,
    /// Listeners.
    #[schema(value_type = Object)]
    pub listeners: BTreeMap<ListenerId, model::Listener>,
    /// Zones with their records.
    pub zones: Vec<Zone>,
}

/// A zone with its records in wire form.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ConfigZone)]
pub struct Zone {
    /// Its apex.
    #[schema(value_type = String)]
    pub origin: Name,
    /// `file` or `api`.
    #[schema(value_type = String)]
    pub owner: ZoneOwner,
    /// RRsets: name, type number, TTL, and RDATA as arrays of bytes.
    #[schema(value_type = Vec<Object>)]
    pub rrsets: Vec<RrSet>,
}

impl Config {
    /// From what `zonekeeper_config` calls the same.
    pub fn new(revision: u64, config: ClusterConfig) -> Config {
        let ClusterConfig { sites, voters, services, pools, listeners, zones } = config;
        let zone = |(origin, (owner, rrsets))| Zone { origin, owner, rrsets };
        Config {
            revision,
            voters,
            sites,
            services,
            pools,
            listeners,
            zones: zones.into_iter().map(zone).collect(),
        }
    }

    /// As `zonekeeper_config` calls it.
    pub fn into_cluster(self) -> ClusterConfig {
        let Config { revision: _, voters, sites, services, pools, listeners, zones } = self;
        let zones = zones.into_iter().map(|z| (z.origin, (z.owner, z.rrsets))).collect();
        ClusterConfig { sites, voters, services, pools, listeners, zones }
    }
}

/// Changes of the declared configuration, as `zonekeeper plan` computes them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigChanges {
    /// The revision that the changes were computed on.
    pub revision: u64,
    /// The changes in order, as `{"PutSite": ["fra", {"description": ""}]}`.
    #[schema(value_type = Vec<Object>)]
    pub changes: Vec<Change>,
}

/// What applying would do.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// Log entries that it takes; more than one is staged and becomes visible at once.
    pub entries: usize,
    /// Sites of services that would be answered anew, in words.
    pub moves: Vec<String>,
}
