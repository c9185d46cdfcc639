//! What may change while a node runs: the certificate of encrypted DNS, in files or with the cluster, and the databases of
//! clients' whereabouts.
//!
//! What cannot be read leaves what is in use as it is, and is logged once.

use super::NodeError;
use crate::control::Opener;
use arc_swap::ArcSwapOption;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
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
use zonekeeper_proxy::{ReadCertificate, read_bundle, read_files};

/// From one look at the files to the next.
const EVERY: Duration = Duration::from_secs(2);

/// The certificate that handshakes get; while there is none, they fail.
pub(super) struct Certificate {
    source: DnsCertificate,
    current: ArcSwapOption<ReadCertificate>,
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
            DnsCertificate::Files { cert, key } => {
                Some(Arc::new(read(cert, key).map_err(NodeError::Certificate)?))
            }
            DnsCertificate::Held(_) => None,
        };
        let certificate =
            Certificate { source: source.clone(), current: current.into(), problem: None.into() };
        certificate.follow(opener, state);
        Ok(certificate)
    }

    /// Goes on with what was read, or with what is there.
    fn take(&self, read: Result<ReadCertificate, String>) {
        match read {
            Ok(new) => {
                self.problem.store(None);
                let (new, source) = (Arc::new(new), &self.source);
                let before = self.current.swap(Some(new.clone()));
                if before.is_none_or(|old| old.key.cert != new.key.cert) {
                    tracing::info!(?source, "encrypted DNS has a new certificate");
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

    /// Takes what the cluster holds by now.
    pub(super) fn follow(&self, opener: &Opener, state: &State) {
        let DnsCertificate::Held(id) = &self.source else { return };
        let missing = || {
            format!(
                "this node has no certificate {id} from the cluster; put it, as `zonekeeper certificate put`"
            )
        };
        let bundle = opener.certificate(state, id).ok_or_else(missing);
        self.take(bundle.and_then(|bundle| read_bundle(&bundle.0, id.as_str())));
    }

    /// Why it is not what it should be or soon will not be, with the remedy.
    pub(super) fn problem(&self) -> Option<String> {
        let from = match &self.source {
            DnsCertificate::Files { cert, .. } => cert.display().to_string(),
            DnsCertificate::Held(id) => id.to_string(),
        };
        let ending = || self.current.load_full()?.validity.ending(&from);
        let why = self.problem.load_full().map(|why| why.as_ref().clone()).or_else(ending);
        why.map(|why| format!("encrypted DNS: {why}"))
    }

    /// When it ends, in Unix time.
    pub(super) fn ends(&self) -> Option<i64> {
        self.current.load_full().map(|c| c.validity.ends)
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
        self.current.load_full().map(|c| c.key.clone())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?})", self.source)
    }
}

fn read(cert: &Path, key: &Path) -> Result<ReadCertificate, String> {
    let text = |p: &Path| {
        p.to_str().map(String::from).ok_or_else(|| format!("{} is not UTF-8; rename it", p.display()))
    };
    read_files(&text(cert)?, &text(key)?)
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
            && (pair.changed() | certificate.problem.load().is_some())
        {
            certificate.take(read(cert, key));
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
