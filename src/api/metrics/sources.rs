//! Sources of the node's other parts: their counters as metrics.

use super::Exposition;
use zonekeeper_dns::Totals;
use zonekeeper_peer::Refusal;
use zonekeeper_proxy::{BOUNDS_US, Counters};

/// The DNS server's counters. In a node: `Arc::new(move |out| metrics::dns(out, &server.counters()))`.
pub fn dns(out: &mut Exposition, totals: &Totals) {
    out.counter("zonekeeper_dns_queries_total", "Answered queries by type.");
    for (rtype, n) in &totals.types {
        out.sample(&[("type", rtype)], n);
    }
    out.counter("zonekeeper_dns_answers_total", "Answers by response code.");
    for (rcode, n) in &totals.rcodes {
        out.sample(&[("rcode", rcode)], n);
    }
    out.counter("zonekeeper_dns_transport_total", "Answers by transport.")
        .sample(&[("transport", &"udp")], totals.udp)
        .sample(&[("transport", &"tcp")], totals.tcp)
        .sample(&[("transport", &"tls")], totals.tls)
        .sample(&[("transport", &"https")], totals.https)
        .sample(&[("transport", &"quic")], totals.quic);
    out.counter("zonekeeper_dns_zone_queries_total", "Answered queries by the zone that they are about.");
    for (zone, n) in &totals.zones {
        out.sample(&[("zone", zone)], n);
    }
    let (bounds, counts): (Vec<u64>, Vec<u64>) = totals
        .latency
        .iter()
        .map(|(bound, n)| (bound.as_micros().min(u128::from(u64::MAX)) as u64, n))
        .unzip();
    let finite = &bounds[..bounds.len().saturating_sub(1)];
    out.histogram(
        "zonekeeper_dns_udp_seconds",
        "From the system call that brought a query to the one that took its answer; one batch in 16 is timed.",
    )
    .buckets(&[], finite, &counts, totals.latency_sum.as_micros() as u64);
    out.counter("zonekeeper_dns_rate_limited_total", "UDP answers over the rate, by what became of them.")
        .sample(&[("outcome", &"withheld")], totals.withheld)
        .sample(&[("outcome", &"slipped")], totals.slipped);
    out.counter("zonekeeper_dns_unlogged_total", "Answers that the query log did not take in time.")
        .sample(&[], totals.untapped);
    out.counter("zonekeeper_dns_dropped_total", "Messages that got no answer.").sample(&[], totals.dropped);
    out.counter("zonekeeper_dns_truncated_total", "Answers with the TC bit.").sample(&[], totals.truncated);
    out.counter("zonekeeper_dns_panics_total", "Batches lost to a bug; please report it.")
        .sample(&[], totals.panics);
    out.counter(
        "zonekeeper_dns_limited_total",
        "Connections over TCP, TLS, HTTPS or QUIC refused at a limit.",
    )
    .sample(&[], totals.limited);
    out.counter("zonekeeper_dns_replaced_total", "Such connections that were idle and closed for a new one.")
        .sample(&[], totals.replaced);
    out.counter("zonekeeper_dns_unsent_total", "Answers that the system did not take.")
        .sample(&[], totals.unsent);
}

/// The proxy's counters.
pub fn proxy(out: &mut Exposition, counters: &Counters) {
    out.gauge("zonekeeper_proxy_connections_active", "Client connections.");
    for (listener, c) in &counters.listeners {
        out.sample(&[("listener", listener)], c.active);
    }
    out.gauge(
        "zonekeeper_proxy_certificate_expires_timestamp_seconds",
        "When the first certificate of a listener ends, in Unix time.",
    );
    for (listener, c) in &counters.listeners {
        if let Some(ends) = c.certificate_ends {
            out.sample(&[("listener", listener)], ends);
        }
    }
    out.counter("zonekeeper_proxy_connections_total", "Client connections by what became of them.");
    for (listener, c) in &counters.listeners {
        out.sample(&[("listener", listener), ("outcome", &"accepted")], c.connections);
        out.sample(&[("listener", listener), ("outcome", &"rejected")], c.rejected);
    }
    out.counter("zonekeeper_proxy_requests_total", "Requests by what became of them.");
    for (listener, c) in &counters.listeners {
        out.sample(&[("listener", listener), ("outcome", &"taken")], c.requests);
        out.sample(&[("listener", listener), ("outcome", &"refused")], c.refused);
        out.sample(&[("listener", listener), ("outcome", &"limited")], c.limited);
        out.sample(&[("listener", listener), ("outcome", &"failed")], c.failed);
    }
    out.counter(
        "zonekeeper_proxy_responses_total",
        "Answers that clients got, those of the proxy too, by the first digit of their status; 1xx: tunnels.",
    );
    for (listener, c) in &counters.listeners {
        for (class, n) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(c.answers) {
            out.sample(&[("listener", listener), ("code", class)], n);
        }
    }
    out.counter("zonekeeper_proxy_bytes_total", "Bytes by direction.");
    for (listener, c) in &counters.listeners {
        out.sample(&[("listener", listener), ("direction", &"in")], c.bytes_in);
        out.sample(&[("listener", listener), ("direction", &"out")], c.bytes_out);
    }
    out.histogram(
        "zonekeeper_proxy_request_seconds",
        "From a request's head to the end of its answer; route: its place in the listener.",
    );
    for (listener, route, t) in &counters.routes {
        out.buckets(&[("listener", listener), ("route", route)], &BOUNDS_US, &t.counts, t.sum_us);
    }
    out.histogram("zonekeeper_proxy_listener_seconds", "The same over all routes, those that are gone too.");
    for (listener, c) in &counters.listeners {
        let t = &c.times;
        out.buckets(&[("listener", listener)], &BOUNDS_US, &t.counts, t.sum_us);
    }
    out.histogram("zonekeeper_proxy_backend_seconds", "From a request to the first byte of its answer.");
    for (pool, addr, c) in &counters.backends {
        let t = &c.times;
        out.buckets(&[("pool", pool), ("backend", addr)], &BOUNDS_US, &t.counts, t.sum_us);
    }
    out.histogram("zonekeeper_proxy_pool_seconds", "The same over all backends, those that are gone too.");
    for (pool, c) in &counters.pools {
        let t = &c.times;
        out.buckets(&[("pool", pool)], &BOUNDS_US, &t.counts, t.sum_us);
    }
    out.gauge("zonekeeper_proxy_pool_waiting", "Requests or connections that wait for a place.");
    for (pool, c) in &counters.pools {
        out.sample(&[("pool", pool)], c.waiting);
    }
    out.counter("zonekeeper_proxy_pool_limited_total", "What limits of a pool did to requests.");
    for (pool, c) in &counters.pools {
        out.sample(&[("pool", pool), ("outcome", &"queued")], c.queued);
        out.sample(&[("pool", pool), ("outcome", &"overflowed")], c.overflowed);
        out.sample(&[("pool", pool), ("outcome", &"timed_out")], c.timed_out);
        out.sample(&[("pool", pool), ("outcome", &"unretried")], c.unretried);
    }
    out.gauge("zonekeeper_proxy_backend_active", "Requests or connections in flight.");
    for (pool, addr, c) in &counters.backends {
        out.sample(&[("pool", pool), ("backend", addr)], c.active);
    }
    out.counter("zonekeeper_proxy_backend_requests_total", "Requests sent to a backend.");
    for (pool, addr, c) in &counters.backends {
        out.sample(&[("pool", pool), ("backend", addr)], c.requests);
    }
    out.counter("zonekeeper_proxy_backend_failures_total", "What went wrong with a backend.");
    for (pool, addr, c) in &counters.backends {
        for (what, n) in [("error", c.errors), ("retry", c.retries), ("ejection", c.ejections)] {
            out.sample(&[("pool", pool), ("backend", addr), ("what", &what)], n);
        }
    }
}

/// The transport's refusals.
pub fn refusals(out: &mut Exposition, refusals: &[(Refusal, u64)]) {
    out.counter("zonekeeper_peer_refused_total", "Peers that were refused, by reason.");
    for (why, n) in refusals {
        out.sample(&[("reason", &why.name())], n);
    }
}
