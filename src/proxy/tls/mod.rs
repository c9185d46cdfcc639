//! TLS of listeners and to backends: PEM files on this node's disk, read when their owner appears or they change.

mod client;
mod resolver;
mod tickets;

pub use client::CheckTls;
pub(crate) use client::{Backends, Client};
pub(crate) use tickets::Secrets;

use resolver::Resolver;
use rustls::{
    CipherSuite, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{fs, sync::Arc, time::SystemTime};
use tickets::Tickets;
use zonekeeper_core::{
    model::{Http2, Protocol, Tls},
    route::ListenerTable,
};

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
    pub(crate) config: Arc<ServerConfig>,
}

fn files(spec: &Tls) -> impl Iterator<Item = &String> {
    spec.certificates.iter().flat_map(|c| [&c.cert, &c.key]).chain(&spec.client_ca)
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
    /// It is what the listener asks for, and its files were not written since.
    pub(crate) fn current(&self, listener: &ListenerTable, spec: &Tls, secrets: &Secrets) -> bool {
        self.spec == *spec
            && self.alpn == alpn(listener)
            && self.secrets == *secrets
            && self.written == written(files(spec))
    }

    /// Reads the files. The error names the file and the remedy.
    pub(crate) fn read(listener: &ListenerTable, spec: &Tls, secrets: &Secrets) -> Result<Loaded, String> {
        let written = written(files(spec));
        let provider = serving();
        let resolver = Resolver::read(&spec.certificates, &provider)?;
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
            config: Arc::new(config),
        })
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
    PrivateKeyDer::from_pem_file(file).map_err(|e| {
        format!(
            "{file}: no private key could be read ({e}); give a PEM file with a PKCS#8, SEC1 or PKCS#1 key"
        )
    })
}

fn read_chain(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let remedy = "give a PEM file with the certificate first and its intermediates after it";
    let certs: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|e| format!("{file}: {e}; {remedy}"))?.collect();
    match certs {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{file}: it has no certificate; {remedy}")),
        Err(e) => Err(format!("{file}: {e}; {remedy}")),
    }
}
