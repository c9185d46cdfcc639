//! Who the client is: the PROXY protocol in and out, and the word of trusted proxies.

use crate::support::*;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zonekeeper_core::model::{Network, Protocol, ProxyHeader};
use zonekeeper_proxy::preamble::{self, Ends, Preamble};

const LOOPBACK: Network = Network { addr: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), bits: 8 };

fn ends() -> Ends {
    Ends { source: "192.0.2.7:1234".parse().unwrap(), destination: "198.51.100.1:443".parse().unwrap() }
}

fn header(version: ProxyHeader) -> Vec<u8> {
    let mut out = Vec::new();
    preamble::write(version, ends(), &mut out);
    out
}

/// A listener that is told by everyone on loopback who they are, and whose backends are told so or not.
fn told(protocol: Protocol, backends: &[SocketAddr], send: Option<ProxyHeader>) -> World {
    let mut state = state(protocol, backends);
    edit_pool(&mut state, |p| p.send_proxy = send);
    edit_listener(&mut state, |l| {
        l.proxy_from = vec![LOOPBACK];
        l.header_timeout_ms = 300;
    });
    World::start(state)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_backend_is_told_the_client_that_the_header_names() {
    let backend = Server::start("a");
    let world = told(Protocol::Http, &[backend.addr], None);
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        let mut client = world.client().await;
        let all = [header(version).as_slice(), GET.as_bytes()].concat();
        for byte in all {
            client.send([byte]).await; // however it is cut
        }
        let text = client.answer(false).await.text();
        assert!(text.contains("X-Forwarded-For: 192.0.2.7\r\n"), "{text}");
        assert_eq!(client.get("/").await.status, 200, "it stands at the start only");
    }
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let mut client = world.client().await;
    client.send([local.as_slice(), GET.as_bytes()].concat()).await;
    let text = client.answer(false).await.text();
    assert!(text.contains("X-Forwarded-For: 127.0.0.1\r\n"), "a proxy's own connection: {text}");
}

#[tokio::test]
async fn a_header_must_come_from_the_networks_that_send_it_and_from_no_other() {
    let backend = Server::start("a");
    let world = told(Protocol::Http, &[backend.addr], None);
    for bad in [GET.as_bytes(), b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 ", b""] {
        let mut client = world.client().await;
        client.send(bad).await;
        assert!(client.ended().await, "{}", bad.escape_ascii());
    }
    assert_eq!((backend.count(), world.proxy.counters().listeners[0].1.refused), (0, 4));
    let world = World::http(&[backend.addr]);
    let mut client = world.client().await;
    client.send([header(ProxyHeader::V1).as_slice(), GET.as_bytes()].concat()).await;
    assert_eq!(client.answer(false).await.status, 400);
    assert_eq!(backend.count(), 0);
}

/// A backend that answers with the first bytes of its connection, whatever they are.
fn mirror() -> Server {
    Server::with(any(), |mut stream, requests| async move {
        requests.fetch_add(1, Relaxed);
        let mut first = [0; 512];
        let n = stream.read(&mut first).await.unwrap();
        stream.write_all(&first[..n]).await.unwrap();
    })
}

#[tokio::test]
async fn a_tcp_backend_is_told_who_connects_in_either_version() {
    let backend = mirror();
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        let world = told(Protocol::Tcp, &[backend.addr], Some(version));
        let mut client = world.client().await;
        client.send(&header(ProxyHeader::V2)).await;
        let (mut stream, _) = client.into_parts();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, header(version), "{}", got.escape_ascii());
    }
    let mut plain = state(Protocol::Tcp, &[backend.addr]);
    edit_pool(&mut plain, |p| p.send_proxy = Some(ProxyHeader::V2));
    let world = World::start(plain);
    let (mut stream, _) = world.client().await.into_parts();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    let own = Ends { source: stream.local_addr().unwrap(), destination: stream.peer_addr().unwrap() };
    assert_eq!(preamble::parse(&got), Preamble::Header(got.len(), Some(own)));
}

/// An HTTP backend behind a header: answers with the source that it was told.
fn told_backend() -> Server {
    Server::with(any(), |mut stream, requests| async move {
        requests.fetch_add(1, Relaxed);
        let mut pending = Vec::new();
        let source = loop {
            if stream.read_buf(&mut pending).await.unwrap_or(0) == 0 {
                return;
            }
            if let Preamble::Header(len, ends) = preamble::parse(&pending) {
                pending.drain(..len);
                break ends.unwrap().source;
            }
        };
        while read_request(&mut stream, &mut pending).await.is_some() {
            let body = source.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}

#[tokio::test]
async fn an_http_backends_connection_belongs_to_the_client_that_it_was_told() {
    let backend = told_backend();
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_pool(&mut state, |p| p.send_proxy = Some(ProxyHeader::V1));
    let world = World::try_start(state, 1).unwrap();
    let mut clients = [world.client().await, world.client().await];
    for _ in 0..5 {
        for client in &mut clients {
            let own = client.stream.local_addr().unwrap().to_string();
            assert_eq!(client.get("/").await.text(), own);
        }
    }
    assert_eq!(backend.count(), 2, "each client's connection is kept for it");
}

/// The same in HTTP/2.
fn told_backend2() -> Server {
    Server::with(any(), |mut stream, requests| async move {
        requests.fetch_add(1, Relaxed);
        let mut seen = [0; 512];
        let (header, source) = loop {
            let Ok(n @ 1..) = stream.peek(&mut seen).await else { return };
            if let Preamble::Header(len, ends) = preamble::parse(&seen[..n]) {
                break (len, ends.unwrap().source.to_string());
            }
        };
        stream.read_exact(&mut seen[..header]).await.unwrap();
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            send.send_data(bytes::Bytes::from(source.clone()), true).unwrap();
        }
    })
}

#[tokio::test]
async fn a_connection_of_http2_belongs_to_one_client_and_carries_all_of_its_requests() {
    let backend = told_backend2();
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        backend.requests.store(0, Relaxed);
        let mut state = crate::http2::clear(&[backend.addr]);
        edit_pool(&mut state, |p| (p.send_proxy, p.http2) = (Some(version), true));
        let mut world = World::try_start(state, 1).unwrap();
        let mut clients = [world.client().await, world.client().await];
        let stream = tokio::net::TcpStream::connect(world.addr("web")).await.unwrap();
        let own2 = stream.local_addr().unwrap().to_string();
        let client2 = crate::http2::Client2::over(stream).await;
        for _ in 0..5 {
            for client in &mut clients {
                let own = client.stream.local_addr().unwrap().to_string();
                assert_eq!(client.get("/").await.text(), own);
            }
            let (a, b) = tokio::join!(client2.get("/a"), client2.get("/b"));
            assert_eq!([a.body, b.body], [own2.as_bytes(), own2.as_bytes()]);
        }
        // Two requests at once may each have opened the first one of their client.
        assert!((3..=4).contains(&backend.count()), "{} connections for three clients", backend.count());
        world.change(|s| edit_pool(s, |p| (p.send_proxy, p.http2) = (None, false)));
        let other = Server::start("other");
        world.change(|s| edit_pool(s, |p| p.backends[0].addr = other.addr));
        eventually("the change is there", async || clients[0].get("/").await.by() == "other").await;
    }
}

#[tokio::test]
async fn clients_that_come_and_go_leave_a_bounded_number_of_connections() {
    let backend = told_backend2();
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_pool(&mut state, |p| (p.send_proxy, p.http2) = (Some(ProxyHeader::V2), true));
    let world = World::try_start(state, 1).unwrap();
    let mut kept = world.client().await;
    let own = kept.stream.local_addr().unwrap().to_string();
    assert_eq!(kept.get("/").await.text(), own);
    let mut most = 0;
    for i in 0..600 {
        let answer = world.client().await.get("/").await;
        assert_eq!(answer.status, 200);
        if i % 50 == 0 {
            most = most.max(open_to(backend.addr));
        }
    }
    assert!(most <= 300, "{most} connections stand");
    assert_eq!(kept.get("/").await.text(), own, "who stays is served on");
}

/// A backend that ends its connection after each request, just as the next one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_told_connection_that_ended_is_invisible_to_any_method() {
    let ending = Arc::new(crate::exchange::Ending::default());
    let its = ending.clone();
    let backend = Server::with(any(), move |stream, _| {
        let ending = its.clone();
        async move { ending.serve(stream, |s| s).await }
    });
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_pool(&mut state, |p| p.send_proxy = Some(ProxyHeader::V2));
    let world = World::try_start(state, 1).unwrap();
    crate::exchange::posts_come_through(&world, &ending).await;
}

/// Connections to an address that stand, as the system counts them.
fn open_to(addr: SocketAddr) -> u64 {
    let IpAddr::V4(ip) = addr.ip() else { unreachable!() };
    let of = format!("{:08X}:{:04X}", u32::from(ip).swap_bytes(), addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let stands = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(of.as_str()) && words.next() == Some("01")
    };
    table.lines().filter(stands).count() as u64
}

#[tokio::test]
async fn a_pool_that_tells_no_more_takes_no_connection_of_a_client() {
    let seen = Server::with(any(), |mut stream, requests| async move {
        requests.fetch_add(1, Relaxed);
        let mut pending = Vec::new();
        let mut told = "nobody".to_owned();
        while stream.read_buf(&mut pending).await.is_ok_and(|n| n > 0) {
            if let Preamble::Header(len, Some(ends)) = preamble::parse(&pending) {
                pending.drain(..len);
                told = ends.source.to_string();
            }
            if pending.ends_with(b"\r\n\r\n") {
                pending.clear();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    let mut state = state(Protocol::Http, &[seen.addr]);
    edit_pool(&mut state, |p| p.send_proxy = Some(ProxyHeader::V1));
    let mut world = World::try_start(state, 1).unwrap();
    let mut client = world.client().await;
    let own = client.stream.local_addr().unwrap().to_string();
    assert_eq!(client.get("/").await.text(), own);
    world.change(|s| edit_pool(s, |p| p.send_proxy = None));
    eventually("the kept one is left", async || client.get("/").await.text() == "nobody").await;
    let (count, again) = (seen.count(), client.get("/").await.text());
    assert_eq!((again.as_str(), seen.count()), ("nobody", count), "and the new one is kept");
}

#[tokio::test]
async fn only_a_trusted_proxy_says_who_the_client_is() {
    let backend = Server::start("a");
    let mut world = World::http(&[backend.addr]);
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.7\r\n\r\n";
    let text = world.ask(ask).await.text();
    assert!(text.contains("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"), "{text}");
    assert!(!text.contains("192.0.2.7"), "{text}");
    world.change(|s| {
        edit_listener(s, |l| {
            l.trusted = vec![LOOPBACK];
            l.routes[0].sources = vec![Network { addr: [192, 0, 2, 0].into(), bits: 24 }];
        });
    });
    eventually("the proxy itself is no client", async || world.ask(GET).await.status == 404).await;
    let text = world.ask(ask).await.text();
    assert!(text.contains("X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\nX-Forwarded-Proto: https\r\n"), "{text}");
    assert!(text.contains("Forwarded: for=192.0.2.7, for=127.0.0.1;proto=https\r\n"), "{text}");
}
