//! WebSocket on streams of HTTP/2 (RFC 8441), to backends of HTTP/1.1.

use super::*;
use crate::websocket::{config, echo, talk};
use h2::{Reason, RecvStream, SendStream, ext::Protocol as Named};
use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream as Tcp,
};
use tungstenite::{WebSocket, handshake::derive_accept_key, protocol::Role};
use zonekeeper_core::model::{Respond, Route, Target};

/// Both directions of a tunnel.
struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
}

fn handshake(path: &str) -> Request<()> {
    let asked = Request::connect(format!("http://w.example{path}"))
        .extension(Named::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "echo")
        .header("origin", "http://w.example");
    asked.body(()).unwrap()
}

/// A client that knows that tunnels are served.
async fn client(world: &World) -> Client2 {
    let client = Client2::connect(world.addr("web")).await;
    eventually("the setting came", async || client.0.is_extended_connect_protocol_enabled()).await;
    client
}

impl Client2 {
    async fn open(&self, request: Request<()>) -> (http::response::Parts, Tunnel) {
        let mut ready = self.0.clone().ready().await.unwrap();
        let (response, send) = ready.send_request(request, false).unwrap();
        let response = timeout(PATIENCE, response).await.expect("the proxy is silent").unwrap();
        let (head, receive) = response.into_parts();
        (head, Tunnel { send, receive })
    }

    async fn tunnel(&self) -> Tunnel {
        let (head, tunnel) = self.open(handshake("/chat")).await;
        assert_eq!(head.status, 200);
        tunnel
    }
}

impl Tunnel {
    /// What comes next; none at an orderly end, and why where it is none.
    async fn next(&mut self) -> Option<Result<Bytes, Reason>> {
        let next = timeout(PATIENCE, self.receive.data()).await.expect("the proxy is silent")?;
        if let Ok(data) = &next {
            let _ = self.receive.flow_control().release_capacity(data.len());
        }
        Some(next.map_err(|e| e.reason().unwrap_or(Reason::CONNECT_ERROR)))
    }

    /// All that comes, to its end.
    async fn rest(&mut self) -> Result<Vec<u8>, Reason> {
        let mut all = Vec::new();
        while let Some(data) = self.next().await {
            all.extend_from_slice(&data?);
        }
        Ok(all)
    }

    fn say(&mut self, data: &'static [u8], end: bool) {
        self.send.send_data(Bytes::from_static(data), end).unwrap();
    }

    /// Its bytes as those of a socket.
    fn socket(self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (mut read, mut write) = tokio::net::UnixStream::from_std(ours).unwrap().into_split();
        let Tunnel { mut send, mut receive } = self;
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n @ 1..) = read.read(&mut buffer).await {
                let mut left = Bytes::copy_from_slice(&buffer[..n]);
                while !left.is_empty() {
                    send.reserve_capacity(left.len());
                    let Some(Ok(n)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                    send.send_data(left.split_to(n.min(left.len())), false).unwrap();
                }
            }
            let _ = send.send_data(Bytes::new(), true);
        });
        tokio::spawn(async move {
            while let Some(Ok(data)) = receive.data().await {
                let _ = receive.flow_control().release_capacity(data.len());
                if write.write_all(&data).await.is_err() {
                    return;
                }
            }
        });
        theirs
    }
}

/// A backend that takes the handshake and goes on like this.
fn backend<F: Future<Output = ()> + Send + 'static>(
    then: impl Fn(Tcp, Arc<AtomicU64>) -> F + Clone + Send + Sync + 'static,
) -> Server {
    Server::with(any(), move |mut stream, n| {
        let then = then.clone();
        async move {
            let Some((head, _)) = read_request(&mut stream, &mut Vec::new()).await else { return };
            assert!(head.starts_with("GET /chat HTTP/1.1\r\nHost: w.example\r\n"), "{head}");
            assert!(head.contains("Connection: upgrade\r\nUpgrade: websocket\r\n"), "{head}");
            assert!(head.contains("X-Forwarded-For: 127.0.0.1\r\n") && !head.contains("Length"), "{head}");
            let accept = derive_accept_key(field(&head, "sec-websocket-key").unwrap().as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: echo\r\n\r\nhello"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            then(stream, n).await;
        }
    })
}

/// What a peer's reads end with: 1 in an orderly way, 2 by a reset.
async fn note_end(stream: &mut Tcp, n: &AtomicU64) {
    let mut buffer = [0; 1024];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break 1,
            Ok(_) => {}
            Err(e) => break if e.kind() == std::io::ErrorKind::ConnectionReset { 2 } else { 3 },
        }
    };
    n.store(end, Relaxed);
}

async fn waits(stream: Tcp, n: Arc<AtomicU64>) {
    let mut stream = stream;
    note_end(&mut stream, &n).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_end_sends_the_other_gets_in_frames_of_websocket() {
    let world = World::start(clear(&[echo()]));
    let client = client(&world).await;
    let mut running = Vec::new();
    for _ in 0..4 {
        let (head, tunnel) = client.open(handshake("/chat?x=1")).await;
        assert_eq!(
            (head.status.as_u16(), &head.headers["sec-websocket-protocol"]),
            (200, &"echo".parse().unwrap())
        );
        for of_one_connection in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
            assert!(!head.headers.contains_key(of_one_connection), "{of_one_connection}");
        }
        let socket = tunnel.socket();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        running.push(tokio::task::spawn_blocking(move || {
            talk(WebSocket::from_raw_socket(socket, Role::Client, Some(config())));
        }));
    }
    for running in running {
        running.await.unwrap();
    }
    let counters = world.proxy.counters();
    assert_eq!((counters.listeners[0].1.requests, counters.listeners[0].1.failed), (4, 0));
    let inflight = || world.health.all().iter().map(|(_, b)| b.inflight()).sum::<u32>();
    eventually("all tunnels ended", async || inflight() == 0).await;
}

#[tokio::test]
async fn bytes_behind_101_and_bytes_before_it_are_not_lost() {
    let backend = backend(async |mut stream: Tcp, _| {
        let mut got = [0; 5];
        stream.read_exact(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
    });
    let world = World::start(clear(&[backend.addr]));
    let client = client(&world).await;
    let mut ready = client.0.clone().ready().await.unwrap();
    let (response, mut send) = ready.send_request(handshake("/chat"), false).unwrap();
    send.send_data(Bytes::from_static(b"early"), false).unwrap();
    let mut tunnel = Tunnel { send, receive: response.await.unwrap().into_body() };
    assert_eq!(tunnel.rest().await, Ok(b"helloearly".to_vec()));
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let first = backend(async |mut stream: Tcp, n: Arc<AtomicU64>| {
        note_end(&mut stream, &n).await;
        stream.write_all(b"after").await.unwrap();
    });
    let world = World::start(clear(&[first.addr]));
    let mut tunnel = client(&world).await.tunnel().await;
    tunnel.say(b"bye", true);
    assert_eq!(tunnel.rest().await, Ok(b"helloafter".to_vec()), "the client ended first");
    assert_eq!(first.count(), 1);

    let second = backend(async |mut stream: Tcp, n: Arc<AtomicU64>| {
        stream.shutdown().await.unwrap();
        note_end(&mut stream, &n).await;
    });
    let world = World::start(clear(&[second.addr]));
    let client = client(&world).await;
    let mut tunnel = client.tunnel().await;
    assert_eq!(tunnel.rest().await, Ok(b"hello".to_vec()), "the backend ended first");
    assert_eq!(second.count(), 0);
    tunnel.say(b"still here", false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(second.count(), 0, "the other direction goes on");
    tunnel.say(b"", true);
    eventually("the backend sees the end", async || second.count() == 1).await;
    assert_eq!(client.open(handshake("/none")).await.0.status, 502, "the connection goes on");
}

#[tokio::test]
async fn a_reset_of_one_end_is_a_reset_of_the_other() {
    let cutting = backend(async |mut stream: Tcp, _| {
        let _ = stream.read(&mut [0; 1]).await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let world = World::start(clear(&[cutting.addr]));
    let client_of_cutting = client(&world).await;
    let mut tunnel = client_of_cutting.tunnel().await;
    assert_eq!(tunnel.next().await, Some(Ok(Bytes::from_static(b"hello"))));
    tunnel.say(b"x", false);
    assert_eq!(tunnel.rest().await, Err(Reason::CANCEL), "RFC 8441 §5");

    let noting = backend(waits);
    let world = World::start(clear(&[noting.addr]));
    let client = client(&world).await;
    let mut tunnel = client.tunnel().await;
    tunnel.say(b"x", false);
    tunnel.send.send_reset(Reason::CANCEL);
    eventually("the backend sees a reset", async || noting.count() == 2).await;
    noting.requests.store(0, Relaxed);
    let gone = client.tunnel().await;
    drop((gone, client)); // the whole connection
    eventually("the backend sees an end", async || noting.count() > 0).await;
}

#[tokio::test]
async fn a_tunnel_that_is_quiet_for_too_long_is_cut() {
    let noting = backend(waits);
    let mut state = clear(&[noting.addr]);
    edit_listener(&mut state, |l| {
        l.tunnel_timeout_ms = 1000;
        l.request_timeout_ms = 300;
        l.idle_timeout_ms = 300;
    });
    let world = World::start(state);
    let mut tunnel = client(&world).await.tunnel().await;
    assert_eq!(tunnel.next().await, Some(Ok(Bytes::from_static(b"hello"))));
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        tunnel.say(b"x", false);
    }
    assert_eq!(noting.count(), 0, "what moves is not quiet, and no other limit counts");
    assert_eq!(tunnel.rest().await, Err(Reason::CANCEL));
    eventually("the backend sees it too", async || noting.count() == 2).await;
}

#[tokio::test]
async fn a_tunnel_survives_a_change_that_leaves_its_listener() {
    let echoing = backend(async |mut stream: Tcp, _| {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut world = World::start(clear(&[echoing.addr]));
    let client = client(&world).await;
    let mut tunnel = client.tunnel().await;
    assert_eq!(tunnel.next().await, Some(Ok(Bytes::from_static(b"hello"))));
    world.change(|state| edit_listener(state, |l| l.max_body = 5));
    let large = post("/").header("content-length", 6).body(()).unwrap();
    eventually("the change is there", async || client.ask(large.clone(), &[b"123456"]).await.status == 413)
        .await;
    tunnel.say(b"still", true);
    assert_eq!(tunnel.rest().await, Ok(b"still".to_vec()));
}

/// Answers every request with these bytes.
fn saying(answer: &'static str) -> Server {
    Server::with(any(), move |mut stream, n| async move {
        while read_request(&mut stream, &mut Vec::new()).await.is_some() {
            n.fetch_add(1, Relaxed);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
}

#[tokio::test]
async fn what_a_backend_says_in_place_of_101_is_told() {
    for (answer, status, body) in [
        ("HTTP/1.1 403 No\r\nContent-Length: 7\r\n\r\nnot you", 403, "not you"),
        ("HTTP/1.1 302 Found\r\nLocation: /in\r\nContent-Length: 0\r\n\r\n", 302, ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502, "no backend answered properly\n"),
        ("HTTP/1.1 204 No Content\r\n\r\n", 502, "no backend answered properly\n"),
        (
            "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AA==\r\n\r\n",
            502,
            "no backend answered properly\n",
        ),
        (
            "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
            502,
            "no backend answered properly\n",
        ),
        ("SSH-2.0\r\n\r\n", 502, "no backend answered properly\n"),
    ] {
        let backend = saying(answer);
        let world = World::start(clear(&[backend.addr]));
        let client = client(&world).await;
        for _ in 0..2 {
            let (head, mut tunnel) = client.open(handshake("/chat")).await;
            let got = String::from_utf8(tunnel.rest().await.unwrap()).unwrap();
            assert_eq!((head.status.as_u16(), got.as_str()), (status, body), "{answer}");
        }
    }
    let world = World::start(clear(&[dead()]));
    let (head, _) = client(&world).await.open(handshake("/chat")).await;
    assert!(matches!(head.status.as_u16(), 502 | 503), "{head:?}");
}

#[tokio::test]
async fn a_dead_backend_is_invisible_to_a_handshake() {
    let good = backend(waits);
    let world = World::start(clear(&[dead(), good.addr]));
    let client = client(&world).await;
    for _ in 0..4 {
        client.tunnel().await;
    }
}

#[tokio::test]
async fn other_tunnels_and_routes_without_a_backend_for_them_are_refused() {
    let good = backend(waits);
    let mut state = clear(&[good.addr]);
    let say = |status| {
        Target::Respond(Respond { status, content_type: "text/plain".into(), body: "here\n".into() })
    };
    let fixed = |path: &str, target| Route {
        path: zonekeeper_core::model::PathMatch::Exact(path.into()),
        target,
        ..Route::default()
    };
    edit_listener(&mut state, |l| {
        l.routes[0].path = zonekeeper_core::model::PathMatch::Exact("/chat".into());
        l.routes.push(fixed("/ok", say(200)));
        l.routes.push(fixed("/no", say(403)));
        l.routes.push(Route { ..route("two") });
        l.routes[3].path = zonekeeper_core::model::PathMatch::Exact("/two".into());
    });
    let two = zonekeeper_core::model::Pool { http2: true, ..pool(&[good.addr]) };
    state.pools.insert(pool_id("two"), Arc::new(two));
    let world = World::start(state);
    let client = client(&world).await;
    for (path, status) in [("/ok", 501), ("/no", 403), ("/two", 501), ("/nowhere", 404)] {
        assert_eq!(client.open(handshake(path)).await.0.status, status, "{path}");
    }
    let mut other = handshake("/chat");
    other.extensions_mut().insert(Named::from_static("connect-udp"));
    assert_eq!(client.open(other).await.0.status, 501);
    let plain = Request::connect("w.example:443").body(()).unwrap();
    assert_eq!(client.open(plain).await.0.status, 501, "no forward proxy");
    assert_eq!(client.get("/ok").await.status, 200, "who asks for no tunnel gets it");
    client.tunnel().await;
}
