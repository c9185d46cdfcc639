//! The smallest HTTP/1.1 client that can judge: one request, one connection, the whole answer.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Largest answer that is read.
const LIMIT: u64 = 16 << 20;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body, without its transfer encoding.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> io::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).map_err(io::Error::other)
    }
}

/// One request. `token` becomes a bearer token.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&serde_json::Value>,
    within: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&addr, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    stream.set_nodelay(true)?;
    let body = body.map(ToString::to_string).unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n");
    if let Some(token) = token {
        head += &format!("authorization: Bearer {token}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    stream.write_all((head + "\r\n" + &body).as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LIMIT).read_to_end(&mut answer)?;
    parse(&answer)
}

/// `GET` without a token.
pub fn get(addr: SocketAddr, path: &str, within: Duration) -> io::Result<Answer> {
    request(addr, "GET", path, None, None, within)
}

fn parse(answer: &[u8]) -> io::Result<Answer> {
    let cut =
        |what: &str| io::Error::new(io::ErrorKind::UnexpectedEof, format!("the answer is cut short: {what}"));
    let end = find(answer, b"\r\n\r\n").ok_or_else(|| cut("no head"))?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| cut("no status"))?;
    let field = |name: &str| {
        head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim().to_owned()))
    };
    let rest = &answer[end + 4..];
    if field("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        return Ok(Answer { status, body: unchunk(rest).ok_or_else(|| cut("chunks"))? });
    }
    let length = field("content-length").and_then(|v| v.parse::<usize>().ok());
    match length {
        Some(n) if rest.len() < n => Err(cut("body")),
        Some(n) => Ok(Answer { status, body: rest[..n].to_vec() }),
        None => Ok(Answer { status, body: rest.to_vec() }),
    }
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = find(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(line + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_answer_is_an_error_and_never_a_short_body() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(parse(whole).unwrap().body, b"hello");
        assert!(parse(&whole[..whole.len() - 1]).is_err());
        let chunked =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, b"abcde");
        assert!(parse(&chunked[..chunked.len() - 6]).is_err());
    }
}
