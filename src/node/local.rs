//! What the admin API is given, and the view of this node that is renewed for it.

use super::{NodeError, data_plane::Counters, reload};
use crate::control::{Lead, Vitals};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::{
    net::TcpListener,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use zonekeeper_api::{Events, Handles, LocalView, wire};
use zonekeeper_config::NodeConfig;
use zonekeeper_consensus::Consensus;
use zonekeeper_core::{Published, id::NodeId, state::Generation};
use zonekeeper_dns::DnsFlags;
use zonekeeper_peer::{
    Peers,
    keys::{Credentials, Keyring},
};
use zonekeeper_proxy::LocalHealth;

/// From one renewal of the view to the next without news.
const EVERY: Duration = Duration::from_millis(250);

/// The parts of a node that the view is made of.
pub(super) struct Local {
    pub(super) config: NodeConfig,
    pub(super) credentials: Credentials,
    pub(super) consensus: Consensus,
    pub(super) peers: Peers,
    pub(super) lead: Arc<Lead>,
    pub(super) published: Arc<ArcSwap<Published>>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) health: Arc<LocalHealth>,
    pub(super) counters: Counters,
    pub(super) dns: Arc<DnsFlags>,
    /// What is wrong with the node's certificate.
    pub(super) certificate: Arc<ArcSwapOption<String>>,
    /// The certificate of encrypted DNS.
    pub(super) encrypted: Option<Arc<reload::Certificate>>,
    /// The cluster keys.
    pub(super) keyring: Keyring,
    pub(super) news: watch::Receiver<Generation>,
}

impl Local {
    /// Opens the admin API and keeps its view fresh.
    pub(super) async fn serve(self, listener: TcpListener, tasks: &mut JoinSet<()>) -> Result<(), NodeError> {
        let bind = |e| NodeError::Bind("admin.listen", self.config.admin.listen, e);
        listener.set_nonblocking(true).map_err(bind)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(bind)?;
        let view = Arc::new(ArcSwap::from_pointee(self.view()));
        let handles = Handles {
            node: self.config.id,
            site: self.config.site.clone(),
            published: self.published.clone(),
            local: view.clone(),
            consensus: self.consensus.clone(),
            events: Events::default(),
            proxy: self.counters.proxy.as_ref().map(|_| self.health.clone()),
            totals: super::metrics::totals(&self),
            dns: self.dns.clone(),
            metrics: super::metrics::sources(&self),
            keyring: self.keyring.clone(),
            ca_fingerprint: Some(self.credentials.ca_fingerprint()),
            open_metrics: self.config.admin.open_metrics,
        };
        tasks.spawn(async move {
            if let Err(error) = zonekeeper_api::serve(listener, handles, CancellationToken::new()).await {
                tracing::error!(%error, "the admin API has stopped");
            }
        });
        tasks.spawn(self.keep(view));
        Ok(())
    }

    async fn keep(mut self, view: Arc<ArcSwap<LocalView>>) {
        loop {
            if let Ok(Err(_)) = tokio::time::timeout(EVERY, self.news.changed()).await {
                return; // nothing publishes any more: the node stops
            }
            view.store(Arc::new(self.view()));
        }
    }

    fn view(&self) -> LocalView {
        let decision = self.lead.decision.load();
        let reports = self.lead.reports();
        let own = reports.iter().find(|(r, _)| r.node == self.config.id);
        LocalView {
            at: Instant::now(),
            log_now: decision.at,
            ready: true,
            abstains: own.and_then(|(r, _)| r.abstains.clone()),
            notes: decision.notes.clone(),
            links: self.links(),
            problems: self.problems(),
            reports,
        }
    }

    fn links(&self) -> Vec<(NodeId, wire::Link)> {
        let connected = self.peers.connected();
        let state = self.published.load().state.clone();
        let others = state.members.keys().filter(|id| **id != self.config.id);
        let link = |id: &NodeId| {
            let rtt_us = self.peers.rtt(*id).map(|r| r.smoothed.as_micros() as u64);
            (*id, wire::Link { up: connected.contains(id), rtt_us })
        };
        others.map(link).collect()
    }

    fn problems(&self) -> Vec<wire::Problem> {
        let mut problems = Vec::new();
        let mut put = |code: &str, text: String| problems.push(wire::Problem { code: code.into(), text });
        if let Some(why) = self.consensus.failed().borrow().clone() {
            put("store", format!("this node has stopped writing and goes on answering: {why}"));
        }
        if let Some(why) = self.certificate.load_full() {
            put("certificate", why.as_ref().clone());
        }
        if let Some(why) = self.encrypted.as_ref().and_then(|c| c.problem()) {
            put("dns", why);
        }
        let state = self.published.load().state.clone();
        if let Some(why) = super::secrets::problem(&state.secrets.vault, &self.keyring) {
            put("secrets", why);
        }
        let (status, connected) = (self.consensus.status(), self.peers.connected());
        if let Some(behind) = super::watch::behind(&status, &connected, state.timing, super::watch::running())
        {
            put("behind", behind);
        }
        if let Some(warning) = super::watch::timing_problem(&self.consensus, &self.peers) {
            put("timing", warning);
        }
        let own = super::watch::settings(state.timing);
        let other = |n: &NodeId| self.peers.peer_settings(*n).filter(|theirs| *theirs != own);
        for (node, theirs) in self.peers.connected().iter().filter_map(|n| Some((n, other(n)?))) {
            put(
                "timing",
                format!(
                    "node {node} runs Raft with a heartbeat of {theirs} ms, this one of {own} ms; if it lasts, restart it"
                ),
            );
        }
        let proxy = self.counters.proxy.as_ref().and_then(Weak::upgrade);
        for problem in proxy.iter().flat_map(|p| p.problems()) {
            put("proxy", format!("listener {}: {}", problem.listener, problem.message));
        }
        problems
    }
}
