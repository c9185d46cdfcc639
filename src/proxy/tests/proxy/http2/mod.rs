//! HTTP/2: what clients see, the tools that people use, and what abuse comes to.

mod abuse;
mod backend;
mod malformed;
mod tools;
mod websocket;

use crate::support::*;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use zonekeeper_core::{
    State,
    model::{Http2, Protocol},
};

/// A listener that takes HTTP/2 without TLS.
pub fn clear(backends: &[SocketAddr]) -> State {
    let mut state = state(Protocol::Http, backends);
    edit_listener(&mut state, |l| l.http2 = Http2::PriorKnowledge);
    state
}

/// A client's connection.
#[derive(Clone)]
pub struct Client2(SendRequest<Bytes>);

/// What a stream came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Got {
    pub status: u16,
    pub fields: http::HeaderMap,
    pub body: Vec<u8>,
    /// How it ended, where it was not in order.
    pub reset: Option<h2::Reason>,
}

impl Got {
    fn by(&self) -> String {
        String::from_utf8_lossy(&self.body).lines().next().unwrap_or_default().to_string()
    }

    fn broken(e: &h2::Error) -> Got {
        let reset = Some(e.reason().unwrap_or(h2::Reason::CONNECT_ERROR));
        Got { status: 0, fields: http::HeaderMap::new(), body: vec![], reset }
    }
}

impl Client2 {
    pub async fn connect(addr: SocketAddr) -> Client2 {
        Client2::over(TcpStream::connect(addr).await.unwrap()).await
    }

    pub async fn over(
        io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> Client2 {
        let mut builder = h2::client::Builder::new();
        builder.data_frame_budget(64 << 20); // it may be slow to take small frames
        let (send, connection) = builder.handshake(io).await.unwrap();
        tokio::spawn(connection);
        Client2(send)
    }

    pub async fn get(&self, path: &str) -> Got {
        self.ask(Request::get(format!("http://w.example{path}")).body(()).unwrap(), &[]).await
    }

    /// Sends a request and its body, piece by piece.
    pub async fn ask(&self, request: Request<()>, body: &[&[u8]]) -> Got {
        timeout(PATIENCE, self.ask_one(request, body)).await.expect("the proxy is silent")
    }

    async fn ask_one(&self, request: Request<()>, body: &[&[u8]]) -> Got {
        let Ok(mut ready) = self.0.clone().ready().await else {
            return Got::broken(&h2::Reason::REFUSED_STREAM.into());
        };
        let (response, mut send) = match ready.send_request(request, body.is_empty()) {
            Ok(sent) => sent,
            Err(e) => return Got::broken(&e),
        };
        let sending = async {
            for (i, piece) in body.iter().enumerate() {
                let mut left = *piece;
                while !left.is_empty() {
                    send.reserve_capacity(left.len());
                    let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                    let Some(Ok(n)) = room else { return };
                    let n = n.min(left.len());
                    let end = i + 1 == body.len() && n == left.len();
                    if send.send_data(Bytes::copy_from_slice(&left[..n]), end).is_err() {
                        return;
                    }
                    left = &left[n..];
                }
            }
        };
        let receiving = async {
            let response = match response.await {
                Ok(response) => response,
                Err(e) => return Got::broken(&e),
            };
            let (head, mut body) = response.into_parts();
            let mut got =
                Got { status: head.status.as_u16(), fields: head.headers, body: vec![], reset: None };
            while let Some(data) = body.data().await {
                match data {
                    Ok(data) => {
                        got.body.extend_from_slice(&data);
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    Err(e) => {
                        got.reset = Some(e.reason().unwrap_or(h2::Reason::CONNECT_ERROR));
                        break;
                    }
                }
            }
            got
        };
        tokio::join!(sending, receiving).1
    }
}

fn post(path: &str) -> http::request::Builder {
    Request::builder().method(Method::POST).uri(format!("http://w.example{path}"))
}

#[tokio::test]
async fn requests_are_forwarded_with_what_they_say() {
    let a = Server::start("a");
    let world = World::start(clear(&[a.addr]));
    let client = Client2::connect(world.addr("web")).await;
    let asked = Request::get("http://w.example/x?y=z")
        .header("cookie", "a=1")
        .header("accept", "*/*")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-forwarded-proto", "ftp");
    let got = client.ask(asked.body(()).unwrap(), &[]).await;
    let text = String::from_utf8(got.body).unwrap();
    assert_eq!(got.status, 200);
    assert!(text.starts_with("a\nGET /x?y=z HTTP/1.1\r\nHost: w.example\r\n"), "{text}");
    assert!(text.contains("\r\ncookie: a=1; b=2\r\n") && text.contains("\r\naccept: */*\r\n"), "{text}");
    assert!(text.contains("X-Forwarded-Proto: http\r\n") && !text.contains("ftp"), "{text}");
    assert!(text.contains("X-Forwarded-For: 127.0.0.1\r\n") && !text.contains("te:"), "{text}");
    assert_eq!(got.fields.get("connection"), None, "fields of one connection stay on it");
}

#[tokio::test]
async fn every_framing_of_a_response_arrives_whole() {
    let a = Server::start("a");
    let world = World::start(clear(&[a.addr]));
    let client = Client2::connect(world.addr("web")).await;
    for (path, status, least) in [
        ("/", 200, 30),
        ("/chunked", 200, 30),
        ("/close", 200, 30),
        ("/large", 200, 3_000_000),
        ("/empty", 204, 0),
        ("/same", 304, 0),
        ("/500", 500, 0),
    ] {
        let got = client.get(path).await;
        assert_eq!((got.status, got.reset), (status, None), "{path}");
        assert!(got.body.len() >= least && (least > 0 || got.body.is_empty()), "{path}: {}", got.body.len());
    }
    let head = Request::head("http://w.example/").body(()).unwrap();
    let got = client.ask(head, &[]).await;
    assert!(got.status == 200 && got.body.is_empty() && got.fields.contains_key("content-length"));
}

#[tokio::test]
async fn bodies_arrive_whole_with_and_without_a_length() {
    let a = Server::start("a");
    let mut state = clear(&[a.addr]);
    edit_listener(&mut state, |l| l.max_body = 0);
    let world = World::start(state);
    let client = Client2::connect(world.addr("web")).await;
    let large = vec![b'z'; 2_000_000];
    for body in [vec![b"hello".as_slice()], vec![b"he", b"llo", &large], vec![&large]] {
        let sum: Vec<u8> = body.concat();
        for length in [true, false] {
            let mut asked = post("/");
            if length {
                asked = asked.header("content-length", sum.len());
            }
            let got = client.ask(asked.body(()).unwrap(), &body).await;
            assert_eq!((got.status, got.reset), (200, None));
            assert!(got.body.ends_with(&sum), "{} of {}", got.body.len(), sum.len());
        }
    }
    assert_eq!(a.count(), 6);
}

#[tokio::test]
async fn streams_of_one_connection_run_side_by_side() {
    let slow = Server::with(any(), |mut stream, n| async move {
        let mut pending = Vec::new();
        while read_request(&mut stream, &mut pending).await.is_some() {
            n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = tokio::io::AsyncWriteExt::write_all(
                &mut stream,
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            )
            .await;
        }
    });
    let world = World::start(clear(&[slow.addr]));
    let client = Client2::connect(world.addr("web")).await;
    let began = std::time::Instant::now();
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/").await.status })
        })
        .collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), 200);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "one after the other they take 10 s");
    let of_web = world.proxy.counters().listeners.iter().find(|l| l.0.as_str() == "web").unwrap().1;
    assert_eq!((of_web.connections, of_web.requests), (1, 100));
}

/// A body in frames as small as the messages of a stream, which waits for its backend, is no flood.
#[tokio::test]
async fn a_window_of_small_frames_may_wait() {
    const FRAMES: usize = 256 * 1024 / 16;
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = Server::with(any(), move |mut stream, n| {
        let mut released = released.clone();
        async move {
            let mut pending = Vec::new();
            while let Some((_, body)) = read_request(&mut stream, &mut pending).await {
                n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let _ = released.wait_for(|r| *r).await;
                let (text, answer) = (body.len().to_string(), "HTTP/1.1 200 OK\r\nContent-Length:");
                let answer = format!("{answer} {}\r\n\r\n{text}", text.len());
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
            }
        }
    });
    let mut state = clear(&[slow.addr]);
    edit_pool(&mut state, |p| p.max_connections = 1);
    edit_listener(&mut state, |l| l.routes[0].hosts = vec!["w.example".into()]);
    let world = World::start(state);
    let client = Client2::connect(world.addr("web")).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").await.status }
    });
    eventually("the backend has the first", async || slow.count() == 1).await;
    let second = tokio::spawn({
        let client = client.clone();
        let asked = post("/").header("content-length", 16 * FRAMES).body(()).unwrap();
        async move { client.ask(asked, &vec![[b'x'; 16].as_slice(); FRAMES]).await }
    });
    eventually("all frames wait", async || {
        let other = Request::get("http://other.example/").body(()).unwrap();
        assert_eq!(client.ask(other, &[]).await.status, 404, "the connection goes on");
        world.proxy.counters().listeners[0].1.bytes_in > (9 + 16) * FRAMES as u64
    })
    .await;
    release.send(true).unwrap();
    assert_eq!(first.await.unwrap(), 200);
    let got = second.await.unwrap();
    assert_eq!((got.status, got.by()), (200, (16 * FRAMES).to_string()));
}

#[tokio::test]
async fn what_is_refused_and_what_a_route_answers_itself() {
    let a = Server::start("a");
    let mut state = clear(&[a.addr]);
    edit_listener(&mut state, |l| {
        l.max_body = 10;
        l.routes[0].hosts = vec!["w.example".into()];
    });
    let world = World::start(state);
    let client = Client2::connect(world.addr("web")).await;
    let other = Request::get("http://other.example/").body(()).unwrap();
    let got = client.ask(other, &[]).await;
    assert_eq!((got.status, got.reset), (404, None));
    assert!(String::from_utf8_lossy(&got.body).contains("no route"));
    let two = Request::get("http://w.example/").header("host", "x.example").body(()).unwrap();
    assert_eq!(client.ask(two, &[]).await.status, 400);
    let long = format!("http://w.example/{}", "a".repeat(9000));
    assert_eq!(client.ask(Request::get(long).body(()).unwrap(), &[]).await.status, 414);
    let large = post("/").header("content-length", 11).body(()).unwrap();
    assert_eq!(client.ask(large, &[b"hello world"]).await.status, 413);
    let got = client.ask(post("/").body(()).unwrap(), &[b"hello", b" world"]).await;
    assert!(got.status == 413, "{got:?}");
    assert_eq!(client.get("/").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_dead_backend_is_invisible_and_a_cut_is_a_reset() {
    let good = Server::start("good");
    let world = World::start(clear(&[dead(), good.addr]));
    let client = Client2::connect(world.addr("web")).await;
    for _ in 0..4 {
        let got = client.ask(post("/").body(()).unwrap(), &[b"hello"]).await;
        assert_eq!((got.status, got.by().as_str()), (200, "good"));
    }
    let cutting = Server::with(any(), |mut stream, _| async move {
        read_request(&mut stream, &mut Vec::new()).await;
        let part = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, part).await;
    });
    let world = World::start(clear(&[cutting.addr]));
    let client = Client2::connect(world.addr("web")).await;
    // The reset may overtake what came before it.
    assert_eq!(client.get("/").await.reset, Some(h2::Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn a_client_that_takes_a_request_back_frees_its_backend() {
    let hanging = Server::with(any(), |mut stream, n| async move {
        read_request(&mut stream, &mut Vec::new()).await;
        n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
        n.fetch_add(100, std::sync::atomic::Ordering::Relaxed);
    });
    let world = World::start(clear(&[hanging.addr]));
    let client = Client2::connect(world.addr("web")).await;
    let asked = Request::get("http://w.example/").body(()).unwrap();
    let (response, mut send) = client.0.clone().send_request(asked, true).unwrap();
    eventually("the backend has it", async || hanging.count() == 1).await;
    send.send_reset(h2::Reason::CANCEL);
    drop(response);
    eventually("the backend's connection ends", async || hanging.count() == 101).await;
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_more() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = Server::with(any(), move |mut stream, n| {
        let mut released = released.clone();
        async move {
            read_request(&mut stream, &mut Vec::new()).await;
            n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let _ = released.wait_for(|r| *r).await;
            let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, whole).await;
        }
    });
    let world = World::start(clear(&[slow.addr]));
    let client = Client2::connect(world.addr("web")).await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").await }
    });
    eventually("the backend has it", async || slow.count() == 1).await;
    world.proxy.drain();
    eventually("no more are taken", async || client.0.clone().ready().await.is_err()).await;
    release.send(true).unwrap();
    let got = asked.await.unwrap();
    assert_eq!((got.status, got.reset), (200, None));
    assert_eq!(world.proxy.shutdown(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_connection_without_streams_ends_after_its_idle_time() {
    let a = Server::start("a");
    let mut state = clear(&[a.addr]);
    edit_listener(&mut state, |l| l.idle_timeout_ms = 100);
    let world = World::start(state);
    let client = Client2::connect(world.addr("web")).await;
    assert_eq!(client.get("/").await.status, 200);
    eventually("it ends", async || client.0.clone().ready().await.is_err()).await;
}
