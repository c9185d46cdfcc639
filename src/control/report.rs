//! What this node sees, as one report, and whether it should be believed.

use crate::{clock, probe::board::Board};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use zonekeeper_consensus::Consensus;
use zonekeeper_core::{
    Published,
    detector::Fitness,
    evidence::{Colour, REFRESH_MS, Report, SelfReport, Verdict},
    id::{NodeId, SiteId},
};
use zonekeeper_proxy::LocalHealth;

/// Changes that come closer together than this travel in one report, so that a site with a thousand services that dies is
/// not a thousand reports.
const PACE: Duration = Duration::from_millis(5);

/// How long a sign of sickness is remembered at least; at most twice as long.
const WINDOW: Duration = Duration::from_secs(1);

/// The worst of the last one to two windows.
#[derive(Debug, Default)]
struct Worst {
    now: AtomicU64,
    before: AtomicU64,
}

impl Worst {
    fn saw(&self, took: Duration) {
        self.now.fetch_max(took.as_millis() as u64, Relaxed);
    }

    fn ms(&self) -> u64 {
        self.now.load(Relaxed).max(self.before.load(Relaxed))
    }

    fn next_window(&self) {
        self.before.store(self.now.swap(0, Relaxed), Relaxed);
    }
}

/// Signs of sickness in this process.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    timer_lag: Worst,
    fsync: Worst,
    /// The node is going away on purpose.
    pub(crate) draining: AtomicBool,
}

impl Vitals {
    /// Worst timer lag of the last seconds in milliseconds.
    pub(crate) fn timer_lag_ms(&self) -> u64 {
        self.timer_lag.ms()
    }
}

/// Measures how late this runtime's timers fire and how long the disk takes, and forgets what was measured too long ago.
pub(crate) async fn watch_vitals(vitals: Arc<Vitals>, consensus: Consensus) {
    const EVERY: Duration = Duration::from_millis(50);
    let mut window = Instant::now();
    loop {
        let before = Instant::now();
        tokio::time::sleep(EVERY).await;
        vitals.timer_lag.saw(before.elapsed().saturating_sub(EVERY));
        vitals.fsync.saw(consensus.slowest_flush());
        if window.elapsed() >= WINDOW {
            window = Instant::now();
            vitals.timer_lag.next_window();
            vitals.fsync.next_window();
        }
    }
}

/// Makes the reports of one node.
pub(crate) struct Reporter {
    pub(crate) node: NodeId,
    pub(crate) site: SiteId,
    /// A witness says nothing of its site's pools: it checks none.
    pub(crate) proxies: bool,
    pub(crate) board: Arc<Board>,
    pub(crate) health: Arc<LocalHealth>,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) out: watch::Sender<Arc<Report>>,
}

impl Reporter {
    /// A node without news yet.
    pub(crate) fn blank(node: NodeId) -> Arc<Report> {
        let (endpoints, nodes, own) = (Vec::new(), Vec::new(), Vec::new());
        Arc::new(Report { node, seq: 0, abstains: None, endpoints, nodes, own })
    }

    /// Reports on change, and twice as often as a report lives.
    pub(crate) async fn run(self) {
        // Counts on over a restart: the wall clock is far ahead of any count of reports.
        let mut seq = clock::wall_ms();
        loop {
            seq += 1;
            self.out.send_replace(Arc::new(self.report(seq)));
            tokio::time::sleep(PACE).await;
            let _ = tokio::time::timeout(Duration::from_millis(REFRESH_MS / 2), self.board.changed()).await;
        }
    }

    fn report(&self, seq: u64) -> Report {
        let published = self.published.load();
        let mut nodes = self.board.nodes();
        nodes.retain(|(node, _)| published.state.members.contains_key(node)); // a stream that ended had a last word
        let no_room = self.board.no_room();
        let fitness =
            Fitness { no_room, ..fitness(&published.state.voters, self.node, &nodes, &self.vitals) };
        let votes = published.state.voters.contains(&self.node);
        Report {
            node: self.node,
            seq,
            abstains: fitness.abstains(),
            endpoints: if votes { self.board.endpoints() } else { Vec::new() },
            nodes,
            own: if self.proxies { self.own(&published) } else { Vec::new() },
        }
    }

    /// What this site says of itself: the state of its pools, and whether it is going away.
    fn own(&self, published: &Published) -> Vec<SelfReport> {
        let draining = self.vitals.draining.load(Relaxed);
        let here = published.state.services.iter().filter(|(_, s)| s.spec.endpoints.contains_key(&self.site));
        here.filter_map(|(id, service)| {
            let (healthy, backends) = match &service.spec.pool {
                Some(pool) => self.health.healthy_count(published.proxy.pools.get(pool)?),
                None if draining => (service.spec.min_backends, 0),
                None => return None,
            };
            Some(SelfReport { service: id.clone(), healthy, backends, draining })
        })
        .collect()
    }
}

/// Whether this node's own senses can be trusted. Its peers are the other voters: learners may be many, may be far, and
/// may not have started yet.
fn fitness(voters: &BTreeSet<NodeId>, own: NodeId, nodes: &[(NodeId, Verdict)], vitals: &Vitals) -> Fitness {
    let peers = || nodes.iter().filter(|(node, _)| *node != own && voters.contains(node));
    Fitness {
        peers_missing: peers().filter(|(_, v)| v.colour == Colour::Red).count(),
        peers: peers().count(),
        timer_lag_ms: vitals.timer_lag.ms(),
        fsync_ms: vitals.fsync.ms(),
        no_room: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_sickness_lives_for_one_window_at_least_and_two_at_most() {
        let vitals = Vitals::default();
        vitals.fsync.saw(Duration::from_millis(700));
        vitals.fsync.next_window();
        assert_eq!(vitals.fsync.ms(), 700, "the window ended just after it");
        vitals.fsync.saw(Duration::from_millis(30));
        vitals.fsync.next_window();
        assert_eq!(vitals.fsync.ms(), 30);
    }

    #[test]
    fn learners_that_are_not_there_make_nobody_abstain_and_lost_voters_do() {
        let verdict = |colour| Verdict { colour, kind: None, age_ms: 0 };
        let (green, red) = (verdict(Colour::Green), verdict(Colour::Red));
        let nodes = [(2, green), (3, green), (4, red), (5, red), (6, red)];
        let abstains = |voters: &[NodeId]| {
            fitness(&voters.iter().copied().collect(), 1, &nodes, &Vitals::default()).abstains()
        };
        assert_eq!(abstains(&[1, 2, 3]), None);
        assert_eq!(abstains(&[1]), None, "a cluster of one with learners that have not started");
        assert!(abstains(&[1, 2, 3, 4, 5, 6]).is_some());
        assert!(abstains(&[1, 4]).is_some());
    }
}
