//! Every deliberate bug of `zonekeeper_core::mutant` is caught, by name: planted in a debug build of the crate that it
//! lies in, it turns one named test red that is green without it.
//!
//! Runs where `CI` or `ZONEKEEPER_MUTANTS` is set: the crates are built a second time for it, with the feature `mutant`.

#![allow(clippy::unwrap_used, reason = "a test: what cannot be read is a failure")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use zonekeeper_core::mutant::Mutant;

/// Longest run of one test with a bug in it: some wait for what never comes.
const WITHIN: Duration = Duration::from_secs(150);

/// The test that must go red: its binary, by the target's name, and its name there.
fn catcher(mutant: Mutant) -> (&'static str, &'static str) {
    let core = |test| ("zonekeeper_core", test);
    let raft = |test| ("zonekeeper_consensus", test);
    match mutant {
        Mutant::UncheckedEvidence => ("apply", "evidence_is_counted_again"),
        Mutant::OneRedMoves => ("decide", "one_red_site_is_degraded_after_a_while_and_moves_nothing"),
        Mutant::SickObserversVote => ("decide", "sick_and_silent_observers_disarm_failover"),
        Mutant::NoHoldDown => ("assign", "hold_down_and_health_come_before_the_way_back"),
        Mutant::NoSafetyLimit => ("assign", "the_safety_limit_keeps_dead_sites_when_nothing_better_is_left"),
        Mutant::StaleReads => ("apply", "a_proposal_on_an_older_version_is_stale_and_says_of_what"),
        Mutant::Impatience => core("detector::tests::one_lost_probe_is_yellow_and_forgotten"),
        Mutant::SerialStandsStill => ("apply", "a_move_advances_the_serial_of_its_zone_and_names_it"),
        Mutant::OldEpochs => ("recover", "the_answers_stay_and_every_version_is_later"),
        Mutant::NoChecksum => core("codec::tests::every_flipped_bit_and_every_cut_is_seen"),
        Mutant::NoFsync => raft("tests::kill::a_hundred_kills_under_writes_lose_nothing_acknowledged"),
        Mutant::ForgottenVote => raft("tests::cluster::a_whole_cluster_restarts_from_disk"),
        Mutant::ForgottenWatermark | Mutant::StaleStart => raft(
            "tests::cluster::the_others_go_on_when_the_leader_stops_and_it_returns_with_what_it_had_published",
        ),
        Mutant::BlindWitness => {
            raft("tests::damage::a_flipped_byte_in_the_file_of_sled_loses_nothing_silently")
        }
        Mutant::WipedVoter => raft("tests::admission::a_voter_that_lost_its_data_makes_no_majority"),
        Mutant::NoPreVote => {
            raft("tests::cluster::a_node_that_was_cut_off_comes_back_without_unseating_the_leader")
        }
        Mutant::UnconfirmedReads => {
            raft("tests::cluster::without_a_quorum_nothing_is_claimed_and_the_state_is_still_there")
        }
        Mutant::StoppedNodeAnswers => {
            raft("tests::snapshots::a_snapshot_that_cannot_be_written_stops_the_writing_and_says_so")
        }
        Mutant::AnyName => raft("tests::admission::a_node_speaks_for_itself_alone"),
        Mutant::AnyAutomation => raft("tests::admission::automation_is_not_taken_from_another_node"),
    }
}

/// The crates of the mutants, built as tests with the feature: binaries by the target's name.
fn build() -> BTreeMap<String, PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args([
        "test",
        "--no-run",
        "--locked",
        "--message-format=json",
        "--features",
        "zonekeeper-consensus/mutant",
    ]);
    build.args(["-p", "zonekeeper-core", "-p", "zonekeeper-consensus"]);
    let done = build.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit()).output().unwrap();
    assert!(done.status.success(), "the build with the feature `mutant` failed");
    let messages = String::from_utf8(done.stdout).unwrap();
    let messages = messages.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let binary = |m: serde_json::Value| {
        let name = m["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(m["executable"].as_str()?)))
    };
    messages.filter_map(binary).collect()
}

/// How one test ends in a process of its own: green, red, or neither in time.
fn runs(binary: &PathBuf, test: &str, mutant: Option<Mutant>) -> Result<bool, String> {
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(binary);
    command.args(["--exact", test, "--test-threads=1"]).stdin(Stdio::null());
    let log = said.reopen().unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.env_remove("ZONEKEEPER_MUTANT");
    if let Some(mutant) = mutant {
        command.env("ZONEKEEPER_MUTANT", format!("{mutant:?}"));
    }
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("{test} did not end within {WITHIN:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = fs::read_to_string(said.path()).unwrap();
    // a name that fits no test would be green
    match text.contains("running 1 test") {
        true => Ok(status.success()),
        false => Err(format!("there is no test {test}: {text}")),
    }
}

#[test]
fn every_mutant_is_caught_by_name() {
    if env::var_os("CI").is_none() && env::var_os("ZONEKEEPER_MUTANTS").is_none() {
        eprintln!("NOT RUN: set ZONEKEEPER_MUTANTS=1; it builds two crates a second time");
        return;
    }
    let binaries = build();
    let mut wrong = Vec::new();
    for mutant in Mutant::ALL {
        let (target, test) = catcher(mutant);
        let binary = binaries.get(target).unwrap_or_else(|| panic!("no binary {target} in {binaries:?}"));
        let began = Instant::now();
        let (sound, planted) = (runs(binary, test, None), runs(binary, test, Some(mutant)));
        eprintln!("{mutant:?}: {test}, {:.1} s", began.elapsed().as_secs_f64());
        match (&sound, &planted) {
            (Ok(true), Ok(false)) => {}
            _ => wrong
                .push(format!("{mutant:?} by {target}::{test}: without it {sound:?}, with it {planted:?}")),
        }
    }
    assert!(wrong.is_empty(), "not caught (true is green):\n{}", wrong.join("\n"));
}
