//! Counters: one set per worker, written without contention, summed when they are read.

use crate::responder::Transport;
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use zonekeeper_core::{answer::DnsTable, name::Name};

/// Query types that are counted apart; the rest is `other`.
const TYPES: [(u16, &str); 14] = [
    (1, "A"),
    (28, "AAAA"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (33, "SRV"),
    (43, "DS"),
    (48, "DNSKEY"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (255, "ANY"),
];
/// Response codes that are counted apart; the rest is `other`.
const RCODES: [(u16, &str); 10] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (9, "NOTAUTH"),
    (16, "BADVERS"),
    (23, "BADCOOKIE"),
];

/// Bounds of the latency histogram: powers of two of a microsecond, the last without one.
const LATENCIES: usize = 16;

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct Counters {
    types: [AtomicU64; TYPES.len() + 1],
    rcodes: [AtomicU64; RCODES.len() + 1],
    transports: [AtomicU64; Transport::ALL.len()],
    dropped: AtomicU64,
    truncated: AtomicU64,
    panics: AtomicU64,
    limited: AtomicU64,
    replaced: AtomicU64,
    withheld: AtomicU64,
    slipped: AtomicU64,
    unsent: AtomicU64,
    latency: [AtomicU64; LATENCIES],
    /// The sum of what [`Counters::latency`] counts, in microseconds.
    latency_sum: AtomicU64,
    zones: ArcSwap<ZoneCounts>,
}

/// Answers by zone, by the numbers that a table gives its zones.
#[derive(Debug, Default)]
pub(crate) struct ZoneCounts {
    origins: u64,
    counts: Vec<(Name, AtomicU64)>,
}

impl ZoneCounts {
    /// Those of which table: see [`DnsTable::origins`].
    pub(crate) fn origins(&self) -> u64 {
        self.origins
    }

    pub(crate) fn answered(&self, number: usize) {
        if let Some((_, count)) = self.counts.get(number) {
            add(count);
        }
    }
}

/// One writer at a time: a plain addition, no locked instruction.
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Counters {
    pub(crate) fn answered(&self, transport: Transport, qtype: u16, rcode: u16, truncated: bool) {
        add(&self.types[TYPES.iter().position(|t| t.0 == qtype).unwrap_or(TYPES.len())]);
        add(&self.rcodes[RCODES.iter().position(|r| r.0 == rcode).unwrap_or(RCODES.len())]);
        add(&self.transports[transport as usize]);
        if truncated {
            add(&self.truncated);
        }
    }

    pub(crate) fn dropped(&self) {
        add(&self.dropped);
    }

    /// Counts `n` answers that went out so long after they were received.
    pub(crate) fn took(&self, time: Duration, n: u64) {
        let micros = time.as_micros().min(u128::from(u32::MAX)) as u64;
        let at = (u64::BITS - micros.leading_zeros()) as usize; // the smallest power of two above it
        let counter = &self.latency[at.min(LATENCIES - 1)];
        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
        self.latency_sum.store(self.latency_sum.load(Relaxed).wrapping_add(n * micros), Relaxed);
    }

    /// Counters for the zones of a table; those that were there before go on. Only the one writer calls it.
    pub(crate) fn zones_of(&self, table: &DnsTable) -> Arc<ZoneCounts> {
        let old = self.zones.load();
        let old: BTreeMap<&Name, u64> = old.counts.iter().map(|(z, n)| (z, n.load(Relaxed))).collect();
        let counter = |z: &Name| (z.clone(), AtomicU64::new(old.get(z).copied().unwrap_or(0)));
        let counts = table.zones().map(|z| counter(z.zone().origin())).collect();
        let new = Arc::new(ZoneCounts { origins: table.origins(), counts });
        self.zones.store(new.clone());
        new
    }

    pub(crate) fn withheld(&self) {
        add(&self.withheld);
    }

    pub(crate) fn slipped(&self) {
        add(&self.slipped);
    }

    pub(crate) fn unsent(&self, n: u64) {
        self.unsent.fetch_add(n, Relaxed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    pub(crate) fn limited(&self) {
        self.limited.fetch_add(1, Relaxed);
    }

    pub(crate) fn replaced(&self) {
        self.replaced.fetch_add(1, Relaxed);
    }
}

/// All workers' counters at about one moment; all only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers by query type; `other` is the rest, and what had no readable question.
    pub types: Vec<(&'static str, u64)>,
    /// Answers by response code.
    pub rcodes: Vec<(&'static str, u64)>,
    /// Answers over UDP.
    pub udp: u64,
    /// Answers over TCP.
    pub tcp: u64,
    /// Answers over TLS.
    pub tls: u64,
    /// Answers over HTTPS.
    pub https: u64,
    /// Answers over QUIC.
    pub quic: u64,
    /// Answers over UDP that response rate limiting held back.
    pub withheld: u64,
    /// Answers over UDP that response rate limiting cut to TC or BADCOOKIE; they count as answers too.
    pub slipped: u64,
    /// Answers that the query log has lost.
    pub untapped: u64,
    /// How long queries over UDP took inside the server, from the system call that brought them to the one that took
    /// their answers: a sample (one batch in 16), by upper bound; the last has none.
    pub latency: Vec<(Duration, u64)>,
    /// The sum of what `latency` counts.
    pub latency_sum: Duration,
    /// Answers by the zone that they are of.
    pub zones: Vec<(Name, u64)>,
    /// Messages that got no answer: too short, or responses themselves.
    pub dropped: u64,
    /// Answers with the TC bit.
    pub truncated: u64,
    /// Batches lost to a bug; each is one more reason to report it.
    pub panics: u64,
    /// Connections (TCP, TLS, HTTPS, QUIC) refused at a limit.
    pub limited: u64,
    /// Connections that were idle and closed for a new one.
    pub replaced: u64,
    /// Answers over UDP that the system did not take.
    pub unsent: u64,
}

fn bound(i: usize) -> Duration {
    if i + 1 == LATENCIES { Duration::MAX } else { Duration::from_micros(1 << i) }
}

impl Totals {
    pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a Counters> + Clone) -> Totals {
        let one = |f: fn(&Counters) -> &AtomicU64| all.clone().map(|c| f(c).load(Relaxed)).sum();
        let at = |f: &dyn Fn(&Counters) -> u64| all.clone().map(f).sum::<u64>();
        let named = |names: &[(u16, &'static str)], f: &dyn Fn(&Counters, usize) -> u64| {
            let names = names.iter().map(|n| n.1).chain(["other"]);
            names.enumerate().map(|(i, name)| (name, at(&|c| f(c, i)))).collect()
        };
        let mut zones = BTreeMap::new();
        for counters in all.clone() {
            for (zone, n) in &counters.zones.load().counts {
                *zones.entry(zone.clone()).or_insert(0) += n.load(Relaxed);
            }
        }
        Totals {
            zones: zones.into_iter().collect(),
            latency_sum: Duration::from_micros(one(|c| &c.latency_sum)),
            types: named(&TYPES, &|c, i| c.types[i].load(Relaxed)),
            rcodes: named(&RCODES, &|c, i| c.rcodes[i].load(Relaxed)),
            udp: one(|c| &c.transports[0]),
            tcp: one(|c| &c.transports[1]),
            tls: one(|c| &c.transports[2]),
            https: one(|c| &c.transports[3]),
            quic: one(|c| &c.transports[4]),
            withheld: one(|c| &c.withheld),
            slipped: one(|c| &c.slipped),
            untapped: 0,
            latency: (0..LATENCIES)
                .map(|i| (bound(i), all.clone().map(|c| c.latency[i].load(Relaxed)).sum()))
                .collect(),
            dropped: one(|c| &c.dropped),
            truncated: one(|c| &c.truncated),
            panics: one(|c| &c.panics),
            limited: one(|c| &c.limited),
            replaced: one(|c| &c.replaced),
            unsent: one(|c| &c.unsent),
        }
    }
}
