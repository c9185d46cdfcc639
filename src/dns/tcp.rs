//! TCP connections (RFC 7766), and those in TLS (RFC 7858): one task each, queries in a row answered in a row, everything
//! bounded.

use crate::{
    counters::Counters,
    responder::{DnsFlags, Responder, Setup, Transport, View},
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// Limits of all connections together: plain TCP has its share for itself, so that no flood of encrypted queries takes it
/// from those who were told to come again over TCP.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) total: usize,
    pub(crate) per_network: usize,
    pub(crate) idle: Duration,
}

/// Whose connection it is: plain or encrypted, and the client's network: an address of IPv4, a /56 of IPv6, of which one
/// client may have all addresses (RFC 6177 §2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Holder {
    plain: bool,
    network: IpAddr,
}

impl Holder {
    fn of(transport: Transport, ip: IpAddr) -> Holder {
        let network = match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72).into(),
            v4 => v4,
        };
        Holder { plain: transport == Transport::Tcp, network }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) flags: Arc<DnsFlags>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: CancellationToken,
    /// No more connections are accepted; those that are open go on.
    pub(crate) leave: CancellationToken,
    answerer: Mutex<Answerer>,
    open: Mutex<HashMap<Holder, usize>>,
}

/// One responder for all connections, so that weighted answers keep their shares; answers are made without waiting.
struct Answerer {
    responder: Responder,
    buf: Box<[u8]>,
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        limits: Limits,
        setup: &Setup,
        published: Arc<ArcSwap<Published>>,
        flags: Arc<DnsFlags>,
        counters: Arc<Counters>,
    ) -> Shared {
        let responder = setup.responder(counters.clone());
        let answerer = Mutex::new(Answerer { responder, buf: vec![0; usize::from(u16::MAX)].into() });
        let open = Mutex::new(HashMap::new());
        let stop = CancellationToken::new();
        Shared { limits, published, flags, counters, leave: stop.child_token(), stop, answerer, open }
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        locked(&self.open).values().sum()
    }

    /// Counts a connection in; none when a limit is reached.
    pub(crate) fn admit(self: &Arc<Shared>, transport: Transport, ip: IpAddr) -> Option<Admitted> {
        let holder = Holder::of(transport, ip);
        let mut open = locked(&self.open);
        let total: usize = open.iter().filter(|(h, _)| h.plain == holder.plain).map(|(_, n)| n).sum();
        let mine = open.get(&holder).copied().unwrap_or(0);
        if total >= self.limits.total || mine >= self.limits.per_network {
            self.counters.limited();
            return None;
        }
        open.insert(holder, mine + 1);
        Some(Admitted { shared: self.clone(), holder })
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
        let mut guard = locked(&self.answerer);
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

/// A connection that is counted; it counts itself out.
pub(crate) struct Admitted {
    shared: Arc<Shared>,
    holder: Holder,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = locked(&self.shared.open);
        match open.get_mut(&self.holder) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(open.remove(&self.holder)),
        }
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
    let stop = shared.stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = open(stream, peer, tls, &admitted.shared) => {}
        }
    });
}

/// The connection with its handshake, which counts as a first wait.
async fn open(
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: &Shared,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return connection(&mut stream, Transport::Tcp, peer, shared).await };
    let idle = shared.limits.idle;
    let mut stream = timeout(idle, tls.accept(stream)).await??;
    connection(&mut stream, Transport::Tls, peer, shared).await?;
    timeout(idle, stream.shutdown()).await? // says that nothing was cut off
}

/// One connection: whole frames are answered as they come; a frame that takes longer than the idle time ends it.
async fn connection<S>(
    stream: &mut S,
    transport: Transport,
    peer: SocketAddr,
    shared: &Shared,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut input, mut out): (Vec<u8>, Vec<u8>) = (Vec::with_capacity(512), Vec::new());
    loop {
        let idle = shared.limits.idle;
        if !timeout(idle, fill(stream, &mut input)).await?? {
            return Ok(());
        }
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
