//! Connecting to a peer: TCP, TLS, hello.

use crate::{
    Lane, NodeId,
    conn::Driver,
    error::Loss,
    frame::{self, HELLO_LIMIT, Reader, Type},
    hello::{self, Failed, Hello, VERSION_MAX, VERSION_MIN, Welcome},
    keys::Identity,
    link::Stats,
    refusal::Refusal,
    shared::Shared,
    socket, tls,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncWriteExt, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zonekeeper_core::codec;

/// Time for TCP's three packets: above the slowest path on earth. The kernel would repeat a lost SYN after 1 s; so does
/// the next attempt.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);
/// Time for TLS and hello, on both sides.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// Connects one lane to a peer.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    stats: &Arc<Stats>,
    (node, lane): (NodeId, Lane),
    addr: SocketAddr,
) -> Result<Driver, Failed> {
    let tcp = timeout(CONNECT, TcpStream::connect(addr)).await.map_err(|_| Failed::Loss(Loss::Timeout))??;
    let patience = if lane == Lane::Bulk { shared.silence * 10 } else { shared.silence };
    socket::tune(&tcp, patience)?;
    let done = timeout(HANDSHAKE, handshake(shared, stats, (node, lane), tcp)).await;
    let result = done.unwrap_or(Err(Failed::Loss(Loss::Timeout)));
    if let Err(Failed::Refused { why, by_peer: false }) = result {
        shared.refusals.count(why, addr, Some(node));
    }
    result
}

async fn handshake(
    shared: &Arc<Shared>,
    stats: &Arc<Stats>,
    (node, lane): (NodeId, Lane),
    tcp: TcpStream,
) -> Result<Driver, Failed> {
    let ours = shared.tls();
    let name = tls::server_name(shared.cluster, node).map_err(|_| Failed::Loss(Loss::Network))?;
    let stream = TlsConnector::from(ours.client.clone()).connect(name, tcp).await?;
    // The name was verified; what is read here is the end of validity, and the id once more.
    let theirs = peer_identity(stream.get_ref().1).filter(|id| id.node == node);
    let theirs = theirs.ok_or(Failed::Refused { why: Refusal::Identity, by_peer: false })?;
    let ends = theirs.not_after.min(ours.identity.not_after);
    let (read, mut write) = split(stream);
    let settings = shared.settings();
    let (cluster, me) = (shared.cluster, shared.node);
    let hello = Hello { min: VERSION_MIN, max: VERSION_MAX, cluster, node: me, lane, settings };
    let mut reader = Reader::new(read);
    // In TLS 1.3 the server judges our certificate after we are done: a failed write means that its alert is there to
    // be read.
    let sent = write.write_all(&frame::encode(Type::Hello, 0, &codec::bytes(&hello))).await;
    let _ = sent.and(write.flush().await);
    let welcome = welcome(&mut reader).await?;
    stats.saw_settings(welcome.settings);
    Ok(Driver::new((shared.clone(), stats.clone()), (node, lane), (ours, ends), reader, write))
}

async fn welcome(reader: &mut Reader<tokio::io::ReadHalf<TlsStream<TcpStream>>>) -> Result<Welcome, Failed> {
    let frame = reader.next(HELLO_LIMIT).await?;
    let refused = |why, by_peer| Err(Failed::Refused { why, by_peer });
    match frame.kind {
        Type::Welcome => match codec::from_bytes::<Welcome>(&frame.body) {
            Ok(welcome) if hello::common_version(welcome.version, welcome.version).is_some() => Ok(welcome),
            Ok(_) => refused(Refusal::Version, false),
            Err(_) => refused(Refusal::Garbage, false),
        },
        Type::Goodbye => refused(hello::goodbye_reason(&frame), true),
        _ => refused(Refusal::Garbage, false),
    }
}

/// Who the verified certificate of the other side says it is.
pub(crate) fn peer_identity(connection: &rustls::CommonState) -> Option<Identity> {
    Identity::of(connection.peer_certificates()?.first()?)
}
