//! Backends that die in one way each, and healthy ones; all of them write down which requests they read whole.

use crate::support::{Server, any, dead, field, spin};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// How the one of three dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    Refuses,
    Blackholes,
    ResetsBeforeReading,
    ResetsAfterHead,
    ResetsAfterRequest,
    DiesInResponseHead,
    DiesInBody,
    ClosesAsReused,
    Hangs,
    Answers503,
}

impl Death {
    pub const ALL: [Death; 10] = [
        Death::Refuses,
        Death::Blackholes,
        Death::ResetsBeforeReading,
        Death::ResetsAfterHead,
        Death::ResetsAfterRequest,
        Death::DiesInResponseHead,
        Death::DiesInBody,
        Death::ClosesAsReused,
        Death::Hangs,
        Death::Answers503,
    ];
}

/// How often each request, by its path, was read whole.
pub type Executed = Arc<Mutex<BTreeMap<String, u32>>>;

/// One of three that is dead or dies.
pub struct Victim {
    pub addr: SocketAddr,
    _server: Option<Server>,
    _full: Option<(TcpListener, Vec<TcpStream>)>,
}

/// A listening socket whose queue is full: what comes is neither accepted nor refused.
async fn blackhole() -> Victim {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await
    {
        waiting.push(stream);
    }
    Victim { addr, _server: None, _full: Some((listener, waiting)) }
}

/// One of three that is dead or dies; with `http2` it speaks HTTP/2.
pub async fn victim(death: Death, executed: &Executed, http2: bool) -> Victim {
    match death {
        Death::Refuses => return Victim { addr: dead(), _server: None, _full: None },
        Death::Blackholes => return blackhole().await,
        _ => {}
    }
    let executed = executed.clone();
    let server = Server::with(any(), move |stream, n| {
        let (executed, n) = (executed.clone(), n.fetch_add(1, Relaxed));
        async move {
            let _ = match http2 {
                true => super::backends2::die(death, stream, executed, n).await,
                false => die(death, stream, executed, n).await,
            };
        }
    });
    Victim { addr: server.addr, _server: Some(server), _full: None }
}

pub fn reset<S: AsFd>(stream: &S) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn die(death: Death, mut stream: TcpStream, executed: Executed, n: u64) -> Option<()> {
    let mut pending = Vec::new();
    if death == Death::ResetsBeforeReading {
        reset(&stream);
        return None;
    }
    if death == Death::ClosesAsReused {
        serve_one(&mut stream, &mut pending, &executed).await?;
        // Somewhere in here the next request leaves the proxy.
        spin(Duration::from_micros(n * 37 % 400));
        return None;
    }
    if death == Death::Answers503 {
        loop {
            let head = read_head(&mut stream, &mut pending).await?;
            read_body(&mut stream, &mut pending, &head, &executed).await?;
            let busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(busy).await.ok()?;
        }
    }
    let head = read_head(&mut stream, &mut pending).await?;
    if death == Death::ResetsAfterHead {
        reset(&stream);
        return None;
    }
    read_body(&mut stream, &mut pending, &head, &executed).await?;
    let part: &[u8] = match death {
        Death::DiesInResponseHead => b"HTTP/1.1 200 OK\r\nContent-Le",
        Death::DiesInBody if field(&head, "upgrade").is_some() => SWITCH,
        Death::DiesInBody => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        _ => b"",
    };
    let _ = stream.write_all(part).await;
    match death {
        Death::Hangs => tokio::time::sleep(Duration::from_secs(60)).await,
        Death::ResetsAfterRequest => reset(&stream),
        // Until the other end has it: a reset takes back what was not read.
        Death::DiesInBody => {
            drop(tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0])).await)
        }
        _ => {}
    }
    Some(())
}

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A backend that serves everything: it answers "ok", and a WebSocket echoes.
pub fn healthy(executed: &Executed, http2: bool) -> Server {
    let executed = executed.clone();
    Server::with(any(), move |mut stream, _| {
        let executed = executed.clone();
        async move {
            if http2 {
                let _ = super::backends2::serve(stream, executed).await;
                return;
            }
            let mut pending = Vec::new();
            while serve_one(&mut stream, &mut pending, &executed).await.is_some() {}
        }
    })
}

async fn serve_one(stream: &mut TcpStream, pending: &mut Vec<u8>, executed: &Executed) -> Option<()> {
    let head = read_head(stream, pending).await?;
    read_body(stream, pending, &head, executed).await?;
    if field(&head, "upgrade").is_some() {
        stream.write_all(SWITCH).await.ok()?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.ok()?;
        return None;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.ok()
}

async fn more(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<()> {
    (stream.read_buf(pending).await.ok()? > 0).then_some(())
}

async fn read_head(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(i) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            return String::from_utf8(pending.drain(..i + 4).collect()).ok();
        }
        more(stream, pending).await?;
    }
}

/// Reads the body to its end and writes the request down.
async fn read_body(
    stream: &mut TcpStream,
    pending: &mut Vec<u8>,
    head: &str,
    executed: &Executed,
) -> Option<()> {
    if field(head, "transfer-encoding").is_some() {
        while !pending.ends_with(b"0\r\n\r\n") {
            let keep = pending.len().saturating_sub(8);
            pending.drain(..keep);
            more(stream, pending).await?;
        }
        pending.clear();
    } else if let Some(n) = field(head, "content-length") {
        let mut left: usize = n.parse().ok()?;
        loop {
            let taken = left.min(pending.len());
            pending.drain(..taken);
            left -= taken;
            if left == 0 {
                break;
            }
            more(stream, pending).await?;
        }
    }
    let path = head.split(' ').nth(1)?.to_string();
    *executed.lock().unwrap().entry(path).or_insert(0) += 1;
    Some(())
}
