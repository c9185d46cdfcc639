//! Which backends are left out, for what, and how they come back.

use crate::support::*;
use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::sleep};
use zonekeeper_core::model::Protocol;

/// A backend that answers with its name, and to some paths does something else.
fn moody(name: &'static str) -> Server {
    Server::with(any(), move |mut stream, _| async move {
        let mut pending = Vec::new();
        while let Some((head, _)) = read_request(&mut stream, &mut pending).await {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            match path.as_str() {
                "/slow" => sleep(Duration::from_secs(60)).await,
                "/stream" => {
                    let begun =
                        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{name}\r\n");
                    let _ = stream.write_all(begun.as_bytes()).await;
                    sleep(Duration::from_secs(60)).await;
                }
                "/die" => {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                    return;
                }
                _ => {}
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}

fn ejected(world: &World) -> usize {
    world.health.all().iter().filter(|(_, b)| b.ejected(zonekeeper_proxy::now_ms())).count()
}

/// The default check of these backends, only faster: it connects.
fn checked(world: &World, backends: &[SocketAddr]) -> JoinSet<()> {
    let mut checks = JoinSet::new();
    for addr in backends.iter().copied() {
        let health = world.health.clone();
        checks.spawn(async move {
            loop {
                health.set(&pool_id("web"), addr, TcpStream::connect(addr).await.is_ok());
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    checks
}

/// How many backends the site says that it has.
fn healthy(world: &World) -> u32 {
    world.health.healthy_count(&world.table()).0
}

fn on_trial(world: &World) -> usize {
    world.health.all().iter().filter(|(_, b)| b.on_trial()).count()
}

#[tokio::test]
async fn a_backend_with_an_old_request_in_flight_comes_back() {
    let (a, b) = (moody("a"), moody("b"));
    let world = World::http(&[a.addr, b.addr]);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut client = world.client().await;
        client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
        streams.push(client);
    }
    let busy = async || world.health.all().iter().all(|(_, b)| b.inflight() == 1);
    eventually("each backend has one for long", busy).await;
    world.ask("POST /die HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(ejected(&world), 1);
    eventually("it may come back", async || ejected(&world) == 0).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(on_trial(&world), 0, "one request was its trial");
}

/// A world whose backends are late after 200 ms and, once left out, stay so.
fn impatient(backends: &[&Server]) -> World {
    let addrs: Vec<_> = backends.iter().map(|b| b.addr).collect();
    let mut state = state(Protocol::Http, &addrs);
    edit_pool(&mut state, |p| (p.response_timeout_ms, p.eject_ms) = (200, 60_000));
    edit_listener(&mut state, |l| l.idle_timeout_ms = 200);
    World::start(state)
}

/// A backend that hangs is late where the request's own time ends first, but not where the client used that up.
#[tokio::test]
async fn a_request_that_runs_out_of_time_at_a_silent_backend_leaves_it_out() {
    let (a, b) = (moody("a"), moody("b"));
    let mut state = state(Protocol::Http, &[a.addr, b.addr]);
    edit_pool(&mut state, |p| p.eject_ms = 60_000);
    edit_listener(&mut state, |l| l.request_timeout_ms = 1000);
    let world = World::start(state);
    let mut client = world.client().await;
    client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx").await;
    sleep(Duration::from_millis(800)).await;
    client.send("y").await;
    assert_eq!((client.answer(false).await.status, ejected(&world)), (504, 0));
    let begun = world.ask("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((begun.complete, ejected(&world)), (false, 0), "it had begun");
    assert_eq!(world.ask("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 504);
    assert_eq!(ejected(&world), 1);
}

#[tokio::test]
async fn a_body_that_is_quiet_for_too_long_is_cut_and_ejects_nobody() {
    let (a, b) = (moody("a"), moody("b"));
    let world = impatient(&[&a, &b]);
    for _ in 0..2 {
        let answer = world.ask("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((answer.status, answer.complete), (200, false));
    }
    assert_eq!(ejected(&world), 0);
    assert_eq!(world.proxy.counters().backends.iter().map(|b| b.2.errors).sum::<u64>(), 2);
}

#[tokio::test]
async fn a_slow_address_ejects_no_more_than_the_cap() {
    let servers = ["a", "b", "c", "d"].map(moody);
    for (n, most) in [(4, 2), (2, 1), (1, 0)] {
        let world = impatient(&servers.iter().take(n).collect::<Vec<_>>());
        for _ in 0..3 {
            let late = world.ask("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(late.status, 504);
        }
        assert_eq!(ejected(&world), most, "of {n}");
    }
}

/// One request is tried on three backends, and each breaks it off.
#[tokio::test]
async fn an_address_that_backends_die_of_takes_no_pool_and_no_site_out() {
    let servers = ["a", "b", "c", "d"].map(moody);
    for (n, most) in [(4, 2), (3, 1), (2, 1), (1, 0)] {
        let mut state = state(Protocol::Http, &servers.each_ref().map(|s| s.addr)[..n]);
        edit_pool(&mut state, |p| (p.retries, p.eject_ms) = (2, 60_000));
        let world = World::start(state);
        assert_eq!(world.ask("GET /die HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 502);
        assert_eq!(ejected(&world), most, "of {n}");
        assert_eq!(healthy(&world), n as u32, "the site stands");
        assert_eq!(world.client().await.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn the_last_usable_backend_is_not_left_out_for_a_request() {
    let (a, b) = (moody("a"), moody("b"));
    let world = impatient(&[&a, &b]);
    world.health.set(&pool_id("web"), b.addr, false);
    for path in ["/die", "/slow"] {
        world.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!((ejected(&world), healthy(&world)), (0, 1), "{path}");
    }
}

#[tokio::test]
async fn backends_that_refuse_are_all_left_out_at_once() {
    let mut state = state(Protocol::Http, &[dead(), dead(), dead()]);
    edit_pool(&mut state, |p| p.eject_ms = 60_000);
    let world = World::start(state);
    assert_eq!(world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 502);
    assert_eq!((ejected(&world), healthy(&world)), (3, 0));
}

#[tokio::test]
async fn a_check_that_connects_brings_back_nobody_who_fails_requests() {
    for hangs in [true, false] {
        let bad = Server::with(any(), move |mut stream, requests| async move {
            while read_request(&mut stream, &mut Vec::new()).await.is_some() {
                requests.fetch_add(1, Relaxed);
                if !hangs {
                    return;
                }
            }
        });
        let (a, b) = (moody("a"), moody("b"));
        let backends = [bad.addr, a.addr, b.addr];
        let mut state = state(Protocol::Http, &backends);
        edit_pool(&mut state, |p| (p.response_timeout_ms, p.eject_ms) = (200, 60_000));
        let world = World::start(state);
        let _checks = checked(&world, &backends);
        let mut client = world.client().await;
        for _ in 0..40 {
            assert_eq!(client.get("/").await.status, 200);
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(bad.count(), 1, "hangs: {hangs}");
    }
}

/// Runs in a process of its own, which has few descriptors.
#[test]
fn a_machine_without_descriptors_ejects_nobody() {
    const MARK: &str = "ZONEKEEPER_FEW_DESCRIPTORS";
    if std::env::var_os(MARK).is_none() {
        let this = "eject::a_machine_without_descriptors_ejects_nobody";
        let run = "ulimit -n 128 && exec \"$0\" --exact \"$1\"";
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(run).arg(std::env::current_exe().unwrap()).arg(this).env(MARK, "1");
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (a, b) = (moody("a"), moody("b"));
        let mut state = state(Protocol::Http, &[a.addr, b.addr]);
        edit_pool(&mut state, |p| p.retries = 0);
        let world = World::start(state);
        let mut client = world.client().await;
        assert_eq!(client.get("/").await.status, 200); // by the one that the next request does not go to
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        assert_eq!(client.get("/").await.status, 502, "nothing can be opened");
        assert_eq!(ejected(&world), 0);
        drop(taken);
        assert_eq!(world.client().await.get("/").await.status, 200);
    });
}

#[tokio::test]
async fn connections_to_a_backend_that_is_gone_end_though_an_old_request_runs() {
    // Counts the connections that are open.
    let counted = Server::with(any(), |mut stream, open| async move {
        open.fetch_add(1, Relaxed);
        let mut pending = Vec::new();
        while read_request(&mut stream, &mut pending).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc").await;
        }
        open.fetch_sub(1, Relaxed);
    });
    let a = moody("a");
    let mut state = state(Protocol::Http, &[a.addr, counted.addr]);
    edit_pool(&mut state, |p| p.response_timeout_ms = 60_000); // nothing else ends the old request
    let mut world = World::try_start(state, 1).unwrap();
    let mut client = world.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(counted.count(), 1, "one is kept");
    world.change(|s| edit_pool(s, |p| p.backends.reverse()));
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(counted.count(), 1, "and taken over by the next configuration");
    let mut stream = world.client().await;
    eventually("an old request runs", async || {
        stream = world.client().await;
        stream.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
        sleep(Duration::from_millis(20)).await;
        world.health.get(&pool_id("web"), a.addr).unwrap().inflight() > 0
    })
    .await;
    world.change(|s| edit_pool(s, |p| p.backends.retain(|b| b.addr == a.addr)));
    eventually("the kept one ends", async || counted.count() == 0).await;
    drop(stream);
}

#[tokio::test]
async fn a_backend_that_answers_rubbish_is_left_out() {
    let (a, b) = (moody("a"), moody("b"));
    let rubbish = Server::with(any(), |mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(b"\x15\x03\x01\x00\x02\x02\x46 no response at all\r\n\r\n").await;
    });
    let mut state = state(Protocol::Http, &[a.addr, b.addr, rubbish.addr]);
    edit_pool(&mut state, |p| p.eject_ms = 60_000);
    let world = World::start(state);
    eventually("it is left out", async || {
        world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        ejected(&world) == 1
    })
    .await;
    for _ in 0..6 {
        assert_eq!(world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.status, 200);
    }
}
