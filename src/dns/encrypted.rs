//! DNS over TLS (RFC 7858), HTTPS and QUIC: binds their listeners, whose connections count together.

use crate::{
    bind::Sockets,
    https::Https,
    quic::Quic,
    responder::Transport,
    tcp::{self, Shared},
};
use rustls::{ServerConfig, crypto::aws_lc_rs, server::ResolvesServerCert};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

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
    /// Tasks that accept connections.
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
    Ok(TlsAcceptor::from(Arc::new(server_config(certificate, protocols)?)))
}

/// TLS for these protocols.
pub(crate) fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    protocols: &[&str],
) -> io::Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(config)
}

impl Encrypted {
    /// Binds all and begins to answer on the caller's runtime.
    pub(crate) fn start(
        config: &EncryptedConfig,
        shared: Arc<Shared>,
        sockets: &mut Sockets<'_>,
    ) -> Result<Encrypted, Failure> {
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
            let quic = Quic::new(socket, config.certificate.clone(), shared.clone()).map_err(&wrong)?;
            accepting.push(tokio::spawn(quic.serve()));
            addrs.push((Transport::Quic, real));
        }
        Ok(Encrypted { accepting, addrs })
    }

    /// Waits for all listeners to close, which were told by [`Shared::leave`]; connections over QUIC end with theirs.
    pub(crate) async fn shutdown(self) {
        for accepting in self.accepting {
            drop(accepting.await); // with it the listener is closed
        }
    }
}
