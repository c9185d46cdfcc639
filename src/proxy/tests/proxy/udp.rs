//! UDP listeners: sessions by client, bounded, moved away from a backend that refuses.

use crate::support::*;
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::UdpSocket, task::JoinHandle, time::timeout};
use zonekeeper_core::{
    State,
    entry::{Force, Override, Scope},
    model::{Bind, Protocol},
};

/// Answers each datagram with its name and the datagram.
struct Echo {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(name: &'static str) -> Echo {
    let socket = UdpSocket::bind(any()).await.unwrap();
    let addr = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut room = vec![0; 65_535];
        while let Ok((n, from)) = socket.recv_from(&mut room).await {
            let answer = [name.as_bytes(), b" ", &room[..n]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    Echo { addr, task }
}

struct Asker(UdpSocket);

impl Asker {
    async fn new(world: &World) -> Asker {
        Asker::of(world.addr("web")).await
    }

    /// One that takes answers from there only.
    async fn of(addr: SocketAddr) -> Asker {
        let own = if addr.is_ipv4() { any() } else { "[::1]:0".parse().unwrap() };
        let socket = UdpSocket::bind(own).await.unwrap();
        socket.connect(addr).await.unwrap();
        Asker(socket)
    }

    /// The answer to a datagram, if one comes within so long.
    async fn ask(&self, what: &str, within: Duration) -> Option<String> {
        let _ = self.0.send(what.as_bytes()).await;
        let mut room = vec![0; 65_535];
        let n = timeout(within, self.0.recv(&mut room)).await.ok()?.ok()?;
        Some(String::from_utf8_lossy(&room[..n]).into_owned())
    }

    async fn must(&self, what: &str) -> String {
        self.ask(what, PATIENCE).await.unwrap_or_else(|| panic!("no answer to {what}"))
    }
}

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_client_keeps_its_backend_and_clients_are_balanced() {
    let (a, b) = (echo("a").await, echo("b").await);
    let world = World::start(state(Protocol::Udp, &[a.addr, b.addr]));
    let mut by = BTreeSet::new();
    for i in 0..6 {
        let asker = Asker::new(&world).await;
        let first = asker.must("x").await;
        let name = first.split(' ').next().unwrap().to_owned();
        for j in 0..20 {
            assert_eq!(asker.must(&format!("{i} {j}")).await, format!("{name} {i} {j}"));
        }
        let large = "y".repeat(9000);
        assert_eq!(asker.must(&large).await, format!("{name} {large}"));
        by.insert(name);
    }
    assert_eq!(by.len(), 2);
    let counters = world.proxy.counters();
    assert_eq!((counters.listeners[0].1.connections, counters.listeners[0].1.active), (6, 6));
    assert_eq!(counters.backends.iter().map(|b| b.2.active).sum::<u64>(), 6);
}

#[tokio::test]
async fn at_a_wildcard_answers_leave_from_the_address_that_was_asked() {
    let a = echo("a").await;
    for (wildcard, addresses) in [("0.0.0.0:0", &["127.0.0.2", "127.0.0.3"][..]), ("[::]:0", &["::1"])] {
        let mut state = state(Protocol::Udp, &[a.addr]);
        edit_listener(&mut state, |l| l.binds[0].addr = wildcard.parse().unwrap());
        let world = World::start(state);
        let port = world.addr("web").port();
        let of = |addr: &&str| SocketAddr::new(addr.parse().unwrap(), port);
        for addr in addresses.iter().map(of) {
            assert_eq!(Asker::of(addr).await.must("x").await, "a x", "{addr}");
        }
        // One socket that asks them all.
        let asker = UdpSocket::bind(SocketAddr::new(wildcard.parse::<SocketAddr>().unwrap().ip(), 0)).await;
        let (asker, mut room) = (asker.unwrap(), [0; 8]);
        for addr in addresses.iter().chain(addresses).map(of) {
            asker.send_to(b"y", addr).await.unwrap();
            let (n, from) = timeout(PATIENCE, asker.recv_from(&mut room)).await.expect("no answer").unwrap();
            assert_eq!((&room[..n], from), (b"a y".as_slice(), addr));
        }
        let sessions = world.proxy.counters().listeners[0].1.connections;
        assert_eq!(sessions, 2 * addresses.len() as u64);
    }
}

#[tokio::test]
async fn sessions_end_when_they_are_quiet_and_are_no_more_than_allowed() {
    let a = echo("a").await;
    let mut state = state(Protocol::Udp, &[a.addr]);
    edit_listener(&mut state, |l| (l.idle_timeout_ms, l.max_connections) = (1000, 2));
    let world = World::start(state);
    let (first, second, third) =
        (Asker::new(&world).await, Asker::new(&world).await, Asker::new(&world).await);
    for asker in [&first, &second] {
        asker.must("x").await;
    }
    assert_eq!(third.ask("x", SOON).await, None, "no place is left");
    assert_eq!(world.proxy.counters().listeners[0].1.rejected, 1);
    eventually("quiet sessions end", async || world.proxy.counters().listeners[0].1.active == 0).await;
    assert_eq!(third.must("z").await, "a z");
    assert_eq!(first.must("again").await, "a again");
    let counters = world.proxy.counters();
    assert_eq!((counters.listeners[0].1.bytes_in, counters.listeners[0].1.bytes_out), (2, 6));
}

#[tokio::test]
async fn a_backend_that_refuses_loses_its_sessions_to_the_others() {
    let (a, b) = (echo("a").await, echo("b").await);
    let world = World::start(state(Protocol::Udp, &[a.addr, b.addr]));
    let asker = Asker::new(&world).await;
    let by = asker.must("x").await;
    let (dead, alive) = if by.starts_with('a') { (a, b) } else { (b, a) };
    drop(dead);
    let name = if by.starts_with('a') { "b x" } else { "a x" };
    eventually("the other one answers", async || asker.ask("x", SOON).await.is_some_and(|t| t == name)).await;
    drop(alive);
}

#[tokio::test]
async fn a_removed_listener_takes_no_more_and_its_port_is_free() {
    let a = echo("a").await;
    let mut world = World::start(state(Protocol::Udp, &[a.addr]));
    let asker = Asker::new(&world).await;
    asker.must("x").await;
    let addr = world.addr("web");
    assert!(UdpSocket::bind(addr).await.is_err(), "nobody else gets it");
    world.change(|s| drop(s.listeners.remove(&listener_id("web"))));
    eventually("the port is free", async || UdpSocket::bind(addr).await.is_ok()).await;
    assert_eq!(asker.ask("x", SOON).await, None);
}

/// A listener `web` of UDP and one `stream` of TCP at the same address.
fn both(datagrams: SocketAddr, streams: SocketAddr) -> State {
    let mut state = state(Protocol::Udp, &[datagrams]);
    let bind = vec![Bind { site: None, addr: free() }];
    edit_listener(&mut state, |l| l.binds.clone_from(&bind));
    let mut stream = listener(Protocol::Http);
    (stream.binds, stream.routes) = (bind, vec![route("stream")]);
    state.listeners.insert(listener_id("stream"), Arc::new(stream));
    state.pools.insert(pool_id("stream"), Arc::new(pool(&[streams])));
    state
}

#[tokio::test]
async fn tcp_and_udp_share_an_address_through_changes_and_a_hand_over() {
    let (a, b) = (echo("a").await, Server::start("b"));
    let mut world = World::start(both(a.addr, b.addr));
    let (asker, mut client) = (Asker::new(&world).await, Client::connect(world.addr("stream")).await);
    for i in 0..20 {
        world.change(|s| edit_listener(s, |l| l.max_connections = 100 + i));
        assert_eq!(asker.must(&i.to_string()).await, format!("a {i}"));
        assert_eq!(client.get("/").await.by(), "b");
    }
    let counters = world.proxy.counters();
    assert!(counters.listeners.iter().all(|l| l.1.connections == 1), "nothing was closed: {counters:?}");
    let mut sockets = world.proxy.sockets().await;
    let next = World::take_over(world.state.clone(), 2, &mut sockets).unwrap();
    assert!(sockets.is_empty(), "each socket has a place: {sockets:?}");
    world.proxy.leave(Duration::from_millis(10)).await;
    assert_eq!(Asker::new(&next).await.must("x").await, "a x");
    assert_eq!(Client::connect(next.addr("stream")).await.get("/").await.by(), "b");
}

#[tokio::test]
async fn a_listener_of_another_protocol_gets_sockets_of_another_kind() {
    let (a, b) = (echo("a").await, Server::start("b"));
    let mut world = World::start(both(a.addr, b.addr));
    let addr = world.addr("web");
    world.change(|s| {
        s.listeners.remove(&listener_id("stream"));
        edit_listener(s, |l| (l.protocol, l.routes) = (Protocol::Http, vec![route("stream")]));
    });
    let answers = async || match Client::try_connect(addr).await {
        Some(mut client) => client.get("/").await.by() == "b",
        None => false,
    };
    eventually("it speaks HTTP", answers).await;
    world.change(|s| edit_listener(s, |l| (l.protocol, l.routes) = (Protocol::Udp, vec![route("web")])));
    let asker = Asker::new(&world).await;
    eventually("it takes datagrams", async || asker.ask("x", SOON).await.is_some()).await;
    eventually("it takes no connections", async || Client::try_connect(addr).await.is_none()).await;
}

#[tokio::test]
async fn a_client_that_keeps_sending_leaves_a_backend_that_is_down_or_gone() {
    let (a, b) = (echo("a").await, echo("b").await);
    let mut world = World::start(state(Protocol::Udp, &[a.addr, b.addr]));
    let asker = Asker::new(&world).await;
    let by = asker.must("x").await;
    let mut at = if by.starts_with('a') { a.addr } else { b.addr };
    let name = |addr| if addr == a.addr { "a x" } else { "b x" };
    let other = |addr| if addr == a.addr { b.addr } else { a.addr };
    // down by checks
    world.health.set(&pool_id("web"), at, false);
    assert_eq!(asker.must("x").await, name(other(at)), "not one datagram is lost");
    world.health.set(&pool_id("web"), at, true);
    at = other(at);
    // drained: it keeps what it has
    let force = |s: &mut State, addr, force| {
        let scope = Scope::Backend(pool_id("web"), addr);
        let (author, reason) = (String::new(), String::new());
        let said = Override { scope: scope.clone(), force, author, reason, expires: None };
        s.overrides.insert(scope, Arc::new(said));
    };
    world.change(|s| force(s, at, Force::Drain));
    for _ in 0..20 {
        assert_eq!(asker.must("x").await, name(at));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // forced down
    world.change(|s| force(s, at, Force::Down));
    let moved = async |to| asker.ask("x", PATIENCE).await.is_some_and(|t| t == name(to));
    eventually("it leaves what is forced down", async || moved(other(at)).await).await;
    at = other(at);
    // gone from the configuration
    world.change(|s| {
        s.overrides.clear();
        edit_pool(s, |p| p.backends.retain(|b| b.addr != at));
    });
    eventually("it leaves what is gone", async || moved(other(at)).await).await;
    eventually("one session is left", async || world.proxy.counters().listeners[0].1.active == 1).await;
    assert_eq!(asker.must("x").await, name(other(at)), "and the end of the old one did not take it along");
    assert_eq!(world.proxy.counters().listeners[0].1.connections, 4);
}
