//! Plans, applied to the real state.
#![allow(clippy::unwrap_used)] // a helper of a test may panic as the test may

mod common;

use common::{a, any_config, name, records, set, small, soa, zones};
use proptest::prelude::*;
use zonekeeper_config::{Action, ClusterConfig, Plan, StageError, plan, stages};
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State, codec,
    entry::{Init, MAX_ENTRY, Timing},
    model::{Change, Policy, ZoneOwner},
    secrets::{KeyId, SecretId},
    time::LogTime,
    zone::RrSet,
};

/// A cluster that has nothing but its first entry, and the certificate that listeners here use.
fn fresh() -> State {
    let mut state = State::default();
    commit(
        &mut state,
        Command::Init(Init { cluster: 7, version: zonekeeper_core::VERSION, timing: Timing::Lan }),
    )
    .unwrap();
    let key = KeyId(1);
    let id = SecretId::Certificate("held".parse().unwrap());
    commit(&mut state, Command::SealWith { from: None, to: key }).unwrap();
    commit(&mut state, Command::PutSealed { id, after: None, key, bytes: vec![1] }).unwrap();
    state
}

fn commit(state: &mut State, command: Command) -> Result<usize, String> {
    let entry = Entry { time: LogTime(1000), proposal: Proposal::by("tester", command).into() };
    match state.apply(state.generation.index + 1, &entry) {
        Outcome::Applied(_) => Ok(codec::bytes(&entry).len()),
        other => Err(format!("{other:?}")),
    }
}

/// Commits a plan as `zonekeeper apply` does: at once, or staged.
fn apply(state: &mut State, plan: &Plan) -> Result<(), String> {
    let mut parts = stages(plan.changes.clone()).map_err(|e| e.to_string())?;
    if parts.len() <= 1 {
        return commit(state, Command::Configure(parts.pop().unwrap_or_default())).map(|_| ());
    }
    let count = parts.len() as u32;
    for (part, changes) in parts.into_iter().enumerate() {
        let size = commit(state, Command::Stage { id: 1, part: part as u32, changes })?;
        assert!(size <= MAX_ENTRY, "part {part} has {size} bytes");
    }
    commit(state, Command::Commit { id: 1, parts: count }).map(|_| ())
}

fn running(config: &ClusterConfig) -> State {
    let mut state = fresh();
    let step = next(&state, config);
    apply(&mut state, &step).unwrap();
    state
}

fn next(state: &State, desired: &ClusterConfig) -> Plan {
    plan(&ClusterConfig::current(state), desired.clone())
}

fn put(state: &mut State, sets: Vec<RrSet>) {
    commit(state, Command::Configure(vec![Change::PutRecords(name("example.com"), sets)])).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_plan_is_accepted_and_leaves_nothing_to_do(first in any_config(), second in any_config()) {
        let mut state = running(&first);
        prop_assert!(next(&state, &first).is_empty() || first.zones.values().any(|z| z.0 == ZoneOwner::Api));
        let step = next(&state, &second);
        apply(&mut state, &step).map_err(TestCaseError::fail)?;
        let rest = next(&state, &second);
        prop_assert!(rest.is_empty(), "{}", rest);
        let step = next(&state, &ClusterConfig::default());
        apply(&mut state, &step).map_err(TestCaseError::fail)?;
        prop_assert!(ClusterConfig::current(&state).services.is_empty());
    }
}

#[test]
fn a_changed_field_shows_before_and_after() {
    let state = running(&small());
    let mut desired = small();
    let web = desired.services.values_mut().next().unwrap();
    (web.ttl, web.policy) = (30, Policy::Failover(vec![common::site(1), common::site(0), common::site(2)]));
    desired.listeners.clear();
    let plan = next(&state, &desired);
    let text = plan.to_string();
    assert!(text.starts_with("~ service.web\n    ~ sites = [\"ams\", \"fra\", \"iad\"] -> [\"fra\", \"ams\", \"iad\"]\n    ~ ttl = 10 -> 30\n- listener.http\n"), "{text}");
    let actions: Vec<Action> = plan.lines.iter().map(|l| l.action).collect();
    assert_eq!(actions, [Action::Change, Action::Remove]);
}

#[test]
fn removals_come_last_and_in_reverse() {
    let kinds: Vec<String> = next(&running(&small()), &ClusterConfig::default())
        .changes
        .iter()
        .map(|c| format!("{c:?}").split('(').next().unwrap().to_string())
        .collect();
    assert_eq!(
        kinds,
        [
            "RemoveListener",
            "RemoveService",
            "RemoveZone",
            "RemovePool",
            "RemoveSite",
            "RemoveSite",
            "RemoveSite"
        ]
    );
}

#[test]
fn a_record_that_was_added_elsewhere_is_drift_and_goes() {
    let mut state = running(&small());
    put(&mut state, vec![a("stray.example.com", 1), a("ns1.example.com", 99)]);
    let step = next(&state, &small());
    let text = step.to_string();
    assert!(text.contains("- zone.\"example.com\" stray.example.com. A\n    - data = 192.0.2.1\n"), "{text}");
    assert!(text.contains("~ data = 192.0.2.99 -> 192.0.2.53"), "{text}");
    assert!(text.ends_with("! drift: zone.\"example.com\" stray.example.com. A runs, but stands in no file; applying removes it\n"), "{text}");
    apply(&mut state, &step).unwrap();
    assert!(next(&state, &small()).is_empty());
}

#[test]
fn a_running_serial_that_is_ahead_is_no_change() {
    let mut state = running(&small());
    put(&mut state, vec![a("x.example.com", 1)]); // the serial grows
    let mut desired = small();
    desired.zones = zones(&[a("x.example.com", 1)]);
    assert!(state.zones.values().next().unwrap().serial() > 1);
    assert!(next(&state, &desired).is_empty());
    let soa_of = |desired: &mut ClusterConfig, soa: RrSet| {
        let sets = &mut desired.zones.values_mut().next().unwrap().1;
        *sets.iter_mut().find(|r| r.rtype == 6).unwrap() = soa;
    };
    soa_of(&mut desired, soa(1, 61)); // another field differs
    assert_eq!(next(&state, &desired).changes.len(), 1);
    soa_of(&mut desired, soa(2_026_010_101, 60)); // the file is ahead
    let step = next(&state, &desired);
    apply(&mut state, &step).unwrap();
    assert_eq!(state.zones.values().next().unwrap().serial(), 2_026_010_101);
    assert!(next(&state, &desired).is_empty());
}

#[test]
fn records_of_a_zone_that_the_api_owns_are_never_touched() {
    let mut owned = small();
    owned.zones.values_mut().next().unwrap().0 = ZoneOwner::Api;
    let mut state = running(&owned);
    put(&mut state, vec![a("mine.example.com", 1)]);
    assert!(next(&state, &owned).is_empty());
    let mut without = owned.clone();
    (without.zones, without.services) = Default::default();
    assert!(
        next(&state, &without)
            .changes
            .iter()
            .all(|c| !matches!(c, Change::RemoveZone(_) | Change::RemoveRecords(..)))
    );
    // A file that takes the zone over declares all of it.
    let step = next(&state, &small());
    assert!(step.changes.contains(&Change::PutZone(name("example.com"), ZoneOwner::File)));
    assert!(step.drift.is_empty() && step.to_string().contains("~ owner = \"api\" -> \"file\""));
    apply(&mut state, &step).unwrap();
    assert!(next(&state, &small()).is_empty());
}

#[test]
fn a_cname_gives_way_to_another_type_in_one_plan() {
    let mut before = small();
    before.zones = zones(&[set("m.example.com", 5, &[b"\x01x\0"])]);
    let mut state = running(&before);
    let mut after = small();
    after.zones = zones(&[a("m.example.com", 1)]);
    let step = next(&state, &after);
    apply(&mut state, &step).unwrap();
    assert!(next(&state, &after).is_empty());
}

#[test]
fn a_large_zone_is_staged_and_becomes_visible_at_once() {
    let many: Vec<RrSet> = (0..8000).map(|i| a(&format!("host-{i:05}.example.com"), 1)).collect();
    let mut desired = small();
    desired.zones = zones(&many);
    let mut state = fresh();
    let step = next(&state, &desired);
    assert!(stages(step.changes.clone()).unwrap().len() > 3);
    apply(&mut state, &step).unwrap();
    assert_eq!(state.zones.values().next().unwrap().len(), records(&many).len());
    assert!(next(&state, &desired).is_empty());
    // Removing them again is as large.
    let step = next(&state, &small());
    assert!(stages(step.changes.clone()).unwrap().len() > 1);
    apply(&mut state, &step).unwrap();
    assert!(next(&state, &small()).is_empty());
}

#[test]
fn an_rrset_larger_than_an_entry_is_named() {
    let texts: Vec<Vec<u8>> = (0..245u8).map(|i| [&[250u8, i][..], &[b'x'; 249]].concat()).collect();
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let big = Change::PutRecords(
        name("example.com"),
        vec![a("ok.example.com", 1), set("big.example.com", 16, &texts)],
    );
    let error = stages(vec![big]).unwrap_err();
    let StageError::Large { object, size, limit } = &error;
    assert_eq!(object, "the RRset big.example.com. TXT of zone example.com.");
    assert!(size > limit && error.to_string().ends_with("split it"), "{error}");
}
