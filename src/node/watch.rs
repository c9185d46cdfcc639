//! Small loops that follow a publication, a report or a clock.

use super::reload::Certificate;
use crate::{
    clock,
    control::{Lead, Opener},
    probe::{board::Board, heartbeat::Heartbeats, plan::plan, stream::Streams},
};
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::{broadcast::error::RecvError, watch};
use zonekeeper_config::{DnsConfig, OnStale};
use zonekeeper_consensus::{Consensus, Role, Status, election_max_ms, timing_warning};
use zonekeeper_core::{
    Command, Published, State,
    entry::{Member, Timing},
    evidence::Report,
    id::{NodeId, PoolId, SiteId},
    secrets::Secrets,
    state::Generation,
};
use zonekeeper_dns::{CookieSecrets, DnsFlags};
use zonekeeper_peer::{LinkChange, LinkEvent, Loss, Peers};
use zonekeeper_proxy::LocalHealth;

/// This node's own reports are evidence too.
pub(super) async fn own_reports(mut reports: watch::Receiver<Arc<Report>>, lead: Arc<Lead>) {
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        lead.receive((*report).clone());
    }
}

/// A backend that comes or goes is reported at once.
pub(super) async fn local_health(health: Arc<LocalHealth>, board: Arc<Board>) {
    let mut changes = health.subscribe();
    while changes.changed().await.is_ok() {
        board.touch();
    }
}

/// From one try to say what this node is to the next.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// Keeps what the cluster knows of this node (addresses, site, version of its program) as the node file has it: the
/// others reach it by that, also after it has moved.
pub(super) async fn own_member(
    consensus: Consensus,
    published: Arc<ArcSwap<Published>>,
    mut news: watch::Receiver<Generation>,
    member: Member,
) {
    let node = consensus.node();
    loop {
        news.borrow_and_update();
        let known = published.load().state.members.get(&node).cloned();
        if known.is_some_and(|known| *known != member) {
            let command = Command::PutMember(node, member.clone());
            match super::propose(&consensus, &format!("node {node}"), Vec::new(), command).await {
                Ok(_) => tracing::info!(peer = %member.peer, "the cluster knows this node anew"),
                Err(why) => tracing::warn!(why, "the cluster could not be told what this node is"),
            }
            tokio::time::sleep(SAY_AGAIN).await;
        } else if news.changed().await.is_err() {
            return;
        }
    }
}

/// Flags the answers of a node that heard no leader for too long, or that others hear while it does not.
pub(super) async fn staleness(consensus: Consensus, peers: Peers, config: DnsConfig, flags: Arc<DnsFlags>) {
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let status = consensus.status();
        let stale = config.max_stale.is_some_and(|limit| age(&status, running()) > limit);
        let behind = behind(&status, &peers.connected(), consensus.state().timing, running());
        flags.stale.store(stale || behind.is_some(), Relaxed);
        flags.servfail.store(stale && config.on_stale == OnStale::ServFail, Relaxed);
    }
}

/// How long this program has run.
pub(super) fn running() -> Duration {
    Duration::from_millis(clock::mono().0)
}

/// A node that hears other voters but not the leader is behind: whatever they decide does not reach it. In words; an
/// election is no such thing, and neither is a node that hears nobody (the age of its answers says that).
pub(super) fn behind(
    status: &Status,
    connected: &BTreeSet<NodeId>,
    timing: Timing,
    running: Duration,
) -> Option<String> {
    let follows = matches!(status.role, Role::Follower | Role::Candidate | Role::Learner);
    let member = status.voters.contains_key(&status.node) || status.learners.contains_key(&status.node);
    let silent = status.leader_heard_ms.map_or(running, Duration::from_millis);
    let election = Duration::from_millis(2 * election_max_ms(timing)) + Duration::from_secs(1);
    let heard: Vec<String> =
        status.voters.keys().filter(|n| connected.contains(n)).map(ToString::to_string).collect();
    (follows && member && silent > election && !heard.is_empty()).then(|| {
        format!(
            "behind: this node hears node {}, but no leader for {} s, so what it answers may be old; mend the network \
             between it and the leader",
            heard.join(", "),
            silent.as_secs()
        )
    })
}

/// DNS makes and checks cookies with the secrets that the cluster shares; where this node cannot open them, with one of
/// its own. Encrypted DNS has the certificate that the cluster holds, where it is asked to.
pub(super) async fn secrets(
    published: Arc<ArcSwap<Published>>,
    mut news: watch::Receiver<Generation>,
    (flags, certificate): (Arc<DnsFlags>, Option<Arc<Certificate>>),
    opener: Arc<Opener>,
) {
    let (mut held, mut seen) = (Vec::new(), None);
    let mut keys = opener.keyring().subscribe();
    loop {
        news.borrow_and_update();
        let state = published.load().state.clone();
        let (secrets, key) = (state.secrets.clone(), *keys.borrow_and_update());
        let same = |(of, by): &(Secrets, u64)| {
            Arc::ptr_eq(&of.vault, &secrets.vault) && of.cookies == secrets.cookies && *by == key
        };
        if !seen.as_ref().is_some_and(same) {
            let now = opener.cookies(&state);
            if now != held {
                let secrets = match now.split_first() {
                    Some((used, accepted)) => Some(CookieSecrets::new(*used, accepted)),
                    None => CookieSecrets::random(),
                };
                flags.secrets.0.store(Arc::new(secrets));
                held = now;
            }
            if let Some(certificate) = &certificate {
                certificate.follow(&opener, &state);
            }
            seen = Some((secrets, key));
        }
        if news.changed().await.is_err() {
            return;
        }
    }
}

/// How old the answers may be. Before the first word of a leader it counts from the start: a node that was restarted
/// answers at once, and has as long to find its leader as one that lost it.
fn age(status: &Status, running: Duration) -> Duration {
    let alone = status.role == Role::Leader && status.voters.len() == 1;
    if alone {
        return Duration::ZERO; // its own word is the quorum's
    }
    status.quorum_age_ms.map_or(running, Duration::from_millis)
}

/// What the handshake compares: nodes must run Raft under one timing.
pub(super) fn settings(timing: Timing) -> u64 {
    timing.heartbeat_ms()
}

/// Says loudly, once a minute while it lasts, that the measured round trips make the timing unworkable.
pub(super) async fn timing_alarm(consensus: Consensus, peers: Peers) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        if let Some(warning) = timing_problem(&consensus, &peers) {
            tracing::warn!("{warning}");
        }
    }
}

/// The slowest connected peer against the cluster's timing.
pub(super) fn timing_problem(consensus: &Consensus, peers: &Peers) -> Option<String> {
    let slowest = peers.connected().into_iter().filter_map(|n| peers.rtt(n)).map(|r| r.mean).max()?;
    timing_warning(consensus.state().timing, slowest.as_millis() as u64)
}

/// From one look at whether this node has fallen behind to the next.
const BEHIND_LOOK: Duration = Duration::from_secs(1);
/// A node that heard no leader for so long may have missed who is a member: several elections of the slowest timing.
const BEHIND: Duration = Duration::from_secs(15);

/// Follows publications (peers, probes, heartbeats, proxy) and link events (a crash that the network announces is
/// re-probed at once).
pub(super) struct Follower {
    pub(super) node: NodeId,
    pub(super) site: SiteId,
    pub(super) proxies: bool,
    pub(super) peers: Peers,
    pub(super) board: Arc<Board>,
    pub(super) health: Arc<LocalHealth>,
    pub(super) consensus: Consensus,
    pub(super) published: Arc<ArcSwap<Published>>,
    pub(super) news: watch::Receiver<Generation>,
    /// This start founds a cluster.
    pub(super) founds: bool,
}

impl Follower {
    pub(super) async fn run(
        mut self,
        mut streams: Streams,
        reports: watch::Receiver<Arc<Report>>,
        refresh: impl Fn() + Send + 'static,
    ) {
        let mut heartbeats = Heartbeats::new(self.peers.clone(), self.board.clone(), reports);
        let mut links = self.peers.events();
        let mut followed = None;
        let mut allowed = None;
        loop {
            self.news.borrow_and_update();
            let state = self.published.load().state.clone();
            let now = Some((inputs(&state), self.health.resolutions()));
            if std::mem::replace(&mut followed, now) != now {
                self.follow(&state, &mut streams, &mut heartbeats);
            }
            let now = Some(callers(&state, self.node, self.consensus.status().quorum_age_ms, self.founds));
            if allowed != now {
                self.peers.set_allowed(now.clone().flatten());
                allowed = now;
            }
            tokio::select! {
                news = self.news.changed() => {
                    if news.is_err() { return }
                    refresh();
                }
                link = links.recv() => match link {
                    Ok(event) => self.link(&streams, event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                () = tokio::time::sleep(BEHIND_LOOK) => {}
            }
        }
    }

    fn follow(&self, state: &State, streams: &mut Streams, heartbeats: &mut Heartbeats) {
        self.peers.set_settings(settings(state.timing));
        let resolved = |pool: &PoolId| self.health.resolved(pool).into_iter().map(|b| b.addr).collect();
        streams.follow(plan(state, self.node, &self.site, self.proxies, resolved));
        let others = || state.members.iter().filter(|(id, _)| **id != self.node);
        self.peers.set_peers(others().map(|(id, m)| (*id, m.peer)).collect());
        let members: BTreeMap<_, _> =
            others().map(|(id, m)| (*id, (m.peer, state.voters.contains(id)))).collect();
        heartbeats.follow(&members);
    }

    fn link(&self, streams: &Streams, event: LinkEvent) {
        if event.what == LinkChange::Lost(Loss::Refused) {
            // it was connected, or silent, and now its host says that nobody listens
            self.consensus.process_gone(event.node);
        }
        let news = match event.what {
            LinkChange::Up => true,
            LinkChange::Lost(why) => matches!(why, Loss::Reset | Loss::Closed | Loss::Refused),
        };
        if let (true, Some(member)) = (news, self.published.load().state.members.get(&event.node)) {
            streams.kick(&member.site);
        }
    }
}

/// What [`Follower::follow`] reads of a state, in versions: edits of records and decisions leave it as it is.
fn inputs(state: &State) -> (u32, u64, u64, Timing) {
    (state.generation.incarnation, state.revision, state.members_version, state.timing)
}

/// Who may connect; none: whoever has a certificate of the cluster and was not removed (the lanes look at that). A node
/// that is no member yet, or that was away, may be brought the log by a leader that it does not know.
fn callers(
    state: &State,
    node: NodeId,
    quorum_age_ms: Option<u64>,
    founds: bool,
) -> Option<BTreeSet<NodeId>> {
    if founds && !state.members.contains_key(&node) {
        return Some([node].into()); // nobody yet
    }
    let behind = quorum_age_ms.is_none_or(|ms| u128::from(ms) > BEHIND.as_millis());
    let alone = state.voters.len() == 1 && state.voters.contains(&node);
    let known = state.members.contains_key(&node) && (alone || !behind);
    known.then(|| state.members.keys().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonekeeper_core::entry::Duty;

    fn status(role: Role, voters: u64, quorum_age_ms: Option<u64>) -> Status {
        let peer = || zonekeeper_consensus::Peer { addr: String::new(), matched: None, acked_ms: None };
        Status {
            node: 1,
            role,
            term: 1,
            leader: None,
            last_log: 0,
            committed: 0,
            applied: 0,
            snapshot: 0,
            voters: (1..=voters).map(|id| (id, peer())).collect(),
            learners: BTreeMap::new(),
            quorum_age_ms,
            leader_heard_ms: None,
            stopped: None,
        }
    }

    #[test]
    fn answers_age_from_the_leaders_last_word_or_from_the_start() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        assert_eq!(age(&status(Role::Follower, 3, Some(700)), s(60)), ms(700));
        assert_eq!(age(&status(Role::Follower, 3, None), s(2)), s(2), "restarted: not stale at once");
        assert_eq!(age(&status(Role::Leader, 3, Some(9_000)), s(60)), s(9), "a leader cut off ages too");
        assert_eq!(age(&status(Role::Leader, 1, None), s(60)), s(0), "a cluster of one never ages");
        assert_eq!(age(&status(Role::Stopped, 1, None), s(60)), s(60), "unless it has stopped");
    }

    #[test]
    fn a_node_that_hears_voters_and_no_leader_is_behind() {
        let of = |role, heard_ms, connected: &[NodeId], running: u64| {
            let status = Status { leader_heard_ms: heard_ms, ..status(role, 3, None) };
            let connected = connected.iter().copied().collect();
            behind(&status, &connected, Timing::Lan, Duration::from_secs(running))
        };
        let said = of(Role::Follower, Some(4_000), &[2, 9], 60).unwrap();
        assert!(said.contains("hears node 2, but no leader for 4 s"), "{said}");
        assert_eq!(of(Role::Follower, Some(1_400), &[2, 3], 60), None, "an election");
        assert_eq!(of(Role::Follower, Some(4_000), &[9], 60), None, "it hears no voter: alone, not behind");
        assert_eq!(of(Role::Leader, Some(0), &[2, 3], 60), None);
        assert!(of(Role::Follower, None, &[2], 60).is_some(), "restarted, and no leader since");
        assert_eq!(of(Role::Follower, None, &[2], 1), None);
    }

    #[test]
    fn a_node_that_was_away_may_be_called_by_a_leader_that_it_does_not_know() {
        let member = |id: u64| {
            let peer = ([127, 0, 0, id as u8], 1).into();
            Arc::new(Member { site: "fra".parse().unwrap(), duty: Duty::Full, peer, admin: None, version: 1 })
        };
        let members = (1..=3).map(|id| (id, member(id))).collect();
        let mut state = State { members, voters: [1, 2, 3].into(), ..State::default() };
        let callers = |state: &State, node, age| super::callers(state, node, age, false);
        assert_eq!(callers(&state, 1, Some(100)), Some([1, 2, 3].into()));
        assert_eq!(callers(&state, 1, None), None, "nothing heard yet: its list may be old");
        assert_eq!(callers(&state, 1, Some(60_000)), None, "cut off for a minute");
        assert_eq!(callers(&state, 9, Some(100)), None, "not a member yet");
        assert_eq!(super::callers(&state, 9, None, true), Some([9].into()), "it founds a cluster");
        state.voters = [1].into();
        assert_eq!(callers(&state, 1, None), Some([1, 2, 3].into()), "alone it decides who is a member");
    }
}
