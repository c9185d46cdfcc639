//! TLS of listeners and to backends: PEM files on this node's disk, read when their owner appears or they change.

mod client;
mod resolver;
mod tickets;

pub use client::CheckTls;
pub(crate) use client::{Backends, Client};
pub use resolver::{Read, Validity, read_bundle, read_files};
pub(crate) use tickets::Secrets;

use resolver::Resolver;
use rustls::{
    CipherSuite, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use std::{collections::BTreeMap, fs, sync::Arc, time::SystemTime};
use tickets::Tickets;
use zonekeeper_core::{
    id::CertificateId,
    model::{Certificate, Http2, Protocol, Tls},
    route::ListenerTable,
    secrets::Bundle,
};

/// What the cluster holds, opened.
type Bundles = BTreeMap<CertificateId, Bundle>;

/// From when to when certificates are good, each with its file or its name in the cluster.
type Dated = Vec<(String, Validity)>;

/// Files and when they were written.
type Written = Vec<Option<SystemTime>>;

fn written<'f>(files: impl IntoIterator<Item = &'f String>) -> Written {
    files.into_iter().map(|f| fs::metadata(f).and_then(|m| m.modified()).ok()).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What a listener agrees to, by our order: AES-128 with SHA-256 first, which costs least on every processor (SHA-384 has no
/// instructions of its own) and is as far out of reach; whoever offers the others alone gets them.
fn serving() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1, // a stable sort: the library's order among the rest
    });
    Arc::new(provider)
}

/// A listener's TLS as it was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    spec: Tls,
    alpn: Vec<Vec<u8>>,
    secrets: Secrets,
    written: Written,
    held: Held,
    dated: Dated,
    pub(crate) config: Arc<ServerConfig>,
}

fn files(spec: &Tls) -> impl Iterator<Item = &String> {
    let pairs = spec.certificates.iter().filter_map(|c| match c {
        Certificate::Files(files) => Some([&files.cert, &files.key]),
        Certificate::Held(_) => None,
    });
    pairs.flatten().chain(&spec.client_ca)
}

/// What the cluster holds for a listener, as it was.
type Held = Vec<Option<Bundle>>;

fn held(listener: &ListenerTable, bundles: &Bundles) -> Held {
    listener.certificates().map(|id| bundles.get(id).cloned()).collect()
}

/// What a client can agree on after the handshake (RFC 7301); bytes of an unknown protocol have no name.
fn alpn(listener: &ListenerTable) -> Vec<Vec<u8>> {
    match (listener.protocol, listener.http2) {
        (Protocol::Http, Http2::Off) => vec![b"http/1.1".to_vec()],
        (Protocol::Http, _) => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        _ => Vec::new(),
    }
}

impl Loaded {
    /// It asks of clients what the listener asks now; its certificates may be others.
    pub(crate) fn asks_the_same(&self, tls: &Tls) -> bool {
        Tls { certificates: tls.certificates.clone(), ..self.spec.clone() } == *tls
    }

    /// It is what the listener asks for, and its files were not written since.
    pub(crate) fn current(
        &self,
        listener: &ListenerTable,
        spec: &Tls,
        (secrets, bundles): (&Secrets, &Bundles),
    ) -> bool {
        self.spec == *spec
            && self.alpn == alpn(listener)
            && self.secrets == *secrets
            && self.held == held(listener, bundles)
            && self.written == written(files(spec))
    }

    /// Reads the certificates. The error names the file, or the certificate, and the remedy.
    pub(crate) fn read(
        listener: &ListenerTable,
        spec: &Tls,
        (secrets, bundles): (&Secrets, &Bundles),
    ) -> Result<Loaded, String> {
        let written = written(files(spec));
        let provider = serving();
        let (resolver, dated) = Resolver::read(&spec.certificates, bundles)?;
        let versions: &[_] = if spec.only_13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|e| format!("TLS 1.2 and 1.3 are not available: {e}"))?;
        // A session of one listener, or of clients that others vouched for, is none of another.
        let mut context = listener.id.as_str().as_bytes().to_vec();
        let builder = match &spec.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                context.extend(fs::read(file).unwrap_or_default());
                builder.with_client_cert_verifier(verifier(file, spec.client_optional, provider)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.ignore_client_order = true;
        config.alpn_protocols = alpn(listener);
        config.ticketer = Arc::new(Tickets::new(secrets, &context));
        config.send_tls13_tickets = 1; // each costs a record, and clients keep one
        Ok(Loaded {
            spec: spec.clone(),
            alpn: config.alpn_protocols.clone(),
            secrets: secrets.clone(),
            written,
            held: held(listener, bundles),
            dated,
            config: Arc::new(config),
        })
    }

    /// When the first of its certificates ends, in Unix time.
    pub(crate) fn ends(&self) -> Option<i64> {
        self.dated.iter().map(|(_, validity)| validity.ends).min()
    }

    /// What there is to say about the ends of its certificates.
    pub(crate) fn ending(&self) -> impl Iterator<Item = String> {
        self.dated.iter().filter_map(|(from, validity)| validity.ending(from))
    }
}

fn verifier(
    file: &str,
    optional: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = Arc::new(roots(file)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|e| format!("{file}: {e}; give a PEM file of certificates that sign others"))
}

fn roots(file: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(file)? {
        roots.add(certificate).map_err(|e| format!("{file}: {e}; give certificates that sign others"))?;
    }
    Ok(roots)
}

fn read_key(file: &str) -> Result<PrivateKeyDer<'static>, String> {
    key_of(file, PrivateKeyDer::from_pem_file(file))
}

/// A key that was read from somewhere.
fn key_of(
    from: &str,
    read: Result<PrivateKeyDer<'static>, pem::Error>,
) -> Result<PrivateKeyDer<'static>, String> {
    read.map_err(|e| {
        format!("{from}: no private key could be read ({e}); give a PKCS#8, SEC1 or PKCS#1 key as PEM text")
    })
}

fn read_chain(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    chain_of(file, read)
}

/// A chain that was read from somewhere.
fn chain_of(
    from: &str,
    read: Result<Vec<CertificateDer<'static>>, pem::Error>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let remedy = "give PEM text with the certificate first and its intermediates after it";
    match read {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{from}: it has no certificate; {remedy}")),
        Err(e) => Err(format!("{from}: {e}; {remedy}")),
    }
}
