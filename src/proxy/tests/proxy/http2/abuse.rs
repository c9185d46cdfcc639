//! Frames that no friendly client sends.

use super::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET http://w.example/` with what HPACK has in its tables (RFC 7541, appendix A).
const GET: &[u8] = b"\x82\x86\x84\x41\x09w.example";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection that writes whatever frames it likes.
pub struct Raw {
    pub stream: TcpStream,
    got: Vec<u8>,
}

impl Raw {
    pub async fn connect(world: &World) -> Raw {
        Raw::to(world.addr("web")).await
    }

    pub async fn to(addr: std::net::SocketAddr) -> Raw {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Raw { stream, got: Vec::new() }
    }

    /// As [`next`].
    pub async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        next(&mut self.stream, &mut self.got).await
    }

    /// The proxy ended the connection.
    fn over(&mut self) -> bool {
        loop {
            match self.stream.try_read(&mut [0; 4096]) {
                Ok(n) if n > 0 => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return false,
                _ => return true,
            }
        }
    }

    /// Sends pieces until the proxy has enough, at most so many; then why it ended the connection, 0 when it did not say.
    async fn flood(self, most: usize, piece: impl Fn(u32) -> Vec<u8> + Send + 'static) -> (usize, u32) {
        let Raw { stream, mut got } = self;
        let (mut read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            for i in 0..most {
                if write.write_all(&piece(i as u32)).await.is_err() {
                    return i;
                }
            }
            let _ = write.shutdown().await;
            most
        });
        let mut why = 0;
        while let Some((kind, _, payload)) = next(&mut read, &mut got).await {
            if kind == GOAWAY {
                why = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                break;
            }
        }
        (sending.await.unwrap(), why)
    }
}

/// The next frame of these: its kind, stream and payload; none at the end.
pub async fn next(from: &mut (impl AsyncRead + Unpin), got: &mut Vec<u8>) -> Option<(u8, u32, Vec<u8>)> {
    loop {
        if let Some([a, b, c, kind, _, rest @ ..]) = got.first_chunk::<9>() {
            let end = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (kind, stream) = (*kind, u32::from_be_bytes(*rest));
            if got.len() >= end {
                return Some((kind, stream, got.drain(..end).skip(9).collect()));
            }
        }
        let read = timeout(PATIENCE, from.read_buf(got)).await;
        if read.expect("the proxy is silent").unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// A proxy whose backend never answers, so that what is asked for stays open.
fn hanging() -> (Server, World) {
    let server = Server::with(any(), |mut stream, n| async move {
        while read_request(&mut stream, &mut Vec::new()).await.is_some() {
            n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let world = World::start(clear(&[server.addr]));
    (server, world)
}

#[tokio::test]
async fn rapid_reset_ends_the_connection_before_the_backends_feel_it() {
    let (backend, world) = hanging();
    let raw = Raw::connect(&world).await;
    let (_, why) = raw
        .flood(100_000, |i| {
            let id = 2 * i + 1;
            let reset = frame(RST_STREAM, 0, id, &8u32.to_be_bytes());
            [frame(HEADERS, END_HEADERS | END_STREAM, id, GET), reset].concat()
        })
        .await;
    assert_eq!(why, ENHANCE_YOUR_CALM);
    assert!(backend.count() <= 400, "{} requests reached the backend", backend.count());
}

#[tokio::test]
async fn requests_that_are_cancelled_one_by_one_end_the_connection_too() {
    let (backend, world) = hanging();
    let mut raw = Raw::connect(&world).await;
    let mut cancelled = 0;
    loop {
        let seen = backend.count();
        let id = 2 * cancelled + 1;
        let _ = raw.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, GET)).await;
        eventually("it reaches the backend", async || raw.over() || backend.count() > seen).await;
        if raw.over() {
            break;
        }
        let _ = raw.stream.write_all(&frame(RST_STREAM, 0, id, &8u32.to_be_bytes())).await;
        cancelled += 1;
        assert!(cancelled < 1000);
    }
    assert!(cancelled > 100, "a page that is left early is no attack");
}

#[tokio::test]
async fn floods_of_frames_that_ask_for_nothing_end_the_connection() {
    let (_backend, world) = hanging();
    for (name, kind, payload, stream) in
        [("PING", PING, vec![7; 8], 0), ("SETTINGS", SETTINGS, vec![0, 3, 0, 0, 0, 100], 0)]
    {
        let raw = Raw::connect(&world).await;
        let piece = frame(kind, 0, stream, &payload);
        let (sent, why) = raw.flood(1_000_000, move |_| piece.clone()).await;
        assert_eq!(why, ENHANCE_YOUR_CALM, "{name}");
        assert!(sent < 1_000_000, "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let (_backend, world) = hanging();
    let raw = Raw::connect(&world).await;
    let (sent, why) = raw
        .flood(100_000, |i| match i {
            0 => frame(HEADERS, 0, 1, GET),
            _ => frame(CONTINUATION, 0, 1, &[b"\x00\x01a\x7f\x01".as_slice(), &[b'x'; 128]].concat()),
        })
        .await;
    assert!(sent < 100_000 && why != 0, "{sent} frames, reason {why}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_so() {
    let a = Server::start("a");
    let world = World::start(clear(&[a.addr]));
    let client = Client2::connect(world.addr("web")).await;
    let asked = Request::get("http://w.example/").header("x", "y".repeat(60_000)).body(()).unwrap();
    assert_eq!(client.ask(asked, &[]).await.status, 431);
    let mut many = Request::get("http://w.example/");
    for i in 0..150 {
        many = many.header(format!("x-{i}"), "y");
    }
    assert_eq!(client.ask(many.body(()).unwrap(), &[]).await.status, 431);
    assert_eq!((client.get("/").await.status, a.count()), (200, 1));
}

#[tokio::test]
async fn why_a_connection_ends_is_not_lost_in_a_reset() {
    let (_backend, world) = hanging();
    let mut raw = Raw::connect(&world).await;
    // Of a kind that is ignored (RFC 9113 §5.5): 2 MB are a flood, and the rest is on its way by then.
    raw.stream.write_all(&frame(0x60, 0, 0, &[0; 16_000]).repeat(140)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let why = loop {
        let (kind, _, payload) = raw.next().await.expect("a GOAWAY");
        if kind == GOAWAY {
            break payload;
        }
    };
    assert_eq!(why[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
    // Many systems throw away what they have not read when a reset comes.
    assert_eq!(raw.stream.read(&mut [0; 64]).await.unwrap(), 0);
    let error = raw.stream.take_error().unwrap();
    assert!(error.is_none(), "a reset came: {error:?}");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_rest_goes_on() {
    let (backend, world) = hanging();
    let mut raw = Raw::connect(&world).await;
    while let Some((kind, ..)) = raw.next().await {
        if kind == SETTINGS {
            raw.stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap(); // we know of the limit
            break;
        }
    }
    for i in 0..140u32 {
        let asked = frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, GET);
        raw.stream.write_all(&asked).await.unwrap();
    }
    let mut refused = 0;
    while refused < 12 {
        let (kind, _, payload) = raw.next().await.expect("the connection goes on");
        if kind == RST_STREAM {
            assert_eq!(payload, 7u32.to_be_bytes(), "REFUSED_STREAM");
            refused += 1;
        }
    }
    eventually("the others run", async || backend.count() == 128).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_not_buffered_for() {
    let a = Server::start("a");
    let mut state = clear(&[a.addr]);
    edit_listener(&mut state, |l| l.idle_timeout_ms = 1000);
    let world = World::start(state);
    let mut raw = Raw::connect(&world).await;
    let path = b"\x82\x86\x44\x06/large\x41\x09w.example";
    raw.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, path)).await.unwrap();
    // 65,535 bytes of 3 MB fit into the window; then the stream is reset after its time.
    let mut data = 0;
    let why = loop {
        let (kind, stream, payload) = raw.next().await.expect("the connection goes on");
        match kind {
            0 => data += payload.len(),
            RST_STREAM if stream == 1 => break payload,
            _ => {}
        }
    };
    assert_eq!(data, 65_535, "reset with {why:?}");
    let of_a = world.proxy.counters().backends[0].2;
    assert!(of_a.bytes_out < 2_900_000, "{} bytes were read ahead", of_a.bytes_out);
}
