//! Certificates renew themselves long before they expire.
//!
//! A node asks any peer that holds the CA key (a `ca.key` beside its own keys; at least one voter should have it, two
//! survive the loss of one). At two thirds of its life, staggered by node id, a certificate is due; a node tries again
//! every minute, or sooner where the certificate ends sooner, until somebody signs. A certificate that has ended is
//! renewed by nobody but its own node, if that holds the CA key: no peer lets the others in, and `zonekeeper keys issue`
//! is the way back.

use super::control_lane::RENEW_TAG;
use arc_swap::ArcSwapOption;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use zonekeeper_core::{
    codec,
    id::{NodeId, SiteId},
};
use zonekeeper_peer::{
    Lane, Peers,
    keys::{Ca, Credentials, Issued},
};

/// Life of a node certificate.
pub(crate) const LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// From one attempt to the next, and the longest sleep: a laptop that was closed notices.
const AGAIN: Duration = Duration::from_secs(60);

/// Signs a peer's request, where this node holds the CA key. Blocking work goes to a blocking thread.
pub(crate) async fn sign(keys: &Path, node: NodeId, site: &SiteId, csr: &[u8]) -> Result<Vec<u8>, String> {
    let csr = String::from_utf8(csr.to_vec()).map_err(|_| "the request is not PEM")?;
    let (keys, site) = (keys.to_owned(), site.clone());
    let issued = tokio::task::spawn_blocking(move || issue(&keys, node, &site, &csr));
    let issued = issued.await.map_err(|e| e.to_string())??;
    tracing::info!(node, "signed a new certificate");
    Ok(codec::bytes(&(issued.cert_pem, issued.ca_pem)))
}

/// Signs with the CA key of a folder.
pub(crate) fn issue(keys: &Path, node: NodeId, site: &SiteId, csr: &str) -> Result<Issued, String> {
    let ca = Ca::load(keys).map_err(|_| "this node does not hold the CA key")?;
    ca.sign(csr, node, site, LIFETIME).map_err(|e| e.to_string())
}

/// Keeps a node's certificate valid for ever.
pub(crate) struct Renewal {
    pub(crate) peers: Peers,
    pub(crate) keys: PathBuf,
    pub(crate) site: SiteId,
    /// What is wrong with the certificate, with the remedy, for those who look at this node.
    pub(crate) problem: Arc<ArcSwapOption<String>>,
}

impl Renewal {
    pub(crate) async fn run(self, mut credentials: Credentials) {
        loop {
            let due = credentials.renew_at().duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(due.clamp(Duration::from_secs(1), AGAIN)).await;
            if credentials.renew_at() > SystemTime::now() {
                continue;
            }
            match renew(&self.peers, &self.keys, &credentials, &self.site).await {
                Ok(fresh) => {
                    tracing::info!("the node's certificate was renewed");
                    self.problem.store(None);
                    credentials = fresh;
                }
                Err(why) => {
                    self.tell(&credentials, &why);
                    let left = credentials.expires().duration_since(SystemTime::now()).unwrap_or(AGAIN);
                    tokio::time::sleep((left / 8).clamp(Duration::from_secs(1), AGAIN)).await;
                }
            }
        }
    }

    fn tell(&self, credentials: &Credentials, why: &str) {
        let (expires, keys) = (credentials.expires(), self.keys.display());
        let when = jiff::Timestamp::try_from(expires).map(|t| format!("{t:.0}")).unwrap_or_default();
        let text = if expires <= SystemTime::now() {
            format!(
                "this node's certificate has expired at {when}, so no peer lets it in: it answers what it knew and takes \
                 part in nothing. On a node that holds ca.key, run `zonekeeper keys issue new-keys --ca KEYS_DIR --node \
                 {}={}`, put the files of new-keys into {keys} here, and restart this node",
                credentials.node(),
                self.site
            )
        } else {
            format!(
                "this node's certificate is due, ends at {when}, and nobody renews it ({why}); put ca.key into the key \
                 folder of a running voter"
            )
        };
        tracing::error!("{text}");
        self.problem.store(Some(Arc::new(text)));
    }
}

async fn renew(peers: &Peers, keys: &Path, old: &Credentials, site: &SiteId) -> Result<Credentials, String> {
    let request = Credentials::request().map_err(|e| e.to_string())?;
    let (cert, bundle) = match issue(keys, old.node(), site, request.csr_pem()) {
        Ok(issued) => (issued.cert_pem, issued.ca_pem),
        Err(_) => ask(peers, request.csr_pem()).await?,
    };
    let fresh = request.finish(&cert, &bundle).map_err(|e| e.to_string())?;
    // CAs that are trusted now stay trusted: one is replaced by hand, when every node has a certificate of the new one
    let fresh = fresh.trust(old.ca_pem()).map_err(|e| e.to_string())?;
    fresh.save(keys).map_err(|e| e.to_string())?;
    peers.set_credentials(&fresh).map_err(|e| e.to_string())?;
    Ok(fresh)
}

async fn ask(peers: &Peers, csr: &str) -> Result<(String, String), String> {
    let mut last = String::from("no peer is connected");
    for node in peers.connected() {
        let mut request = vec![RENEW_TAG];
        request.extend_from_slice(csr.as_bytes());
        let answer = peers.call(node, Lane::Control, request, Duration::from_secs(5)).await;
        match answer.map_err(|e| e.to_string()).and_then(|a| codec::from_bytes(&a).map_err(|e| e.to_string()))
        {
            Ok(signed) => return Ok(signed),
            Err(why) => last = why,
        }
    }
    Err(last)
}
