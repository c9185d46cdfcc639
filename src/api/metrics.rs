//! Prometheus text exposition (version 0.0.4), written by hand: names, help, samples.

mod sources;

pub use sources::{dns, proxy, refusals};

use crate::{handles::Handles, routes::role};
use std::{
    fmt::{Display, Write},
    sync::Arc,
};
use zonekeeper_consensus::FLUSH_BOUNDS_US;
use zonekeeper_core::{decide::Alarm, evidence::Standing, model::Family};

/// Adds a component's metrics to the exposition. Called for each scrape.
pub type Source = Arc<dyn Fn(&mut Exposition) + Send + Sync>;

/// Text that grows family by family.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

/// One metric of a family: labels and a value.
pub type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

impl Exposition {
    /// Begins a family of gauges. The name begins with `zonekeeper_` and says its unit.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> &mut Exposition {
        self.family(name, "gauge", help)
    }

    /// Begins a family of counters. The name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> &mut Exposition {
        self.family(name, "counter", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> &mut Exposition {
        self.name = name;
        self.line(format_args!("# HELP {name} {}\n# TYPE {name} {kind}\n", Escaped(&help)));
        self
    }

    /// Begins a family of histograms of seconds. The name ends in `_seconds`.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> &mut Exposition {
        self.family(name, "histogram", help)
    }

    /// One histogram of the family that was begun last: bounds in microseconds, and the counts between them.
    pub fn buckets(&mut self, labels: Labels<'_>, bounds: &[u64], counts: &[u64], sum_us: u64) {
        let mut name = self.name.to_owned();
        let mut line = |suffix: &str, le: Option<&dyn Display>, value: &dyn Display| {
            name.truncate(self.name.len());
            name.push_str(suffix);
            let all: Vec<(&str, &dyn Display)> =
                labels.iter().copied().chain(le.map(|le| ("le", le))).collect();
            write_sample(&mut self.text, &name, &all, value);
        };
        let mut total = 0;
        for (i, count) in counts.iter().enumerate() {
            total += count;
            match bounds.get(i) {
                Some(bound) => line("_bucket", Some(&(*bound as f64 / 1e6)), &total),
                None => line("_bucket", Some(&"+Inf"), &total),
            }
        }
        line("_sum", None, &(sum_us as f64 / 1e6));
        line("_count", None, &total);
    }

    /// A sample of the family that was begun last.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Exposition {
        write_sample(&mut self.text, self.name, labels, &value);
        self
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.text.write_fmt(text); // writing to a string cannot fail
    }
}

fn write_sample(text: &mut String, name: &str, labels: Labels<'_>, value: &dyn Display) {
    text.push_str(name);
    for (i, (label, said)) in labels.iter().enumerate() {
        let _ = write!(text, "{}{label}=\"{}\"", if i == 0 { '{' } else { ',' }, Escaped(said));
    }
    let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" }); // writing to a string cannot fail
}

/// Text as the format wants it: backslash, quote and newline escaped.
struct Escaped<'a>(&'a dyn Display);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The whole exposition of a node.
pub(crate) fn text(handles: &Handles) -> String {
    let mut out = Exposition::default();
    raft(&mut out, handles);
    published(&mut out, handles);
    services(&mut out, handles);
    evidence(&mut out, handles);
    for source in &handles.metrics {
        source(&mut out);
    }
    out.text
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn raft(out: &mut Exposition, handles: &Handles) {
    let s = handles.consensus.status();
    let (node, site) = (handles.node, &handles.site);
    out.gauge("zonekeeper_info", "Version, node and site; always 1.")
        .sample(&[("version", &env!("CARGO_PKG_VERSION")), ("node", &node), ("site", site)], 1);
    out.gauge("zonekeeper_raft_role", "1 for the role that this node has.")
        .sample(&[("role", &role(s.role))], 1);
    out.gauge("zonekeeper_raft_term", "Raft's term.").sample(&[], s.term);
    out.gauge("zonekeeper_raft_leader", "The leader's node id; 0: none is known.")
        .sample(&[], s.leader.unwrap_or(0));
    out.gauge("zonekeeper_raft_index", "Log positions of this node.")
        .sample(&[("position", &"last")], s.last_log)
        .sample(&[("position", &"committed")], s.committed)
        .sample(&[("position", &"applied")], s.applied)
        .sample(&[("position", &"snapshot")], s.snapshot);
    out.gauge("zonekeeper_raft_stopped", "1: Raft has stopped on this node; it still answers.")
        .sample(&[], u8::from(s.stopped.is_some()));
    let age = |ms: Option<u64>| ms.map_or(f64::INFINITY, seconds);
    let infinite = |v: f64| if v.is_infinite() { "+Inf".to_owned() } else { v.to_string() };
    let flushes = handles.consensus.flush_times();
    out.histogram(
        "zonekeeper_flush_seconds",
        "Time to make a group of log writes durable, its fsync included.",
    )
    .buckets(&[], &FLUSH_BOUNDS_US, &flushes.counts, flushes.sum_us);
    out.gauge(
        "zonekeeper_quorum_age_seconds",
        "Since a quorum is known to have followed the leader; +Inf: never.",
    )
    .sample(&[], infinite(age(s.quorum_age_ms)));
    out.gauge("zonekeeper_leader_heard_seconds", "Since this node heard its leader; +Inf: never.")
        .sample(&[], infinite(age(s.leader_heard_ms)));
    out.gauge("zonekeeper_replication_lag_entries", "Entries that a member lacks; on the leader only.");
    for (id, peer) in s.voters.iter().chain(&s.learners) {
        if let Some(matched) = peer.matched {
            out.sample(&[("node", id)], s.last_log.saturating_sub(matched));
        }
    }
}

fn published(out: &mut Exposition, handles: &Handles) {
    let published = handles.published.load();
    let state = &published.state;
    out.gauge("zonekeeper_ready", "1: answers from a state, DNS and proxy bound.")
        .sample(&[], u8::from(handles.is_ready()));
    out.gauge("zonekeeper_published_index", "Log index of the published state.")
        .sample(&[], published.generation.index);
    out.gauge("zonekeeper_published_incarnation", "Incarnation of the published state.")
        .sample(&[], published.generation.incarnation);
    let hash = state.hash();
    out.gauge(
        "zonekeeper_state_hash",
        "Low 48 bits of the state's hash: equal on all nodes at the same index.",
    )
    .sample(&[], hash & 0xffff_ffff_ffff);
    out.gauge("zonekeeper_config_revision", "Log index of the last change of the configuration.")
        .sample(&[], state.revision);
    out.gauge("zonekeeper_automation", "1: automation is on for the cluster.")
        .sample(&[], u8::from(state.automation));
    out.gauge("zonekeeper_overrides", "Overrides in force.").sample(&[], state.overrides.len());
    out.gauge("zonekeeper_members", "Members of the cluster.").sample(&[], state.members.len());
    out.gauge("zonekeeper_voters", "Voting members.").sample(&[], state.voters.len());
    out.gauge("zonekeeper_zone_serial", "Serial that is served.");
    for (origin, zone) in &state.zones {
        out.sample(&[("zone", origin)], zone.serial());
    }
}

fn services(out: &mut Exposition, handles: &Handles) {
    let published = handles.published.load();
    let word = |f: Family| if f == Family::V4 { "v4" } else { "v6" };
    out.gauge(
        "zonekeeper_endpoint_standing",
        "What the cluster holds of an endpoint: 0 up, 1 degraded, 2 down.",
    );
    for (id, service) in &published.state.services {
        for ((site, family), health) in &service.health {
            let value = match health.standing {
                Standing::Up => 0,
                Standing::Degraded => 1,
                Standing::Down => 2,
            };
            out.sample(&[("service", id), ("site", site), ("family", &word(*family))], value);
        }
    }
    out.gauge("zonekeeper_answered", "1: DNS answers this site for the service.");
    for (id, service) in &published.state.services {
        for family in Family::ALL {
            let held = service.assignment.get(&family);
            for site in service.spec.sites(family) {
                let answered = held.is_some_and(|a| a.sites.contains(site));
                out.sample(&[("service", id), ("site", site), ("family", &word(family))], u8::from(answered));
            }
        }
    }
    out.gauge("zonekeeper_assignment_epoch", "Log index of the decision that made the assignment.");
    for (id, service) in &published.state.services {
        for (family, held) in &service.assignment {
            out.sample(&[("service", id), ("family", &word(*family))], held.epoch.index);
        }
    }
}

fn evidence(out: &mut Exposition, handles: &Handles) {
    let local = handles.local.load();
    let count = |alarm: Alarm| local.notes.iter().filter(|n| n.alarm == Some(alarm)).count();
    out.gauge("zonekeeper_alarms", "Targets that a person should look at.")
        .sample(&[("alarm", &"degraded")], count(Alarm::Degraded))
        .sample(&[("alarm", &"disarmed")], count(Alarm::Disarmed));
    out.gauge("zonekeeper_abstains", "1: this node does not trust its own eyes.")
        .sample(&[], u8::from(local.abstains.is_some()));
    out.gauge("zonekeeper_problems", "Problems of this node that need a person.")
        .sample(&[], local.problems.len());
    out.gauge("zonekeeper_behind", "1: this node hears other voters, but not the leader.")
        .sample(&[], u8::from(local.problems.iter().any(|p| p.code == "behind")));
    out.gauge("zonekeeper_report_age_seconds", "Since a member's last report arrived here.");
    for (report, age) in &local.reports {
        out.sample(&[("node", &report.node)], seconds(age + local.elapsed_ms()));
    }
    out.gauge("zonekeeper_peer_up", "1: connected to the peer.");
    for (node, link) in &local.links {
        out.sample(&[("node", node)], u8::from(link.up));
    }
    out.gauge("zonekeeper_peer_rtt_seconds", "Smoothed round trip to the peer.");
    for (node, link) in &local.links {
        if let Some(us) = link.rtt_us {
            out.sample(&[("node", node)], us as f64 / 1e6);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use zonekeeper_core::name::Name;

    #[test]
    fn labels_are_quoted_and_escaped() {
        let mut out = Exposition::default();
        out.counter("zonekeeper_x_total", "A \"thing\".")
            .sample(&[], 3)
            .sample(&[("a", &"q\"\\\n"), ("b", &1)], 4);
        assert_eq!(
            out.text,
            "# HELP zonekeeper_x_total A \\\"thing\\\".\n# TYPE zonekeeper_x_total counter\n\
             zonekeeper_x_total 3\nzonekeeper_x_total{a=\"q\\\"\\\\\\n\",b=\"1\"} 4\n"
        );
    }

    #[test]
    fn dns_has_a_histogram_and_its_zones() {
        let mut out = Exposition::default();
        let latency =
            [(Duration::from_micros(1), 2), (Duration::from_micros(2), 3), (Duration::MAX, 1)].to_vec();
        let zones = Name::parse("example.").map(|z| vec![(z, 7)]).unwrap_or_default();
        let latency_sum = Duration::from_micros(20);
        dns(&mut out, &zonekeeper_dns::Totals { latency, latency_sum, zones, ..Default::default() });
        for line in [
            "zonekeeper_dns_udp_seconds_bucket{le=\"0.000001\"} 2\n",
            "zonekeeper_dns_udp_seconds_bucket{le=\"0.000002\"} 5\n",
            "zonekeeper_dns_udp_seconds_bucket{le=\"+Inf\"} 6\n",
            "zonekeeper_dns_udp_seconds_sum 0.00002\nzonekeeper_dns_udp_seconds_count 6\n",
            "zonekeeper_dns_zone_queries_total{zone=\"example.\"} 7\n",
        ] {
            assert!(out.text.contains(line), "{line} is missing in {}", out.text);
        }
    }

    #[test]
    fn buckets_are_added_up() {
        let mut out = Exposition::default();
        out.histogram("zonekeeper_t_seconds", "T.").buckets(
            &[("a", &1)],
            &[500, 1_000_000],
            &[2, 3, 1],
            4_500_000,
        );
        let text = "# HELP zonekeeper_t_seconds T.\n# TYPE zonekeeper_t_seconds histogram\n\
                    zonekeeper_t_seconds_bucket{a=\"1\",le=\"0.0005\"} 2\n\
                    zonekeeper_t_seconds_bucket{a=\"1\",le=\"1\"} 5\n\
                    zonekeeper_t_seconds_bucket{a=\"1\",le=\"+Inf\"} 6\n\
                    zonekeeper_t_seconds_sum{a=\"1\"} 4.5\nzonekeeper_t_seconds_count{a=\"1\"} 6\n";
        assert_eq!(out.text, text);
    }
}
