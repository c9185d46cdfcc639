//! openraft's configuration, derived from the cluster's [`Timing`].

use openraft::{Config, SnapshotPolicy};
use zonekeeper_core::{
    entry::Timing,
    mutant::{self, Mutant},
};

/// Log entries between two snapshots: replaying as many takes well under a second.
pub const SNAPSHOT_EVERY: u64 = 5000;
/// Log entries kept behind a snapshot, so that a node that was away for a moment needs no snapshot.
pub const KEEP_BEHIND_SNAPSHOT: u64 = 1000;
/// Longest silence in a snapshot transfer; a deadline on progress and not on the whole.
pub(crate) const SNAPSHOT_PROGRESS_MS: u64 = 30_000;

/// Shortest election timeout: votes are given up after it.
pub fn election_min_ms(timing: Timing) -> u64 {
    3 * timing.heartbeat_ms()
}

/// Longest election timeout: the leader's lease.
pub fn election_max_ms(timing: Timing) -> u64 {
    5 * timing.heartbeat_ms()
}

/// The configuration that every node of the cluster runs.
///
/// openraft gives AppendEntries and heartbeats one heartbeat interval: with its defaults and a round trip of 100 ms no
/// leader ever worked, in 12 of 12 runs; with a heartbeat of twice the round trip and elections of 3 to 5 heartbeats
/// one always did. Without a probe interval one partial partition stopped the cluster for good, in 10 of 10 runs
/// (openraft #2080).
pub fn config(timing: Timing) -> Config {
    let election_timeout_max = election_max_ms(timing);
    Config {
        cluster_name: "zonekeeper".into(),
        heartbeat_interval: timing.heartbeat_ms(),
        election_timeout_min: election_min_ms(timing),
        election_timeout_max,
        // Without it one partial partition stops the cluster for good; the lease plus an election is the least allowed.
        quorum_loss_probe_interval: Some(2 * election_timeout_max),
        enable_pre_vote: Some(!mutant::on(Mutant::NoPreVote)),
        // A restarted leader has lost its memory of who heard it: it asks again.
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        install_snapshot_timeout: SNAPSHOT_PROGRESS_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        // Must exceed the distance between snapshots, or a snapshot does not cure the lag.
        replication_lag_threshold: 2 * SNAPSHOT_EVERY,
        // 64 entries of at most 64 KiB; the store cuts earlier, at `store::READ_BYTES`.
        max_payload_entries: 64,
        max_append_entries: Some(256),
        purge_batch_size: 256,
        api_channel_size: Some(1024),
        notification_channel_size: Some(4096),
        state_machine_channel_size: Some(1024),
        ..Config::default()
    }
}

/// Says what is wrong when the round trip leaves too little of the heartbeat's deadline (three quarters of the
/// interval): beyond it no leader is ever acknowledged in time.
pub fn timing_warning(timing: Timing, rtt_max_ms: u64) -> Option<String> {
    let heartbeat = timing.heartbeat_ms();
    // 0.75 * heartbeat < 1.3 * RTT, in integers.
    (75 * heartbeat < 130 * rtt_max_ms).then(|| {
        let wanted = (2 * rtt_max_ms).max(50);
        format!(
            "the slowest peer answers in {rtt_max_ms} ms, but the Raft timing allows for {} ms: leadership will be \
             unstable; set the cluster's timing to a heartbeat of {wanted} ms or more",
            75 * heartbeat / 130
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timing_makes_a_configuration_that_openraft_accepts() {
        let numbers = [50, 320, 5000].map(|ms| Timing::Heartbeat { ms });
        for timing in [Timing::Lan, Timing::Wan, Timing::Global].into_iter().chain(numbers) {
            assert!(config(timing).validate().is_ok(), "{timing:?}");
        }
    }

    #[test]
    fn a_round_trip_that_eats_the_heartbeat_deadline_is_a_warning() {
        assert_eq!(timing_warning(Timing::Wan, 100), None);
        assert_eq!(timing_warning(Timing::Wan, 115), None);
        assert!(timing_warning(Timing::Wan, 116).is_some_and(|w| w.contains("heartbeat of 232 ms")));
        assert!(timing_warning(Timing::Lan, 100).is_some());
    }
}
