//! DNS over QUIC (RFC 9250): a stream for each query, answered with the bytes that every transport gets.
//!
//! The listener is our own, on quinn: that of hickory-server waits for one handshake before it looks at the next, so that
//! a few first packets of senders who never go on keep everybody out, and it has no limit on connections. Its error codes
//! are used here.

use crate::{
    connections::{Admitted, FAREWELL},
    encrypted::server_config,
    responder::Transport,
    tcp::{MAX_QUERY, Shared},
};
use hickory_server::net::quic::DoqErrorCode;
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, ServerConfig, TokioRuntime,
    TransportConfig, VarInt, crypto::rustls::QuicServerConfig,
};
use rustls::server::ResolvesServerCert;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{error::Elapsed, timeout},
};

/// Queries of one connection at once.
const STREAMS: u32 = 100;
/// Handshakes at once of clients that did not show that their address is theirs; the next ones are asked to (RFC 9000
/// §8.1.2), which costs them a round trip and us no memory.
const UNPROVEN: usize = 64;

/// One listener.
pub(crate) struct Quic {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    unproven: Arc<Semaphore>,
}

impl Quic {
    pub(crate) fn new(
        socket: UdpSocket,
        certificate: Arc<dyn ResolvesServerCert>,
        shared: Arc<Shared>,
    ) -> io::Result<Quic> {
        let tls =
            QuicServerConfig::try_from(server_config(certificate, &["doq"])?).map_err(io::Error::other)?;
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(STREAMS.into())
            .max_concurrent_uni_streams(0u32.into())
            .stream_receive_window((MAX_QUERY as u32 + 2).into())
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(shared.idle.try_into().ok());
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config.transport_config(Arc::new(transport));
        let socket = socket.into_std()?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
        Ok(Quic { endpoint, shared, unproven: Arc::new(Semaphore::new(UNPROVEN)) })
    }

    /// Accepts until it is told to stop; then all connections end.
    pub(crate) async fn serve(self) {
        loop {
            let incoming = tokio::select! {
                () = self.shared.leave.cancelled() => break,
                incoming = self.endpoint.accept() => incoming,
            };
            match incoming {
                Some(incoming) => self.admit(incoming),
                None => break,
            }
        }
        self.endpoint.close(DoqErrorCode::NoError.into(), b"");
        let _ = timeout(FAREWELL, self.endpoint.wait_idle()).await; // whoever does not hear it finds out
    }

    fn admit(&self, incoming: Incoming) {
        let mut unproven = None;
        if !incoming.remote_address_validated() {
            // nobody's place is for one that may not exist
            let full = self.shared.connections.are_full(Transport::Quic);
            match self.unproven.clone().try_acquire_owned() {
                Ok(permit) if !full => unproven = Some(permit),
                _ => return drop(incoming.retry()),
            }
        }
        let peer = incoming.remote_address();
        let Some(admitted) = self.shared.admit(Transport::Quic, peer.ip()) else { return incoming.refuse() };
        let shared = self.shared.clone();
        tokio::spawn(async move {
            shared.run(&admitted, open(incoming, unproven, peer, (&shared, &admitted))).await;
        });
    }
}

/// Shakes hands and answers until the client is silent for too long, whatever it sends beside queries.
async fn open(
    incoming: Incoming,
    unproven: Option<OwnedSemaphorePermit>,
    peer: SocketAddr,
    (shared, admitted): (&Arc<Shared>, &Arc<Admitted>),
) -> Option<()> {
    let idle = shared.idle;
    let connection = tokio::select! {
        () = admitted.replaced() => return None,
        connection = timeout(idle, incoming.accept().ok()?) => connection.ok()?.ok()?,
    };
    drop(unproven);
    let mut queries = JoinSet::new();
    loop {
        tokio::select! {
            biased; // what came before it has to go is answered
            stream = timeout(idle, connection.accept_bi()) => match stream {
                Ok(stream) => {
                    let (stream, shared, here) = (stream.ok()?, shared.clone(), admitted.clone());
                    queries.spawn(query(stream, peer, shared, here));
                }
                Err(Elapsed { .. }) if queries.is_empty() => break,
                Err(Elapsed { .. }) => {}
            },
            Some(ended) = queries.join_next() => if let Ok(Err(code)) = ended {
                return end(&connection, code);
            },
            () = admitted.replaced() => {
                while queries.join_next().await.is_some() {}
                break;
            }
        }
    }
    end(&connection, DoqErrorCode::NoError)
}

fn end(connection: &Connection, code: DoqErrorCode) -> Option<()> {
    connection.close(code.into(), b"");
    None
}

/// Answers the query of one stream. What is no query ends the connection (RFC 9250 §4.3.3).
async fn query(
    (mut send, mut receive): (SendStream, RecvStream),
    peer: SocketAddr,
    shared: Arc<Shared>,
    here: Arc<Admitted>,
) -> Result<(), DoqErrorCode> {
    let idle = shared.idle;
    let refuse = |receive: &mut RecvStream, send: &mut SendStream, code: DoqErrorCode| {
        let code = VarInt::from(code);
        drop((receive.stop(code), send.reset(code))); // it may be closed already
    };
    let query = match timeout(idle, framed(&mut receive)).await {
        Ok(Ok(Some(query))) => query,
        Ok(Ok(None)) => return Err(DoqErrorCode::ProtocolError),
        Ok(Err(_)) => return Ok(()), // the client has taken it back, or is gone
        Err(Elapsed { .. }) => {
            refuse(&mut receive, &mut send, DoqErrorCode::ExcessiveLoad);
            return Ok(());
        }
    };
    let _working = here.works();
    let mut out = Vec::new();
    if !shared.answer(Transport::Quic, peer, &query, &mut out) {
        return Err(DoqErrorCode::ProtocolError);
    }
    if timeout(idle, send.write_all(&out)).await.is_ok_and(|written| written.is_ok()) {
        let _ = send.finish(); // closed: nobody waits for it
        // Until the client has it, the end of the connection would take it back.
        let _ = timeout(FAREWELL, send.stopped()).await;
    }
    Ok(())
}

/// The query with its length before it; none when it is too long, cut off, or has an ID other than 0 (RFC 9250 §4.2.1).
async fn framed(receive: &mut RecvStream) -> Result<Option<Vec<u8>>, quinn::ReadExactError> {
    use quinn::ReadExactError::FinishedEarly;
    let mut len = [0; 2];
    let cut = |e| match e {
        FinishedEarly(_) => Ok(None),
        lost => Err(lost),
    };
    if let Err(e) = receive.read_exact(&mut len).await {
        return cut(e);
    }
    let len = usize::from(u16::from_be_bytes(len));
    if len > MAX_QUERY {
        return Ok(None);
    }
    let mut query = vec![0; len];
    match receive.read_exact(&mut query).await {
        Ok(()) => Ok(Some(query).filter(|q| q.starts_with(&[0, 0]))),
        Err(e) => cut(e),
    }
}
