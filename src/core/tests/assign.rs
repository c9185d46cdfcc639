//! Where a service is answered from, rule by rule.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use proptest::prelude::*;
use std::collections::BTreeSet;
use support::*;
use zonekeeper_core::{
    Command, Outcome,
    assign::{Hand, Lane},
    entry::{Force, Scope},
    evidence::{
        Kind, Row,
        Standing::{Degraded, Down, Up},
    },
    model::{Change, Endpoint, Failback, Family, Policy, Service, WhenAllDown},
    state::Basis,
    time::LogTime,
};

fn all(min_answers: u32) -> Service {
    Service { min_answers, ..service(Policy::All) }
}

fn move_to(at: Option<&str>) -> Command {
    Command::Move { service: web(), to: at.map(site) }
}

#[test]
fn failover_takes_the_first_usable_site() {
    let mut log = Log::new(service(failover()));
    assert_eq!(log.answered(), "a");
    log.judge("a", Down);
    assert_eq!(log.answered(), "b");
    log.judge("b", Down);
    assert_eq!(log.answered(), "c");
}

#[test]
fn a_degraded_site_stays_and_is_no_reason_to_come_back() {
    let mut log = Log::new(service(failover()));
    log.judge("a", Degraded);
    assert_eq!(log.answered(), "a");
    log.judge("a", Down);
    log.judge("a", Degraded);
    log.after(1_000_000);
    assert_eq!(log.answered(), "b");
}

#[test]
fn hold_down_and_health_come_before_the_way_back() {
    let mut log = Log::new(service(failover()));
    log.judge("a", Down);
    log.now += 55_000;
    log.judge("a", Up);
    log.after(5_000); // the hold-down has run out, 10 s of health have not
    assert_eq!(log.answered(), "b");
    log.after(4_999);
    assert_eq!(log.answered(), "b");
    log.after(1);
    assert_eq!(log.answered(), "a");
}

#[test]
fn hold_down_runs_from_the_last_failure() {
    let mut log = Log::new(Service { hold_down_max_ms: 60_000, ..service(failover()) });
    log.judge("a", Down);
    log.judge("a", Up);
    log.now += 50_000;
    log.judge("a", Down);
    log.judge("a", Up);
    log.after(59_999);
    assert_eq!(log.answered(), "b");
    log.after(1);
    assert_eq!(log.answered(), "a");
}

/// Fails and recovers; how long, in seconds, the site is kept out after it.
fn kept_out(log: &mut Log) -> u64 {
    log.judge("a", Down);
    log.judge("a", Up);
    (1..=1_000)
        .find(|_| {
            log.after(1_000);
            log.answered() == "a"
        })
        .unwrap_or(u64::MAX)
}

#[test]
fn a_site_that_flaps_is_kept_out_longer_each_time_up_to_a_bound_and_forgiven_when_it_is_calm() {
    let mut log = Log::new(service(failover()));
    assert_eq!([(); 4].map(|()| kept_out(&mut log)), [60, 120, 240, 240]);
    log.after(600_000);
    assert_eq!(kept_out(&mut log), 60, "ten calm minutes");
}

#[test]
fn a_restart_that_was_announced_is_no_flap() {
    let mut log = Log::new(service(failover()));
    for _ in 0..3 {
        let draining = Row { own: Some(Kind::Draining), verdict: Down, ..fitting("a", Up) };
        log.automatic(Command::Judge(vec![draining]));
        log.judge("a", Up);
        log.after(70_000);
    }
    assert_eq!(
        kept_out(&mut log),
        120,
        "the first failure after three restarts follows the last of them closely"
    );
}

#[test]
fn hold_down_never_holds_a_service_on_a_dead_site() {
    let mut log = Log::new(service(Policy::Failover(vec![site("a"), site("b")])));
    log.judge("a", Down);
    log.judge("a", Up);
    log.judge("b", Down);
    assert_eq!(log.answered(), "a");
}

#[test]
fn manual_failback_waits_for_a_person() {
    let mut log = Log::new(Service { failback: Failback::Manual, ..service(failover()) });
    log.judge("a", Down);
    log.judge("a", Up);
    log.after(100_000_000);
    assert_eq!(log.answered(), "b");
    log.ok(move_to(None));
    assert_eq!(log.answered(), "a");
}

#[test]
fn a_move_by_hand_ignores_hold_down_and_stays_until_the_site_fails() {
    let mut log = Log::new(service(failover()));
    log.judge("b", Down);
    log.judge("b", Up);
    log.ok(move_to(Some("b")));
    assert_eq!(log.answered(), "b");
    log.after(1_000_000);
    assert_eq!(log.answered(), "b", "pinned, though a comes first");
    log.judge("b", Down);
    assert_eq!(log.answered(), "a");
    log.judge("b", Up);
    log.after(1_000_000);
    assert_eq!(log.answered(), "a", "the pin is gone");
}

#[test]
fn a_move_goes_to_usable_sites_only() {
    let mut log = Log::new(service(failover()));
    log.judge("b", Down);
    log.refused(move_to(Some("b")), "not usable");
    log.force("c", Force::Drain);
    log.refused(move_to(Some("c")), "drained");
    log.refused(move_to(Some("x")), "no endpoint");
    log.judge("b", Degraded);
    log.ok(move_to(Some("b")));
    assert_eq!(log.answered(), "b");
}

#[test]
fn a_pin_outlives_a_move_of_the_family_it_does_not_cover() {
    let mut spec = service(failover());
    for s in ["a", "c"] {
        let v6 = Endpoint { addr: "2001:db8::1".parse().unwrap(), port: 443 };
        spec.endpoints.get_mut(&site(s)).unwrap().push(v6);
    }
    let mut log = Log::new(spec);
    log.ok(move_to(Some("b")));
    assert_eq!((log.answered(), log.lane(Family::V6)), ("b".into(), "a".into()));
    let mut row = fitting("a", Down);
    row.target.family = Family::V6;
    log.automatic(Command::Judge(vec![row]));
    assert_eq!(log.lane(Family::V6), "c");
    log.after(1_000_000);
    assert_eq!(log.answered(), "b");
}

/// The TTL of both families follows from what is suspected in either: the answers of both are prepared anew, then and when
/// it is over.
#[test]
fn suspicion_in_one_family_touches_the_other_too() {
    let mut spec = service(failover());
    let v6 = Endpoint { addr: "2001:db8::1".parse().unwrap(), port: 443 };
    SITES.iter().for_each(|s| spec.endpoints.get_mut(&site(s)).unwrap().push(v6.clone()));
    let mut log = Log::new(spec);
    for (verdict, family) in
        [(Degraded, Family::V6), (Up, Family::V6), (Degraded, Family::V4), (Up, Family::V4)]
    {
        let mut row = fitting("a", verdict);
        row.target.family = family;
        let Outcome::Applied(delta) = log.automatic(Command::Judge(vec![row])) else { panic!("refused") };
        let touched = BTreeSet::from_iter(delta.services);
        assert_eq!(touched, Family::ALL.map(|f| (web(), f)).into(), "{verdict:?} over {family:?}");
    }
}

#[test]
fn a_drained_site_takes_nothing_new_and_comes_back_when_released() {
    let mut log = Log::new(service(failover()));
    log.force("a", Force::Drain);
    assert_eq!(log.answered(), "b");
    log.release("a");
    assert_eq!(log.answered(), "a", "a drain is no failure");
}

#[test]
fn what_is_forced_counts_before_what_is_observed() {
    let mut log = Log::new(service(failover()));
    log.judge("a", Down);
    log.force("a", Force::Up);
    assert_eq!(log.answered(), "a");
    log.release("a");
    assert_eq!(log.answered(), "b");
    log.force("b", Force::Down);
    assert_eq!(log.answered(), "c");
}

#[test]
fn an_override_of_the_service_counts_before_one_of_the_site() {
    let mut log = Log::new(service(failover()));
    log.force("a", Force::Down);
    log.ok(over(Scope::ServiceSite(web(), site("a")), Force::Up, None));
    assert_eq!(log.answered(), "a");
}

#[test]
fn an_override_expires_with_log_time() {
    let mut log = Log::new(service(failover()));
    log.ok(over(Scope::Site(site("a")), Force::Drain, Some(START + 5_000)));
    log.after(4_999);
    assert_eq!(log.answered(), "b");
    log.after(1);
    assert_eq!(log.answered(), "a");
}

#[test]
fn fail_open_answers_drained_sites_and_then_the_last_set() {
    let mut log = Log::new(service(failover()));
    log.force("b", Force::Drain);
    log.judge("a", Down);
    log.judge("c", Down);
    assert_eq!((log.answered().as_str(), log.basis()), ("b", Basis::Drained));
    log.judge("b", Down);
    assert_eq!((log.answered().as_str(), log.basis()), ("b", Basis::LastSet));
    log.judge("c", Degraded);
    assert_eq!((log.answered().as_str(), log.basis()), ("c", Basis::Usable));
}

#[test]
fn fail_open_never_answers_what_an_operator_forced_down() {
    let mut log = Log::new(service(failover()));
    log.force("a", Force::Down);
    log.judge("b", Down);
    log.judge("c", Down);
    assert_eq!((log.answered().as_str(), log.basis()), ("c", Basis::LastSet));
    log.force("c", Force::Down);
    assert_eq!((log.answered().as_str(), log.basis()), ("b", Basis::LastSet));
    log.refused(over(Scope::Site(site("b")), Force::Down, None), "forced down");
}

#[test]
fn the_last_site_cannot_be_taken_by_release_or_declaration_either() {
    let mut log = Log::new(service(failover()));
    let own = Scope::ServiceSite(web(), site("b"));
    log.force("a", Force::Down);
    log.ok(over(own.clone(), Force::Up, None));
    log.force("b", Force::Down);
    log.force("c", Force::Down);
    assert_eq!(log.answered(), "b");
    log.refused(Command::Release(own), "forced down");
    let mut less = service(failover());
    less.endpoints.remove(&site("b"));
    log.refused(Command::Configure(vec![Change::PutService(web(), Box::new(less))]), "forced down");
}

#[test]
fn fail_closed_answers_nothing() {
    let mut log = Log::new(Service { when_all_down: WhenAllDown::ServFail, ..service(failover()) });
    for s in SITES {
        log.judge(s, Down);
    }
    assert_eq!((log.answered().as_str(), log.basis()), ("", Basis::Nothing));
    log.judge("c", Up);
    assert_eq!((log.answered().as_str(), log.basis()), ("c", Basis::Usable));
}

#[test]
fn all_and_weighted_answer_every_usable_site() {
    let weights = SITES.into_iter().zip(1..).map(|(s, w)| (site(s), w)).collect();
    for policy in [Policy::All, Policy::Weighted(weights)] {
        let mut log = Log::new(service(policy));
        assert_eq!(log.answered(), "a b c");
        log.judge("b", Down);
        assert_eq!(log.answered(), "a c");
        log.judge("b", Up);
        assert_eq!(log.answered(), "a c", "hold-down");
        log.after(60_000);
        assert_eq!(log.answered(), "a b c");
    }
}

#[test]
fn all_down_keeps_the_last_set() {
    let mut log = Log::new(all(1));
    log.judge("a", Down);
    log.judge("b", Down);
    assert_eq!(log.answered(), "c");
    log.judge("c", Down);
    assert_eq!((log.answered().as_str(), log.basis()), ("c", Basis::LastSet));
}

#[test]
fn the_safety_limit_keeps_dead_sites_when_nothing_better_is_left() {
    let mut log = Log::new(all(2));
    log.judge("a", Down);
    assert_eq!(log.answered(), "b c");
    log.now += 1;
    log.judge("b", Down);
    assert_eq!(log.answered(), "b c", "b failed last and stays");
    log.judge("c", Degraded);
    assert_eq!(log.answered(), "b c");
}

#[test]
fn the_safety_limit_prefers_a_healthy_site_in_its_hold_down() {
    let mut log = Log::new(all(2));
    log.judge("a", Down);
    log.judge("a", Up);
    log.judge("b", Down);
    assert_eq!(log.answered(), "a c");
}

#[test]
fn with_automation_off_nothing_moves_by_itself() {
    for service_only in [true, false] {
        let mut log = Log::new(service(failover()));
        let switch = |on| Command::Automation { service: service_only.then(web), on };
        log.ok(switch(false));
        log.judge("a", Down);
        log.after(1_000_000);
        assert_eq!(log.answered(), "a");
        log.ok(switch(true));
        assert_eq!(log.answered(), "b");
        log.judge("a", Up);
        log.ok(switch(false));
        log.after(1_000_000);
        assert_eq!(log.answered(), "b", "no way back either");
    }
}

#[test]
fn an_operators_switch_outlives_a_declaration_that_does_not_touch_it() {
    let mut log = Log::new(service(failover()));
    let mut spec = service(failover());
    let mut declare = |log: &mut Log, ttl, automation| {
        (spec.ttl, spec.automation) = (ttl, automation);
        log.ok(Command::Configure(vec![Change::PutService(web(), Box::new(spec.clone()))]));
    };
    log.ok(Command::Automation { service: Some(web()), on: false });
    declare(&mut log, 77, true);
    log.judge("a", Down);
    assert_eq!(log.answered(), "a", "still switched off");
    declare(&mut log, 77, false);
    declare(&mut log, 77, true);
    assert_eq!(log.answered(), "b", "the declaration changed: it has the last word");
}

#[test]
fn with_automation_off_an_operators_word_counts() {
    let mut log = Log::new(service(failover()));
    log.ok(Command::Automation { service: None, on: false });
    log.force("a", Force::Drain);
    assert_eq!(log.answered(), "b");
    log.judge("b", Down);
    log.force("b", Force::Drain);
    assert_eq!(log.answered(), "c", "a drain counts on a dead site too");
    log.force("c", Force::Drain);
    assert_eq!(log.basis(), Basis::Drained);
    let held = log.answered();
    log.judge("b", Up);
    log.judge("c", Down);
    assert_eq!(log.answered(), held, "evidence moves nothing, drained or not");
}

#[derive(Debug, Clone)]
enum Act {
    Judge(usize, zonekeeper_core::evidence::Standing),
    Force(usize, Force),
    Release(usize),
    Move(Option<usize>),
    Automation(bool),
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let standing = prop_oneof![Just(Up), Just(Degraded), Just(Down), Just(Down)];
    let force = prop_oneof![Just(Force::Up), Just(Force::Drain), Just(Force::Down)];
    let act = prop_oneof![
        6 => (0..3usize, standing).prop_map(|(s, v)| Act::Judge(s, v)),
        2 => (0..3usize, force).prop_map(|(s, f)| Act::Force(s, f)),
        2 => (0..3usize).prop_map(Act::Release),
        1 => proptest::option::of(0..3usize).prop_map(Act::Move),
        1 => any::<bool>().prop_map(Act::Automation),
        2 => (0..80_000u64).prop_map(Act::Wait),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every step is checked against the invariants (in `Log::apply`), and after it the rules want nothing more: a
    /// leader that looks again proposes nothing.
    #[test]
    fn the_rules_come_to_rest(acts in acts(), policy in 0..3, min in 0..4u32, closed in any::<bool>()) {
        let weights = SITES.into_iter().zip(1..).map(|(s, w)| (site(s), w)).collect();
        let policy = [failover(), Policy::All, Policy::Weighted(weights)][policy as usize].clone();
        let when_all_down = if closed { WhenAllDown::NoData } else { WhenAllDown::FailOpen };
        let mut log = Log::new(Service { min_answers: min, when_all_down, ..service(policy) });
        for act in acts {
            match act {
                Act::Judge(s, verdict) => log.judge(SITES[s], verdict),
                Act::Force(s, force) => drop(log.by_hand(over(Scope::Site(site(SITES[s])), force, None))),
                Act::Release(s) => drop(log.by_hand(Command::Release(Scope::Site(site(SITES[s]))))),
                Act::Move(to) => drop(log.by_hand(move_to(to.map(|s| SITES[s])))),
                Act::Automation(on) => log.ok(Command::Automation { service: None, on }),
                Act::Wait(ms) => log.after(ms),
            }
            let (id, state) = (web(), &log.state);
            let held = &state.services[&id].assignment[&Family::V4];
            let choice = Lane::new(state, &id, &state.services[&id], Family::V4, LogTime(log.now)).choose(Hand::Off);
            prop_assert_eq!((&choice.sites, choice.basis), (&held.sites, held.basis));
        }
    }
}

#[test]
fn what_is_not_answered_says_why() {
    let mut log = Log::new(service(failover()));
    log.judge("a", Down);
    log.now += 5_000;
    log.judge("a", Up);
    log.force("b", Force::Drain);
    let (state, id) = (&log.state, web());
    let lane = Lane::new(state, &id, &state.services[&id], Family::V4, state.time);
    let why = |s: &str| lane.unused(&site(s)).unwrap_or_else(|| "answered".into());
    assert_eq!(why("c"), "answered");
    assert!(why("a").starts_with("up, but held back: hold-down, "), "{}", why("a"));
    assert!(why("b").starts_with("drained by "), "{}", why("b"));
}
