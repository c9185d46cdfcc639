//! Real nodes on loopback.
#![allow(dead_code)] // each test file uses its part

use std::{
    collections::BTreeMap,
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use zonekeeper_peer::{
    Lane, NodeId, PeerConfig, Peers, Refusal, SiteId,
    keys::{Ca, Credentials},
};

pub(crate) const CLUSTER: u128 = 0xc1;
pub(crate) const DAY: Duration = Duration::from_secs(86400);
/// Long enough for a loaded machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn site() -> SiteId {
    "fra".parse().unwrap()
}

pub(crate) fn ca() -> Ca {
    Ca::create(CLUSTER).unwrap()
}

pub(crate) fn credentials(ca: &Ca, node: NodeId) -> Credentials {
    ca.issue(node, &site(), DAY).unwrap()
}

pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

pub(crate) fn config(credentials: Credentials) -> PeerConfig {
    PeerConfig { ping: Duration::from_millis(50), ..PeerConfig::new(credentials, Some(listener())) }
}

/// A node that echoes on every lane, with its own id in front.
pub(crate) fn start(config: PeerConfig) -> Peers {
    let node = config.node;
    let peers = Peers::start(config).unwrap();
    for lane in Lane::ALL {
        peers.set_handler(lane, echo(node));
    }
    peers
}

pub(crate) fn echo(node: NodeId) -> Arc<dyn zonekeeper_peer::Handler> {
    Arc::new(move |from: NodeId, lane: Lane, payload: Vec<u8>| async move {
        Ok([format!("{node}<{from}:{}:", lane.name()).into_bytes(), payload].concat())
    })
}

pub(crate) fn node(ca: &Ca, node: NodeId) -> Peers {
    start(config(credentials(ca, node)))
}

pub(crate) fn addr(peers: &Peers) -> SocketAddr {
    peers.local_addr().unwrap()
}

/// Tells every node where all are.
pub(crate) fn connect(nodes: &[(NodeId, &Peers)]) {
    let book: BTreeMap<_, _> = nodes.iter().map(|(id, peers)| (*id, addr(peers))).collect();
    nodes.iter().for_each(|(_, peers)| peers.set_peers(book.clone()));
}

/// Waits for a condition to hold.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain until {what}");
}

/// Runs with the patience of a test.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub(crate) fn refused(peers: &Peers, why: Refusal) -> u64 {
    peers.refusals().into_iter().find(|(reason, _)| *reason == why).unwrap().1
}

pub(crate) fn refused_at_all(peers: &Peers) -> u64 {
    peers.refusals().into_iter().map(|(_, count)| count).sum()
}
