//! How requests are shared out.

use crate::support::*;
use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::io::AsyncWriteExt;
use zonekeeper_core::{
    entry::{Force, Override, Scope},
    model::{Balance, Protocol},
};

async fn shares(world: &World, clients: usize, each: usize) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let addr = world.addr("web");
    let ask = |_| async move {
        let mut client = Client::connect(addr).await;
        let mut by = Vec::new();
        for _ in 0..each {
            by.push(client.get("/").await.by());
        }
        by
    };
    let tasks: Vec<_> = (0..clients).map(|i| tokio::spawn(ask(i))).collect();
    for task in tasks {
        for by in task.await.unwrap() {
            *all.entry(by).or_insert(0) += 1;
        }
    }
    all
}

#[tokio::test]
async fn weights_hold_over_all_workers() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let mut state = state(Protocol::Http, &[a.addr, b.addr]);
    edit_pool(&mut state, |p| p.backends[0].weight = 3);
    let world = World::start(state);
    let got = shares(&world, 8, 50).await;
    assert!((got["a"] as i64 - 300).abs() <= 8, "{got:?}");
}

/// Answers after a while.
fn slow(ms: u64) -> Server {
    Server::with(any(), move |mut stream, requests| async move {
        let mut pending = Vec::new();
        while read_request(&mut stream, &mut pending).await.is_some() {
            requests.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
        }
    })
}

#[tokio::test]
async fn least_connections_and_response_time_spare_the_slow() {
    for balance in [Balance::LeastConnections, Balance::ResponseTime] {
        let (lame, a) = (slow(100), Server::start("a"));
        let mut state = state(Protocol::Http, &[lame.addr, a.addr]);
        edit_pool(&mut state, |p| p.balance = balance);
        let world = World::start(state);
        let got = shares(&world, 4, 50).await;
        assert!(got.get("slow").copied().unwrap_or_default() < 40, "{balance:?}: {got:?}");
    }
}

#[tokio::test]
async fn a_backend_that_fails_fast_does_not_look_fast() {
    let (bad, a) = (
        Server::with(any(), |mut stream, _| async move {
            let mut pending = Vec::new();
            while read_request(&mut stream, &mut pending).await.is_some() {
                let _ = stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad").await;
            }
        }),
        Server::start("a"),
    );
    let mut state = state(Protocol::Http, &[bad.addr, a.addr]);
    edit_pool(&mut state, |p| p.balance = Balance::ResponseTime);
    let world = World::start(state);
    let got = shares(&world, 2, 100).await;
    assert!(
        got.get("bad").copied().unwrap_or_default() <= 10,
        "{got:?} {:?}",
        (world.proxy.counters(), world.health.all())
    );
}

#[tokio::test]
async fn a_drained_backend_finishes_what_it_has_and_gets_nothing_new() {
    let (old, a) = (slow(200), Server::start("a"));
    let mut world = World::http(&[old.addr, a.addr]);
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the first backend has the request", async || old.count() == 1).await;
    let scope = Scope::Backend(pool_id("web"), old.addr);
    let drain = Override {
        scope: scope.clone(),
        force: Force::Drain,
        author: "me".into(),
        reason: "test".into(),
        expires: None,
    };
    world.change(|s| drop(s.overrides.insert(scope, Arc::new(drain))));
    assert_eq!(client.answer(false).await.text(), "slow");
    eventually("the drain is in force", async || {
        let before = old.count();
        for _ in 0..4 {
            client.get("/").await;
        }
        old.count() == before
    })
    .await;
    assert_eq!(shares(&world, 2, 10).await, BTreeMap::from([("a".to_string(), 20)]));
    assert_eq!(world.health.healthy_count(&world_pool(&world)), (1, 2));
}

fn world_pool(world: &World) -> zonekeeper_core::route::PoolTable {
    let table = zonekeeper_core::route::ProxyTable::build(&world.state, &"here".parse().unwrap());
    (*table.pools[&pool_id("web")]).clone()
}
