//! Full pools: who waits, in which order, for how long; and how often is tried again.

use crate::support::*;
use std::sync::{
    Arc,
    atomic::Ordering::{AcqRel, Relaxed},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};
use zonekeeper_core::model::Protocol;

/// A backend that answers one request for each permit, with the request's path.
fn gated(permits: &Arc<Semaphore>) -> Server {
    let permits = permits.clone();
    Server::with(any(), move |mut stream, requests| {
        let permits = permits.clone();
        async move {
            let mut pending = Vec::new();
            while let Some((head, _)) = read_request(&mut stream, &mut pending).await {
                requests.fetch_add(1, Relaxed);
                permits.acquire().await.unwrap().forget();
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
}

fn waiting(world: &World) -> u64 {
    world.proxy.counters().pools[0].1.waiting
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_in_order_over_all_workers() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = gated(&permits);
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_pool(&mut state, |p| p.max_connections = 1);
    let world = World::try_start(state, 4).unwrap();
    let (done, mut answered) = tokio::sync::mpsc::unbounded_channel();
    for i in 0..40u64 {
        let (mut client, done) = (world.client().await, done.clone());
        client.send(format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        tokio::spawn(async move {
            let answer = client.answer(false).await;
            done.send((answer.status, answer.text())).unwrap();
        });
        eventually("it is in its place", async || backend.count() == 1 && waiting(&world) == i).await;
    }
    for i in 0..40 {
        permits.add_permits(1);
        assert_eq!(answered.recv().await.unwrap(), (200, format!("/{i}")));
    }
    eventually("nobody waits", async || waiting(&world) == 0).await;
    let pool = world.proxy.counters().pools[0].1;
    assert_eq!((pool.queued, pool.overflowed, pool.timed_out), (39, 0, 0));
    assert_eq!(world.proxy.counters().backends[0].2.errors, 0);
}

#[tokio::test]
async fn a_full_queue_and_a_long_wait_say_so() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = gated(&permits);
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_pool(&mut state, |p| (p.max_connections, p.max_queue, p.queue_timeout_ms) = (1, 1, 200));
    let world = World::start(state);
    let (mut served, mut waits) = (world.client().await, world.client().await);
    served.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is served", async || backend.count() == 1).await;
    waits.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it waits", async || waiting(&world) == 1).await;
    let answer = world.ask("GET /c HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (503, "all backends are busy and the queue is full\n")
    );
    let answer = waits.answer(false).await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "no backend became free in time\n"));
    permits.add_permits(2);
    assert_eq!(served.answer(false).await.text(), "/a");
    assert_eq!(waits.get("/d").await.text(), "/d", "its connection goes on");
    let pool = world.proxy.counters().pools[0].1;
    assert_eq!((pool.queued, pool.overflowed, pool.timed_out, pool.waiting), (1, 1, 1, 0));
}

#[tokio::test]
async fn a_client_that_breaks_off_leaves_the_queue_to_the_next() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = gated(&permits);
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_pool(&mut state, |p| p.max_connections = 1);
    let world = World::start(state);
    let mut clients = [world.client().await, world.client().await, world.client().await];
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        eventually("it is in its place", async || backend.count() == 1 && waiting(&world) == i as u64).await;
    }
    let [mut first, gone, mut last] = clients;
    gone.stream.set_zero_linger().unwrap();
    drop(gone);
    eventually("it left", async || waiting(&world) == 1).await;
    permits.add_permits(2);
    assert_eq!(
        (first.answer(false).await.text(), last.answer(false).await.text()),
        ("/0".into(), "/2".into())
    );
}

/// Who waits to be tried again waits for another backend, also where the one that failed it is free.
#[tokio::test]
async fn a_retry_waits_for_another_backend() {
    let permits = Arc::new(Semaphore::new(0));
    let good = gated(&permits);
    let odd = Server::with(any(), |mut stream, requests| async move {
        while read_request(&mut stream, &mut Vec::new()).await.is_some() {
            requests.fetch_add(1, Relaxed);
            let _ = stream.write_all(b"nothing of HTTP\r\n\r\n").await;
        }
    });
    let mut state = state(Protocol::Http, &[good.addr, odd.addr]);
    edit_pool(&mut state, |p| p.max_connections = 1);
    let world = World::start(state);
    let (mut first, mut second) = (world.client().await, world.client().await);
    first.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the good one is busy", async || good.count() == 1).await;
    second.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it waits", async || waiting(&world) == 1).await;
    permits.add_permits(2);
    assert_eq!(first.answer(false).await.text(), "/1");
    assert_eq!((second.answer(false).await.text().as_str(), odd.count()), ("/2", 1));
}

#[tokio::test]
async fn tcp_connections_wait_as_well() {
    let backend = Server::with(any(), |mut stream, requests| async move {
        requests.fetch_add(1, AcqRel);
        stream.write_all(b"x").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    });
    let mut state = state(Protocol::Tcp, &[backend.addr]);
    edit_pool(&mut state, |p| p.max_connections = 1);
    let world = World::start(state);
    let mut first = world.client().await;
    assert_eq!(first.stream.read_u8().await.unwrap(), b'x');
    let mut second = world.client().await;
    eventually("it waits", async || waiting(&world) == 1).await;
    assert_eq!(backend.count(), 1);
    drop(first);
    let heard = tokio::time::timeout(PATIENCE, second.stream.read_u8()).await;
    assert_eq!(heard.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn a_pool_that_fails_as_a_whole_is_not_asked_several_times_over() {
    let fails = || {
        Server::with(any(), |mut stream, requests| async move {
            let mut pending = Vec::new();
            while read_request(&mut stream, &mut pending).await.is_some() {
                requests.fetch_add(1, Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
    };
    let backends = [fails(), fails(), fails()];
    let mut state = state(Protocol::Http, &backends.each_ref().map(|b| b.addr));
    edit_pool(&mut state, |p| (p.retries, p.retry_budget, p.eject_errors) = (2, 0, 0));
    let world = World::start(state);
    let mut client = world.client().await;
    for _ in 0..200 {
        assert_eq!(client.get("/").await.status, 503);
    }
    let asked: u64 = backends.iter().map(Server::count).sum();
    assert!((250..=300).contains(&asked), "{asked} for 200 requests and 50 retries in each window");
    assert!(world.proxy.counters().pools[0].1.unretried > 0);
}
