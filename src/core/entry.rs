//! What travels through the log: proposals in, outcomes out.

use crate::{
    cookies::CookieSecret,
    evidence::Row,
    id::{CertificateId, NodeId, PoolId, ServiceId, SiteId},
    model::{Change, Family},
    name::Name,
    secrets::{self, KeyId, SecretId},
    time::LogTime,
};
use alloc::{string::String, sync::Arc, vec::Vec};
use core::{fmt, net::SocketAddr};
use serde::{Deserialize, Serialize};

/// Largest encoded entry, in bytes: what is larger is staged ([`Command::Stage`]).
pub const MAX_ENTRY: usize = 64 << 10;

/// One log entry: log time and what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Log time at the leader when it proposed.
    pub time: LogTime,
    /// What is asked, and why; shared, as it may be large and passes many hands on its way.
    pub proposal: Arc<Proposal>,
}

impl core::fmt::Display for Entry {
    /// Log time only: an entry may hold secrets and 64 KiB.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "entry at {} ms", self.time.0)
    }
}

/// A command with the versions of what its author read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// `apply` answers [`Outcome::Stale`] when one of these has changed since.
    pub reads: Vec<Read>,
    /// Who asks.
    pub cause: Cause,
    /// What is asked.
    pub command: Command,
}

impl Proposal {
    /// An operator's command that read nothing.
    pub fn by(author: impl Into<String>, command: Command) -> Proposal {
        Proposal { reads: Vec::new(), cause: Cause::Operator(author.into()), command }
    }
}

/// An object and the version (log index of its last change) that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// What was read.
    pub object: Object,
    /// Log index of its last change; 0 when it did not exist.
    pub version: u64,
}

/// Objects with a version of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    /// The whole declared configuration (its revision); health and decisions never touch it.
    Config,
    /// One service: declaration, overrides, health and assignments.
    Service(ServiceId),
    /// The set of voting sites.
    Voters,
    /// One zone.
    Zone(Name),
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The leader's automation.
    Automation,
    /// A person or a program with this token name.
    Operator(String),
}

/// What is asked. Variants are append-only; each stands behind a `cluster_version` (see [`Command::since`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry: names the cluster.
    Init(Init),
    /// Log time passes: expires what is due and moves what waited.
    Tick,
    /// Automation's verdicts on endpoints, each with its evidence.
    Judge(Vec<Row>),
    /// Changes the declared configuration; `reads` holds its revision.
    Configure(Vec<Change>),
    /// One part of a change too large for one entry. Parts count from 0.
    Stage {
        /// Chosen by the author, unique among open stages.
        id: u64,
        /// Number of this part.
        part: u32,
        /// The changes of this part.
        changes: Vec<Change>,
    },
    /// Makes a whole stage visible at this index.
    Commit {
        /// The stage.
        id: u64,
        /// How many parts it must have.
        parts: u32,
    },
    /// Forgets a stage.
    Abort {
        /// The stage.
        id: u64,
    },
    /// Drains or forces.
    Override(Override),
    /// Takes an override back.
    Release(Scope),
    /// Moves a failover service to a site, by hand, hold-down or not.
    Move {
        /// The service.
        service: ServiceId,
        /// Where to; none: back to the first usable site of its order.
        to: Option<SiteId>,
    },
    /// Switches automation; none: for all services.
    Automation {
        /// One service, or all.
        service: Option<ServiceId>,
        /// On or off.
        on: bool,
    },
    /// Creates or replaces a member's description; comes before its Raft membership.
    PutMember(NodeId, Member),
    /// Forgets a member that Raft no longer has.
    RemoveMember(NodeId),
    /// Sets the Raft timing of the cluster.
    SetTiming(Timing),
    /// Creates a token (its name is its key); one that is there must be removed first.
    PutToken(Token),
    /// Removes a token by name.
    RemoveToken(String),
    /// Stores the hash of a join token; it is used once, before it expires.
    PutJoin(Join),
    /// Uses up a join token.
    UseJoin {
        /// SHA-256 of the token.
        hash: [u8; 32],
        /// The node that joins.
        node: NodeId,
    },
    /// Raises the cluster version, when every member knows it.
    Upgrade(u32),
    /// Creates or replaces a webhook (its URL is its key).
    PutWebhook(Webhook),
    /// Removes a webhook by URL.
    RemoveWebhook(String),
    /// A new secret that keys are derived from (of the sticky cookie); what the one before it signed stays valid.
    PutSecret(Secret),
    /// Begins a rollover of the secret of DNS cookies.
    RollCookies(CookieSecret),
    /// Begins a new incarnation on one node. Written by hand into the log of a node that stands still.
    Recover(Recovery),
    /// From now on secrets are sealed under another cluster key; all that are there count as known. Since version 2.
    SealWith {
        /// The key until now; none: there is none yet.
        from: Option<KeyId>,
        /// The key from now on.
        to: KeyId,
    },
    /// A new sealed secret: the first of its kind is used at once, later ones are rolled over. Since version 2.
    PutSealed {
        /// What it is for.
        id: SecretId,
        /// Generation of the newest of its kind that the author saw.
        after: Option<u64>,
        /// The key that it is sealed under.
        key: KeyId,
        /// The sealed secret.
        bytes: Vec<u8>,
    },
    /// The same secret, sealed under the present key. Since version 2.
    Reseal {
        /// What it is for.
        id: SecretId,
        /// Which one.
        generation: u64,
        /// The key that it is sealed under.
        key: KeyId,
        /// The sealed secret.
        bytes: Vec<u8>,
    },
    /// Asks the leader for another cluster key. Since version 2.
    Rekey,
    /// Removes a certificate that no listener uses. Since version 2.
    RemoveCertificate(CertificateId),
}

impl Command {
    /// The cluster version that first knows this command; before it is committed, `apply` refuses the command.
    pub fn since(&self) -> u32 {
        match self {
            Command::SealWith { .. }
            | Command::PutSealed { .. }
            | Command::Reseal { .. }
            | Command::Rekey
            | Command::RemoveCertificate(_) => secrets::SINCE,
            Command::Configure(changes) | Command::Stage { changes, .. } => {
                changes.iter().map(Change::since).max().unwrap_or(1)
            }
            _ => 1,
        }
    }
}

/// The first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Random id of the cluster.
    pub cluster: u128,
    /// First cluster version.
    pub version: u32,
    /// Raft timing.
    pub timing: Timing,
}

/// Raft timing: one setting of the cluster, agreed in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timing {
    /// Sites within 25 ms of each other: heartbeat 50 ms.
    Lan,
    /// Within 100 ms: heartbeat 200 ms.
    Wan,
    /// Within 200 ms: heartbeat 400 ms.
    Global,
    /// Numbers; elections follow as 3 to 5 heartbeats.
    Heartbeat {
        /// Milliseconds, 50 to 5000.
        ms: u32,
    },
}

impl Timing {
    /// Milliseconds from heartbeat to heartbeat.
    pub fn heartbeat_ms(self) -> u64 {
        match self {
            Timing::Lan => 50,
            Timing::Wan => 200,
            Timing::Global => 400,
            Timing::Heartbeat { ms } => u64::from(ms),
        }
    }
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// Answers DNS, proxies, observes; votes when Raft has it as a voter.
    Full,
    /// Votes and observes only.
    Witness,
}

/// A member of the cluster, beside its Raft role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The site it belongs to.
    pub site: SiteId,
    /// What it does.
    pub duty: Duty,
    /// Where its peers reach it.
    pub peer: SocketAddr,
    /// Where its admin API is reached; none: loopback only.
    pub admin: Option<SocketAddr>,
    /// The newest cluster version that its program knows; 0 until the node has said so itself.
    pub version: u32,
}

/// A new incarnation: after a restore, or after the majority was lost for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Its number; greater than the one before, by [`Recovery::MAX_STEP`] at most.
    pub incarnation: u32,
    /// Id of the cluster from now on: the same after a recovery, another one after a restore.
    pub cluster: u128,
    /// The only member from now on.
    pub node: NodeId,
    /// Its description.
    pub member: Member,
    /// Why, in an operator's words.
    pub reason: String,
}

impl Recovery {
    /// Incarnations that may be skipped at once: more than a hundred steps of a serial would go back (RFC 1982 §3.1).
    pub const MAX_STEP: u32 = 100;
}

/// What an override covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Every service at a site.
    Site(SiteId),
    /// One service at a site.
    ServiceSite(ServiceId, SiteId),
    /// One backend of a pool.
    Backend(PoolId, SocketAddr),
}

/// What an override says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Force {
    /// No new traffic.
    Drain,
    /// Healthy, whatever is observed.
    Up,
    /// Down, whatever is observed; fail-open never answers it.
    Down,
}

/// An operator's word against what is observed; always shown as such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// What it covers.
    pub scope: Scope,
    /// What it says.
    pub force: Force,
    /// Who said it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself.
    pub expires: Option<LogTime>,
}

/// What a token allows, each including the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees everything but secrets.
    Read,
    /// Drains, forces, moves, edits records of API zones.
    Operate,
    /// Changes configuration, members and tokens.
    Admin,
}

/// A bearer token, hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of the secret (256 random bits, so no salt is needed).
    pub hash: [u8; 32],
    /// What it allows.
    pub role: Role,
    /// When it ends.
    pub expires: Option<LogTime>,
}

/// A token that lets one node join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// When it ends.
    pub expires: LogTime,
}

/// What the nodes derive common keys from. Its bytes show in no log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where decisions are announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// `http://` or `https://`.
    pub url: String,
    /// Key of the HMAC-SHA-256 signature; empty where it is sealed.
    pub secret: String,
}

/// What `apply` says about an entry. Never an error: a refusal is a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// State has changed.
    Applied(Delta),
    /// Something that was read has changed since; read again and propose again.
    Stale(Read),
    /// Against a rule; the text says which and what to do.
    Refused(String),
}

/// What an entry changed, so that publishing costs what changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Delta {
    /// Log index of the entry.
    pub index: u64,
    /// Answers of these services changed, in this family.
    pub services: Vec<(ServiceId, Family)>,
    /// Records, serial or existence of these zones changed.
    pub zones: Vec<Name>,
    /// Listeners, routes, pools or backend drains changed.
    pub proxy: bool,
    /// The declared configuration changed (probes are planned anew).
    pub config: bool,
    /// Members, voters or timing changed.
    pub members: bool,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Automation => f.write_str("automation"),
            Cause::Operator(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Force {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Force::Drain => "drained",
            Force::Up => "forced up",
            Force::Down => "forced down",
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Site(site) => write!(f, "site {site}"),
            Scope::ServiceSite(service, site) => write!(f, "service {service} at site {site}"),
            Scope::Backend(pool, addr) => write!(f, "backend {addr} of pool {pool}"),
        }
    }
}
