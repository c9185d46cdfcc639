//! Limits that keep one client from taking what is there for all.

use crate::support::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zonekeeper_core::model::{HashKey, PathMatch, Protocol, RateLimit, Route};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn limit(requests: u32, key: HashKey) -> RateLimit {
    RateLimit { requests, per_ms: 3_600_000, burst: requests, key }
}

#[tokio::test]
async fn requests_above_the_rate_are_told_when_to_come_again() {
    let backend = Server::start("a");
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| {
        l.rate_limit = Some(limit(5, HashKey::Source));
        let one = Some(limit(1, HashKey::Header("x-user".into())));
        let path = PathMatch::Prefix("/api".into());
        l.routes.insert(0, Route { path, rate_limit: one, ..route("web") });
    });
    let world = World::start(state);
    let mut client = world.client().await;
    let ask = |user: &str| format!("GET /api HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
    for (user, status) in [("1", 200), ("1", 429), ("2", 200), ("2", 429)] {
        client.send(ask(user)).await;
        assert_eq!(client.answer(false).await.status, status, "user {user}");
    }
    assert_eq!(client.get("/").await.status, 200, "the fifth one");
    let answer = client.get("/").await;
    assert_eq!(answer.status, 429);
    let after: u64 = field(&answer.head, "retry-after").unwrap().parse().unwrap();
    assert!((600..=720).contains(&after), "five an hour: {after}");
    assert!(field(&answer.head, "connection").is_none(), "the connection goes on");
    assert_eq!((backend.count(), world.proxy.counters().listeners[0].1.limited), (3, 3));
}

#[tokio::test]
async fn connections_are_limited_by_rate_and_by_address() {
    let backend = Server::with(any(), |mut stream, _| async move {
        let _ = stream.write_all(b"x").await;
        let _ = stream.read(&mut [0]).await;
    });
    let mut state = state(Protocol::Tcp, &[backend.addr]);
    edit_listener(&mut state, |l| {
        l.rate_limit = Some(limit(4, HashKey::Source));
        l.max_per_address = 2;
    });
    let world = World::start(state);
    let connect = async || {
        // who is refused may hear of it before or after its connection stands
        let mut client = Client::try_connect(world.addr("web")).await?;
        let heard = client.stream.read_u8().await.is_ok();
        heard.then_some(client)
    };
    let (first, second) = (connect().await.unwrap(), connect().await.unwrap());
    assert!(connect().await.is_none(), "two at once");
    drop(first);
    eventually("its place is free", async || world.proxy.counters().listeners[0].1.active == 1).await;
    let third = connect().await.unwrap();
    drop((second, third));
    eventually("no place is taken", async || world.proxy.counters().listeners[0].1.active == 0).await;
    assert!(connect().await.is_some(), "the fourth that was let in");
    eventually("no place is taken", async || world.proxy.counters().listeners[0].1.active == 0).await;
    assert!(connect().await.is_none(), "four an hour");
    let counters = world.proxy.counters().listeners[0].1;
    assert_eq!((counters.rejected, counters.limited), (1, 1));
}

#[tokio::test]
async fn a_body_that_trickles_is_refused() {
    let backend = Server::start("a");
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| l.min_rate = 100);
    let world = World::start(state);
    let mut client = world.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await;
    let (mut read, mut write) = tokio::io::split(client.into_parts().0);
    let began = Instant::now();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE * 2, read.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(began.elapsed() > Duration::from_secs(9), "it had its time: {:?}", began.elapsed());
    trickle.abort();
}

#[tokio::test]
async fn a_request_has_so_much_time_in_all() {
    let backend = Server::with(any(), |mut stream, _| async move {
        let mut pending = Vec::new();
        while let Some((head, _)) = read_request(&mut stream, &mut pending).await {
            if head.starts_with("GET /begun") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
            }
            while stream.write_all(if head.starts_with("GET /begun") { b"x" } else { b"" }).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| {
        l.request_timeout_ms = 60_000;
        l.routes[0].limits.request_timeout_ms = Some(300);
    });
    let world = World::start(state);
    let began = Instant::now();
    assert_eq!(world.ask(GET).await.status, 504);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let answer = world.ask("GET /begun HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status, answer.complete), (200, false), "what has begun is cut");
    eventually("no place is held", async || world.proxy.counters().backends[0].2.active == 0).await;
}

#[tokio::test]
async fn a_tunnel_may_be_quiet_for_longer_than_a_connection() {
    let backend = Server::with(any(), |mut stream, _| async move {
        read_request(&mut stream, &mut Vec::new()).await;
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(switch).await;
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            let _ = stream.write_all(&byte).await;
        }
    });
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| {
        (l.idle_timeout_ms, l.tunnel_timeout_ms, l.request_timeout_ms) = (200, 1500, 300);
    });
    let world = World::start(state);
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer(false).await.status, 101);
    tokio::time::sleep(Duration::from_millis(800)).await;
    client.send("!").await;
    assert_eq!(client.stream.read_u8().await.unwrap(), b'!');
    let began = Instant::now();
    assert!(client.ended().await);
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
}

/// What `slowhttptest` says of the service under its attack, `YES` or `NO`.
async fn attacked(addr: std::net::SocketAddr, how: &'static [&'static str]) -> String {
    let url = format!("http://{addr}/large");
    let output = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new("slowhttptest");
        command.args(how).args(["-c", "300", "-r", "150", "-i", "1", "-l", "12", "-p", "3", "-u", &url]);
        command.output().unwrap()
    });
    let text = String::from_utf8_lossy(&output.await.unwrap().stdout).into_owned();
    let available = text.rsplit("service available:").next().unwrap_or_default();
    available.split_whitespace().find(|w| w.contains("YES") || w.contains("NO")).unwrap_or(&text).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_leave_room_for_others_and_are_cut() {
    if crate::framing::peers::installed("slowhttptest").is_none() {
        return;
    }
    let attacks: [&'static [&'static str]; 3] = [
        &["-H", "-x", "8"],                                    // heads
        &["-B", "-s", "100000", "-x", "8"],                    // bodies
        &["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5"], // readers
    ];
    for how in attacks {
        let backend = Server::start("a");
        let mut state = state(Protocol::Http, &[backend.addr]);
        edit_listener(&mut state, |l| {
            (l.header_timeout_ms, l.idle_timeout_ms, l.max_connections) = (2000, 3000, 400);
        });
        let world = World::start(state);
        let (addr, asked) =
            (world.addr("web"), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let others = {
            let stop = asked.clone();
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let answer = Client::connect(addr).await.get("/").await;
                    assert_eq!(answer.status, 200, "request {n} of somebody else");
                    n += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                n
            })
        };
        let available = attacked(addr, how).await;
        asked.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(available.contains("YES"), "{how:?}: {available}");
        assert!(others.await.unwrap() > 50, "{how:?}");
        eventually("the slow ones are gone", async || world.proxy.counters().listeners[0].1.active == 0)
            .await;
    }
}
