//! Counters of DNS, proxy, transport and vitals, for the API's exposition.

use super::{local::Local, secrets};
use std::{sync::Arc, time::UNIX_EPOCH};
use zonekeeper_api::{
    Totals,
    metrics::{self, Source},
};

/// The proxy's totals, as long as it runs.
pub(super) fn totals(local: &Local) -> Option<Totals> {
    let proxy = local.counters.proxy.clone()?;
    Some(Arc::new(move || proxy.upgrade().map(|p| p.counters()).unwrap_or_default()))
}

/// The sources that the API adds to its own metrics.
pub(super) fn sources(local: &Local) -> Vec<Source> {
    let counters = &local.counters;
    let mut sources: Vec<Source> = Vec::new();
    if let Some(dns) = counters.dns.clone() {
        sources.push(Arc::new(move |out| {
            if let Some(dns) = dns.upgrade() {
                metrics::dns(out, &dns.counters());
            }
        }));
    }
    if let Some(totals) = totals(local) {
        sources.push(Arc::new(move |out| metrics::proxy(out, &totals())));
    }
    let (peers, vitals) = (local.peers.clone(), local.vitals.clone());
    sources.push(Arc::new(move |out| {
        metrics::refusals(out, &peers.refusals());
        let expires = peers.expires().duration_since(UNIX_EPOCH).unwrap_or_default();
        out.gauge(
            "zonekeeper_certificate_expires_timestamp_seconds",
            "When this node's certificate ends, in Unix time.",
        )
        .sample(&[], expires.as_secs());
    }));
    let (published, keyring) = (local.published.clone(), local.keyring.clone());
    sources.push(Arc::new(move |out| {
        let state = published.load().state.clone();
        let vault = &state.secrets.vault;
        out.gauge(
            "zonekeeper_cluster_key",
            "1: this node holds the key that the common secrets are sealed under.",
        )
        .sample(&[], u8::from(vault.key.is_none_or(|key| keyring.has(key))));
        out.gauge("zonekeeper_secrets_unopened", "Common secrets that this node cannot open.")
            .sample(&[], secrets::unopened(vault, &keyring));
    }));
    if let Some(certificate) = local.encrypted.clone() {
        sources.push(Arc::new(move |out| {
            if let Some(ends) = certificate.ends() {
                out.gauge(
                    "zonekeeper_dns_certificate_expires_timestamp_seconds",
                    "When the certificate of encrypted DNS ends, in Unix time.",
                )
                .sample(&[], ends);
            }
        }));
    }
    sources.push(Arc::new(move |out| {
        out.gauge(
            "zonekeeper_timer_lag_milliseconds",
            "How late timers fired, at worst, in the last seconds.",
        )
        .sample(&[], vitals.timer_lag_ms());
    }));
    sources
}
