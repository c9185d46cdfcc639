//! TLS 1.3 configurations and the mapping between TLS errors and refusals.
//!
//! Sessions are never resumed: rustls does not look at a certificate again when it resumes, so an expired or removed
//! node could come back with an old ticket. A full P-256 handshake is well under a millisecond of CPU.

use crate::{
    keys::{Credentials, Identity, KeyError, name},
    refusal::Refusal,
};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use std::{
    io,
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

/// ALPN (RFC 7301) of connections between members.
pub(crate) const PEER: &[u8] = b"zonekeeper-peer/1";
/// ALPN of a join: no client certificate.
pub(crate) const JOIN: &[u8] = b"zonekeeper-join/1";

/// The one crypto provider: aws-lc-rs, explicit, so that no other crate's choice of a process default matters.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Whether a certificate was signed by this CA and was valid at `at`.
pub(crate) fn signed_by(leaf: &CertificateDer<'_>, ca: &CertificateDer<'_>, at: SystemTime) -> bool {
    let now = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    verify_chain(leaf, ca, now).is_ok()
}

fn verify_chain(leaf: &CertificateDer<'_>, ca: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    let leaf = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(
        &leaf,
        &roots,
        &[],
        now,
        provider().signature_verification_algorithms.all,
    )
}

/// Everything that a handshake needs, made of one set of credentials.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) join: Arc<ServerConfig>,
    /// This node, as its own certificate says.
    pub(crate) identity: Identity,
}

fn tls_error(e: impl std::fmt::Display) -> KeyError {
    KeyError::Crypto { action: "set up TLS", why: e.to_string() }
}

impl Tls {
    /// The configurations of these credentials.
    pub(crate) fn new(credentials: &Credentials) -> Result<Tls, KeyError> {
        let cluster = credentials.cluster();
        let mut roots = RootCertStore::empty();
        for ca in credentials.bundle() {
            roots.add(ca).map_err(tls_error)?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(tls_error)?;
        let servers =
            WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(tls_error)?;
        let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Servers { inner: servers, cluster });
        let mut client = client_builder(verifier)?
            .with_client_auth_cert(credentials.chain(), credentials.key()?)
            .map_err(tls_error)?;
        tune_client(&mut client, PEER);
        let server = |verifier: Arc<dyn ClientCertVerifier>, alpn: &[u8]| {
            server(credentials, verifier, alpn).map(Arc::new)
        };
        Ok(Tls {
            client: Arc::new(client),
            server: server(Arc::new(Clients { inner: clients, cluster }), PEER)?,
            join: server(WebPkiClientVerifier::no_client_auth(), JOIN)?,
            identity: credentials.identity(),
        })
    }
}

fn client_builder(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, KeyError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

fn tune_client(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
}

fn server(
    credentials: &Credentials,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[u8],
) -> Result<ServerConfig, KeyError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain(), credentials.key()?)
        .map_err(tls_error)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A joiner's configuration: no certificate of its own, and the server's chain must end in the pinned CA.
pub(crate) fn joiner(fingerprint: [u8; 32]) -> Result<ClientConfig, KeyError> {
    let mut config = client_builder(Arc::new(Pinned { fingerprint }))?.with_no_client_auth();
    tune_client(&mut config, JOIN);
    Ok(config)
}

/// The name under which a node is called.
pub(crate) fn server_name(cluster: u128, node: u64) -> Result<ServerName<'static>, KeyError> {
    ServerName::try_from(name(cluster, node)).map_err(tls_error)
}

/// Says that a certificate is of another cluster, where it can be told: both sides then explain it better than by
/// "unknown CA". Trust never depends on this.
fn check_cluster(cert: &CertificateDer<'_>, cluster: u128) -> Result<(), Error> {
    match Identity::of(cert) {
        Some(id) if id.cluster == cluster => Ok(()),
        Some(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        None => Err(CertificateError::UnknownIssuer.into()),
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Verifies callers: chain, validity and usage by webpki, then the name's form and cluster.
#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: u128,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // a caller has one certificate; and clusters are not told to strangers
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_cluster(cert, self.cluster)?;
        self.inner.verify_client_cert(cert, chain, now)
    }

    signatures!();
}

/// Verifies the called: chain, validity, usage and the name of the node that we mean by webpki.
#[derive(Debug)]
struct Servers {
    inner: Arc<WebPkiServerVerifier>,
    cluster: u128,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_cluster(cert, self.cluster)?;
        self.inner.verify_server_cert(cert, chain, name, ocsp, now)
    }

    signatures!();
}

/// Verifies a member for a joiner: its chain must hold the CA with this fingerprint and be signed by it.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>, // any member will do
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = chain.iter().find(|ca| Sha256::digest(ca).as_slice() == self.fingerprint);
        let ca = pinned.ok_or(CertificateError::UnknownIssuer)?;
        verify_chain(cert, ca, now)?;
        Identity::of(cert).ok_or(CertificateError::UnknownIssuer)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

/// Which refusal a failed handshake was, and whether the peer was the one who refused; `None` when it was not a
/// refusal but a broken connection.
pub(crate) fn refusal(error: &io::Error) -> Option<(Refusal, bool)> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(why) => (of_certificate(why), false),
        Error::NoCertificatesPresented => (Refusal::Stranger, false),
        Error::AlertReceived(alert) => (of_alert(*alert)?, true),
        _ => (Refusal::Garbage, false),
    })
}

fn of_certificate(why: &CertificateError) -> Refusal {
    use CertificateError as E;
    match why {
        E::Expired | E::ExpiredContext { .. } => Refusal::Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => Refusal::NotYetValid,
        E::ApplicationVerificationFailure => Refusal::WrongCluster,
        E::NotValidForName | E::NotValidForNameContext { .. } => Refusal::Identity,
        _ => Refusal::Stranger,
    }
}

fn of_alert(alert: AlertDescription) -> Option<Refusal> {
    use AlertDescription as A;
    Some(match alert {
        A::CertificateExpired => Refusal::Expired,
        A::AccessDenied => Refusal::WrongCluster,
        A::BadCertificate => Refusal::Identity,
        A::UnknownCA
        | A::DecryptError
        | A::CertificateRequired
        | A::CertificateUnknown
        | A::UnsupportedCertificate => Refusal::Stranger,
        A::NoApplicationProtocol | A::ProtocolVersion => Refusal::Version,
        A::CloseNotify | A::UserCanceled => return None,
        _ => Refusal::Garbage,
    })
}
