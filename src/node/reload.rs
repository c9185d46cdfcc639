//! Files that may change while a node runs: the certificate of encrypted DNS, and the databases of clients' whereabouts.
//!
//! What cannot be read leaves what is in use as it is, and is logged once.

use super::NodeError;
use arc_swap::ArcSwap;
use rustls::{
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fmt,
    fs::Metadata,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use zonekeeper_config::EncryptedDns;
use zonekeeper_dns::{DnsFlags, Geo};

/// From one look at the files to the next.
const EVERY: Duration = Duration::from_secs(2);

/// The certificate that handshakes get.
pub(super) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads chain and key.
    pub(super) fn load(config: &EncryptedDns) -> Result<Certificate, NodeError> {
        let current = ArcSwap::from_pointee(read(&config.cert, &config.key)?);
        Ok(Certificate { cert: config.cert.clone(), key: config.key.clone(), current })
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.cert.display())
    }
}

fn read(cert: &Path, key: &Path) -> Result<CertifiedKey, NodeError> {
    let bad = |file: &Path, why: &dyn fmt::Display| NodeError::Pem(file.to_owned(), why.to_string());
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|e| bad(cert, &e))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e))?;
    CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider()).map_err(|e| bad(cert, &e))
}

/// When each file was written, and how long it is.
fn stamps(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |m: Metadata| Some((m.modified().ok()?, m.len()));
    files.iter().map(|f| std::fs::metadata(f).ok().and_then(stamp)).collect()
}

/// Files that are read again when they have changed and have then been left alone for one look.
struct Watched {
    files: Vec<PathBuf>,
    seen: Vec<Option<(SystemTime, u64)>>,
    read: Vec<Option<(SystemTime, u64)>>,
}

impl Watched {
    fn new(files: Vec<PathBuf>) -> Watched {
        let seen = stamps(&files);
        Watched { read: seen.clone(), files, seen }
    }

    fn changed(&mut self) -> bool {
        let now = stamps(&self.files);
        let settled = now == self.seen && now != self.read;
        self.seen = now;
        if settled {
            self.read.clone_from(&self.seen);
        }
        settled
    }
}

/// Follows them for ever.
pub(super) async fn run(geo: Vec<PathBuf>, flags: Arc<DnsFlags>, certificate: Option<Arc<Certificate>>) {
    let pair = certificate.as_ref().map(|c| vec![c.cert.clone(), c.key.clone()]).unwrap_or_default();
    let (mut pair, mut databases) = (Watched::new(pair), Watched::new(geo));
    loop {
        tokio::time::sleep(EVERY).await;
        if let Some(certificate) = certificate.as_ref().filter(|_| pair.changed()) {
            match read(&certificate.cert, &certificate.key) {
                Ok(new) => {
                    certificate.current.store(Arc::new(new));
                    tracing::info!(cert = %certificate.cert.display(), "encrypted DNS has a new certificate");
                }
                Err(error) => tracing::error!(%error, "encrypted DNS keeps its certificate"),
            }
        }
        if databases.changed() {
            let files = databases.files.clone();
            let opened = tokio::task::spawn_blocking(move || Geo::open(&files)).await;
            match opened {
                Ok(Ok(new)) => {
                    flags.geo.store(Arc::new(Some(new)));
                    tracing::info!("the databases of clients' whereabouts were read again");
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "the databases of clients' whereabouts stay as they were")
                }
                Err(error) => tracing::error!(%error, "reading the databases of clients' whereabouts failed"),
            }
        }
    }
}
