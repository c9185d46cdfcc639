//! The listening side: accept, handshake, and who may stay.

use crate::{
    Lane, NodeId,
    dial::{HANDSHAKE, peer_identity},
    frame::{self, HELLO_LIMIT, Reader, Type},
    hello::{self, Failed, Hello, Welcome},
    join_server,
    keys::Identity,
    refusal::Refusal,
    serve,
    shared::{Shared, lock},
    socket, tls,
};
use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, ReadHalf, split},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use zonekeeper_core::codec;

/// Handshakes at once, from addresses of known peers and from others: a flood of strangers leaves the peers' share
/// alone. A handshake costs a millisecond and some 100 KiB.
const HANDSHAKES: usize = 64;
/// Connections of one peer for one lane: one, its replacement, and what a crashed process has left.
const PER_LANE: usize = 4;

/// Connections from peers that are up, so that a peer cannot have more than [`PER_LANE`] of a lane.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    up: Mutex<HashMap<(NodeId, Lane), VecDeque<CancellationToken>>>,
    pub(crate) joins: join_server::Joins,
}

impl Incoming {
    /// Takes a new connection in; the oldest of the same peer and lane goes when there are too many.
    fn enter(&self, who: (NodeId, Lane)) -> CancellationToken {
        let mut up = lock(&self.up);
        let mine = up.entry(who).or_default();
        mine.retain(|other| !other.is_cancelled());
        if mine.len() >= PER_LANE
            && let Some(oldest) = mine.pop_front()
        {
            oldest.cancel();
        }
        let token = CancellationToken::new();
        mine.push_back(token.clone());
        token
    }

    /// A connection has ended.
    fn leave(&self, who: (NodeId, Lane), token: &CancellationToken) {
        token.cancel();
        let mut up = lock(&self.up);
        if let Some(mine) = up.get_mut(&who) {
            mine.retain(|other| !other.is_cancelled());
            if mine.is_empty() {
                up.remove(&who);
            }
        }
    }
}

/// A verified connection from a peer.
pub(crate) struct Accepted {
    pub(crate) stream: tokio::io::WriteHalf<TlsStream<TcpStream>>,
    pub(crate) reader: Reader<ReadHalf<TlsStream<TcpStream>>>,
    pub(crate) peer: Identity,
    pub(crate) lane: Lane,
    pub(crate) addr: SocketAddr,
}

/// Accepts connections for ever.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let [known, others] = [(); 2].map(|()| Arc::new(Semaphore::new(HANDSHAKES)));
    loop {
        let (tcp, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was taken: neither ends the listener.
                tracing::debug!(%error, "accept");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let share = if shared.knows(addr.ip()) { &known } else { &others };
        match share.clone().try_acquire_owned() {
            Ok(permit) => {
                let task = connection(shared.clone(), tcp, addr, permit);
                drop(shared.spawn(task));
            }
            Err(_) => shared.refusals.count(Refusal::Limit, addr, None),
        }
    }
}

/// One connection from its first byte to its last.
async fn connection(shared: Arc<Shared>, tcp: TcpStream, addr: SocketAddr, permit: OwnedSemaphorePermit) {
    if let Err(error) = socket::tune(&tcp, shared.silence * 10) {
        tracing::debug!(%addr, %error, "socket options");
    }
    let stream = match timeout(HANDSHAKE, handshake(&shared, tcp, addr)).await {
        Ok(Some(stream)) => stream,
        Ok(None) => return,
        Err(_) => return shared.refusals.count(Refusal::Limit, addr, None),
    };
    if stream.get_ref().1.alpn_protocol() == Some(tls::JOIN) {
        drop(permit);
        return join_server::serve(&shared, stream, addr).await;
    }
    let Some(accepted) = timeout(HANDSHAKE, admit(&shared, stream, addr)).await.ok().flatten() else {
        return;
    };
    drop(permit);
    let who = (accepted.peer.node, accepted.lane);
    let token = shared.incoming.enter(who);
    // The guard leaves also when the transport stops and drops this future.
    let _guard = Leave(shared.clone(), who, token.clone());
    token.run_until_cancelled(serve::run(&shared, accepted)).await;
}

struct Leave(Arc<Shared>, (NodeId, Lane), CancellationToken);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.incoming.leave(self.1, &self.2);
    }
}

/// TLS; what the ALPN asks for decides whether a certificate is needed.
async fn handshake(shared: &Shared, tcp: TcpStream, addr: SocketAddr) -> Option<TlsStream<TcpStream>> {
    let ours = shared.tls();
    let mut lazy = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
    let start = match (&mut lazy).await {
        Ok(start) => start,
        Err(error) => {
            refused(shared, error, addr, lazy.take_io()).await;
            return None;
        }
    };
    let joins = start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == tls::JOIN));
    let config = if joins { ours.join.clone() } else { ours.server.clone() };
    match start.into_stream(config).into_fallible().await {
        Ok(stream) => Some(stream),
        Err((error, tcp)) => {
            refused(shared, error, addr, Some(tcp)).await;
            None
        }
    }
}

/// Counts a failed TLS handshake and lets the peer read its alert.
async fn refused(shared: &Shared, error: std::io::Error, addr: SocketAddr, tcp: Option<TcpStream>) {
    match Failed::from(error) {
        Failed::Refused { why, by_peer: false } => {
            shared.refusals.count(why, addr, None);
            if let Some(tcp) = tcp {
                socket::linger(tcp).await;
            }
        }
        other => tracing::debug!(%addr, ?other, "handshake of a caller failed"),
    }
}

/// Hello and welcome: who, which lane, may it?
async fn admit(shared: &Shared, stream: TlsStream<TcpStream>, addr: SocketAddr) -> Option<Accepted> {
    let peer = peer_identity(stream.get_ref().1);
    let (read, mut write) = split(stream);
    let mut reader = Reader::new(read);
    let checked = match (peer, reader.next(HELLO_LIMIT).await) {
        (Some(peer), Ok(frame)) => check(shared, &peer, &frame).map(|hello| (peer, hello)),
        (None, _) => Err(Refusal::Stranger),
        (_, Err(error)) => match Failed::from(error) {
            Failed::Refused { why, by_peer: false } => Err(why),
            _ => return None, // the caller refused us, or is gone
        },
    };
    match checked {
        Ok((peer, (hello, version))) => {
            shared.saw_settings(peer.node, hello.settings);
            let welcome = Welcome { version, settings: shared.settings() };
            write.write_all(&frame::encode(Type::Welcome, 0, &codec::bytes(&welcome))).await.ok()?;
            write.flush().await.ok()?;
            Some(Accepted { stream: write, reader, peer, lane: hello.lane, addr })
        }
        Err(why) => {
            shared.refusals.count(why, addr, peer.map(|peer| peer.node));
            let _ = write.write_all(&hello::goodbye(why)).await;
            socket::linger(reader.into_inner().unsplit(write)).await;
            None
        }
    }
}

fn check(shared: &Shared, peer: &Identity, frame: &frame::Frame) -> Result<(Hello, u16), Refusal> {
    if frame.kind != Type::Hello {
        return Err(Refusal::Garbage);
    }
    let hello: Hello = codec::from_bytes(&frame.body).map_err(|_| Refusal::Garbage)?;
    let version = hello::common_version(hello.min, hello.max).ok_or(Refusal::Version)?;
    match () {
        () if hello.cluster != shared.cluster => Err(Refusal::WrongCluster),
        () if hello.node != peer.node || peer.node == shared.node => Err(Refusal::Identity),
        () if !shared.allows(peer.node) => Err(Refusal::NotAllowed),
        () => Ok((hello, version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_connection_of_a_lane_goes_when_there_are_too_many() {
        let incoming = Incoming::default();
        let tokens: Vec<_> = (0..=PER_LANE).map(|_| incoming.enter((1, Lane::Raft))).collect();
        let other = incoming.enter((1, Lane::Bulk));
        assert_eq!(
            tokens.iter().map(|t| t.is_cancelled()).collect::<Vec<_>>(),
            [true, false, false, false, false]
        );
        tokens.iter().for_each(|token| incoming.leave((1, Lane::Raft), token));
        incoming.leave((1, Lane::Bulk), &other);
        assert!(lock(&incoming.up).is_empty());
    }
}
