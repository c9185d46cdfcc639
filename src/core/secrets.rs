//! The cluster's common secrets: one list, sealed under a cluster key that is never here.
//!
//! # What stands where
//!
//! A secret is sealed by the node that makes it, under a 256-bit key that lies in the nodes' key folders; what the log,
//! snapshots and backups hold is [`Sealed`]: bytes that this crate cannot read, the id of the key, and the log index of
//! the entry that brought the secret (its generation, which it keeps when it is sealed anew).
//!
//! # Rollover
//!
//! Secrets that all nodes use at once go by log time, each step on all nodes at the same index (RFC 9018 §5): a new one is
//! accepted, [`STAGED_MS`] later it is used while the one before is accepted, and when the last cookie or ticket of that
//! has ended, it is gone. The first one of its kind is used at once. The key of a webhook is replaced at once: its
//! receiver was given it before. So is a certificate: whoever issued it made both good.
//!
//! # The cluster key
//!
//! [`Command::SealWith`](crate::Command::SealWith) names the key that everything new must be sealed under. When a member
//! leaves, or an operator wants it, [`Vault::exposed`] asks the leader for another key. With a new key every secret is
//! *known* to who should not know it: it is sealed anew, so that nobody needs the old key, and rolled; keys of webhooks and
//! certificates stay, marked, until they are put again.
//!
//! # Before cluster version 2
//!
//! Secrets stood in the state as they were: [`Secrets::session`], [`Secrets::cookies`] and the key in each webhook. The
//! leader seals what it finds there, the entry that brings the sealed one drops the other, and because old log entries
//! and backups still hold that, it counts as known.

use crate::{
    apply::{Refusal, Step},
    cookies::{self, Cookies},
    entry::{Secret, Webhook},
    id::{CertificateId, ListenerId},
    members::{MAX_TOKENS, bounded, check_url},
    state::State,
    time::LogTime,
};
use alloc::{borrow::ToOwned, collections::BTreeMap, format, string::String, sync::Arc, vec::Vec};
use core::fmt;
use serde::{Deserialize, Serialize};

/// The cluster version from which secrets are sealed.
pub const SINCE: u32 = 2;
/// A new secret is accepted for so many milliseconds before it is used: by then every node that hears the cluster has it.
pub const STAGED_MS: u64 = cookies::STAGED_MS;
/// An old session secret is accepted for so many milliseconds after its last use: tickets are opened for a day at most.
const SESSION_MS: u64 = 25 * 3_600_000;
/// Certificates of a cluster.
const MAX_CERTIFICATES: usize = 1000;
/// Largest sealed secret, in bytes.
pub const MAX_SEALED: usize = 16 << 10;

/// Id of a cluster key: says which one, and nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a secret is for. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SecretId {
    /// DNS cookies are made with it: 16 bytes.
    DnsCookie,
    /// TLS session tickets and sticky cookies are made with keys derived from it: 32 bytes.
    Session,
    /// Signs what is posted to this URL.
    Webhook(String),
    /// A certificate: its chain and its key, as PEM text.
    Certificate(CertificateId),
}

/// Chain and key of a certificate as PEM text, opened. Shows in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle(pub Arc<[u8]>);

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bundle(…)")
    }
}

impl SecretId {
    /// Those that every cluster has.
    pub const SHARED: [SecretId; 2] = [SecretId::DnsCookie, SecretId::Session];

    /// What the seal binds beside the cluster, so that no secret passes for another one.
    pub fn context(&self) -> Vec<u8> {
        let (purpose, name) = match self {
            SecretId::DnsCookie => (1, ""),
            SecretId::Session => (2, ""),
            SecretId::Webhook(url) => (3, url.as_str()),
            SecretId::Certificate(id) => (4, id.as_str()),
        };
        [&[purpose], name.as_bytes()].concat()
    }

    /// Length in bytes of a secret that the cluster makes by itself; none: its user gives it.
    pub fn made(&self) -> Option<usize> {
        match self {
            SecretId::DnsCookie => Some(16),
            SecretId::Session => Some(32),
            SecretId::Webhook(_) | SecretId::Certificate(_) => None,
        }
    }

    fn accepted_ms(&self) -> u64 {
        match self {
            SecretId::DnsCookie => cookies::ACCEPTED_MS,
            SecretId::Session => SESSION_MS,
            SecretId::Webhook(_) | SecretId::Certificate(_) => 0,
        }
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SecretId::DnsCookie => "dns-cookie",
            SecretId::Session => "session",
            SecretId::Webhook(_) => "webhook", // the URL may hold secrets of its own
            SecretId::Certificate(_) => "certificate",
        })
    }
}

/// A secret that only holders of the key can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The key.
    pub key: KeyId,
    /// Log index of the entry that brought the secret.
    pub generation: u64,
    /// What [`SecretId::context`] is bound to.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} under {})", self.generation, self.key)
    }
}

/// The secrets of one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// In use.
    pub active: Sealed,
    /// Accepted, and active next.
    pub staged: Option<Sealed>,
    /// Accepted, and gone next.
    pub previous: Option<Sealed>,
    /// When the last step was taken.
    pub since: LogTime,
    /// Somebody who should not may know it: it is to be rolled.
    pub known: bool,
}

impl Ring {
    /// All of them, what is used first.
    pub fn all(&self) -> impl Iterator<Item = &Sealed> {
        [Some(&self.active), self.staged.as_ref(), self.previous.as_ref()].into_iter().flatten()
    }

    /// Generation of the newest.
    pub fn newest(&self) -> u64 {
        self.staged.as_ref().unwrap_or(&self.active).generation
    }

    /// When the next step is due; none: no rollover goes on.
    pub fn due(&self, id: &SecretId) -> Option<LogTime> {
        match (&self.staged, &self.previous) {
            (Some(_), _) => Some(self.since.plus(STAGED_MS)),
            (None, Some(_)) => Some(self.since.plus(id.accepted_ms())),
            (None, None) => None,
        }
    }

    fn advance(&mut self, id: &SecretId, now: LogTime) -> bool {
        if self.due(id).is_none_or(|due| due > now) {
            return false;
        }
        self.previous = self.staged.take().map(|staged| core::mem::replace(&mut self.active, staged));
        self.since = now;
        true
    }

    fn of_generation(&mut self, generation: u64) -> Option<&mut Sealed> {
        let all = [Some(&mut self.active), self.staged.as_mut(), self.previous.as_mut()];
        all.into_iter().flatten().find(|s| s.generation == generation)
    }
}

/// The sealed secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vault {
    /// The key that new secrets are sealed under.
    pub key: Option<KeyId>,
    /// Somebody who left may have it: another one is due.
    pub exposed: bool,
    /// The secrets.
    pub rings: BTreeMap<SecretId, Ring>,
}

impl Vault {
    /// The keys that are needed to read everything, the present one first.
    pub fn keys(&self) -> Vec<KeyId> {
        let mut keys: Vec<KeyId> = self.key.into_iter().collect();
        for sealed in self.rings.values().flat_map(Ring::all) {
            if !keys.contains(&sealed.key) {
                keys.push(sealed.key);
            }
        }
        keys
    }

    /// The secrets of one purpose, so far as they can be opened (key, context, sealed bytes), what is used first.
    pub fn opened(
        &self,
        id: &SecretId,
        open: impl Fn(KeyId, &[u8], &[u8]) -> Option<Vec<u8>>,
    ) -> Vec<Vec<u8>> {
        let context = id.context();
        let sealed = self.rings.get(id).into_iter().flat_map(Ring::all);
        sealed.filter_map(|s| open(s.key, &context, &s.bytes)).collect()
    }
}

/// All common secrets: those of cluster version 1 as they are, and the sealed ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Secrets {
    /// Secrets that common keys are derived from, the newest first.
    pub session: Vec<Secret>,
    /// The secrets of DNS cookies.
    pub cookies: Cookies,
    /// The sealed ones.
    pub vault: Arc<Vault>,
}

/// How they stand in snapshots and in the hash. Version 1 wrote a list of up to two session secrets, whose length takes
/// one byte, and the cookies' secrets: the first three variants are the same bytes.
#[derive(Serialize, Deserialize)]
enum Wire {
    None(Cookies),
    One(Secret, Cookies),
    Two([Secret; 2], Cookies),
    Sealed(Vec<Secret>, Cookies, Arc<Vault>),
}

impl From<Wire> for Secrets {
    fn from(wire: Wire) -> Secrets {
        let (session, cookies, vault) = match wire {
            Wire::None(cookies) => (Vec::new(), cookies, Arc::default()),
            Wire::One(one, cookies) => (Vec::from([one]), cookies, Arc::default()),
            Wire::Two(two, cookies) => (Vec::from(two), cookies, Arc::default()),
            Wire::Sealed(session, cookies, vault) => (session, cookies, vault),
        };
        Secrets { session, cookies, vault }
    }
}

impl From<Secrets> for Wire {
    fn from(secrets: Secrets) -> Wire {
        let Secrets { session, cookies, vault } = secrets;
        match session.as_slice() {
            _ if *vault != Vault::default() => Wire::Sealed(session, cookies, vault),
            [] => Wire::None(cookies),
            [one] => Wire::One(one.clone(), cookies),
            [one, two] => Wire::Two([one.clone(), two.clone()], cookies),
            _ => Wire::Sealed(session, cookies, vault),
        }
    }
}

impl State {
    /// The secret that a cluster of version 1 has in use, as it is.
    pub fn unsealed(&self, id: &SecretId) -> Option<&[u8]> {
        match id {
            SecretId::DnsCookie => self.secrets.cookies.active.as_ref().map(|s| s.0.as_slice()),
            SecretId::Session => self.secrets.session.first().map(|s| s.0.as_slice()),
            SecretId::Webhook(url) => {
                self.webhooks.get(url).map(|hook| hook.secret.as_bytes()).filter(|s| !s.is_empty())
            }
            SecretId::Certificate(_) => None,
        }
    }

    /// Whether a step of a rollover is due.
    pub(crate) fn secrets_due(&self, now: LogTime) -> bool {
        let due = |due: Option<LogTime>| due.is_some_and(|due| due <= now);
        due(self.secrets.cookies.due()) || self.secrets.vault.rings.iter().any(|(id, ring)| due(ring.due(id)))
    }

    /// Takes the steps that are due.
    pub(crate) fn advance_secrets(&mut self, step: &mut Step<'_>) {
        let now = self.time;
        if !self.secrets_due(now) {
            return;
        }
        self.secrets.cookies.advance(now);
        for (id, ring) in &mut Arc::make_mut(&mut self.secrets.vault).rings {
            step.delta.proxy |= ring.advance(id, now) && *id == SecretId::Session;
        }
    }

    /// Somebody who knew the cluster key is no member any more.
    pub(crate) fn expose_key(&mut self) {
        if self.secrets.vault.key.is_some() {
            Arc::make_mut(&mut self.secrets.vault).exposed = true;
        }
    }

    pub(crate) fn rekey(&mut self) -> Result<(), Refusal> {
        if self.secrets.vault.key.is_none() {
            return Err("the cluster has no key yet: the leader makes one by itself".into());
        }
        self.expose_key();
        Ok(())
    }

    pub(crate) fn seal_with(&mut self, from: Option<KeyId>, to: KeyId) -> Result<(), Refusal> {
        let vault = Arc::make_mut(&mut self.secrets.vault);
        if vault.key != from || vault.key == Some(to) {
            return Err("the cluster key is another one by now; look again".into());
        }
        vault.key = Some(to);
        vault.exposed = false;
        vault.rings.values_mut().for_each(|ring| ring.known = true);
        Ok(())
    }

    fn sealed_now(&self, key: KeyId, bytes: &[u8]) -> Result<(), Refusal> {
        if self.secrets.vault.key != Some(key) {
            return Err(format!(
                "the secret is sealed under {key}, which is not the cluster's key now; try again"
            ));
        }
        if bytes.len() > MAX_SEALED {
            return Err(format!("a sealed secret has {MAX_SEALED} bytes at most, not {}", bytes.len()));
        }
        Ok(())
    }

    /// A new secret: used at once where there is none of its kind, staged otherwise.
    pub(crate) fn put_sealed(
        &mut self,
        step: &mut Step<'_>,
        id: &SecretId,
        after: Option<u64>,
        key: KeyId,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        self.sealed_now(key, bytes)?;
        let held = self.secrets.vault.rings.get(id);
        if held.map(Ring::newest) != after {
            return Err(format!("the secret {id} has changed meanwhile; try again"));
        }
        let (now, sealed) =
            (self.time, Sealed { key, generation: self.generation.index, bytes: bytes.to_owned() });
        let first = |known| Ring { active: sealed.clone(), staged: None, previous: None, since: now, known };
        let ring = match held {
            None => first(self.unsealed(id).is_some()),
            Some(_) if id.made().is_none() => first(false),
            // one that is known is replaced at once, whatever goes on
            Some(ring) if ring.due(id).is_some() && !ring.known => {
                return Err(format!("a rollover of the secret {id} goes on already; wait for its end"));
            }
            Some(ring) => Ring { staged: Some(sealed), since: now, known: false, ..ring.clone() },
        };
        match id {
            SecretId::DnsCookie => self.secrets.cookies = Cookies::default(),
            SecretId::Session => {
                self.secrets.session.clear();
                step.delta.proxy = true;
            }
            SecretId::Webhook(url) => {
                check_url(url)?;
                if !self.webhooks.contains_key(url) {
                    bounded(self.webhooks.len(), MAX_TOKENS, "webhooks")?;
                }
                self.webhooks.insert(url.clone(), Webhook { url: url.clone(), secret: String::new() });
            }
            SecretId::Certificate(_) => {
                if held.is_none() {
                    bounded(self.certificates().count(), MAX_CERTIFICATES, "certificates")?;
                }
                step.delta.proxy = true;
            }
        }
        Arc::make_mut(&mut self.secrets.vault).rings.insert(id.clone(), ring);
        Ok(())
    }

    /// The same secret under the present key.
    pub(crate) fn reseal(
        &mut self,
        step: &mut Step<'_>,
        id: &SecretId,
        generation: u64,
        key: KeyId,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        self.sealed_now(key, bytes)?;
        let ring = Arc::make_mut(&mut self.secrets.vault).rings.get_mut(id);
        let sealed = ring.and_then(|ring| ring.of_generation(generation));
        let sealed = sealed.ok_or_else(|| format!("the secret {id} of index {generation} is gone"))?;
        (sealed.key, sealed.bytes) = (key, bytes.to_owned());
        step.delta.proxy |= matches!(id, SecretId::Certificate(_)); // a node may be able to open it now
        Ok(())
    }

    /// The certificates that the cluster holds.
    pub fn certificates(&self) -> impl Iterator<Item = (&CertificateId, &Ring)> {
        self.secrets.vault.rings.iter().filter_map(|(id, ring)| match id {
            SecretId::Certificate(id) => Some((id, ring)),
            _ => None,
        })
    }

    /// The listeners that use a certificate.
    pub fn users<'a>(&'a self, id: &'a CertificateId) -> impl Iterator<Item = &'a ListenerId> {
        self.listeners
            .iter()
            .filter(move |(_, l)| l.certificates().any(|c| c == id))
            .map(|(listener, _)| listener)
    }

    pub(crate) fn forget_certificate(&mut self, id: &CertificateId) -> Result<(), Refusal> {
        if let Some(listener) = self.users(id).next() {
            return Err(format!(
                "the listener {listener} uses the certificate {id}; give it another one first"
            ));
        }
        let secret = SecretId::Certificate(id.clone());
        if !self.secrets.vault.rings.contains_key(&secret) {
            return Err(format!("there is no certificate {id}"));
        }
        Arc::make_mut(&mut self.secrets.vault).rings.remove(&secret);
        Ok(())
    }

    pub(crate) fn forget_webhook(&mut self, url: &str) -> Result<(), Refusal> {
        self.webhooks.remove(url).map(drop).ok_or_else(|| format!("there is no webhook {url}"))?;
        let id = SecretId::Webhook(url.to_owned());
        if self.secrets.vault.rings.contains_key(&id) {
            Arc::make_mut(&mut self.secrets.vault).rings.remove(&id);
        }
        Ok(())
    }

    /// From version 2 on no secret enters the log as it is.
    pub(crate) fn no_plain_secret(&self) -> Result<(), Refusal> {
        match self.cluster_version < SINCE {
            true => Ok(()),
            false => Err("this cluster seals its secrets by now; try again".into()),
        }
    }
}
