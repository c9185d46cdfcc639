//! Changes while it runs, TLS, and the end.

use crate::support::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};
use zonekeeper_core::model::{Bind, Http2, Network, Protocol, TlsFiles};
use zonekeeper_proxy::BindError;

#[tokio::test]
async fn a_connection_that_waits_holds_no_old_configuration() {
    let (backend, folder) = (Server::start("a"), tempfile::tempdir().unwrap());
    let (files, roots) = write_certificate(folder.path());
    let mut start = state(Protocol::Http, &[backend.addr]);
    let mut secured = listener(Protocol::Http);
    (secured.tls, secured.http2) = (Some(files.into()), Http2::Off);
    let mut introduced = listener(Protocol::Http);
    introduced.proxy_from = vec![Network { addr: [127, 0, 0, 1].into(), bits: 8 }];
    start.listeners.insert(listener_id("secured"), Arc::new(secured));
    start.listeners.insert(listener_id("introduced"), Arc::new(introduced));
    let mut world = World::start(start);
    let mut plain = world.client().await;
    assert_eq!(plain.get("/").await.status, 200);
    let mut tls = tls(&world, "secured", roots).await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: w.example\r\n\r\n").await.unwrap();
    assert!(tls.read(&mut [0; 4096]).await.unwrap() > 100);
    let mut behind = Client::connect(world.addr("introduced")).await;
    behind.send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: w.example\r\n\r\n").await;
    assert_eq!(behind.answer(false).await.status, 200);
    let _quiet = world.client().await;
    let old: Vec<_> = world.published.load().proxy.listeners.values().map(Arc::downgrade).collect();
    world.change(|s| {
        for listener in s.listeners.values_mut() {
            Arc::make_mut(listener).max_body = 7;
        }
    });
    eventually("the old listeners are let go", async || old.iter().all(|l| l.strong_count() == 0)).await;
    assert_eq!((plain.get("/").await.status, behind.get("/").await.status), (200, 200));
}

#[tokio::test]
async fn changes_under_load_drop_no_connection() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let mut world = World::http(&[a.addr]);
    let stop = Arc::new(AtomicBool::new(false));
    let addr = world.addr("web");
    let load = |stop: Arc<AtomicBool>| async move {
        let (mut client, mut n) = (Client::connect(addr).await, 0);
        while !stop.load(Relaxed) {
            let answer = client.get("/").await;
            assert!(answer.status == 200 && answer.complete, "request {n}: {answer:?}");
            n += 1;
        }
        n
    };
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(load(stop.clone()))).collect();
    for i in 0..60u8 {
        let backends = if i % 2 == 0 { vec![b.addr] } else { vec![a.addr, b.addr] };
        world.change(|s| {
            s.pools.insert(pool_id("web"), Arc::new(pool(&backends)));
            edit_listener(s, |l| l.max_body = u64::from(i) + 1);
            s.listeners.insert(listener_id("extra"), Arc::new(listener(Protocol::Tcp)));
            if i % 3 == 0 {
                s.listeners.remove(&listener_id("extra"));
            }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 20);
    }
    assert!(a.count() > 0 && b.count() > 0);
}

#[tokio::test]
async fn a_listener_comes_and_goes() {
    let a = Server::start("a");
    let mut world = World::http(&[a.addr]);
    world.change(|s| drop(s.listeners.insert(listener_id("new"), Arc::new(listener(Protocol::Http)))));
    eventually("it listens", async || world.find("new").is_some()).await;
    let addr = world.addr("new");
    let mut kept = Client::connect(addr).await;
    assert_eq!(kept.get("/").await.status, 200);
    world.change(|s| drop(s.listeners.remove(&listener_id("new"))));
    eventually("it is gone", async || TcpStream::connect(addr).await.is_err()).await;
    assert!(kept.ended().await, "a kept connection ends");
    assert_eq!(world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_taken_port_is_an_error_at_the_start_and_a_problem_later() {
    let a = Server::start("a");
    let taken = bind(any());
    let addr = taken.local_addr().unwrap();
    let mut wanted = listener(Protocol::Http);
    wanted.binds = vec![Bind { site: None, addr }];
    let mut broken = state(Protocol::Http, &[a.addr]);
    broken.listeners.insert(listener_id("taken"), Arc::new(wanted.clone()));
    match World::try_start(broken, 1) {
        Err(BindError::Listen { listener, addr: at, .. }) => {
            assert_eq!((listener.as_str(), at), ("taken", addr))
        }
        other => panic!("{:?}", other.err()),
    }
    let mut world = World::http(&[a.addr]);
    world.change(|s| drop(s.listeners.insert(listener_id("taken"), Arc::new(wanted))));
    eventually("it is a problem", async || world.proxy.problems().len() == 1).await;
    let problem = &world.proxy.problems()[0];
    assert!(problem.addr == Some(addr) && problem.message.contains("cannot listen on"), "{problem:?}");
    assert_eq!(world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200, "the others serve");
    drop(taken);
    eventually("it is retried", async || world.proxy.problems().is_empty()).await;
    assert_eq!(Client::connect(addr).await.get("/").await.status, 200);
}

pub fn write_certificate(folder: &Path) -> (TlsFiles, RootCertStore) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["w.example".to_string()]).unwrap();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let files = TlsFiles { cert: file("cert.pem"), key: file("key.pem") };
    std::fs::write(&files.cert, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    (files, roots)
}

/// A client of TLS that speaks both versions.
pub async fn tls(world: &World, listener: &str, roots: RootCertStore) -> TlsStream<TcpStream> {
    tls_for(world, listener, roots, &["h2", "http/1.1"]).await
}

/// One that offers these protocols.
pub async fn tls_for(
    world: &World,
    listener: &str,
    roots: RootCertStore,
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(world.addr(listener)).await.unwrap();
    let name = ServerName::try_from("w.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn tls_is_terminated_for_both_protocols_and_certificates_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Server::start("a");
    for protocol in [Protocol::Http, Protocol::Tcp] {
        let (files, roots) = write_certificate(folder.path());
        let mut start = state(protocol, &[backend.addr]);
        edit_listener(&mut start, |l| (l.tls, l.http2) = (Some(files.into()), Http2::Off));
        let world = World::start(start);
        let mut stream = tls(&world, "web", roots).await;
        // Bytes of an unknown protocol have no name; what a listener speaks is agreed on.
        let agreed = if protocol == Protocol::Http { Some(b"http/1.1".as_slice()) } else { None };
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        stream
            .write_all(b"GET /large HTTP/1.1\r\nHost: w.example\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        stream.flush().await.unwrap();
        let mut got = vec![0; 3_000_000];
        stream.read_exact(&mut got).await.unwrap();
        assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let (_, roots) = write_certificate(folder.path());
        eventually("the new certificate is served", async || {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let builder =
                ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
            let stream = TcpStream::connect(world.addr("web")).await.unwrap();
            let name = ServerName::try_from("w.example").unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_a_problem_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = write_certificate(folder.path());
    let backend = Server::start("a");
    for (break_it, named) in [(&files.cert, "cert.pem"), (&files.key, "key.pem")] {
        let (files, _) = write_certificate(folder.path());
        std::fs::write(break_it, "nothing").unwrap();
        let mut start = state(Protocol::Http, &[backend.addr]);
        edit_listener(&mut start, |l| l.tls = Some(files.into()));
        let world = World::start(start);
        let problems = world.proxy.problems();
        assert!(problems.len() == 1 && problems[0].message.contains(named), "{problems:?}");
        assert!(TcpStream::connect(world.addr("web")).await.is_err(), "nothing is served in clear instead");
        write_certificate(folder.path());
        eventually("it is read again", async || world.proxy.problems().is_empty()).await;
    }
}

#[tokio::test]
async fn a_shutdown_finishes_what_runs() {
    let backend = Server::with(any(), |mut stream, requests| async move {
        read_request(&mut stream, &mut Vec::new()).await;
        requests.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast").await;
    });
    let world = World::http(&[backend.addr]);
    let addr = world.addr("web");
    let (mut idle, mut busy) = (world.client().await, world.client().await);
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it runs", async || backend.count() == 1).await;
    let end = tokio::spawn(world.proxy.shutdown(PATIENCE));
    let answer = busy.answer(false).await;
    assert_eq!((answer.text().as_str(), field(&answer.head, "connection")), ("last", None));
    idle.stream.shutdown().await.unwrap();
    assert_eq!(end.await.unwrap(), 0, "nothing was cut");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let backend = Server::with(any(), |stream, _| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
    let world = World::tcp(&[backend.addr]);
    let mut stuck = world.client().await;
    eventually("it runs", async || world.proxy.counters().listeners[0].1.active == 1).await;
    assert_eq!(world.proxy.shutdown(Duration::from_millis(100)).await, 1);
    assert!(stuck.ended().await);
}
