//! Options of TCP connections between nodes.

use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No Nagle (a heartbeat waits for nothing); unacknowledged data ends the connection after `patience`, since the
/// kernel's own retries would go on for a quarter of an hour (RFC 5482, RFC 1122 §4.2.3.5).
pub(crate) fn tune(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(patience))
}

/// Time that a refused peer has to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of a refused peer that are read and thrown away.
const LINGER_BYTES: u64 = 64 << 10;

/// Ends a connection so that the last frame or alert arrives: closing with unread bytes would send a reset, which may
/// overtake it.
pub(crate) async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let drain = async {
        let _ = io.shutdown().await;
        let mut rest = io.take(LINGER_BYTES);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    };
    let _ = timeout(LINGER, drain).await;
}
