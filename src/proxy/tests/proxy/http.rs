//! HTTP/1.1 as clients and backends see it.

use crate::support::*;
use std::{io::Read, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zonekeeper_core::model::PathMatch;

const GET: &str = "GET / HTTP/1.1\r\nHost: w.example\r\n\r\n";

#[tokio::test]
async fn a_kept_connection_serves_many_requests_over_one_backend_connection() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    let mut client = world.client().await;
    for _ in 0..50 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.by().as_str()), (200, "a"));
        assert!(field(&answer.head, "connection").is_none(), "{}", answer.head);
    }
    assert_eq!(world.proxy.counters().listeners[0].1.requests, 50);
    // The last bytes are counted when the response has gone out, which the client may see first.
    let counted = || world.proxy.counters().backends[0].2;
    eventually("all is counted", async || counted().bytes_in % 50 == 0 && counted().bytes_out % 50 == 0)
        .await;
    let backend = counted();
    assert_eq!(backend.requests, 50);
    assert!((100..200).contains(&(backend.bytes_in / 50)) && (100..300).contains(&(backend.bytes_out / 50)));
    eventually("its place is given back", async || world.proxy.counters().backends[0].2.active == 0).await;
    let answers = || world.proxy.counters().listeners[0].1.answers;
    eventually("its answers are counted", async || answers() == [0, 50, 0, 0, 0]).await;
}

#[tokio::test]
async fn the_end_of_a_connection_comes_with_its_last_bytes() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    for (request, status) in
        [("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "200"), ("GET / HTTP/1.1\r\n\r\n", "400")]
    {
        for _ in 0..20 {
            let mut client = world.client().await;
            client.send(request).await;
            let (stream, _) = client.into_parts();
            stream.readable().await.unwrap();
            let mut stream = stream.into_std().unwrap(); // and is non-blocking
            let mut answer = [0; 2048];
            let n = stream.read(&mut answer).unwrap();
            assert!(answer[..n].starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
            assert_eq!(stream.read(&mut answer).unwrap(), 0, "one packet has both");
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    let mut client = world.client().await;
    let post = "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    client.send(format!("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n{post}GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    for path in ["/1", "/2", "/3"] {
        let text = client.answer(false).await.text();
        assert!(text.contains(&format!(" {path} HTTP/1.1")), "{text}");
    }
}

#[tokio::test]
async fn the_backend_sees_who_asked_and_nothing_of_the_connection() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    let text = world
        .ask("GET /x HTTP/1.1\r\nHost: w.example:8\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nAccept: a\r\n\r\n")
        .await
        .text();
    assert_eq!(
        text.split_once('\n').unwrap().1,
        concat!(
            "GET /x HTTP/1.1\r\nHost: w.example:8\r\nAccept: a\r\nX-Forwarded-For: 127.0.0.1\r\n",
            "X-Forwarded-Proto: http\r\nX-Forwarded-Host: w.example:8\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn bodies_travel_in_every_framing() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    for path in ["/", "/chunked", "/close"] {
        let answer =
            world.ask(&format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")).await;
        assert!(answer.complete && answer.text().ends_with("hello"), "{answer:?}");
        let chunked = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nT: 1\r\n\r\n"
        );
        let answer = world.ask(&chunked).await;
        assert!(answer.complete && answer.text().ends_with("hello"), "{answer:?}");
        assert!(!answer.text().contains("x=y"), "extensions are dropped");
    }
    let mut client = world.client().await;
    for path in ["/chunked", "/close", "/"] {
        assert!(client.get(path).await.complete, "the client's connection is kept whatever the backend does");
    }
}

#[tokio::test]
async fn http_1_0_gets_what_it_understands() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    for path in ["/chunked", "/"] {
        let answer = world.ask(&format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n")).await;
        assert_eq!(field(&answer.head, "connection"), Some("close"));
        assert_eq!(field(&answer.head, "transfer-encoding"), None);
        assert!(answer.complete && answer.text().starts_with("a\nGET"), "{answer:?}");
    }
}

#[tokio::test]
async fn responses_without_body_leave_the_connection_usable() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    let mut client = world.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.answer(true).await;
    assert!(field(&head.head, "content-length").is_some_and(|n| n != "0"), "{}", head.head);
    assert_eq!(client.get("/empty").await.status, 204);
    assert_eq!(client.get("/same").await.status, 304);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_large_body_passes_both_ways() {
    let backend = Server::start("a");
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| l.max_body = 0);
    let world = World::start(state);
    let mut client = world.client().await;
    assert_eq!(client.get("/large").await.body.len(), 3_000_000);
    let body = vec![b'y'; 2_000_000];
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    client.send(&body).await;
    let answer = client.answer(false).await;
    assert!(answer.complete && answer.body.ends_with(&body));
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_and_then_sends() {
    let backend = Server::start("a");
    let world = World::http(&[backend.addr]);
    let mut client = world.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.answer(false).await.status, 100);
    client.send("hello").await;
    assert!(client.answer(false).await.text().ends_with("hello"));
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(world.ask("GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n").await.status, 417);
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_with_half_close() {
    let backend = Server::with(any(), |mut stream, _| async move {
        let mut pending = Vec::new();
        let (head, _) = read_request(&mut stream, &mut pending).await.unwrap();
        assert!(head.contains("Connection: upgrade\r\nUpgrade: websocket\r\n"), "{head}");
        let switch = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst";
        stream.write_all(switch).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    let world = World::http(&[backend.addr]);
    let mut client = world.client().await;
    client
        .send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        .await;
    let answer = client.answer(false).await;
    assert_eq!((answer.status, field(&answer.head, "upgrade")), (101, Some("websocket")));
    let answers = || world.proxy.counters().listeners[0].1.answers;
    eventually("it is counted while it runs", async || answers() == [1, 0, 0, 0, 0]).await;
    client.send(" and late").await;
    client.stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).await.unwrap();
    assert!(String::from_utf8(rest).unwrap().ends_with("early and late"));
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_bad_gateway() {
    let backend = Server::with(any(), |mut stream, _| async move {
        read_request(&mut stream, &mut Vec::new()).await;
        let _ =
            stream.write_all(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").await;
        let _ = stream.read(&mut [0; 9]).await;
    });
    assert_eq!(World::http(&[backend.addr]).ask(GET).await.status, 502);
}

#[tokio::test]
async fn routes_send_requests_to_their_pools() {
    let (api, eu, beta, rest) =
        (Server::start("api"), Server::start("eu"), Server::start("beta"), Server::start("rest"));
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[rest.addr]);
    for (name, server) in [("api", &api), ("eu", &eu), ("beta", &beta)] {
        state.pools.insert(pool_id(name), Arc::new(pool(&[server.addr])));
    }
    edit_listener(&mut state, |l| {
        let mut routes = vec![route("api"), route("eu"), route("beta"), route("web")];
        routes[0].path = PathMatch::Prefix("/api".into());
        routes[1].hosts = vec!["*.eu.example".into()];
        routes[2].cookie = Some(("beta".into(), "1".into()));
        routes[3].hosts = vec!["w.example".into()];
        l.routes = routes;
    });
    let world = World::start(state);
    let mut client = world.client().await;
    for (path, host, more, want) in [
        ("/api/x?y", "w.example", "", "api"),
        ("/apix", "W.Example:80", "", "rest"),
        ("/", "a.b.eu.example", "", "eu"),
        ("/", "w.example", "Cookie: x=y; beta=1\r\n", "beta"),
        ("http://a.eu.example/", "w.example", "", "eu"),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")).await;
        assert_eq!(client.answer(false).await.by(), want, "{host}{path}");
    }
    client.send("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    assert_eq!(client.answer(false).await.status, 404);
    assert_eq!(client.get("/").await.by(), "rest", "a 404 does not end the connection");
}

#[tokio::test]
async fn a_slow_head_is_answered_408_and_an_idle_connection_is_closed() {
    let backend = Server::start("a");
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| (l.header_timeout_ms, l.idle_timeout_ms) = (200, 300));
    let world = World::start(state);
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    let answer = client.answer(false).await;
    assert_eq!(answer.status, 408);
    assert!(client.ended().await);
    let mut client = world.client().await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(client.ended().await, "quiet for too long");
    let mut client = world.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab").await;
    assert_eq!(client.answer(false).await.status, 408, "a body that stops");
}

#[tokio::test]
async fn a_backend_that_hangs_is_a_gateway_timeout_for_what_cannot_be_repeated() {
    let hung = Server::with(any(), |stream, _| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[hung.addr]);
    edit_pool(&mut state, |p| p.response_timeout_ms = 200);
    let world = World::start(state);
    let answer = world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.status, 504);
}

#[tokio::test]
async fn limits_are_answered_with_their_status() {
    let backend = Server::start("a");
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| l.max_body = 10);
    let world = World::start(state);
    let long = "x".repeat(9000);
    let fields: String = (0..101).map(|i| format!("X-{i}: 1\r\n")).collect();
    for (request, want) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}{long}{long}{long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n".into(), 413),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello hello\r\n0\r\n\r\n"
                .into(),
            413,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789".into(), 200),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".into(), 501),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505),
    ] {
        assert_eq!(world.ask(&request).await.status, want, "{}", &request[..request.len().min(60)]);
    }
}

#[tokio::test]
async fn a_backend_at_its_limit_is_not_given_more() {
    let slow = Server::with(any(), |mut stream, requests| async move {
        let mut pending = Vec::new();
        while read_request(&mut stream, &mut pending).await.is_some() {
            requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[slow.addr]);
    edit_pool(&mut state, |p| (p.max_connections, p.max_queue) = (1, 0));
    let world = World::start(state);
    let mut first = world.client().await;
    first.send(GET).await;
    eventually("the first is served", async || slow.count() == 1).await;
    assert_eq!(world.ask(GET).await.status, 503);
    assert_eq!(first.answer(false).await.status, 200);
}

#[tokio::test]
async fn a_full_listener_turns_connections_away() {
    let backend = Server::start("a");
    let mut state = state(zonekeeper_core::model::Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| l.max_connections = 1);
    let world = World::start(state);
    let mut first = world.client().await;
    assert_eq!(first.get("/").await.status, 200);
    if let Some(mut second) = Client::try_connect(world.addr("web")).await {
        assert!(second.ended().await);
    }
    drop(first);
    eventually("the place is free", async || world.ask(GET).await.status == 200).await;
    assert!(world.proxy.counters().listeners[0].1.rejected >= 1);
}
