//! TCP connections (RFC 7766), and those in TLS (RFC 7858): one task each, queries in a row answered in a row, everything
//! bounded.

use crate::{
    connections::{Admission, Admitted, Connections},
    counters::Counters,
    responder::{DnsFlags, Responder, Setup, Transport, View},
};
use arc_swap::ArcSwap;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use zonekeeper_core::Published;

/// Longest query: a question, OPT and every option that is in use fit many times; a longer one ends the connection.
pub(crate) const MAX_QUERY: usize = 4096;
/// Answers that may wait in memory for a slow reader.
const MAX_PENDING: usize = 64 << 10;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) connections: Arc<Connections>,
    /// Longest wait for a query, or for a client that does not read.
    pub(crate) idle: Duration,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) flags: Arc<DnsFlags>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: CancellationToken,
    /// No more connections are accepted; those that are open go on.
    pub(crate) leave: CancellationToken,
    answerer: Mutex<Answerer>,
}

/// One responder for all connections, so that weighted answers keep their shares; answers are made without waiting.
struct Answerer {
    responder: Responder,
    buf: Box<[u8]>,
}

impl Shared {
    pub(crate) fn new(
        (connections, idle): (Connections, Duration),
        setup: &Setup,
        published: Arc<ArcSwap<Published>>,
        flags: Arc<DnsFlags>,
        counters: Arc<Counters>,
    ) -> Shared {
        let responder = setup.responder(counters.clone());
        let answerer = Mutex::new(Answerer { responder, buf: vec![0; usize::from(u16::MAX)].into() });
        let (connections, stop) = (Arc::new(connections), CancellationToken::new());
        Shared { connections, idle, published, flags, counters, leave: stop.child_token(), stop, answerer }
    }

    /// Takes a connection in; none when a limit is reached.
    pub(crate) fn admit(&self, transport: Transport, ip: IpAddr) -> Option<Arc<Admitted>> {
        match self.connections.admit(transport, ip) {
            Admission::Free(admitted) => Some(admitted),
            Admission::Replaced(admitted) => {
                self.counters.replaced();
                Some(admitted)
            }
            Admission::Refused => {
                self.counters.limited();
                None
            }
        }
    }

    /// Lets a connection go on until it ends by itself, the server stops, or its time after it was replaced is over.
    pub(crate) async fn run<T>(&self, admitted: &Admitted, connection: impl Future<Output = T>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = admitted.overdue() => {}
            _ = connection => {}
        }
    }

    /// Appends the answer to `out`, framed. False when there is none: then the connection ends.
    pub(crate) fn answer(
        &self,
        transport: Transport,
        peer: SocketAddr,
        query: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        if query.len() > MAX_QUERY {
            return false;
        }
        let mut guard = self.answerer.lock().unwrap_or_else(PoisonError::into_inner);
        let Answerer { responder, buf } = &mut *guard;
        let now = self.published.load();
        responder.prepare(&now.dns);
        buf[..query.len()].copy_from_slice(query);
        let (secrets, geo) = (self.flags.secrets.0.load(), self.flags.geo.load());
        let view = View {
            table: &now.dns,
            condition: self.flags.condition(),
            secrets: (**secrets).as_ref(),
            geo: (**geo).as_ref(),
            transport,
        };
        let Some(len) = responder.answer_to(&view, Some(peer), buf, query.len()) else { return false };
        out.extend_from_slice(&(len as u16).to_be_bytes());
        out.extend_from_slice(&buf[..len]);
        true
    }
}

/// Accepts until it is told to stop; with an acceptor the connections are in TLS.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    loop {
        let accepted = tokio::select! {
            () = shared.leave.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &shared, tls.clone()),
            Err(_) => sleep(Duration::from_millis(20)).await, // out of descriptors: wait for some to close
        }
    }
}

fn admit(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, tls: Option<TlsAcceptor>) {
    let transport = if tls.is_some() { Transport::Tls } else { Transport::Tcp };
    let Some(admitted) = shared.admit(transport, peer.ip()) else { return };
    let shared = shared.clone();
    tokio::spawn(async move {
        shared.run(&admitted, open(stream, peer, tls, (&shared, &admitted))).await;
    });
}

/// The connection with its handshake, which counts as a first wait.
async fn open(
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    (shared, admitted): (&Shared, &Arc<Admitted>),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return connection(&mut stream, Transport::Tcp, peer, (shared, admitted)).await;
    };
    let mut stream = tokio::select! {
        () = admitted.replaced() => return Ok(()),
        stream = timeout(shared.idle, tls.accept(stream)) => stream??,
    };
    connection(&mut stream, Transport::Tls, peer, (shared, admitted)).await?;
    timeout(shared.idle, stream.shutdown()).await? // says that nothing was cut off
}

/// One connection: whole frames are answered as they come; a frame that takes longer than the idle time ends it.
async fn connection<S>(
    stream: &mut S,
    transport: Transport,
    peer: SocketAddr,
    (shared, admitted): (&Shared, &Arc<Admitted>),
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut input, mut out): (Vec<u8>, Vec<u8>) = (Vec::with_capacity(512), Vec::new());
    let idle = shared.idle;
    loop {
        let more = tokio::select! {
            biased;
            more = timeout(idle, fill(stream, &mut input)) => more??,
            () = admitted.replaced() => false,
        };
        if !more {
            return Ok(());
        }
        let working = admitted.works();
        let (mut at, mut good) = (0, true);
        while good && let Some(query) = frame(&input[at..]) {
            at += 2 + query.len();
            good = shared.answer(transport, peer, query, &mut out);
            if out.len() >= MAX_PENDING {
                timeout(idle, stream.write_all(&out)).await??;
                out.clear();
            }
        }
        input.drain(..at);
        timeout(idle, stream.write_all(&out)).await??;
        timeout(idle, stream.flush()).await??;
        if !good {
            return Ok(()); // what came before it has its answers
        }
        out.clear();
        out.shrink_to(MAX_QUERY); // a quiet connection keeps little memory
        drop(working);
    }
}

/// Reads until a whole frame is there; false when the peer has closed or sends what is no query.
async fn fill(stream: &mut (impl AsyncRead + Unpin), input: &mut Vec<u8>) -> io::Result<bool> {
    while frame(input).is_none() {
        let too_long = input.len() >= 2 && usize::from(u16::from_be_bytes([input[0], input[1]])) > MAX_QUERY;
        if too_long || stream.read_buf(input).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first whole frame.
fn frame(input: &[u8]) -> Option<&[u8]> {
    let (head, rest) = input.split_at_checked(2)?;
    let len = usize::from(u16::from_be_bytes([head[0], head[1]]));
    rest.get(..len).filter(|_| len <= MAX_QUERY)
}
