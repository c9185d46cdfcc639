//! What may change while a node runs: the certificate of encrypted DNS, in files or with the cluster, and the databases of
//! clients' whereabouts.
//!
//! What cannot be read leaves what is in use as it is, and is logged once.

use super::NodeError;
use crate::control::Opener;
use arc_swap::ArcSwapOption;
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
use zonekeeper_config::DnsCertificate;
use zonekeeper_core::State;
use zonekeeper_dns::{DnsFlags, Geo};
use zonekeeper_proxy::read_bundle;

/// From one look at the files to the next.
const EVERY: Duration = Duration::from_secs(2);

/// The certificate that handshakes get; while there is none, they fail.
pub(super) struct Certificate {
    source: DnsCertificate,
    current: ArcSwapOption<CertifiedKey>,
    /// Why it is not what it should be.
    problem: ArcSwapOption<String>,
}

impl Certificate {
    /// Reads chain and key, or takes what the cluster holds in this state.
    pub(super) fn load(
        source: &DnsCertificate,
        opener: &Opener,
        state: &State,
    ) -> Result<Certificate, NodeError> {
        let current = match source {
            DnsCertificate::Files { cert, key } => Some(Arc::new(read(cert, key)?)),
            DnsCertificate::Held(_) => None,
        };
        let certificate =
            Certificate { source: source.clone(), current: current.into(), problem: None.into() };
        certificate.follow(opener, state);
        Ok(certificate)
    }

    /// Takes what the cluster holds by now.
    pub(super) fn follow(&self, opener: &Opener, state: &State) {
        let DnsCertificate::Held(id) = &self.source else { return };
        let missing = || {
            format!(
                "this node has no certificate {id} from the cluster; put it, as `zonekeeper certificate put`"
            )
        };
        let bundle = opener.certificate(state, id).ok_or_else(missing);
        match bundle.and_then(|bundle| read_bundle(&bundle.0, id.as_str())) {
            Ok(new) => {
                self.problem.store(None);
                let before = self.current.swap(Some(new.key.clone()));
                if before.is_none_or(|old| old.cert != new.key.cert) {
                    tracing::info!(%id, "encrypted DNS has a new certificate");
                }
            }
            Err(why) => {
                let before = self.problem.swap(Some(Arc::new(why.clone())));
                if before.is_none_or(|before| *before != why) {
                    tracing::error!(why, "encrypted DNS keeps its certificate, if it has one");
                }
            }
        }
    }

    /// Why it is not what it should be, with the remedy.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.load_full().map(|why| format!("encrypted DNS: {why}"))
    }

    fn files(&self) -> Option<(&Path, &Path)> {
        match &self.source {
            DnsCertificate::Files { cert, key } => Some((cert, key)),
            DnsCertificate::Held(_) => None,
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?})", self.source)
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
    let files = certificate.as_deref().and_then(Certificate::files);
    let pair = files.map(|(cert, key)| vec![cert.to_owned(), key.to_owned()]).unwrap_or_default();
    let (mut pair, mut databases) = (Watched::new(pair), Watched::new(geo));
    loop {
        tokio::time::sleep(EVERY).await;
        if let Some(certificate) = &certificate
            && let Some((cert, key)) = certificate.files()
            && pair.changed()
        {
            match read(cert, key) {
                Ok(new) => {
                    certificate.current.store(Some(Arc::new(new)));
                    tracing::info!(cert = %cert.display(), "encrypted DNS has a new certificate");
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
