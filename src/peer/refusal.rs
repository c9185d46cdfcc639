//! Why a peer was refused: the reasons, their counters, and one warning a minute for each.

use crate::NodeId;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Why a peer was refused. Travels in the goodbye frame: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// Its certificate is from a CA that is not in our bundle, or it has none.
    Stranger,
    /// It belongs to another cluster.
    WrongCluster,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate says another node than its hello, or than the node that was called.
    Identity,
    /// It is not (or no longer) a member.
    NotAllowed,
    /// No protocol version in common.
    Version,
    /// It sent something that is not a well-formed frame of at most the lane's limit.
    Garbage,
    /// Too many handshakes at once, or one that took too long.
    Limit,
    /// Its join token was not accepted.
    Join,
    /// Too many joins at once, or too many that failed lately.
    JoinRate,
}

impl Refusal {
    /// All reasons, in order.
    pub const ALL: [Refusal; 11] = [
        Refusal::Stranger,
        Refusal::WrongCluster,
        Refusal::Expired,
        Refusal::NotYetValid,
        Refusal::Identity,
        Refusal::NotAllowed,
        Refusal::Version,
        Refusal::Garbage,
        Refusal::Limit,
        Refusal::Join,
        Refusal::JoinRate,
    ];

    /// Label of the counter in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Stranger => "stranger",
            Refusal::WrongCluster => "wrong_cluster",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::Identity => "identity",
            Refusal::NotAllowed => "not_allowed",
            Refusal::Version => "version",
            Refusal::Garbage => "garbage",
            Refusal::Limit => "limit",
            Refusal::Join => "join",
            Refusal::JoinRate => "join_rate",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Stranger => {
                "certificate is not from a CA of the cluster; issue one with the cluster's CA"
            }
            Refusal::WrongCluster => "node of another cluster; check the addresses of the peers",
            Refusal::Expired => "certificate has expired; renew it with the cluster's CA",
            Refusal::NotYetValid => "certificate is not valid yet; check the clocks of both machines",
            Refusal::Identity => {
                "certificate names another node; check the peer's address and its key folder"
            }
            Refusal::NotAllowed => "not a member of the cluster; join it anew under a new node id",
            Refusal::Version => "no protocol version in common; upgrade the older program",
            Refusal::Garbage => {
                "malformed or oversized frame; check that a node of this program is at the address"
            }
            Refusal::Limit => "too many handshakes at once, or one that was too slow; it may try again",
            Refusal::Join => "join token was not accepted; create a new one",
            Refusal::JoinRate => {
                "too many joins at once or failed ones lately; it may try again in a few seconds"
            }
        })
    }
}

/// One warning per reason in this time; the rest is only counted.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Counters of refusals by reason, since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    counts: [AtomicU64; Refusal::ALL.len()],
    warned: Mutex<[Option<Instant>; Refusal::ALL.len()]>,
}

impl Refusals {
    /// Counts a refusal; warns when this reason was silent for a while. `who` is an address, `node` what it claims.
    pub(crate) fn count(&self, why: Refusal, who: impl fmt::Display, node: Option<NodeId>) {
        let total = self.counts[why as usize].fetch_add(1, Relaxed) + 1;
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut warned[why as usize];
        if last.is_none_or(|at| now.duration_since(at) >= WARN_EVERY) {
            *last = Some(now);
            tracing::warn!(peer = %who, ?node, reason = why.name(), total, "refused a peer: {why}");
        }
    }

    /// How often each reason was given.
    pub(crate) fn snapshot(&self) -> Vec<(Refusal, u64)> {
        Refusal::ALL.into_iter().map(|why| (why, self.counts[why as usize].load(Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_counts_in_its_own_place() {
        let refusals = Refusals::default();
        for (n, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, n);
            for _ in 0..=n {
                refusals.count(why, "test", None);
            }
        }
        assert!(refusals.snapshot().into_iter().all(|(why, count)| count == why as u64 + 1));
    }
}
