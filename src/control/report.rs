//! What this node sees, as one report, and whether it should be believed.

use crate::{clock, probe::board::Board};
use arc_swap::ArcSwap;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use zonekeeper_core::{
    Published,
    detector::Fitness,
    evidence::{Colour, REFRESH_MS, Report, SelfReport},
    id::{NodeId, SiteId},
};
use zonekeeper_proxy::LocalHealth;

/// Changes that come closer together than this travel in one report, so that a site with a thousand services that dies is
/// not a thousand reports.
const PACE: Duration = Duration::from_millis(5);

/// Signs of sickness in this process.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    timer_lag_ms: AtomicU64,
    fsync_ms: AtomicU64,
    /// The node is going away on purpose.
    pub(crate) draining: AtomicBool,
}

impl Vitals {
    /// An fsync took so long; the slowest of the last seconds counts.
    pub(crate) fn fsync_took(&self, took: Duration) {
        self.fsync_ms.fetch_max(took.as_millis() as u64, Relaxed);
    }

    /// Slowest signs since the last call with `forget`.
    fn read(&self) -> (u64, u64) {
        (self.timer_lag_ms.load(Relaxed), self.fsync_ms.load(Relaxed))
    }

    /// Timer lag of the last seconds in milliseconds.
    pub(crate) fn timer_lag_ms(&self) -> u64 {
        self.timer_lag_ms.load(Relaxed)
    }
}

/// Measures how late this runtime's timers fire; what was measured is forgotten after a second or two.
pub(crate) async fn watch_timers(vitals: Arc<Vitals>) {
    const EVERY: Duration = Duration::from_millis(50);
    let mut forget = Instant::now();
    loop {
        let before = Instant::now();
        tokio::time::sleep(EVERY).await;
        let lag = before.elapsed().saturating_sub(EVERY).as_millis() as u64;
        if forget.elapsed() > Duration::from_secs(2) {
            forget = Instant::now();
            vitals.timer_lag_ms.store(lag, Relaxed);
            vitals.fsync_ms.store(0, Relaxed);
        } else {
            vitals.timer_lag_ms.fetch_max(lag, Relaxed);
        }
    }
}

/// Makes the reports of one node.
pub(crate) struct Reporter {
    pub(crate) node: NodeId,
    pub(crate) site: SiteId,
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
        let nodes = self.board.nodes();
        let (timer_lag_ms, fsync_ms) = self.vitals.read();
        let fitness = Fitness {
            peers_missing: nodes.iter().filter(|(_, v)| v.colour == Colour::Red).count(),
            peers: nodes.len(),
            timer_lag_ms,
            fsync_ms,
        };
        let votes = published.state.voters.contains(&self.node);
        Report {
            node: self.node,
            seq,
            abstains: fitness.abstains(),
            endpoints: if votes { self.board.endpoints() } else { Vec::new() },
            nodes,
            own: self.own(&published),
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
