//! A whole node without sockets for DNS and proxy: real Raft on a real disk, the real API on loopback, and the
//! reference configuration.

#![allow(dead_code, unreachable_pub, reason = "shared by the tests of two crates, each of which uses a part")]

use arc_swap::ArcSwap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use zonekeeper_api::{Events, Handles, LocalView, Secret, serve};
use zonekeeper_config::{ClusterConfig, plan, stages};
use zonekeeper_consensus::{Applied, Consensus, Sink, Transport, TransportError};
use zonekeeper_core::{
    Command, Outcome, Proposal, Published, State, VERSION,
    answer::DnsTable,
    entry::{Duty, Init, Member, Object, Read, Role, Timing, Token},
    route::ProxyTable,
    secrets::SecretId,
    state::Generation,
    time::LogTime,
};
use zonekeeper_peer::{
    BoxFuture, Lane,
    keys::{ClusterKey, Keyring},
};

/// Generous: the machine may be busy.
pub const WITHIN: Duration = Duration::from_secs(20);

/// The nodes of this process, by id: they call each other without sockets.
type Others = Arc<Mutex<BTreeMap<u64, Consensus>>>;

/// One node's way to the others.
struct Lines(u64, Others);

impl Transport for Lines {
    fn call(
        &self,
        to: u64,
        lane: Lane,
        request: Vec<u8>,
        within: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        let (from, other) = (self.0, self.1.lock().unwrap().get(&to).cloned());
        Box::pin(async move {
            let nobody = || TransportError::Unreachable(format!("node {to} does not exist"));
            let handler = other.ok_or_else(nobody)?.handler();
            let answer = tokio::time::timeout(within, handler.handle(from, lane, request)).await;
            answer.map_err(|e| TransportError::Lost(e.to_string()))?.map_err(TransportError::Refused)
        })
    }
}

/// A node that takes part and has no API.
pub struct Second {
    pub consensus: Consensus,
    _dir: TempDir,
}

/// Publishes what is applied, as `control` does.
struct Publisher {
    published: Arc<ArcSwap<Published>>,
}

pub fn publication(state: Arc<State>) -> Published {
    let site = "fra".parse().unwrap();
    Published {
        generation: state.generation,
        dns: Arc::new(DnsTable::build(&state)),
        proxy: Arc::new(ProxyTable::build(&state, &site)),
        state,
    }
}

impl Sink for Publisher {
    fn applied(&self, batch: Applied) {
        self.published.store(Arc::new(publication(batch.state)));
    }
}

/// A running node.
pub struct Node {
    pub url: String,
    pub read: String,
    pub operate: String,
    pub admin: String,
    pub handles: Handles,
    others: Others,
    shutdown: CancellationToken,
    _dir: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.others.lock().unwrap().clear(); // nodes that hold one another would never go
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn data(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()["data"].clone()
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn ok(self) -> Answer {
        assert_eq!(self.status, 200, "{}", self.text);
        self
    }
}

impl Node {
    /// A node with the reference configuration and three tokens.
    pub async fn start() -> Node {
        let node = Node::empty().await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-config");
        let desired = ClusterConfig::load(&folder).unwrap_or_else(|p| panic!("{p}"));
        let changes = plan(&ClusterConfig::current(&node.state()), desired).changes;
        let parts = stages(changes).unwrap();
        assert_eq!(parts.len(), 1, "the reference configuration fits into one entry");
        for changes in parts {
            let revision = Read { object: Object::Config, version: node.state().revision };
            let proposal =
                Proposal { reads: vec![revision], ..Proposal::by("test", Command::Configure(changes)) };
            node.propose(proposal).await;
        }
        node
    }

    /// A node with three tokens and nothing else.
    pub async fn empty() -> Node {
        Node::with(|_| {}).await
    }

    /// [`Node::empty`] with other handles.
    pub async fn with(adjust: impl FnOnce(&mut Handles)) -> Node {
        let node = Node::of_version(VERSION, adjust).await;
        let key = ClusterKey::generate(7).unwrap();
        node.handles.keyring.add(key.clone(), &[]).unwrap();
        node.propose(Proposal::by("test", Command::SealWith { from: None, to: key.id() })).await;
        for (id, plain) in [(SecretId::DnsCookie, vec![1; 16]), (SecretId::Session, vec![2; 32])] {
            let bytes = key.seal(&id.context(), &plain).unwrap();
            let put = Command::PutSealed { id, after: None, key: key.id(), bytes };
            node.propose(Proposal::by("test", put)).await;
        }
        node
    }

    /// The same of a cluster version, without common secrets.
    pub async fn of_version(version: u32, adjust: impl FnOnce(&mut Handles)) -> Node {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        let open = move || Consensus::open(&path, 1, None).unwrap();
        let opened = tokio::task::spawn_blocking(open).await.unwrap();
        opened.claim(7).await.unwrap();
        let published = Arc::new(ArcSwap::from_pointee(publication(opened.state())));
        let sink = Arc::new(Publisher { published: published.clone() });
        let others = Others::default();
        let lines = Arc::new(Lines(1, others.clone()));
        let consensus = opened.start(lines, Timing::Lan, sink).await.unwrap();
        others.lock().unwrap().insert(1, consensus.clone());
        let member = Member {
            site: "fra".parse().unwrap(),
            duty: Duty::Full,
            peer: ([127, 0, 0, 1], 7300).into(),
            admin: None,
            version: VERSION,
        };
        consensus.bootstrap(&member, WITHIN).await.unwrap();
        let local = LocalView { ready: true, log_now: LogTime(0), ..LocalView::default() };
        let mut handles = Handles {
            node: 1,
            site: member.site.clone(),
            published,
            local: Arc::new(ArcSwap::from_pointee(local)),
            consensus,
            events: Events::default(),
            proxy: None,
            totals: None,
            dns: Arc::default(),
            metrics: Vec::new(),
            keyring: Keyring::load(&dir.path().join("keys")),
            ca_fingerprint: Some([7; 32]),
            open_metrics: false,
        };
        adjust(&mut handles);
        let init = Init { cluster: 7, version, timing: Timing::Lan };
        let node = Node::serve(handles, others, dir).await;
        node.propose(Proposal::by("test", Command::Init(init))).await;
        node.propose(Proposal::by("test", Command::PutMember(1, member))).await;
        for (role, secret) in
            [(Role::Read, &node.read), (Role::Operate, &node.operate), (Role::Admin, &node.admin)]
        {
            let name = format!("{role:?}").to_lowercase();
            let hash = zonekeeper_api::token_hash(secret);
            node.propose(Proposal::by("test", Command::PutToken(Token { name, hash, role, expires: None })))
                .await;
        }
        node.wait("the tokens are published", |s| s.tokens.len() == 3).await;
        node
    }

    /// Adds a second voter, which may lead.
    pub async fn second(&self) -> Second {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        let open = move || Consensus::open(&path, 2, None).unwrap();
        let opened = tokio::task::spawn_blocking(open).await.unwrap();
        opened.claim(7).await.unwrap();
        let published = Arc::new(ArcSwap::from_pointee(publication(opened.state())));
        let lines = Arc::new(Lines(2, self.others.clone()));
        let consensus = opened.start(lines, Timing::Lan, Arc::new(Publisher { published })).await.unwrap();
        self.others.lock().unwrap().insert(2, consensus.clone());
        let first = &self.handles.consensus;
        first.add_learner(2, ([127, 0, 0, 1], 7301).into(), WITHIN).await.unwrap();
        first.promote(2, WITHIN).await.unwrap();
        Second { consensus, _dir: dir }
    }

    async fn serve(handles: Handles, others: Others, dir: TempDir) -> Node {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, handles.clone(), shutdown.clone()));
        let secret = || Secret::generate().unwrap().text().to_owned();
        let (read, operate, admin) = (secret(), secret(), secret());
        Node { url, read, operate, admin, handles, others, shutdown, _dir: dir }
    }

    pub fn state(&self) -> Arc<State> {
        self.handles.published.load().state.clone()
    }

    pub async fn propose(&self, proposal: Proposal) -> u64 {
        let (index, outcome) = self.handles.consensus.propose(proposal).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        self.wait("the write is published", |s| s.generation >= Generation { incarnation: 0, index }).await;
        index
    }

    /// Waits until the published state is as wanted.
    pub async fn wait(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let began = Instant::now();
        while !wanted(&self.state()) {
            assert!(
                began.elapsed() < WITHIN,
                "{what}: not within {WITHIN:?}; at {:?}",
                self.state().generation
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn request(&self, method: Method, path: &str, token: &str) -> reqwest::RequestBuilder {
        let client = reqwest::Client::new();
        let request = client.request(method, format!("{}{path}", self.url)).timeout(WITHIN);
        if token.is_empty() { request } else { request.bearer_auth(token) }
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status();
        Answer { status, text: response.text().await.unwrap() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path, &self.read)).await
    }

    pub async fn call(&self, method: Method, path: &str, token: &str, body: Value) -> Answer {
        self.send(self.request(method, path, token).json(&body)).await
    }

    pub async fn put(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, token, body).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call(Method::POST, path, token, body).await
    }

    pub async fn delete(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::DELETE, path, token)).await
    }
}
