//! TLS of probes: whom they trust and what they agree on.

use super::plan::Key;
use rustls::{ClientConfig, pki_types::ServerName};
use std::sync::{Arc, LazyLock};
use zonekeeper_core::model::CheckKind;
use zonekeeper_proxy::CheckTls;

/// What HTTP/2 is called in a handshake (RFC 9113 §3.2).
pub(super) const H2: &[u8] = b"h2";

/// How one stream's probes shake hands.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// The files of the pool whose backend is checked.
    pool: CheckTls,
}

/// One probe's handshake.
#[derive(Debug, Clone)]
pub(super) enum Handshake {
    /// None: no TLS is asked for.
    Plain,
    /// With a server of this name.
    Tls(Arc<ClientConfig>, ServerName<'static>),
    /// The name is none that a certificate can have, or the pool's files were never readable.
    Impossible,
}

impl Trust {
    /// The handshake of the next probe. A backend is trusted, and is shown a certificate, as the proxy does it; anything
    /// else is trusted as the system does it; with `verify = false` any certificate will do.
    pub(super) fn handshake(&mut self, key: &Key) -> Handshake {
        let (tls, verify, host, http2) = match &key.check.kind {
            CheckKind::Tcp => return Handshake::Plain,
            CheckKind::Http(http) => (http.tls, http.verify, &http.host, false),
            CheckKind::Http2(http) => (http.tls, http.verify, &http.host, true),
            CheckKind::Grpc(grpc) => (grpc.tls, grpc.verify, &grpc.host, true),
        };
        if !tls {
            return Handshake::Plain;
        }
        let host = if host.is_empty() { &key.host } else { host };
        let pool = key.tls.as_ref().filter(|_| verify);
        let config = match pool {
            Some(spec) => self.pool.config(spec, http2),
            None if verify => Some(VERIFYING[usize::from(http2)].clone()),
            None => Some(TRUSTING[usize::from(http2)].clone()),
        };
        let name = pool.and_then(|p| p.name.clone()).unwrap_or_else(|| host.clone());
        match (config, ServerName::try_from(name)) {
            (Some(config), Ok(name)) => Handshake::Tls(config, name),
            _ => Handshake::Impossible,
        }
    }
}

/// The same for HTTP/1.1 and for HTTP/2.
type Both = [Arc<ClientConfig>; 2];

fn both(http1: ClientConfig) -> Both {
    let mut http2 = http1.clone();
    http2.alpn_protocols = vec![H2.to_vec()];
    [http1, http2].map(Arc::new)
}

static VERIFYING: LazyLock<Both> = LazyLock::new(|| {
    let mut roots = rustls::RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        tracing::warn!(
            "this machine trusts no CA, so every check over TLS fails here; install CA certificates or set `verify = false`"
        );
    }
    both(builder().with_root_certificates(roots).with_no_client_auth())
});

static TRUSTING: LazyLock<Both> = LazyLock::new(|| {
    let verifier = Arc::new(unverified::AnyCertificate::default());
    both(builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
});

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|e| unreachable!("aws-lc-rs has the default TLS versions: {e}"))
}

mod unverified {
    //! For checks with `verify = false`: any certificate will do, the handshake's signature is still checked.

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct AnyCertificate(CryptoProvider);

    impl Default for AnyCertificate {
        fn default() -> Self {
            AnyCertificate(aws_lc_rs::default_provider())
        }
    }

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
