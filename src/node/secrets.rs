//! The common secrets on a node: who has the cluster key, and on the leader what is sealed with it.
//!
//! # The key
//!
//! It lies in the key folder (`cluster.key`) and travels on the Control lane alone, between members. A new one is made by
//! the leader when the cluster has none, when a member has left, or when an operator asks for it: the members get it
//! first, and once a majority of the voters has it on disk, the log names it. A node that finds in the state a key that
//! it does not have asks the others until one gives it, which is also how a node that has joined gets it. A key is given
//! only by a node whose own state names it, so after the removal that made it due.
//!
//! # The secrets
//!
//! The leader makes those that are missing, seals what version 1 left as it is, seals anew what another key sealed, and
//! rolls what is known to somebody who should not know it. It looks at the state several times a second and does what is
//! wanting, one entry at a time, so that it does not matter where a leader before it has stopped.
//!
//! A key that no member has any more (all `cluster.key` lost) is replaced after half a minute. The secrets that the
//! cluster makes by itself are then made anew; the keys of webhooks and the certificates are lost and must be put again.

use super::control_lane::KEY_TAG;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::task::{JoinSet, spawn_blocking};
use zonekeeper_consensus::{Consensus, ProposeError, Role};
use zonekeeper_core::{
    Command, Outcome, Proposal, State, codec,
    entry::{Cause, Object, Read},
    id::NodeId,
    secrets::{KeyId, SINCE, SecretId, Vault},
};
use zonekeeper_peer::{
    Lane, Peers,
    keys::{ClusterKey, Keyring},
};

/// From one look at the state to the next.
const LOOK: Duration = Duration::from_millis(250);
/// From one time of asking for a key to the next, and from one attempt to change something to the next.
const AGAIN: Duration = Duration::from_secs(1);
/// From one line in the log to the next.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// How long a member may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long an entry may take.
const PROPOSE: Duration = Duration::from_secs(5);
/// A key that nobody has given for so long is lost.
const LOST: Duration = Duration::from_secs(30);

/// What a member asks of another. On the wire: append only.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// Give me this key.
    Give(KeyId),
    /// Keep this key, which the log is about to name.
    Keep(String),
}

/// Answers a member.
pub(super) async fn answer(
    keyring: &Keyring,
    state: &State,
    from: NodeId,
    ask: &[u8],
) -> Result<Vec<u8>, String> {
    let needed = state.secrets.vault.keys();
    match codec::from_bytes(ask).map_err(|e| e.to_string())? {
        Ask::Give(id) => {
            let key = keyring.get(id).filter(|_| needed.contains(&id));
            let key = key.ok_or_else(|| format!("this node has no key {id} to give"))?;
            tracing::info!(to = from, key = %id, "gave the cluster key");
            Ok(codec::bytes(&key.text()))
        }
        Ask::Keep(text) => {
            let key: ClusterKey = text.parse().map_err(|_| "that is no cluster key")?;
            if key.cluster() != state.cluster {
                return Err("that is another cluster's key".into());
            }
            keep(keyring, key, needed).await?;
            Ok(Vec::new())
        }
    }
}

async fn keep(keyring: &Keyring, key: ClusterKey, needed: Vec<KeyId>) -> Result<(), String> {
    let keyring = keyring.clone();
    let kept = spawn_blocking(move || keyring.add(key, &needed)).await;
    kept.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Secrets that this node cannot open.
pub(super) fn unopened(vault: &Vault, keyring: &Keyring) -> usize {
    let sealed = vault.rings.values().flat_map(|ring| ring.all());
    sealed.filter(|s| !keyring.has(s.key)).count()
}

/// What a person should know of this node's cluster key, with the remedy.
pub(super) fn problem(vault: &Vault, keyring: &Keyring) -> Option<String> {
    let key = vault.key?;
    if !keyring.has(key) {
        let why = keyring.problem().map(|why| format!(" ({why})")).unwrap_or_default();
        return Some(format!(
            "this node lacks the cluster key {key}{why}: it makes DNS cookies, session tickets and sticky cookies with secrets of \
             its own, which the others do not take, cannot open the certificates that the cluster holds, and asks the others for \
             the key; if this lasts, copy cluster.key from another node's key folder and restart this node"
        ));
    }
    let mut lost = vault.rings.iter().filter(|(_, ring)| !keyring.has(ring.active.key));
    lost.find_map(|(id, ring)| {
        let key = ring.active.key;
        match id {
            SecretId::Webhook(url) => {
                let host: String = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
                Some(format!(
                    "the signing key of the webhook at {host} is sealed under the cluster key {key}, which this node lacks: what \
                     is announced there waits; if no other node has that key, put the webhook again"
                ))
            }
            SecretId::Certificate(name) => Some(format!(
                "the certificate {name} is sealed under the cluster key {key}, which this node lacks: listeners that use it keep \
                 the one before, or serve nobody; if no other node has that key, put the certificate again"
            )),
            SecretId::DnsCookie | SecretId::Session => None,
        }
    })
}

/// Looks after key and secrets for ever.
pub(super) struct Keeper {
    consensus: Consensus,
    peers: Peers,
    keyring: Keyring,
    /// The key that is being given to the members, and the version of the members that it was made for.
    next: Option<(u64, ClusterKey)>,
    /// Since when the present key is missing here.
    missing: Option<Instant>,
    asked: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(consensus: Consensus, peers: Peers, keyring: Keyring) -> Keeper {
        Keeper { consensus, peers, keyring, next: None, missing: None, asked: None }
    }

    pub(super) async fn run(mut self) {
        let mut said: Option<Instant> = None;
        loop {
            match self.tend().await {
                Ok(true) => {}
                Ok(false) => tokio::time::sleep(LOOK).await,
                Err(why) => {
                    if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
                        tracing::warn!(
                            why,
                            "the common secrets are not as they should be yet; this is tried again"
                        );
                        said = Some(Instant::now());
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Does one thing that is wanting; false: nothing is, or it has to wait.
    pub(super) async fn tend(&mut self) -> Result<bool, String> {
        let state = self.consensus.state();
        if state.cluster_version < SINCE {
            return Ok(false);
        }
        let vault = &state.secrets.vault;
        let fetched = self.fetch(vault).await?;
        if fetched || self.consensus.status().role != Role::Leader {
            return Ok(fetched);
        }
        let lost = self.missing.is_some_and(|since| since.elapsed() > LOST);
        if vault.key.is_none() || vault.exposed || lost {
            return self.rotate(&state).await;
        }
        match wanting(&state, &self.keyring)? {
            Some(command) => self.propose(Vec::new(), command).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Gets a key that the state names and this node does not have.
    async fn fetch(&mut self, vault: &Vault) -> Result<bool, String> {
        let lacks = |key: &KeyId| !self.keyring.has(*key);
        match vault.key.filter(lacks) {
            Some(_) => _ = self.missing.get_or_insert_with(Instant::now),
            None => self.missing = None,
        }
        let needed = vault.keys();
        let Some(key) = needed.iter().copied().find(lacks) else { return Ok(false) };
        if self.asked.is_some_and(|at| at.elapsed() < AGAIN) {
            return Ok(false);
        }
        self.asked = Some(Instant::now());
        for node in self.peers.connected() {
            let Ok(answer) = ask(&self.peers, node, &Ask::Give(key)).await else { continue };
            let text: String = codec::from_bytes(&answer).map_err(|e| e.to_string())?;
            let given: ClusterKey = text.parse().map_err(|_| format!("node {node} gave no key"))?;
            if given.id() != key {
                return Err(format!("node {node} gave the key {} for {key}", given.id()));
            }
            keep(&self.keyring, given, needed).await?;
            tracing::info!(from = node, %key, "this node has the cluster key");
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives the members another key, and names it once a majority of the voters has it.
    async fn rotate(&mut self, state: &State) -> Result<bool, String> {
        let (from, members) = (state.secrets.vault.key, state.members_version);
        let key = match self.next.take().filter(|(of, _)| *of == members) {
            Some((_, key)) => key,
            None => self.another(state)?,
        };
        self.next = Some((members, key.clone()));
        keep(&self.keyring, key.clone(), state.secrets.vault.keys()).await?;
        let holders = self.give(state, &key).await;
        let voters = state.voters.intersection(&holders).count();
        if voters <= state.voters.len() / 2 {
            return Err(format!(
                "{voters} of {} voters have the new cluster key, a majority is needed",
                state.voters.len()
            ));
        }
        // who was given it is a member still: a change of members meanwhile makes this stale
        let reads = vec![Read { object: Object::Voters, version: members }];
        self.propose(reads, Command::SealWith { from, to: key.id() }).await?;
        tracing::info!(key = %key.id(), voters, "the cluster has another key for its secrets");
        (self.next, self.missing) = (None, None);
        Ok(true)
    }

    /// The first key of a cluster may be in the folder already, from `zonekeeper keys`.
    fn another(&self, state: &State) -> Result<ClusterKey, String> {
        let first = state.secrets.vault.key.is_none() && self.next.is_none();
        match self.keyring.newest(state.cluster).filter(|_| first) {
            Some(key) => Ok(key),
            None => ClusterKey::generate(state.cluster).map_err(|e| e.to_string()),
        }
    }

    /// The members that have the key on their disks.
    async fn give(&self, state: &State, key: &ClusterKey) -> BTreeSet<NodeId> {
        let mut holders = BTreeSet::from([self.consensus.node()]);
        let mut asked = JoinSet::new();
        for node in self.peers.connected().into_iter().filter(|node| state.members.contains_key(node)) {
            let (peers, request) = (self.peers.clone(), Ask::Keep(key.text()));
            asked.spawn(async move { ask(&peers, node, &request).await.map(|_| node) });
        }
        while let Some(done) = asked.join_next().await {
            match done {
                Ok(Ok(node)) => _ = holders.insert(node),
                Ok(Err(why)) => {
                    tracing::warn!(why, "a member did not take the new cluster key; it will ask for it")
                }
                Err(_) => {}
            }
        }
        holders
    }

    async fn propose(&self, reads: Vec<Read>, command: Command) -> Result<(), String> {
        let proposal = Proposal { reads, cause: Cause::Automation, command };
        match self.consensus.propose_as_leader(proposal, PROPOSE).await {
            Ok((_, Outcome::Applied(_))) => Ok(()),
            Ok((_, Outcome::Stale(_))) => Err("what was read has changed meanwhile".into()),
            Ok((_, Outcome::Refused(why))) => Err(why),
            Err(ProposeError::NoLeader | ProposeError::NotLeader { .. }) => {
                Err("another node leads by now".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn ask(peers: &Peers, node: NodeId, request: &Ask) -> Result<Vec<u8>, String> {
    let request = [&[KEY_TAG], codec::bytes(request).as_slice()].concat();
    peers.call(node, Lane::Control, request, ANSWER).await.map_err(|e| format!("node {node}: {e}"))
}

/// What the leader does next.
fn wanting(state: &State, keyring: &Keyring) -> Result<Option<Command>, String> {
    let vault = &state.secrets.vault;
    let Some(key) = vault.key.filter(|key| keyring.has(*key)) else { return Ok(None) };
    let seal = |id: &SecretId, plain: &[u8]| {
        keyring.seal(key, &id.context(), plain).ok_or_else(|| String::from("a secret cannot be sealed"))
    };
    let put = |id: &SecretId, after, plain: &[u8]| {
        let bytes = seal(id, plain)?;
        Ok::<_, String>(Some(Command::PutSealed { id: id.clone(), after, key, bytes }))
    };
    let hooks = state.webhooks.keys().map(|url| SecretId::Webhook(url.clone()));
    let certificates = state.certificates().map(|(id, _)| SecretId::Certificate(id.clone()));
    for id in SecretId::SHARED.into_iter().chain(hooks).chain(certificates) {
        let ring = vault.rings.get(&id);
        match (ring, state.unsealed(&id), id.made()) {
            (None, Some(plain), _) => return put(&id, None, plain),
            (None, None, Some(len)) => return put(&id, None, &random(len)?),
            (Some(ring), _, Some(len)) if ring.known => return put(&id, Some(ring.newest()), &random(len)?),
            _ => {}
        }
        for sealed in ring.into_iter().flat_map(|ring| ring.all()).filter(|s| s.key != key) {
            let Some(plain) = keyring.open(sealed.key, &id.context(), &sealed.bytes) else { continue };
            let (generation, bytes) = (sealed.generation, seal(&id, &plain)?);
            return Ok(Some(Command::Reseal { id, generation, key, bytes }));
        }
    }
    Ok(None)
}

fn random(len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).map_err(|e| format!("no randomness: {e}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use zonekeeper_core::{
        cookies::{CookieSecret, Cookies},
        entry::{Secret, Webhook},
        secrets::{Ring, Sealed, Secrets},
        time::LogTime,
    };

    fn state(key: Option<KeyId>) -> State {
        let vault = Vault { key, ..Vault::default() };
        let secrets = Secrets { vault: Arc::new(vault), ..Secrets::default() };
        State { cluster: 7, cluster_version: SINCE, secrets, ..State::default() }
    }

    fn ring_with(keys: &[&ClusterKey]) -> (tempfile::TempDir, Keyring) {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::load(dir.path());
        keys.iter().for_each(|key| ring.add((*key).clone(), &[]).unwrap());
        (dir, ring)
    }

    async fn answer(ring: &Keyring, state: &State, ask: &Ask) -> Result<Vec<u8>, String> {
        super::answer(ring, state, 2, &codec::bytes(ask)).await
    }

    #[tokio::test]
    async fn a_key_is_given_once_the_state_names_it_and_not_before() {
        let [first, next, other] = [7, 7, 8].map(|cluster| ClusterKey::generate(cluster).unwrap());
        let (_dir, ring) = ring_with(&[&first]);
        let before = state(Some(first.id()));
        answer(&ring, &before, &Ask::Keep(next.text())).await.unwrap();
        assert!(ring.has(next.id()));
        // who asks now may be a member here and removed already where the log is longer
        let early = answer(&ring, &before, &Ask::Give(next.id())).await.unwrap_err();
        assert!(early.contains("no key"), "{early}");
        let given = answer(&ring, &state(Some(next.id())), &Ask::Give(next.id())).await.unwrap();
        assert_eq!(codec::from_bytes::<String>(&given).unwrap(), next.text());
        let foreign = answer(&ring, &before, &Ask::Keep(other.text())).await.unwrap_err();
        assert!(foreign.contains("another cluster's"), "{foreign}");
        assert!(answer(&ring, &before, &Ask::Keep("zkkey1".into())).await.is_err());
        assert!(super::answer(&ring, &before, 2, &[9, 9]).await.is_err(), "garbage");
    }

    #[test]
    fn the_leader_seals_what_is_there_and_makes_what_is_not() {
        let [old, new] = [7, 7].map(|cluster| ClusterKey::generate(cluster).unwrap());
        let (_dir, ring) = ring_with(&[&old, &new]);
        let plain = |key: &ClusterKey, id: &SecretId, bytes: &[u8]| key.open(&id.context(), bytes).unwrap();
        let mut state = state(Some(new.id()));
        let next = |state: &State| wanting(state, &ring).unwrap();
        let Some(Command::PutSealed { id, after: None, bytes, .. }) = next(&state) else { panic!() };
        assert_eq!((&id, plain(&new, &id, &bytes).len()), (&SecretId::DnsCookie, 16), "fresh");

        state.secrets.cookies = Cookies { active: Some(CookieSecret([4; 16])), ..Cookies::default() };
        state.secrets.session = vec![Secret([5; 32])];
        let Some(Command::PutSealed { id, bytes, .. }) = next(&state) else { panic!() };
        assert_eq!(plain(&new, &id, &bytes), [4; 16], "what version 1 used");

        let sealed = |key: &ClusterKey, id: &SecretId| {
            let bytes = key.seal(&id.context(), &[6; 32]).unwrap();
            Sealed { key: key.id(), generation: 3, bytes }
        };
        let held =
            |active: Sealed, known| Ring { active, staged: None, previous: None, since: LogTime(0), known };
        let url = "https://hook.example";
        state.webhooks.insert(url.into(), Webhook { url: url.into(), secret: String::new() });
        let hook = SecretId::Webhook(url.into());
        let mut put = |id: &SecretId, ring: Ring| {
            let vault = Arc::make_mut(&mut state.secrets.vault);
            vault.rings.insert(id.clone(), ring);
            next(&state)
        };
        let cookie = held(sealed(&new, &SecretId::DnsCookie), false);
        let Some(Command::PutSealed { id: SecretId::Session, .. }) = put(&SecretId::DnsCookie, cookie) else {
            panic!()
        };
        let known = put(&SecretId::Session, held(sealed(&old, &SecretId::Session), true));
        let Some(Command::PutSealed { id: SecretId::Session, after: Some(3), bytes, .. }) = known else {
            panic!()
        };
        assert_ne!(plain(&new, &SecretId::Session, &bytes), [6; 32], "rolled");
        let anew = put(&SecretId::Session, held(sealed(&old, &SecretId::Session), false));
        let Some(Command::Reseal { id: SecretId::Session, generation: 3, bytes, .. }) = anew else {
            panic!()
        };
        assert_eq!(plain(&new, &SecretId::Session, &bytes), [6; 32], "the same");
        let settled = put(&SecretId::Session, held(sealed(&new, &SecretId::Session), false));
        assert_eq!(settled, None);
        assert_eq!(put(&hook, held(sealed(&new, &hook), true)), None, "a receiver's key is not rolled");
        let lost = ClusterKey::generate(7).unwrap();
        assert_eq!(put(&hook, held(sealed(&lost, &hook), true)), None, "nobody can open it");
        let said = problem(&state.secrets.vault, &ring).unwrap();
        assert!(
            said.contains("webhook at https://hook.example") && said.contains("put the webhook again"),
            "{said}"
        );
        assert_eq!(unopened(&state.secrets.vault, &ring), 1);
    }
}
