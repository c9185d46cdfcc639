//! DNS over TLS (RFC 7858) and HTTPS by listeners of our own, whose connections count as TCP connections do, and over QUIC
//! (RFC 9250) by that of hickory-server.
//!
//! That one accepts, decrypts and frames; a handler of ours gives it the answer. It gets the query's bytes and has them
//! answered by the one function that answers all transports. hickory-server cannot send bytes that are encoded already, so
//! the answer is read into its types and written again there: the same records, with names compressed. What its types
//! cannot hold (a TYPE65280 without data, a CAA tag of more than 15 letters) is SERVFAIL over QUIC. It has no limit on
//! connections; each ends when it was idle, or after 100 queries.

use crate::{
    bind::Sockets,
    https::Https,
    responder::Transport,
    tcp::{self, Shared},
};
use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Header, HeaderCounts, Message, MessageType, Metadata, ResponseCode},
        rr::{
            Record,
            rdata::opt::{EdnsCode, EdnsOption},
        },
        serialize::binary::BinEncoder,
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::{MessageResponse, MessageResponseBuilder},
};
use rustls::{ServerConfig, crypto::aws_lc_rs, server::ResolvesServerCert};
use std::{
    io,
    iter::{Empty, empty},
    net::SocketAddr,
    slice,
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Answers are padded to a multiple of so many bytes (RFC 8467 §4.1).
const PAD_TO: usize = 468;

/// How a server listens for encrypted queries. Port 0 takes a free one.
#[derive(Debug, Clone)]
pub struct EncryptedConfig {
    /// Addresses of DNS over TLS; usually port 853.
    pub tls: Vec<SocketAddr>,
    /// Addresses of DNS over HTTPS; usually port 443.
    pub https: Vec<SocketAddr>,
    /// Addresses of DNS over QUIC; usually port 853.
    pub quic: Vec<SocketAddr>,
    /// Path of DNS over HTTPS; usually `/dns-query`.
    pub path: String,
    /// Gives the certificate of each handshake, so that it may change while the server runs.
    pub certificate: Arc<dyn ResolvesServerCert>,
}

/// The listeners, while they run.
pub(crate) struct Encrypted {
    server: Server<Front>,
    /// Tasks that accept connections for TLS and HTTPS.
    accepting: Vec<JoinHandle<()>>,
    /// Where they listen: TLS, HTTPS, QUIC.
    pub(crate) addrs: Vec<(Transport, SocketAddr)>,
}

/// What could not be bound.
pub(crate) struct Failure {
    pub(crate) addr: SocketAddr,
    pub(crate) transport: &'static str,
    pub(crate) source: io::Error,
}

/// Makes connections TLS connections for these protocols.
pub(crate) fn acceptor(
    certificate: Arc<dyn ResolvesServerCert>,
    protocols: &[&str],
) -> io::Result<TlsAcceptor> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Encrypted {
    /// Binds all and begins to answer on the caller's runtime.
    pub(crate) fn start(
        config: &EncryptedConfig,
        idle: Duration,
        shared: Arc<Shared>,
        sockets: &mut Sockets<'_>,
    ) -> Result<Encrypted, Failure> {
        let mut server = Server::new(Front { shared: shared.clone() });
        let (mut addrs, mut accepting) = (Vec::new(), Vec::new());
        let failure = |addr, transport| move |source| Failure { addr, transport, source };
        for &addr in &config.tls {
            let wrong = failure(addr, "TLS");
            let (real, listener) = sockets.listen("tls", addr).map_err(&wrong)?;
            let tls = acceptor(config.certificate.clone(), &["dot"]).map_err(&wrong)?;
            accepting.push(tokio::spawn(tcp::serve(listener, shared.clone(), Some(tls))));
            addrs.push((Transport::Tls, real));
        }
        for &addr in &config.https {
            let wrong = failure(addr, "HTTPS");
            let (real, listener) = sockets.listen("https", addr).map_err(&wrong)?;
            let (certificate, path) = (config.certificate.clone(), config.path.clone());
            let https = Https::new(path, certificate, shared.clone()).map_err(&wrong)?;
            accepting.push(tokio::spawn(Arc::new(https).serve(listener)));
            addrs.push((Transport::Https, real));
        }
        for &addr in &config.quic {
            let wrong = failure(addr, "QUIC");
            let (real, socket) = sockets.quic(addr).map_err(&wrong)?;
            server.register_quic_listener(socket, idle, config.certificate.clone()).map_err(&wrong)?;
            addrs.push((Transport::Quic, real));
        }
        Ok(Encrypted { server, accepting, addrs })
    }

    /// Waits for all listeners to close, which those for TLS and HTTPS were told by [`Shared::leave`]; connections over
    /// QUIC end.
    pub(crate) async fn shutdown(mut self) {
        for accepting in self.accepting {
            drop(accepting.await); // with it the listener is closed
        }
        if let Err(e) = self.server.shutdown_gracefully().await {
            tracing::warn!("a listener of encrypted DNS had ended before: {e}");
        }
    }

    /// Tells all listeners to stop.
    pub(crate) fn halt(&self) {
        self.server.shutdown_token().cancel();
    }
}

type Records<'a> = slice::Iter<'a, Record>;

/// Hands the queries of hickory-server's listeners to the function that answers all transports.
struct Front {
    shared: Arc<Shared>,
}

#[async_trait::async_trait]
impl RequestHandler for Front {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let Some(mut answer) = self.answer(request) else { return failed(request) };
        pad(request, &mut answer);
        let message = response(request, &answer);
        match out.send_response(message).await {
            Ok(info) => info,
            Err(_) => failed(request), // the client has gone
        }
    }
}

impl Front {
    fn answer(&self, request: &Request) -> Option<Message> {
        let mut bytes = Vec::new();
        if !self.shared.answer(Transport::Quic, request.src(), request.as_slice(), &mut bytes) {
            return None;
        }
        // Where hickory-server's types cannot hold the records, the client shall ask somebody else, and not wait.
        Some(Message::from_vec(bytes.get(2..)?).unwrap_or_else(|_| {
            let (id, code) = (request.metadata.id, request.metadata.op_code);
            Message::error_msg(id, code, ResponseCode::ServFail)
        }))
    }
}

fn response<'a>(
    request: &'a Request,
    answer: &'a Message,
) -> MessageResponse<'a, 'a, Records<'a>, Records<'a>, Empty<&'a Record>, Records<'a>> {
    let builder = MessageResponseBuilder::new(&request.queries, answer.edns.as_ref());
    builder.build(answer.metadata, &answer.answers, &answer.authorities, empty(), &answer.additionals)
}

/// Padding is counted again, for the message is written anew, and not with the same length.
fn pad(request: &Request, answer: &mut Message) {
    let Some(edns) = answer.edns.as_mut().filter(|e| e.option(EdnsCode::Padding).is_some()) else { return };
    let padding = |bytes| EdnsOption::Unknown(EdnsCode::Padding.into(), vec![0; bytes]);
    edns.options_mut().remove(EdnsCode::Padding);
    edns.options_mut().insert(padding(0));
    let mut bytes = Vec::with_capacity(PAD_TO);
    if response(request, answer).destructive_emit(&mut BinEncoder::new(&mut bytes)).is_err() {
        return;
    }
    if let Some(edns) = answer.edns.as_mut() {
        edns.options_mut().remove(EdnsCode::Padding);
        edns.options_mut().insert(padding(bytes.len().next_multiple_of(PAD_TO) - bytes.len()));
    }
}

/// What is said to hickory-server, and only there, when nothing was sent.
fn failed(request: &Request) -> ResponseInfo {
    let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    metadata.response_code = ResponseCode::ServFail;
    ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
}
