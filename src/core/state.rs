//! The replicated state: what every node holds at the same log index.

use crate::{
    entry::{Join, Member, Object, Override, Scope, Timing, Token, Webhook},
    evidence::{Row, Standing},
    id::{ListenerId, NodeId, PoolId, ServiceId, SiteId},
    model::{Family, Listener, Pool, Service, Site},
    name::Name,
    secrets::Secrets,
    stage::Stage,
    time::LogTime,
    zone::Zone,
};
use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    string::String,
    sync::Arc,
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// Version of the whole replicated state. Restore and recovery begin a new incarnation, so nothing ever goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Generation {
    /// Counts restores.
    pub incarnation: u32,
    /// Log index.
    pub index: u64,
}

/// Fencing token of one service's assignment: the generation of the decision that made it.
pub type Epoch = Generation;

/// Decisions kept in the state; those of the newest entry are kept whole, however many they are. Events are told from
/// here, many times a second: an entry of automation moves at most a sixteenth of it, so that none is gone before.
pub const HISTORY: usize = 1024;

/// Removed zones whose serial is remembered.
pub const REMOVED_ZONES: usize = 1024;

/// What the cluster remembers of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The standing.
    pub standing: Standing,
    /// Since when.
    pub since: LogTime,
    /// When it last went down, for hold-down.
    pub failed: Option<LogTime>,
    /// How many failures that one followed in short order: a site that flaps is kept out longer each time.
    pub flaps: u8,
}

impl Health {
    /// A failure so long after the one before is a new one, in milliseconds; for longer hold-downs it is twice the
    /// hold-down, or no failure after a way back would ever count.
    pub const CALM_MS: u64 = 600_000;

    /// It went down, with this hold-down in force until now. What was announced is no flap.
    pub(crate) fn fail(&mut self, now: LogTime, hold_down_ms: u64, announced: bool) {
        let calm = Health::CALM_MS.max(hold_down_ms.saturating_mul(2));
        self.flaps = match self.failed {
            _ if announced => self.flaps,
            Some(before) if now.since(before) < calm => self.flaps.saturating_add(1),
            _ => 0,
        };
        self.failed = Some(now);
    }
}

/// Why the sites of an assignment were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// They are usable.
    Usable,
    /// Nothing is usable but drained sites.
    Drained,
    /// Everything is down: the last set stays (fail open).
    LastSet,
    /// Everything is down or forced down: nothing is answered.
    Nothing,
}

/// Where one family of a service is answered from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The decision that made it.
    pub epoch: Epoch,
    /// When.
    pub since: LogTime,
    /// The sites, in the policy's order.
    pub sites: Vec<SiteId>,
    /// Why these.
    pub basis: Basis,
}

/// A service with everything the cluster holds of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Log index of the last change of declaration, overrides, health or assignment.
    pub version: u64,
    /// The declaration.
    pub spec: Service,
    /// Health per site and family.
    pub health: BTreeMap<(SiteId, Family), Health>,
    /// Assignment per family that has endpoints.
    pub assignment: BTreeMap<Family, Assignment>,
    /// Sites under suspicion (answered, and degraded): TTLs are short.
    pub suspects: BTreeSet<SiteId>,
    /// Where an operator moved the service; holds until that site fails.
    pub pinned: Option<SiteId>,
    /// An operator's switch of automation, which counts before the declaration until that changes it.
    pub automation: Option<bool>,
}

impl ServiceState {
    /// Whether automation may move this service, as far as the service itself says.
    pub fn automated(&self) -> bool {
        self.automation.unwrap_or(self.spec.automation)
    }
}

/// How the present incarnation began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Version of the state that it began with.
    pub at: Generation,
    /// When.
    pub time: LogTime,
    /// Which command, as `recover`.
    pub author: String,
    /// Why, in an operator's words.
    pub reason: String,
}

/// A committed decision, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Its epoch.
    pub epoch: Epoch,
    /// When.
    pub time: LogTime,
    /// The service.
    pub service: ServiceId,
    /// The family.
    pub family: Family,
    /// Sites before.
    pub from: Vec<SiteId>,
    /// Sites after.
    pub to: Vec<SiteId>,
    /// Why these.
    pub basis: Basis,
    /// In words: what caused it.
    pub cause: String,
    /// The evidence, when automation decided.
    pub rows: Vec<Row>,
}

/// The replicated state. Cheap to clone: everything large is shared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Random id of the cluster; 0 before the first entry.
    pub cluster: u128,
    /// `apply` branches on it.
    pub cluster_version: u32,
    /// (incarnation, index of the last applied entry).
    pub generation: Generation,
    /// How the present incarnation began; none in a cluster that was never restored.
    pub origin: Option<Arc<Origin>>,
    /// Time of the last entry.
    pub time: LogTime,
    /// Raft timing.
    pub timing: Timing,
    /// Members by node id.
    pub members: BTreeMap<NodeId, Arc<Member>>,
    /// Raft's voters, as of the last membership entry.
    pub voters: BTreeSet<NodeId>,
    /// Log index of the last change of members or voters.
    pub members_version: u64,
    /// Log index of the last change of the declared configuration.
    pub revision: u64,
    /// Declared sites.
    pub sites: BTreeMap<SiteId, Arc<Site>>,
    /// Services with health and assignments.
    pub services: BTreeMap<ServiceId, Arc<ServiceState>>,
    /// Pools.
    pub pools: BTreeMap<PoolId, Arc<Pool>>,
    /// Listeners.
    pub listeners: BTreeMap<ListenerId, Arc<Listener>>,
    /// Log index of the last change of each zone's records.
    pub zone_versions: BTreeMap<Name, u64>,
    /// Zones by origin.
    pub zones: BTreeMap<Name, Arc<Zone>>,
    /// Zones that were removed, with the serial that they were served with, the oldest first; at most [`REMOVED_ZONES`].
    pub removed_zones: VecDeque<(Name, u32)>,
    /// Automation for all services.
    pub automation: bool,
    /// Overrides in force.
    pub overrides: BTreeMap<Scope, Arc<Override>>,
    /// Open stages.
    pub stages: BTreeMap<u64, Arc<Stage>>,
    /// API tokens by name.
    pub tokens: BTreeMap<String, Arc<Token>>,
    /// Unused join tokens by hash.
    pub joins: BTreeMap<[u8; 32], Join>,
    /// Node ids that were used once; never again.
    pub retired: BTreeSet<NodeId>,
    /// Webhooks by URL.
    pub webhooks: BTreeMap<String, Webhook>,
    /// The common secrets.
    pub secrets: Secrets,
    /// The last [`HISTORY`] decisions, oldest first. Shared, because every entry works on a copy of the state.
    pub history: Arc<VecDeque<Arc<Decision>>>,
}

impl Default for State {
    fn default() -> State {
        State {
            cluster: 0,
            cluster_version: 0,
            generation: Generation::default(),
            origin: None,
            time: LogTime::default(),
            timing: Timing::Lan,
            members: BTreeMap::new(),
            voters: BTreeSet::new(),
            members_version: 0,
            revision: 0,
            sites: BTreeMap::new(),
            services: BTreeMap::new(),
            pools: BTreeMap::new(),
            listeners: BTreeMap::new(),
            zone_versions: BTreeMap::new(),
            zones: BTreeMap::new(),
            removed_zones: VecDeque::new(),
            automation: true,
            overrides: BTreeMap::new(),
            stages: BTreeMap::new(),
            tokens: BTreeMap::new(),
            joins: BTreeMap::new(),
            retired: BTreeSet::new(),
            webhooks: BTreeMap::new(),
            secrets: Secrets::default(),
            history: Arc::default(),
        }
    }
}

impl State {
    /// A Raft entry without a command (a new leader's blank one) took this index.
    pub fn skip(&mut self, index: u64) {
        self.generation.index = index;
    }

    /// Raft's membership changed at `index`.
    pub fn set_voters(&mut self, index: u64, voters: BTreeSet<NodeId>) {
        self.generation.index = index;
        self.voters = voters;
        self.members_version = index;
    }

    /// The sites that vote on evidence: those of Raft's voters.
    pub fn voting_sites(&self) -> BTreeSet<&SiteId> {
        self.voters.iter().filter_map(|n| self.members.get(n)).map(|m| &m.site).collect()
    }

    /// The zone that a name lies in: the longest origin.
    pub fn zone_of(&self, name: &Name) -> Option<&Name> {
        let mut at = Some(name.clone());
        while let Some(n) = at {
            if let Some((origin, _)) = self.zones.get_key_value(&n) {
                return Some(origin);
            }
            at = n.parent();
        }
        None
    }

    /// Log index of an object's last change; 0 when it does not exist.
    pub fn version(&self, object: &Object) -> u64 {
        match object {
            Object::Config => self.revision,
            Object::Service(id) => self.services.get(id).map_or(0, |s| s.version),
            Object::Voters => self.members_version,
            Object::Zone(origin) => self.zone_versions.get(origin).copied().unwrap_or(0),
        }
    }

    /// Hash of the whole state: equal on all nodes at the same index. Zones keep theirs up to date with each change,
    /// so this costs what the rest of the state costs.
    pub fn hash(&self) -> u128 {
        let stages = self.stages.iter().map(|(id, stage)| (*id, Arc::new(stage.small()))).collect();
        let rest = State { zones: BTreeMap::new(), stages, ..self.clone() };
        let small = xxhash_rust::xxh3::xxh3_128(&crate::codec::bytes(&rest));
        let staged = self.stages.values().fold(small, |sum, stage| sum.wrapping_add(stage.hash()));
        self.zones.values().fold(staged, |sum, zone| sum.wrapping_add(zone.hash()))
    }
}
