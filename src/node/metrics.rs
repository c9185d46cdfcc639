//! Counters of DNS, proxy, transport and vitals, as Prometheus wants them.

use super::data_plane::Counters;
use crate::control::Vitals;
use std::{fmt::Display, sync::Arc};
use zonekeeper_api::metrics::{Exposition, Source};
use zonekeeper_peer::Peers;
use zonekeeper_proxy::{BackendCounters, ListenerCounters};

/// The sources that the API adds to its own metrics.
pub(super) fn sources(counters: &Counters, peers: &Peers, vitals: &Arc<Vitals>) -> Vec<Source> {
    let (dns, proxy, peers, vitals) = (counters.clone(), counters.clone(), peers.clone(), vitals.clone());
    vec![
        Arc::new(move |out| self::dns(&dns, out)),
        Arc::new(move |out| self::proxy(&proxy, out)),
        Arc::new(move |out| self::peers(&peers, out)),
        Arc::new(move |out| {
            out.gauge(
                "zonekeeper_timer_lag_milliseconds",
                "How late timers fired, at worst, in the last seconds.",
            )
            .sample(&[], vitals.timer_lag_ms());
        }),
    ]
}

fn dns(counters: &Counters, out: &mut Exposition) {
    let Some(dns) = &counters.dns else { return };
    let totals = dns.counters();
    let mut family = |name, help, label: &str, samples: &[(&'static str, u64)]| {
        let family = out.counter(name, help);
        for (value, count) in samples {
            family.sample(&[(label, value)], count);
        }
    };
    family("zonekeeper_dns_queries_total", "Questions by type.", "type", &totals.types);
    family("zonekeeper_dns_responses_total", "Answers by response code.", "rcode", &totals.rcodes);
    let transports = [("udp", totals.udp), ("tcp", totals.tcp)];
    family("zonekeeper_dns_transport_total", "Answers by transport.", "transport", &transports);
    let odd = [
        ("dropped", totals.dropped),
        ("truncated", totals.truncated),
        ("limited", totals.limited),
        ("unsent", totals.unsent),
        ("panics", totals.panics),
    ];
    family("zonekeeper_dns_odd_total", "Messages that were not answered in full, by reason.", "reason", &odd);
}

/// Name, help and value of a counter.
type Column<C> = (&'static str, &'static str, fn(&C) -> u64);

const LISTENER: [Column<ListenerCounters>; 7] = [
    ("zonekeeper_proxy_connections_total", "Client connections.", |c| c.connections),
    ("zonekeeper_proxy_rejected_total", "Connections refused because the listener was full.", |c| c.rejected),
    ("zonekeeper_proxy_requests_total", "Requests understood.", |c| c.requests),
    ("zonekeeper_proxy_refused_total", "Requests refused: malformed, too large, too slow.", |c| c.refused),
    ("zonekeeper_proxy_failed_total", "Requests that the proxy itself answered with 5xx.", |c| c.failed),
    ("zonekeeper_proxy_received_bytes_total", "Bytes from clients.", |c| c.bytes_in),
    ("zonekeeper_proxy_sent_bytes_total", "Bytes to clients.", |c| c.bytes_out),
];

const BACKEND: [Column<BackendCounters>; 4] = [
    ("zonekeeper_backend_requests_total", "Requests or connections given to a backend.", |c| c.requests),
    ("zonekeeper_backend_errors_total", "Of those, the ones that failed.", |c| c.errors),
    ("zonekeeper_backend_retries_total", "Of those, the ones tried elsewhere afterwards.", |c| c.retries),
    ("zonekeeper_backend_ejections_total", "How often the backend was ejected.", |c| c.ejections),
];

fn proxy(counters: &Counters, out: &mut Exposition) {
    let Some(proxy) = &counters.proxy else { return };
    let totals = proxy.counters();
    for (name, help, value) in LISTENER {
        out.counter(name, help);
        for (id, c) in &totals.listeners {
            out.sample(&[("listener", id as &dyn Display)], value(c));
        }
    }
    out.gauge("zonekeeper_proxy_active_connections", "Client connections open now.");
    for (id, c) in &totals.listeners {
        out.sample(&[("listener", id)], c.active);
    }
    for (name, help, value) in BACKEND {
        out.counter(name, help);
        for (pool, addr, c) in &totals.backends {
            out.sample(&[("pool", pool), ("backend", addr)], value(c));
        }
    }
    out.gauge("zonekeeper_backend_in_flight", "Requests or connections in flight to a backend.");
    for (pool, addr, c) in &totals.backends {
        out.sample(&[("pool", pool), ("backend", addr)], c.active);
    }
}

fn peers(peers: &Peers, out: &mut Exposition) {
    out.counter("zonekeeper_peer_refusals_total", "Peers refused, by reason.");
    for (reason, count) in peers.refusals() {
        out.sample(&[("reason", &reason.name())], count);
    }
    out.gauge("zonekeeper_peer_rtt_seconds", "Smoothed round trip of the heartbeat lane.");
    for node in peers.connected() {
        if let Some(rtt) = peers.rtt(node) {
            out.sample(&[("node", &node)], rtt.smoothed.as_secs_f64());
        }
    }
}
