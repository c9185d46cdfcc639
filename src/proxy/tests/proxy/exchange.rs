//! What a client sees where a request ends otherwise than its response would.

use crate::{http2::Client2, support::*};
use std::{
    io::{Read, Write},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zonekeeper_core::model::{Http2, Protocol};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A backend that ends each connection just as the next request comes.
#[derive(Default)]
pub struct Ending {
    /// The bodies that it read, each the number of a request.
    read: Mutex<Vec<[u8; 5]>>,
    /// Requests that came between its last look and the end.
    late: AtomicU64,
}

/// Posts over connections that their backend ends ([`Ending`]): what it cannot have read is sent again, and nothing else.
///
/// On a saturated machine the kernel's queues of two processors let a reset overtake the end before it (ECONNRESET, and no
/// end was read). Then nothing says that the request was not read, and it is not sent again, rightly. So this goes on
/// until 400 came through without.
pub async fn posts_come_through(world: &World, ending: &Ending) {
    let retried = || world.proxy.counters().backends[0].2.retries;
    let mut seen = Vec::new();
    while seen.len() < 15 && !seen.iter().any(|(lost, late, retried)| lost <= late && *retried > 0) {
        let before = retried();
        let lost = post_at_once(world.addr("web"), 400 * seen.len(), 400).await;
        seen.push((lost, ending.late.swap(0, Relaxed), retried() - before));
    }
    let last = seen.last().unwrap();
    assert!(last.0 <= last.1 && last.2 > 0, "of 400: not answered, may have been read, sent again: {seen:?}");
    let mut read = ending.read.lock().unwrap().clone();
    read.sort_unstable();
    assert!(!read.windows(2).any(|w| w[0] == w[1]), "one was executed twice");
}

/// Posts so many numbers from `first` on, each as soon as the one before was answered; how many were answered 502 and not
/// 200. A thread of its own: the backends here keep the runtime's busy.
async fn post_at_once(addr: std::net::SocketAddr, first: usize, times: usize) -> u64 {
    let posting = tokio::task::spawn_blocking(move || {
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut lost = 0;
        for i in first..first + times {
            let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{i:05}");
            client.write_all(post.as_bytes()).unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                got.extend(byte);
            }
            let head = String::from_utf8(got).unwrap();
            match head.starts_with("HTTP/1.1 200 ") {
                true => {}
                false => {
                    assert!(head.starts_with("HTTP/1.1 502 "), "{i}: {head}");
                    client.read_exact(&mut [0; 29]).unwrap();
                    lost += 1;
                }
            }
        }
        lost
    });
    posting.await.unwrap()
}

impl Ending {
    /// Ends the connection over which this body was read and answered, unless the next request has come: then false. What
    /// comes between the look and the end lies there unread, though TCP has acknowledged it. What comes after the end is
    /// refused.
    pub fn end_after(&self, body: &[u8], stream: &tokio::net::TcpStream) -> bool {
        let n = {
            let mut read = self.read.lock().unwrap();
            read.push(body.try_into().unwrap());
            read.len() as u64
        };
        spin(Duration::from_micros(n * 7 % 400));
        let socket = socket2::SockRef::from(stream);
        let peek = || socket.peek(&mut [const { std::mem::MaybeUninit::uninit() }; 1]);
        if peek().is_ok() {
            return false;
        }
        let _ = socket.shutdown(std::net::Shutdown::Both);
        if peek().is_ok_and(|n| n > 0) {
            self.late.fetch_add(1, Relaxed);
        }
        true
    }

    /// Answers requests of five bytes and ends the connection; `tcp` is what the stream goes over.
    pub async fn serve<S>(&self, mut stream: S, tcp: impl Fn(&S) -> &tokio::net::TcpStream)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        loop {
            let mut pending = Vec::new();
            let body = loop {
                if let Some((head, body)) = pending.split_last_chunk::<5>()
                    && head.ends_with(b"\r\n\r\n")
                    && body.iter().all(u8::is_ascii_digit)
                {
                    break body;
                }
                if !matches!(stream.read_buf(&mut pending).await, Ok(read) if read > 0) {
                    return;
                }
            };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.flush().await;
            if self.end_after(body, tcp(&stream)) {
                return;
            }
        }
    }
}

/// A backend that begins to answer as soon as it has a head, and does not go on.
fn beginning() -> Server {
    Server::with(any(), |mut stream, n| async move {
        let mut got = Vec::new();
        while !got.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut got).await.unwrap_or_default() == 0 {
                return;
            }
        }
        n.fetch_add(1, Relaxed);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nx").await;
        while stream.read_buf(&mut got).await.unwrap_or_default() > 0 {}
    })
}

/// A request that goes bad while its response is on its way: the client must see a cut, and no second response in it.
#[tokio::test]
async fn a_body_that_is_refused_after_the_response_began_is_a_cut() {
    for (name, bad) in [("a bad chunk", "zz\r\n".to_string()), ("too large", format!("40\r\n{:064}\r\n", 0))]
    {
        let backend = beginning();
        let mut state = state(Protocol::Http, &[backend.addr]);
        edit_listener(&mut state, |l| l.max_body = 40);
        let world = World::start(state);
        let mut client = world.client().await;
        client.send(format!("{CHUNKED}5\r\nhello\r\n")).await;
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\nx") {
            assert!(client.stream.read_buf(&mut got).await.unwrap() > 0);
        }
        client.send(bad).await;
        let ended = tokio::time::timeout(PATIENCE, client.stream.read_to_end(&mut got)).await.unwrap();
        let text = String::from_utf8_lossy(&got);
        assert!(text.ends_with("\r\n\r\nx") && ended.is_err(), "{name}: {ended:?} {text}");
        let refused = world.proxy.counters().listeners[0].1.refused;
        assert_eq!(refused, 1, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_is_refused_before_the_response_began_is_answered_after_another_request() {
    let good = Server::start("a");
    let world = World::start(state(Protocol::Http, &[good.addr]));
    let mut client = world.client().await;
    assert_eq!(client.get("/").await.status, 200);
    client.send(format!("{CHUNKED}zz\r\n")).await;
    assert_eq!(client.answer(false).await.status, 400);
}

/// Answers 503 with what it has to say.
fn busy() -> Server {
    Server::with(any(), |mut stream, n| async move {
        let mut pending = Vec::new();
        while read_request(&mut stream, &mut pending).await.is_some() {
            n.fetch_add(1, Relaxed);
            let said = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 11\r\n\r\ncome later\n";
            let _ = stream.write_all(said).await;
        }
    })
}

#[tokio::test]
async fn a_request_whose_time_is_over_after_a_503_is_answered() {
    let busy = busy();
    let hanging = Server::with(any(), |mut stream, n| async move {
        while read_request(&mut stream, &mut Vec::new()).await.is_some() {
            n.fetch_add(1, Relaxed);
        }
    });
    for http2 in [false, true] {
        let mut state = state(Protocol::Http, &[busy.addr, hanging.addr]);
        edit_listener(&mut state, |l| (l.request_timeout_ms, l.http2) = (600, Http2::PriorKnowledge));
        let world = World::try_start(state, 1).unwrap();
        let status = match http2 {
            false => world.ask(GET).await.status,
            true => Client2::connect(world.addr("web")).await.get("/").await.status,
        };
        assert_eq!(status, 504);
    }
    assert_eq!((busy.count(), hanging.count()), (2, 2));
}

#[tokio::test]
async fn a_503_is_the_backends_own_where_no_other_can_be_asked() {
    let (busy, other) = (busy(), Server::start("other"));
    let mut state = state(Protocol::Http, &[busy.addr, other.addr]);
    edit_pool(&mut state, |p| p.max_connections = 1);
    let world = World::start(state);
    let told = |answer: &Answer| {
        assert_eq!((answer.status, answer.text().as_str()), (503, "come later\n"));
        assert_eq!(field(&answer.head, "retry-after"), Some("7"));
    };
    assert_eq!(world.ask(GET).await.by(), "other");
    world.health.set(&pool_id("web"), other.addr, false); // down
    told(&world.ask(GET).await);
    world.health.set(&pool_id("web"), other.addr, true);
    assert_eq!(world.ask(GET).await.by(), "other");
}

#[tokio::test]
async fn a_503_is_the_backends_own_where_the_request_cannot_be_sent_again() {
    for (size, by) in [(10, "other"), (200_000, "come later")] {
        let (busy, other) = (busy(), Server::start("other"));
        let world = World::start(state(Protocol::Http, &[busy.addr, other.addr]));
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
        let answer = world.ask(&(head + &"z".repeat(size))).await;
        assert_eq!(answer.by(), by, "{size} bytes");
        let own = size > 10;
        assert_eq!((answer.status == 503, field(&answer.head, "retry-after").is_some()), (own, own));
        assert_eq!((busy.count(), other.count()), (1, u64::from(!own)));
    }
}

/// A body without a length may be too large to be sent twice: it does not go where the end may be on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_ended_is_invisible_to_a_large_body_without_a_length() {
    let backend = Server::with(any(), |mut stream, n| async move {
        let mut pending = Vec::new();
        while let Some((head, _)) = read_request(&mut stream, &mut pending).await {
            let n = n.fetch_add(1, Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            if head.contains("/last") {
                spin(Duration::from_micros(n * 7 % 300));
                return;
            }
        }
    });
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| (l.max_body, l.http2) = (0, Http2::PriorKnowledge));
    let world = World::try_start(state, 1).unwrap();
    let body = format!("{CHUNKED}40000\r\n{}\r\n0\r\n\r\n", "z".repeat(0x40000));
    let large = vec![b'z'; 0x40000];
    let mut client = world.client().await;
    let second = Client2::connect(world.addr("web")).await;
    for i in 0..100 {
        assert_eq!(client.get("/last").await.status, 200);
        client.send(&body).await;
        let answer = client.answer(false).await;
        assert_eq!(answer.status, 200, "{i}: {answer:?}");
        assert_eq!(second.get("/last").await.status, 200);
        let asked = http::Request::post("http://w.example/").body(()).unwrap();
        let got = second.ask(asked, &[&large]).await;
        assert_eq!((got.status, got.reset), (200, None), "{i}");
    }
    assert_eq!(backend.count(), 400);
}

/// A small one that is there needs no connection of its own.
#[tokio::test]
async fn a_small_body_in_chunks_goes_over_a_kept_connection() {
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = connections.clone();
    let backend = Server::with(any(), move |mut stream, n| {
        counted.fetch_add(1, Relaxed);
        async move {
            let mut pending = Vec::new();
            while read_request(&mut stream, &mut pending).await.is_some() {
                n.fetch_add(1, Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    });
    let world = World::try_start(state(Protocol::Http, &[backend.addr]), 1).unwrap();
    let mut client = world.client().await;
    for _ in 0..5 {
        client.send(format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n")).await;
        assert_eq!(client.answer(false).await.status, 200);
    }
    assert_eq!((backend.count(), connections.load(Relaxed)), (5, 1));
}

#[tokio::test]
async fn an_upload_that_its_backend_stops_reading_is_answered_in_time() {
    let stopped = Server::with(any(), |mut stream, _| async move {
        let _ = stream.read_u8().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let mut state = state(Protocol::Http, &[stopped.addr]);
    edit_listener(&mut state, |l| l.max_body = 0);
    edit_pool(&mut state, |p| p.response_timeout_ms = 500);
    let world = World::start(state);
    let (stream, _) = world.client().await.into_parts();
    let (mut answers, mut body) = stream.into_split();
    let sending = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 64 << 20);
        body.write_all(head.as_bytes()).await.unwrap();
        let _ = body.write_all(&vec![0; 64 << 20]).await; // more than sockets hold: it is spliced until nobody reads
    });
    let mut status = [0; 12];
    let read = tokio::time::timeout(PATIENCE, answers.read_exact(&mut status)).await;
    read.expect("the proxy is silent").unwrap();
    assert_eq!(std::str::from_utf8(&status).unwrap(), "HTTP/1.1 504");
    sending.abort();
}

#[tokio::test]
async fn an_interim_response_does_not_lengthen_the_wait_for_a_body() {
    let eager = Server::with(any(), |mut stream, _| async move {
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let mut state = state(Protocol::Http, &[eager.addr]);
    edit_listener(&mut state, |l| l.idle_timeout_ms = 500);
    let world = World::start(state);
    let mut client = world.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.answer(false).await.status, 100);
    assert_eq!(client.answer(false).await.status, 408);
}
