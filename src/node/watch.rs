//! Small loops that follow a publication, a report or a clock.

use crate::{
    control::Lead,
    probe::{board::Board, heartbeat::Heartbeats, plan::plan, stream::Streams},
};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::{broadcast::error::RecvError, watch};
use zonekeeper_config::{DnsConfig, OnStale};
use zonekeeper_consensus::{Consensus, timing_warning};
use zonekeeper_core::{
    Published,
    entry::Timing,
    evidence::Report,
    id::{NodeId, SiteId},
    state::Generation,
};
use zonekeeper_dns::DnsFlags;
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

/// Flags the answers of a node that heard no leader for too long.
pub(super) async fn staleness(consensus: Consensus, config: DnsConfig, flags: Arc<DnsFlags>) {
    let Some(limit) = config.max_stale else { return };
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let age = consensus.status().quorum_age_ms;
        let stale = age.is_none_or(|ms| u128::from(ms) > limit.as_millis());
        flags.stale.store(stale, Relaxed);
        flags.servfail.store(stale && config.on_stale == OnStale::ServFail, Relaxed);
    }
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

/// Follows publications (peers, probes, heartbeats, proxy) and link events (a crash that the network announces is
/// re-probed at once).
pub(super) struct Follower {
    pub(super) node: NodeId,
    pub(super) site: SiteId,
    pub(super) proxies: bool,
    pub(super) peers: Peers,
    pub(super) board: Arc<Board>,
    pub(super) published: Arc<ArcSwap<Published>>,
    pub(super) news: watch::Receiver<Generation>,
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
        self.follow(&mut streams, &mut heartbeats);
        loop {
            tokio::select! {
                news = self.news.changed() => {
                    if news.is_err() { return }
                    refresh();
                    self.follow(&mut streams, &mut heartbeats);
                }
                link = links.recv() => match link {
                    Ok(event) => self.link(&streams, event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    fn follow(&mut self, streams: &mut Streams, heartbeats: &mut Heartbeats) {
        self.news.borrow_and_update();
        let state = self.published.load().state.clone();
        self.peers.set_settings(settings(state.timing));
        streams.follow(plan(&state, self.node, &self.site, self.proxies));
        let others = || state.members.iter().filter(|(id, _)| **id != self.node);
        self.peers.set_peers(others().map(|(id, m)| (*id, m.peer)).collect());
        // before the first member is known, whoever has a certificate of the cluster may bring the log
        let known = state.members.contains_key(&self.node);
        self.peers.set_allowed(known.then(|| state.members.keys().copied().collect()));
        let members: BTreeMap<_, _> =
            others().map(|(id, m)| (*id, (m.peer, state.voters.contains(id)))).collect();
        heartbeats.follow(&members);
    }

    fn link(&self, streams: &Streams, event: LinkEvent) {
        let news = match event.what {
            LinkChange::Up => true,
            LinkChange::Lost(why) => matches!(why, Loss::Reset | Loss::Closed | Loss::Refused),
        };
        if let (true, Some(member)) = (news, self.published.load().state.members.get(&event.node)) {
            streams.kick(&member.site);
        }
    }
}
