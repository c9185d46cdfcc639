//! The composition root: build, bind, wire, run, drain. The only part that sees everything.
//!
//! # Order of a start
//!
//! 1. Keys and the data directory are opened; whoever they do not belong to stops here.
//! 2. The last published state is answered again, by DNS and proxy, before Raft is asked anything.
//! 3. Transport, Raft, control loop, probes.
//! 4. The admin API opens last: who reaches it reaches a whole node.
//!
//! A stop goes the other way round, after the site has said that it is draining and the answers have moved.

mod boot;
mod control_lane;
mod data_plane;
mod error;
mod join;
mod local;
mod metrics;
mod propose;
mod reload;
mod renew;
mod room;
mod secrets;
mod watch;

pub(crate) use boot::{Start, TOKEN_FILE, member, write_token};
pub(crate) use error::NodeError;
pub(crate) use join::join;
pub(crate) use propose::propose;
pub(crate) use renew::LIFETIME as CERTIFICATE_LIFETIME;

use crate::{
    control::{Intake, Lead, Opener, Publisher, Reporter, Vitals, publication, watch_vitals},
    handover::Sockets,
    probe::{board::Board, stream::Streams},
};
use arc_swap::ArcSwap;
pub(crate) use data_plane::DataPlane;
use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{sync::watch::channel as watch_channel, task::JoinSet};
use zonekeeper_config::NodeConfig;
use zonekeeper_consensus::{Consensus, Role};
use zonekeeper_core::{
    Published, State,
    entry::{Duty, Member},
    evidence::Standing,
    id::{ListenerId, SiteId},
};
use zonekeeper_peer::{
    Lane, PeerConfig, Peers,
    keys::{Credentials, Keyring},
};

/// How long a stop waits for the answers to move away.
const DRAIN: Duration = Duration::from_secs(5);
/// From one look at the publication to the next while waiting for it.
const LOOK: Duration = Duration::from_millis(5);
/// How long a stop waits for another leader.
const HAND_OVER: Duration = Duration::from_secs(2);

/// A running node.
pub(crate) struct Node {
    config: NodeConfig,
    peers: Peers,
    pub(crate) consensus: Consensus,
    published: Arc<ArcSwap<Published>>,
    vitals: Arc<Vitals>,
    board: Arc<Board>,
    data: Option<DataPlane>,
    pub(crate) admin: SocketAddr,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node on the current runtime, which is the control plane's; `data` is the runtime of DNS over TCP and
    /// the place from which data threads start. `inherited`: the listening sockets of the process before this one.
    pub(crate) async fn start(
        config: NodeConfig,
        start: Start,
        data: &tokio::runtime::Handle,
        inherited: Sockets,
    ) -> Result<Node, NodeError> {
        let credentials = Credentials::load(&config.keys_dir)?;
        room::check(&config.data_dir)?;
        let opened = boot::open(&config, &credentials, start).await?;
        let begun = !opened.is_empty();
        let keyring = Keyring::load(&config.keys_dir);
        if let Some(why) = keyring.problem() {
            tracing::error!(why, "the cluster key could not be read");
        }
        let opener = Arc::new(Opener::new(keyring.clone()));
        let first = publication(opened.state(), &config.site, &opener);
        let published = Arc::new(ArcSwap::from_pointee(first));
        let plane = DataPlane::start(&config, &published, &opener, data, inherited).await?;

        let listener = TcpListener::bind(config.peer.listen)
            .map_err(|e| NodeError::Bind("peer.listen", config.peer.listen, e))?;
        // Who founds a cluster is called by nobody until it has: another cluster may know its certificate from before.
        let allowed = start.founds().map(|_| BTreeSet::from([config.id]));
        let peer_config = PeerConfig { allowed, ..PeerConfig::new(credentials.clone(), Some(listener)) };
        let peers = Peers::start(peer_config)?;
        let intake = Arc::new(Intake::default());
        let timing = opened.state().timing;
        let transport = Arc::new(peers.clone());
        let consensus = opened.start(transport, timing, intake.clone()).await.map_err(NodeError::Raft)?;
        let lead = Arc::new(Lead::new(consensus.clone()));
        control_lane::attach(&peers, &consensus, &lead, &published, &config.keys_dir, &keyring);

        let (news, _) = watch_channel(published.load().generation);
        let (report, reports) = watch_channel(Reporter::blank(config.id));
        let board = Arc::new(Board::default());
        let vitals = plane.vitals.clone();
        let streams = Streams::new(config.id, board.clone(), plane.health.clone());

        let mut tasks = JoinSet::new();
        let publisher = Publisher {
            site: config.site.clone(),
            opener: opener.clone(),
            intake,
            consensus: consensus.clone(),
            published: published.clone(),
            news: news.clone(),
        };
        tasks.spawn(publisher.run());
        let reporter = Reporter {
            node: config.id,
            site: config.site.clone(),
            proxies: config.duty == Duty::Full,
            board: board.clone(),
            health: plane.health.clone(),
            published: published.clone(),
            vitals: vitals.clone(),
            out: report,
        };
        tasks.spawn(reporter.run());
        tasks.spawn(watch_vitals(vitals.clone(), consensus.clone()));
        tasks.spawn(lead.clone().run());
        tasks.spawn(watch::own_reports(reports.clone(), lead.clone()));
        tasks.spawn(watch::local_health(plane.health.clone(), board.clone()));
        let follower = watch::Follower {
            node: config.id,
            site: config.site.clone(),
            proxies: config.duty == Duty::Full,
            peers: peers.clone(),
            board: board.clone(),
            health: plane.health.clone(),
            consensus: consensus.clone(),
            published: published.clone(),
            news: news.subscribe(),
            founds: start.founds().is_some(),
        };
        tasks.spawn(follower.run(streams, reports, plane.refresher()));
        tasks.spawn(watch::own_member(
            consensus.clone(),
            published.clone(),
            news.subscribe(),
            boot::member(&config),
        ));
        tasks.spawn(watch::timing_alarm(consensus.clone(), peers.clone()));
        tasks.spawn(watch::staleness(
            consensus.clone(),
            peers.clone(),
            config.dns.clone(),
            plane.flags.clone(),
        ));
        tasks.spawn(plane.reload(&config));
        let sealed = (plane.flags.clone(), plane.certificate());
        tasks.spawn(watch::secrets(published.clone(), news.subscribe(), sealed, opener));
        let renewal = renew::Renewal {
            peers: peers.clone(),
            keys: config.keys_dir.clone(),
            site: config.site.clone(),
            problem: Arc::default(),
        };
        let certificate = renewal.problem.clone();
        tasks.spawn(renewal.run(credentials.clone()));

        let mut keeper = secrets::Keeper::new(consensus.clone(), peers.clone(), keyring.clone());
        boot::found(&consensus, &mut keeper, &config, &credentials, start, begun).await?;
        tasks.spawn(keeper.run());

        let admin = TcpListener::bind(config.admin.listen)
            .map_err(|e| NodeError::Bind("admin.listen", config.admin.listen, e))?;
        let admin_addr =
            admin.local_addr().map_err(|e| NodeError::Bind("admin.listen", config.admin.listen, e))?;
        let local = local::Local {
            config: config.clone(),
            credentials,
            consensus: consensus.clone(),
            peers: peers.clone(),
            lead,
            published: published.clone(),
            vitals: vitals.clone(),
            health: plane.health.clone(),
            counters: plane.counters(),
            dns: plane.flags.clone(),
            certificate,
            encrypted: plane.certificate(),
            keyring,
            news: news.subscribe(),
        };
        local.serve(admin, &mut tasks).await?;
        tracing::info!(node = config.id, site = %config.site, peer = %config.peer.listen, admin = %admin_addr, "node runs");
        Ok(Node {
            config,
            peers,
            consensus,
            published,
            vitals,
            board,
            data: Some(plane),
            admin: admin_addr,
            tasks,
        })
    }

    /// Waits until the entry at `index` is published and the proxy listens where these listeners want it; or says why it
    /// does not.
    pub(crate) async fn serving(
        &self,
        index: u64,
        ours: impl Fn(&ListenerId) -> bool,
        within: Duration,
    ) -> Result<(), String> {
        let wait = async {
            while self.published.load().generation.index < index {
                tokio::time::sleep(LOOK).await;
            }
            let Some(proxy) = self.data.as_ref().and_then(DataPlane::proxy) else { return Ok(()) };
            let table = self.published.load().proxy.clone();
            let wanted: usize = table.listeners.values().filter(|l| ours(&l.id)).map(|l| l.binds.len()).sum();
            loop {
                if let Some(problem) = proxy.problems().iter().find(|p| ours(&p.listener) && !p.serves) {
                    return Err(format!("listener {}: {}", problem.listener, problem.message));
                }
                if proxy.local_addrs().iter().filter(|(id, _)| ours(id)).count() >= wanted {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let late = || Err(format!("the configuration was not in force within {within:?}; see the log"));
        tokio::time::timeout(within, wait).await.unwrap_or_else(|_| late())
    }

    /// Waits until the store fails, or until a part of the node panics, which ends its part in Raft: another node shall
    /// lead, and this one goes on answering. The caller decides when to end it.
    pub(crate) async fn failed(&mut self) -> String {
        let mut failed = self.consensus.failed();
        loop {
            tokio::select! {
                why = async { failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) } => match why {
                    Some(why) => return why,
                    None => return std::future::pending().await,
                },
                () = panicked(&mut self.tasks) => {
                    self.consensus.give_up("a part of this node has panicked; report it with the log").await;
                }
            }
        }
    }

    /// Drains and stops: the site says that it goes, the answers move, leadership is handed over, connections end.
    pub(crate) async fn stop(mut self) {
        tracing::info!("draining");
        self.vitals.draining.store(true, Relaxed);
        self.board.touch();
        let _ = tokio::time::timeout(DRAIN, self.moved_away()).await;
        self.hand_over().await;
        self.tasks.shutdown().await;
        if let Some(data) = self.data.take() {
            data.stop(self.linger()).await;
        }
        self.consensus.shutdown().await;
        self.peers.shutdown().await;
        tracing::info!("stopped");
    }

    /// Lets go of Raft, the store and the ports of the control plane. DNS and proxy go on with what was published last, for
    /// a successor is about to start on the same data.
    pub(crate) async fn let_go(mut self) -> Option<DataPlane> {
        tracing::info!("handing over");
        self.hand_over().await;
        self.tasks.shutdown().await;
        self.consensus.shutdown().await;
        self.peers.shutdown().await;
        self.data.take()
    }

    /// Where this node's data lies.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// How long open connections may go on at the end.
    pub(crate) fn linger(&self) -> Duration {
        Duration::from_millis(self.config.proxy.drain_ms.into())
    }

    /// A leader that goes hands over to the voter that answered last.
    async fn hand_over(&self) {
        let status = self.consensus.status();
        let others = status.voters.iter().filter(|(id, _)| **id != self.config.id);
        let Some((&to, _)) = others.min_by_key(|(_, peer)| peer.acked_ms.unwrap_or(u64::MAX)) else { return };
        if status.role == Role::Leader
            && let Err(error) = self.consensus.transfer_leader(to, HAND_OVER).await
        {
            tracing::warn!(%error, "leadership could not be handed over; the others will elect");
        }
    }

    /// Waits until this site's word that it goes was decided on, for each service that is answered from it; not at all
    /// where nobody could decide or nobody else could answer.
    async fn moved_away(&self) {
        let state = self.published.load().state.clone();
        let here = |m: &Member| m.site == self.config.site;
        let speaks = self.config.duty == Duty::Full && state.members.contains_key(&self.config.id);
        let last_of_site = state.members.values().filter(|m| here(m)).count() < 2;
        let others = state.members.values().any(|m| !here(m));
        if !(speaks && last_of_site && others) {
            return;
        }
        while undecided(&self.published.load().state, &self.config.site) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until a task panics. Those that end in order are passed over: some have nothing to do under some configurations.
async fn panicked(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            return;
        }
    }
    std::future::pending().await
}

/// Whether a service that other sites may take over is answered from this one as if nothing had been said. A site that is
/// held to be down and answered all the same (the last set, the safety limit, automation off) is waited for in vain.
fn undecided(state: &State, site: &SiteId) -> bool {
    state.services.values().filter(|s| s.spec.endpoints.len() > 1).any(|service| {
        let down = |family| {
            let health = service.health.get(&(site.clone(), family));
            health.is_some_and(|h| h.standing == Standing::Down)
        };
        service.assignment.iter().any(|(family, held)| held.sites.contains(site) && !down(*family))
    })
}

/// Lanes that consensus answers whole.
const RAFT_LANES: [Lane; 3] = [Lane::Heartbeat, Lane::Raft, Lane::Bulk];

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, sync::Arc};
    use zonekeeper_core::{
        model::{Endpoint, Failback, Family, Policy, Quorum, Service, WhenAllDown},
        state::{Assignment, Basis, Health, ServiceState},
        time::LogTime,
    };

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    /// A service at some sites, answered from fra.
    fn service(sites: &[&str]) -> ServiceState {
        let endpoint = || vec![Endpoint { addr: [192, 0, 2, 1].into(), port: 80 }];
        let assignment = Assignment {
            epoch: Default::default(),
            since: LogTime(0),
            sites: vec![site("fra")],
            basis: Basis::Usable,
        };
        ServiceState {
            version: 1,
            spec: Service {
                names: Vec::new(),
                policy: Policy::Failover(sites.iter().map(|s| site(s)).collect()),
                endpoints: sites.iter().map(|s| (site(s), endpoint())).collect(),
                ttl: 30,
                check: None,
                pool: None,
                min_backends: 1,
                when_all_down: WhenAllDown::FailOpen,
                hold_down_ms: 0,
                hold_down_max_ms: 0,
                failback: Failback::Manual,
                quorum: Quorum::Majority,
                min_answers: 1,
                automation: true,
            },
            health: BTreeMap::new(),
            assignment: BTreeMap::from([(Family::V4, assignment)]),
            suspects: Default::default(),
            pinned: None,
            automation: None,
        }
    }

    #[tokio::test]
    async fn a_panic_is_noticed_after_other_parts_have_ended_in_order() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, panicked(&mut tasks)).await.is_err(), "nothing has panicked");
        tasks.spawn(async {});
        tasks.spawn(async { panic!("a part of a node") });
        assert!(tokio::time::timeout(Duration::from_secs(30), panicked(&mut tasks)).await.is_ok());
    }

    #[test]
    fn a_stop_waits_for_the_decision_and_not_for_what_will_not_happen() {
        let mut state = State::default();
        let id = || "www".parse().unwrap();
        state.services.insert(id(), Arc::new(service(&["fra"])));
        assert!(!undecided(&state, &site("fra")), "nobody else has an endpoint");
        let mut two = service(&["fra", "ams"]);
        state.services.insert(id(), Arc::new(two.clone()));
        assert!(undecided(&state, &site("fra")));
        assert!(!undecided(&state, &site("ams")), "it is not answered from there");
        let down = Health { standing: Standing::Down, since: LogTime(1), failed: Some(LogTime(1)), flaps: 0 };
        two.health.insert((site("fra"), Family::V4), down);
        state.services.insert(id(), Arc::new(two));
        assert!(!undecided(&state, &site("fra")), "decided: down, and kept, with automation off for example");
    }
}
