//! One case against one proxy: a backend that keeps every byte, a client that keeps every byte, and both in words.

use super::corpus::Case;
use crate::support::{Server, any, field};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What the backend does with its next connections, and what it got.
#[derive(Default)]
struct Script {
    response: Option<Vec<u8>>,
    closes: bool,
    early: bool,
    got: Vec<u8>,
    requests: Vec<String>,
}

/// A backend that plays the case's part.
pub struct Stage {
    pub server: Server,
    script: Arc<Mutex<Script>>,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub client: String,
    pub backend: String,
    pub client_bytes: Vec<u8>,
    pub backend_bytes: Vec<u8>,
}

const AFTER: &[u8] = b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

impl Stage {
    pub fn new() -> Stage {
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = script.clone();
        let server = Server::with(any(), move |stream, _| play(stream, shared.clone()));
        Stage { server, script }
    }

    /// Plays a case against the proxy at an address. `patience`: how long the proxy may be silent.
    pub async fn play(&self, case: &Case, proxy: SocketAddr, patience: Duration) -> Seen {
        *self.script.lock().unwrap() = Script {
            response: case.response.clone(),
            closes: case.closes,
            early: case.early,
            ..Script::default()
        };
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = case.request.clone();
        if !case.alone {
            request.extend(AFTER);
        }
        let (mut read, mut write) = stream.split();
        let send = async {
            let _ = write.write_all(&request).await; // refused early, it may not be taken whole
            if case.alone && !case.early {
                let _ = write.shutdown().await;
            }
        };
        let mut got = Vec::new();
        let receive = async {
            loop {
                match timeout(patience, read.read_buf(&mut got)).await {
                    Err(_) => return "silent",
                    Ok(Ok(0)) => return "",
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => return "reset",
                }
            }
        };
        let ((), end) = tokio::join!(send, receive);
        let script = std::mem::take(&mut *self.script.lock().unwrap());
        let backend = if script.requests.is_empty() { "-".into() } else { script.requests.join(" + ") };
        Seen { client: in_words(&got, end, case), backend, client_bytes: got, backend_bytes: script.got }
    }
}

async fn play(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut pending = Vec::new();
    loop {
        let Some((name, raw)) = request(&mut stream, &mut pending, &script).await else { return };
        let (response, closes) = {
            let mut script = script.lock().unwrap();
            if name != "GET /after" {
                script.got.extend(&raw);
            }
            if !script.early {
                script.requests.push(name.clone());
            }
            (script.response.take(), script.closes)
        };
        let scripted = response.is_some();
        let ok = if name.starts_with("HEAD") {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".as_slice()
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        };
        if stream.write_all(response.as_deref().unwrap_or(ok)).await.is_err() {
            return;
        }
        if scripted && closes {
            let _ = stream.shutdown().await;
            let _ = timeout(Duration::from_secs(1), stream.read(&mut [0; 9])).await;
            return;
        }
    }
}

/// Reads one request as a lenient backend would: its line, its body in quotes, and its bytes.
async fn request(
    stream: &mut TcpStream,
    pending: &mut Vec<u8>,
    script: &Mutex<Script>,
) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(i) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            break i + 4;
        }
        if stream.read_buf(pending).await.ok()? == 0 {
            return None;
        }
    };
    let mut raw: Vec<u8> = pending.drain(..end).collect();
    let head = String::from_utf8_lossy(&raw).into_owned();
    let name = head.rsplit_once(" HTTP/").map_or("?", |_| head.split(" HTTP/").next().unwrap()).to_string();
    if script.lock().unwrap().early {
        return Some((name, raw));
    }
    if head.to_ascii_lowercase().contains("expect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    let body = body(stream, pending, &head, &mut raw).await?;
    let text = String::from_utf8_lossy(&body).replace("\r\n", "⏎");
    Some((if text.is_empty() { name } else { format!("{name} \"{text}\"") }, raw))
}

async fn body(
    stream: &mut TcpStream,
    pending: &mut Vec<u8>,
    head: &str,
    raw: &mut Vec<u8>,
) -> Option<Vec<u8>> {
    let chunked = field(head, "transfer-encoding").is_some();
    let length: usize = field(head, "content-length").and_then(|n| n.parse().ok()).unwrap_or_default();
    loop {
        let whole =
            if chunked { dechunk(pending) } else { (pending.len() >= length).then_some((length, vec![])) };
        if let Some((used, data)) = whole {
            let taken: Vec<u8> = pending.drain(..used).collect();
            raw.extend(&taken);
            return Some(if chunked { data } else { taken });
        }
        if stream.read_buf(pending).await.ok()? == 0 {
            return None;
        }
    }
}

/// The whole chunked body at the front: its length on the wire and its data; none while it is not whole.
fn dechunk(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut data) = (0, Vec::new());
    loop {
        let line = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            let end = if bytes[at..].starts_with(b"\r\n") {
                2
            } else {
                bytes[at..].windows(4).position(|w| w == b"\r\n\r\n")? + 4
            };
            return Some((at + end, data));
        }
        data.extend(bytes.get(at..at + size)?);
        bytes.get(at + size + 1)?;
        at += size + 2;
    }
}

/// What the client got: statuses, bodies that are not "ok" or an error page, and how it ended when that tells something.
fn in_words(mut bytes: &[u8], end: &str, case: &Case) -> String {
    let mut words = Vec::new();
    let to_head = case.request.starts_with(b"HEAD ");
    while let Some(i) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..i + 4]).into_owned();
        bytes = &bytes[i + 4..];
        let status: u16 = head.split(' ').nth(1).and_then(|s| s.trim().parse().ok()).unwrap_or_default();
        let first = words.iter().all(|w: &String| w.starts_with('1'));
        let (mut body, mut word, mut whole) = (Vec::new(), status.to_string(), true);
        if to_head && first && status == 200 {
            word += "-head";
        } else if status == 101 {
            body = std::mem::take(&mut bytes).to_vec();
        } else if status < 200 || matches!(status, 204 | 304) {
        } else if field(&head, "transfer-encoding").is_some() {
            match dechunk(bytes) {
                Some((used, data)) => (body, bytes) = (data, &bytes[used..]),
                None => (body, bytes, whole) = (lost(bytes), &[], false),
            }
        } else if let Some(n) = field(&head, "content-length").and_then(|n| n.parse::<usize>().ok()) {
            whole = bytes.len() >= n;
            let n = n.min(bytes.len());
            (body, bytes) = (bytes[..n].to_vec(), &bytes[n..]);
        } else {
            (body, whole) = (std::mem::take(&mut bytes).to_vec(), end.is_empty());
        }
        if status < 400 && !matches!(body.as_slice(), b"" | b"ok") {
            word += &format!("\"{}\"", String::from_utf8_lossy(&body));
        }
        if !whole {
            word += "cut";
        }
        // How many a loop has is no matter.
        if words.iter().rev().take_while(|w| w.starts_with("103")).count() >= 3 && status == 103 {
            word = "103..".into();
            words.pop();
        }
        words.push(word);
    }
    if !bytes.is_empty() {
        words.push("rest".into());
    }
    if end == "silent" {
        words.push(end.into());
    }
    if words.is_empty() { "-".into() } else { words.join(" ") }
}

/// The data of chunks that were cut.
fn lost(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    for end in [b"".as_slice(), b"\r\n", b"0\r\n\r\n", b"\r\n0\r\n\r\n"] {
        whole.truncate(bytes.len());
        whole.extend(end);
        if let Some((_, data)) = dechunk(&whole) {
            return data;
        }
    }
    bytes.to_vec()
}
