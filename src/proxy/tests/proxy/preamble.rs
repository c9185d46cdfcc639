//! Who the client is: the PROXY protocol in and out, and the word of trusted proxies.

use crate::support::*;
use std::net::SocketAddr;
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
        requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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
        requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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
