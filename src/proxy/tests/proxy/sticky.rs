//! The sticky cookie: who gets one, who honours it, and what it is worth when its backend is gone.

use crate::support::*;
use std::{collections::BTreeSet, net::SocketAddr};
use zonekeeper_core::{State, entry::Secret, model::Protocol};

fn world(backends: &[SocketAddr], secret: u8) -> World {
    let mut state: State = state(Protocol::Http, backends);
    edit_pool(&mut state, |p| p.sticky = Some("zk".into()));
    state.secrets.session = vec![Secret([secret; 32])];
    World::start(state)
}

fn get(cookie: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; {cookie}; c=d\r\n\r\n")
}

/// The cookie's name and value of an answer that sets it.
fn cookie(answer: &Answer) -> Option<String> {
    let set = field(&answer.head, "set-cookie")?;
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
    Some(pair.to_owned())
}

#[tokio::test]
async fn a_client_comes_back_to_its_backend_at_every_site() {
    let servers = [Server::start("a"), Server::start("b"), Server::start("c")];
    let backends = servers.each_ref().map(|s| s.addr);
    let (here, there) = (world(&backends, 7), world(&backends, 7));
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        let first = here.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let cookie = cookie(&first).expect("a new client gets one");
        seen.insert(first.by());
        for site in [&here, &there, &here] {
            let again = site.ask(&get(&cookie)).await;
            assert_eq!((again.status, again.by()), (200, first.by()));
            assert!(field(&again.head, "set-cookie").is_none(), "it has one");
        }
    }
    assert_eq!(seen.len(), 3, "new clients are balanced");
}

#[tokio::test]
async fn nobody_can_make_one() {
    let servers = [Server::start("a"), Server::start("b")];
    let backends = servers.each_ref().map(|s| s.addr);
    let other = world(&backends, 8);
    let foreign = cookie(&other.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await).unwrap();
    let world = world(&backends, 7);
    let mut by = BTreeSet::new();
    for said in [foreign.as_str(), "zk=", "zk=0", &format!("zk={}", "0".repeat(32)), "kz=1"] {
        for _ in 0..2 {
            let answer = world.ask(&get(said)).await;
            assert!(cookie(&answer).is_some_and(|c| c != said), "{said}");
            by.insert(answer.by());
        }
    }
    assert_eq!(by.len(), 2, "it is a new client");
}

#[tokio::test]
async fn a_client_of_a_dead_or_drained_backend_gets_another_one() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let mut world = world(&[a.addr, b.addr], 7);
    let mut of = std::collections::BTreeMap::new();
    while of.len() < 2 {
        let answer = world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        of.insert(answer.by(), cookie(&answer).unwrap());
    }
    world.change(|s| edit_pool(s, |p| p.backends[1].weight = 0));
    eventually("b is drained", async || world.ask(&get(&of["b"])).await.by() == "a").await;
    let moved = world.ask(&get(&of["b"])).await;
    assert_eq!(cookie(&moved).as_ref(), Some(&of["a"]), "and is told so");
    world.change(|s| edit_pool(s, |p| p.backends[1].weight = 1));
    eventually("b takes traffic", async || world.ask(&get(&of["b"])).await.by() == "b").await;
    drop(b);
    let moved = world.ask(&get(&of["b"])).await;
    assert_eq!((moved.status, moved.by(), cookie(&moved)), (200, "a".into(), Some(of["a"].clone())));
}

#[tokio::test]
async fn a_new_secret_renews_the_cookie_and_honours_the_old_one() {
    let servers = [Server::start("a"), Server::start("b")];
    let mut world = world(&servers.each_ref().map(|s| s.addr), 7);
    let first = world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let old = cookie(&first).unwrap();
    world.change(|s| s.secrets.session.insert(0, Secret([9; 32])));
    eventually("it is renewed", async || cookie(&world.ask(&get(&old)).await).is_some()).await;
    let answer = world.ask(&get(&old)).await;
    assert_eq!(answer.by(), first.by());
    let new = cookie(&answer).unwrap();
    assert!(new != old && cookie(&world.ask(&get(&new)).await).is_none());
}
