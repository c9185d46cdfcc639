//! Counters of DNS, proxy, transport and vitals, for the API's exposition.

use super::data_plane::Counters;
use crate::control::Vitals;
use std::{sync::Arc, time::UNIX_EPOCH};
use zonekeeper_api::metrics::{self, Source};
use zonekeeper_peer::Peers;

/// The sources that the API adds to its own metrics.
pub(super) fn sources(counters: &Counters, peers: &Peers, vitals: &Arc<Vitals>) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    if let Some(dns) = counters.dns.clone() {
        sources.push(Arc::new(move |out| {
            if let Some(dns) = dns.upgrade() {
                metrics::dns(out, &dns.counters());
            }
        }));
    }
    if let Some(proxy) = counters.proxy.clone() {
        sources.push(Arc::new(move |out| {
            if let Some(proxy) = proxy.upgrade() {
                metrics::proxy(out, &proxy.counters());
            }
        }));
    }
    let (peers, vitals) = (peers.clone(), vitals.clone());
    sources.push(Arc::new(move |out| {
        metrics::refusals(out, &peers.refusals());
        let expires = peers.expires().duration_since(UNIX_EPOCH).unwrap_or_default();
        out.gauge(
            "zonekeeper_certificate_expires_timestamp_seconds",
            "When this node's certificate ends, in Unix time.",
        )
        .sample(&[], expires.as_secs());
    }));
    sources.push(Arc::new(move |out| {
        out.gauge(
            "zonekeeper_timer_lag_milliseconds",
            "How late timers fired, at worst, in the last seconds.",
        )
        .sample(&[], vitals.timer_lag_ms());
    }));
    sources
}
