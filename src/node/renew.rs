//! Certificates renew themselves long before they expire.
//!
//! A node asks any peer that holds the CA key (a `ca.key` beside its own keys; at least one voter should have it, two
//! survive the loss of one). At two thirds of its life, staggered by node id, a certificate is due; a node tries again
//! every minute, or sooner where the certificate ends sooner, until somebody signs.

use super::control_lane::RENEW_TAG;
use std::{
    path::{Path, PathBuf},
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

/// Keeps this node's certificate valid for ever.
pub(crate) async fn keep_valid(peers: Peers, keys: PathBuf, mut credentials: Credentials, site: SiteId) {
    loop {
        let due = credentials.renew_at().duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(due.clamp(Duration::from_secs(1), AGAIN)).await;
        if credentials.renew_at() > SystemTime::now() {
            continue;
        }
        match renew(&peers, &keys, &credentials, &site).await {
            Ok(fresh) => {
                tracing::info!("the node's certificate was renewed");
                credentials = fresh;
            }
            Err(why) => {
                tracing::warn!(%why, "the node's certificate is due and nobody renews it; put ca.key into a voter's key folder");
                let left = credentials.expires().duration_since(SystemTime::now()).unwrap_or(AGAIN);
                tokio::time::sleep((left / 8).clamp(Duration::from_secs(1), AGAIN)).await;
            }
        }
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
