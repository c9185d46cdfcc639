//! A backend dies in every phase of a request; what the client sees, and that nothing unsafe is executed twice.

mod backends;
mod backends2;
mod matrix;

use crate::support::*;
use backends::reset;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Death {
    Refuses,
    ResetsOnAccept,
    ClosesOnAccept,
    ResetsAfterHead,
    ClosesAfterRequest,
    ResetsAfterRequest,
    ClosesInResponseHead,
    ClosesInBody,
    ResetsInBody,
    CutsChunks,
    Hangs,
}

/// A backend that dies like this with every connection, and counts the requests that it read.
fn dying(death: Death) -> Server {
    if death == Death::Refuses {
        let mut server = Server::start("never");
        server.addr = dead();
        return server;
    }
    Server::with(any(), move |stream, requests| die(death, stream, requests))
}

async fn die(death: Death, mut stream: TcpStream, requests: Arc<AtomicU64>) {
    match death {
        Death::ResetsOnAccept => return reset(&stream),
        Death::ClosesOnAccept => return,
        Death::ResetsAfterHead => {
            let _ = stream.read(&mut [0; 10]).await;
            return reset(&stream);
        }
        _ => {}
    }
    if read_request(&mut stream, &mut Vec::new()).await.is_none() {
        return;
    }
    requests.fetch_add(1, Relaxed);
    let part: &[u8] = match death {
        Death::ClosesInResponseHead => b"HTTP/1.1 200 OK\r\nContent-Le",
        Death::ClosesInBody | Death::ResetsInBody => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        Death::CutsChunks => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        _ => b"",
    };
    let _ = stream.write_all(part).await;
    match death {
        Death::Hangs => tokio::time::sleep(Duration::from_secs(60)).await,
        Death::ResetsAfterRequest => reset(&stream),
        Death::ResetsInBody => {
            tokio::time::sleep(Duration::from_millis(50)).await; // a reset takes back what was not read yet
            reset(&stream);
        }
        _ => {}
    }
}

/// Asks one dying and one healthy backend, the dying one first. How often each of them read the request.
async fn ask(death: Death, request: &str) -> (Answer, [u64; 2]) {
    let (bad, good) = (dying(death), Server::start("good"));
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[bad.addr, good.addr]);
    edit_pool(&mut state, |p| p.response_timeout_ms = if death == Death::Hangs { 150 } else { 10_000 });
    let world = World::start(state);
    let answer = world.ask(request).await;
    (answer, [bad.count(), good.count()])
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PUT: &str = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_dead_backend_that_read_nothing_is_invisible_to_any_method() {
    for request in [GET, PUT, POST] {
        let (answer, _) = ask(Death::Refuses, request).await;
        assert_eq!((answer.status, answer.by().as_str()), (200, "good"), "{request}");
    }
}

#[tokio::test]
async fn a_backend_that_dies_before_its_response_is_invisible_to_what_may_be_repeated() {
    for death in [
        Death::ResetsOnAccept,
        Death::ClosesOnAccept,
        Death::ResetsAfterHead,
        Death::ClosesAfterRequest,
        Death::ResetsAfterRequest,
        Death::ClosesInResponseHead,
        Death::Hangs,
    ] {
        for request in [GET, PUT] {
            let (answer, _) = ask(death, request).await;
            assert_eq!((answer.status, answer.by().as_str()), (200, "good"), "{death:?} {request}");
        }
        let (answer, read) = ask(death, POST).await;
        let told = if death == Death::Hangs { 504 } else { 502 };
        match answer.status {
            200 => {
                assert_eq!((answer.by().as_str(), read), ("good", [0, 1]), "{death:?}: nobody else read it")
            }
            status => assert!(status == told && read[1] == 0, "{death:?}: {read:?} {answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_response_cut_short_is_seen_as_a_cut() {
    for death in [Death::ClosesInBody, Death::ResetsInBody, Death::CutsChunks] {
        for request in [GET, POST] {
            let (answer, read) = ask(death, request).await;
            assert_eq!((answer.status, answer.complete, read), (200, false, [1, 0]), "{death:?} {answer:?}");
        }
    }
}

#[tokio::test]
async fn without_another_backend_the_client_is_told() {
    let world = World::http(&[dead()]);
    assert_eq!(world.ask(POST).await.status, 502);
    assert_eq!(World::http(&[]).ask(GET).await.status, 503);
}

/// A backend that ends its kept connection just as the next request comes: it closes without reading it.
async fn closing(stream: TcpStream, requests: Arc<AtomicU64>, reset_instead: bool) {
    let mut stream = stream;
    let mut pending = Vec::new();
    while let Some((head, _)) = read_request(&mut stream, &mut pending).await {
        let n = requests.fetch_add(1, Relaxed);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        if head.contains("/last") {
            // Somewhere in here the next request leaves the proxy.
            spin(Duration::from_micros(n * 7 % 600));
            if reset_instead {
                reset(&stream);
            }
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_ended_is_invisible_to_any_method() {
    for reset_instead in [false, true] {
        let backend = Server::with(any(), move |s, n| closing(s, n, reset_instead));
        let world = World::start(state(zonekeeper_core::model::Protocol::Http, &[backend.addr]));
        let mut client = world.client().await;
        let mut served = 0;
        for i in 0..200 {
            assert_eq!(client.get("/last").await.status, 200);
            // At once: the end may be on its way, here, or unnoticed.
            client.send(POST).await;
            let answer = client.answer(false).await;
            // A reset takes back that the request was not read, where it came too late to tell.
            let lost = reset_instead && answer.status == 502;
            assert!(answer.complete && (answer.status == 200 || lost), "{i}: {answer:?}");
            served += u64::from(!lost);
        }
        assert_eq!(
            backend.count(),
            200 + served,
            "what was answered was executed exactly once, and nothing else"
        );
    }
}

#[tokio::test]
async fn a_large_body_is_not_read_before_a_connection_stands() {
    let good = Server::start("good");
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[dead(), good.addr]);
    edit_listener(&mut state, |l| l.max_body = 0);
    let world = World::start(state);
    let mut client = world.client().await;
    let body = vec![b'z'; 500_000];
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    client.send(&body).await;
    let answer = client.answer(false).await;
    assert!(answer.status == 200 && answer.body.ends_with(&body));
}

#[tokio::test]
async fn a_client_that_stops_in_its_body_leaves_no_whole_request_behind() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    let mut client = world.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    client.stream.shutdown().await.unwrap();
    assert!(client.ended().await);
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_hard_failure_ejects_a_backend_for_a_while() {
    let (bad, good) = (dead(), Server::start("good"));
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[bad, good.addr]);
    edit_pool(&mut state, |p| p.eject_ms = 60_000);
    let world = World::start(state);
    let mut changes = world.health.subscribe();
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.by(), "good");
    }
    assert!(changes.has_changed().unwrap(), "the node hears of it");
    let of_bad = world.proxy.counters().backends.iter().find(|b| b.1 == bad).unwrap().2;
    assert_eq!((of_bad.requests, of_bad.errors, of_bad.retries, of_bad.ejections), (1, 1, 1, 1));
    world.health.set(&pool_id("web"), bad, true);
    changes.mark_unchanged();
    client.get("/").await;
    client.get("/").await;
    let of_bad = world.proxy.counters().backends.iter().find(|b| b.1 == bad).unwrap().2;
    assert_eq!(of_bad.requests, 2, "a check that succeeds lets it in again");
}

#[tokio::test]
async fn no_get_fails_while_one_of_three_backends_is_killed_and_restarted() {
    let (a, b, c) = (Server::start("a"), Server::start("b"), Server::start("c"));
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[a.addr, b.addr, c.addr]);
    edit_pool(&mut state, |p| p.eject_ms = 20);
    let world = World::start(state);
    let stop = Arc::new(AtomicBool::new(false));
    let (addr, told) = (a.addr, stop.clone());
    let mut victim = Some(a);
    let killer = tokio::spawn(async move {
        let mut kills = 0;
        while !told.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(30)).await;
            victim = if victim.take().is_some() { None } else { Some(Server::start_at("a", addr)) };
            kills += u32::from(victim.is_none());
        }
        kills
    });
    let mut client = world.client().await;
    for i in 0..5000 {
        let answer = client.get("/").await;
        assert!(answer.status == 200 && answer.complete, "request {i}: {answer:?}");
    }
    stop.store(true, Relaxed);
    assert!(killer.await.unwrap() >= 3);
    assert!(b.count() > 0 && c.count() > 0);
}
