//! A new incarnation: one member, and nothing goes back.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use support::*;
use zonekeeper_core::{
    Command, State,
    entry::{Duty, Member, Recovery},
    evidence::Standing,
    invariant::progress::Progress,
    model::Family,
};

fn recovery(incarnation: u32, cluster: u128) -> Command {
    let member = Member {
        site: site("b"),
        duty: Duty::Full,
        peer: ([10, 0, 0, 2], 7000).into(),
        admin: None,
        version: 1,
    };
    Command::Recover(Recovery { incarnation, cluster, node: 2, member, reason: "a and c burnt down".into() })
}

/// Three sites, one of them down, and one voter left.
fn log() -> Log {
    let mut log = Log::new(service(failover()));
    log.judge("a", Standing::Down);
    let next = log.state.generation.index + 1;
    log.state.set_voters(next, BTreeSet::from([2]));
    log
}

fn serial(state: &State) -> u32 {
    state.zones[&name("example.com.")].serial()
}

#[test]
fn the_answers_stay_and_every_version_is_later() {
    let mut log = log();
    let before = log.state.clone();
    let mut progress = Progress::default();
    progress.observe(1, &before).unwrap();
    log.ok(recovery(1, 7));
    progress.observe(1, &log.state).unwrap();
    let after = &log.state;
    assert_eq!((log.answered(), after.generation.incarnation), ("b".into(), 1));
    assert!(after.generation > before.generation);
    let epoch = |s: &State| s.services[&web()].assignment[&Family::V4].epoch;
    assert_eq!(epoch(after), after.generation);
    assert_eq!(serial(after) - serial(&before), (1 << 24) + 1);
    assert!(after.services[&web()].version > before.services[&web()].version);
    assert_eq!(after.services[&web()].health, before.services[&web()].health, "what is known stays known");
    let last = after.history.back().unwrap();
    assert_eq!((&last.from, &last.to), (&vec![site("b")], &vec![site("b")]));
    assert!(last.cause.contains("a and c burnt down") && last.cause.contains("ops"), "{}", last.cause);
    let origin = after.origin.as_ref().unwrap();
    assert_eq!((origin.at, origin.author.as_str()), (after.generation, "ops"));
}

#[test]
fn the_others_are_retired_unless_the_cluster_is_another_one() {
    let mut same = log();
    same.ok(recovery(1, 7));
    assert_eq!(same.state.members.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(same.state.retired, BTreeSet::from([1, 3]));
    same.refused(
        Command::PutMember(
            1,
            Member { peer: ([10, 0, 0, 1], 1).into(), ..(*same.state.members[&2]).clone() },
        ),
        "used before",
    );
    let mut other = log();
    other.ok(recovery(1, 8));
    assert_eq!((other.state.cluster, other.state.retired.len()), (8, 0));
}

#[test]
fn an_incarnation_that_goes_back_or_too_far_or_has_other_voters_is_refused() {
    let mut log = log();
    log.refused(recovery(0, 7), "cannot follow 0");
    log.refused(recovery(101, 7), "use 1 to 100");
    log.ok(recovery(100, 7));
    let ahead = serial(&log.state);
    log.ok(recovery(101, 7));
    assert!(serial(&log.state).wrapping_sub(ahead) < 1 << 31);
    let next = log.state.generation.index + 1;
    log.state.set_voters(next, BTreeSet::from([1, 2]));
    log.refused(recovery(102, 7), "on one voter");
}
