//! Ten changes of the configuration a second under load: no failed request, no dropped tunnel. Five seconds here, a minute
//! with `ZONEKEEPER_LONG=1`.

use crate::{
    config::{tls_for, write_certificate},
    http2::Client2,
    support::*,
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::client::TlsStream;
use zonekeeper_core::{
    State,
    model::{Listener, PathMatch, Protocol, Route, TlsFiles},
};

/// Answers requests, and echoes after an upgrade.
fn backend(name: &'static str) -> Server {
    Server::with(any(), move |mut stream, requests| async move {
        let mut pending = Vec::new();
        while let Some((head, _)) = read_request(&mut stream, &mut pending).await {
            requests.fetch_add(1, Relaxed);
            if head.to_ascii_lowercase().contains("upgrade: websocket") {
                let switch =
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                let (mut read, mut write) = stream.split();
                let _ = write.write_all(switch).await;
                let _ = tokio::io::copy(&mut read, &mut write).await;
                return;
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}

/// One change of each kind in turn.
fn change(state: &mut State, i: usize, backends: &[SocketAddr], certificates: &[TlsFiles]) {
    match i % 6 {
        0 => edit_pool(state, |p| {
            for (j, backend) in p.backends.iter_mut().enumerate() {
                backend.weight = 1 + ((i + j) % 7) as u8;
            }
        }),
        1 => {
            // one goes, another comes
            let some: Vec<_> = backends.iter().enumerate().filter(|(j, _)| j % 3 != i / 6 % 3).collect();
            state
                .pools
                .insert(pool_id("web"), Arc::new(pool(&some.iter().map(|b| *b.1).collect::<Vec<_>>())));
        }
        2 => {
            let other = Route { path: PathMatch::Prefix(format!("/{i}")), ..route("web") };
            for id in ["web", "tls"] {
                let listener = Arc::make_mut(state.listeners.get_mut(&listener_id(id)).unwrap());
                listener.routes = vec![other.clone(), route("web")];
            }
        }
        3 => {
            let listener = Arc::make_mut(state.listeners.get_mut(&listener_id("tls")).unwrap());
            listener.tls = Some(certificates[i / 6 % certificates.len()].clone().into());
        }
        4 => edit_listener(state, |l| (l.max_body, l.request_timeout_ms) = (1 << 20, 60_000 + i as u32)),
        _ => {
            state.listeners.remove(&listener_id("extra"));
            if i.is_multiple_of(2) {
                state.listeners.insert(listener_id("extra"), Arc::new(listener(Protocol::Http)));
            }
        }
    }
}

/// Asks over one connection until it is told to stop.
fn kept(addr: SocketAddr, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let (mut client, mut n) = (Client::connect(addr).await, 0);
        while !stop.load(Relaxed) {
            let answer = client.get("/").await;
            assert!(answer.status == 200 && answer.complete, "request {n} of a connection: {answer:?}");
            n += 1;
        }
        n
    })
}

/// Asks over a new connection each time.
fn fresh(addr: SocketAddr, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Relaxed) {
            let answer = Client::connect(addr).await.get("/").await;
            assert!(answer.status == 200 && answer.complete, "connection {n}: {answer:?}");
            n += 1;
        }
        n
    })
}

/// The next answer to a request over a connection of any kind; what follows its head.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> (String, Vec<u8>) {
    stream.write_all(request.as_bytes()).await.expect("a connection was dropped");
    let mut got = Vec::new();
    loop {
        assert!(stream.read_buf(&mut got).await.expect("a connection was dropped") > 0, "it ended");
        let Some(i) = got.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&got[..i]).into_owned();
        let length = field(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0usize);
        if got.len() >= i + 4 + length {
            return (head, got.split_off(i + 4));
        }
    }
}

/// Asks over one connection of TLS until it is told to stop.
fn kept_tls(mut stream: TlsStream<TcpStream>, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Relaxed) {
            let (head, _) = answer(&mut stream, "GET / HTTP/1.1\r\nHost: w.example\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "request {n} in TLS: {head}");
            n += 1;
        }
        n
    })
}

/// The same in HTTP/2.
fn kept_http2(stream: TlsStream<TcpStream>, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let (client, mut n) = (Client2::over(stream).await, 0);
        while !stop.load(Relaxed) {
            let got = client.get("/").await;
            assert_eq!((got.status, got.reset), (200, None), "request {n} in HTTP/2");
            n += 1;
        }
        n
    })
}

/// Sends through one tunnel until it is told to stop.
fn tunnel(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let (head, _) = answer(&mut stream, request).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut n = 0u64;
        while !stop.load(Relaxed) {
            stream.write_u64(n).await.expect("a tunnel was dropped");
            assert_eq!(stream.read_u64().await.expect("a tunnel was dropped"), n);
            n += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        n
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changes_a_second_fail_no_request_and_drop_no_tunnel() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [(files, mut roots), (others, more)] = folders.each_ref().map(|f| write_certificate(f.path()));
    roots.roots.extend(more.roots);
    let certificates = [files.clone(), others];
    let servers = [backend("a"), backend("b"), backend("c")];
    let backends = servers.each_ref().map(|s| s.addr);
    let mut start = state(Protocol::Http, &backends);
    let secure = Listener { tls: Some(files.into()), ..listener(Protocol::Http) };
    start.listeners.insert(listener_id("tls"), Arc::new(secure));
    let mut world = World::start(start);
    let (addr, stop) = (world.addr("web"), Arc::new(AtomicBool::new(false)));
    let mut load: Vec<_> = (0..4).map(|_| kept(addr, &stop)).collect();
    load.push(fresh(addr, &stop));
    for _ in 0..3 {
        load.push(tunnel(TcpStream::connect(addr).await.unwrap(), &stop));
    }
    for _ in 0..2 {
        load.push(kept_tls(tls_for(&world, "tls", roots.clone(), &["http/1.1"]).await, &stop));
        load.push(kept_http2(tls_for(&world, "tls", roots.clone(), &["h2"]).await, &stop));
        load.push(tunnel(tls_for(&world, "tls", roots.clone(), &["http/1.1"]).await, &stop));
    }
    // A handshake now and then, while certificates are written anew and exchanged: each is whole, old or new.
    let seconds = if std::env::var_os("ZONEKEEPER_LONG").is_some() { 60 } else { 5 };
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let mut served = BTreeSet::new();
    for i in 0..seconds * 10 {
        every.tick().await;
        world.change(|s| change(s, i, &backends, &certificates));
        if i % 10 == 3 {
            let (_, new) = write_certificate(folders[i / 10 % 2].path());
            roots.roots.extend(new.roots);
        }
        if i % 5 == 0 {
            let mut stream = tls_for(&world, "tls", roots.clone(), &["http/1.1"]).await;
            served.insert(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec());
            let (head, _) = answer(&mut stream, "GET / HTTP/1.1\r\nHost: w.example\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
    }
    stop.store(true, Relaxed);
    for task in load {
        assert!(task.await.unwrap() > 20 * seconds as u64, "it went on all the time");
    }
    assert!(served.len() > seconds / 3, "{} certificates in {seconds} s", served.len());
    let counters = world.proxy.counters();
    assert!(counters.listeners.iter().all(|(_, l)| l.failed == 0), "{counters:?}");
    assert!(world.proxy.problems().is_empty(), "{:?}", world.proxy.problems());
}
