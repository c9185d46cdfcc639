//! The leader's part: what is proposed from the evidence, what is not, and why.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::*;
use zonekeeper_core::{
    Command, Outcome, Proposal,
    decide::{Alarm, DEGRADED_MS, Decider, Decision},
    entry::Force,
    evidence::{Colour, Evidence, Kind, REPORT_LIFE_MS, Report, SelfReport, Standing, Target, Verdict},
    model::{Change, Quorum, Service},
    state::HISTORY,
    time::{LogTime, Mono},
};

/// A leader with evidence, and the log that it leads.
struct Leader {
    log: Log,
    evidence: Evidence,
    decider: Decider,
    seq: u64,
    now: u64,
}

const GREEN: Verdict = Verdict { colour: Colour::Green, kind: None, age_ms: 0 };
const RED_SEEN: Verdict = Verdict { colour: Colour::Red, kind: Some(Kind::Refused), age_ms: 0 };

impl Leader {
    fn new(service: Service) -> Leader {
        let (evidence, decider) = Default::default();
        Leader { log: Log::new(service), evidence, decider, seq: 0, now: 0 }
    }

    fn send(&mut self, node: u64, edit: impl FnOnce(&mut Report)) {
        self.seq += 1;
        let own = SITES[node as usize - 1];
        let endpoints = SITES.iter().filter(|s| **s != own).map(|s| (target(s), GREEN)).collect();
        let mut report =
            Report { node, seq: self.seq, abstains: None, endpoints, nodes: vec![], own: vec![] };
        edit(&mut report);
        self.evidence.receive(report, Mono(self.now));
    }

    /// These nodes see the site red, the others see everything green.
    fn seen_red(&mut self, at: &str, by: &[u64]) {
        for node in 1..=3 {
            let red = by.contains(&node);
            self.send(node, |r| {
                let it = r.endpoints.iter_mut().filter(|(t, _)| red && *t == target(at));
                it.for_each(|(_, v)| *v = RED_SEEN);
            });
        }
    }

    fn decide(&mut self) -> Decision {
        let log_now = LogTime(self.log.now + self.now);
        self.decider.decide(&self.log.state, &self.evidence, Mono(self.now), log_now)
    }

    fn verdicts(&mut self) -> Vec<(String, Standing)> {
        match self.decide().proposal {
            Some(Proposal { command: Command::Judge(rows), .. }) => {
                rows.iter().map(|r| (r.target.site.to_string(), r.verdict)).collect()
            }
            None => vec![],
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self) {
        let mut proposal = self.decide().proposal.expect("something to decide");
        // its reads are as good as the state
        let outcome = self.log.apply(proposal.clone());
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        proposal.reads.retain(|r| r.version > 0);
        let again = self.log.apply(proposal);
        assert!(matches!(again, Outcome::Stale(_)), "the reads guard it: {again:?}");
    }

    fn texts(&mut self, alarm: Option<Alarm>) -> Vec<String> {
        let notes = self.decide().notes.into_iter();
        notes.filter(|n| n.alarm == alarm).map(|n| format!("{}: {}", n.target.site, n.text)).collect()
    }
}

fn down(s: &str) -> Vec<(String, Standing)> {
    vec![(s.into(), Standing::Down)]
}

#[test]
fn two_of_three_sites_red_is_decided_at_once() {
    let mut leader = Leader::new(service(failover()));
    leader.seen_red("a", &[2, 3]);
    assert_eq!(leader.verdicts(), down("a"));
    leader.commit();
    assert_eq!(leader.log.answered(), "b");
    assert_eq!(leader.verdicts(), vec![], "once");
}

#[test]
fn one_red_site_is_degraded_after_a_while_and_moves_nothing() {
    let mut leader = Leader::new(service(failover()));
    leader.seen_red("a", &[2]);
    assert_eq!(leader.verdicts(), vec![]);
    assert_eq!(leader.texts(Some(Alarm::Degraded)), ["a: degraded: 1 of 3 voting sites red, 2 are needed"]);
    leader.now += DEGRADED_MS - 1;
    assert_eq!(leader.verdicts(), vec![]);
    leader.now += 1;
    assert_eq!(leader.verdicts(), vec![("a".into(), Standing::Degraded)]);
    leader.commit();
    assert_eq!(leader.log.answered(), "a");
}

#[test]
fn a_flicker_begins_the_patience_anew() {
    let mut leader = Leader::new(service(failover()));
    leader.seen_red("a", &[2]);
    leader.verdicts();
    leader.now += DEGRADED_MS - 1;
    for node in 1..=3 {
        leader.send(node, |r| r.endpoints.clear()); // nothing is known
    }
    assert_eq!(leader.verdicts(), vec![]);
    leader.now += 1;
    leader.seen_red("a", &[2]);
    assert_eq!(leader.verdicts(), vec![]);
    leader.now += DEGRADED_MS;
    leader.seen_red("a", &[2]);
    assert_eq!(leader.verdicts().len(), 1);
}

#[test]
fn unanimous_evidence_needs_every_other_site() {
    let mut leader = Leader::new(Service { quorum: Quorum::Unanimous, ..service(failover()) });
    leader.seen_red("a", &[2]);
    assert_eq!(leader.verdicts(), vec![]);
    leader.seen_red("a", &[2, 3]);
    assert_eq!(leader.verdicts(), down("a"));
}

#[test]
fn the_sites_own_word_needs_no_majority_and_beats_a_remote_green() {
    let mut leader = Leader::new(service(failover()));
    for (healthy, draining) in [(0, false), (2, true)] {
        leader.seen_red("a", &[]);
        let own = SelfReport { service: web(), healthy, backends: 2, draining };
        leader.send(1, |r| r.own.push(own));
        assert_eq!(leader.verdicts(), down("a"));
    }
}

#[test]
fn a_site_that_nobody_else_judges_comes_back_by_its_own_word() {
    let mut leader = Leader::new(Service { check: None, ..service(failover()) });
    let says = |healthy| {
        move |r: &mut Report| {
            r.endpoints.clear();
            let service = target("a").service;
            r.own = vec![SelfReport { service, healthy, backends: 2, draining: false }];
        }
    };
    (1..=3).for_each(|node| leader.send(node, says(2)));
    assert_eq!(leader.verdicts(), []);
    leader.send(1, says(0));
    assert_eq!(leader.verdicts(), down("a"));
    leader.commit();
    leader.now += REPORT_LIFE_MS; // its silence is no word
    assert_eq!(leader.verdicts(), []);
    leader.send(1, says(2));
    assert_eq!(leader.verdicts(), [("a".to_string(), Standing::Up)]);
    leader.commit();
}

#[test]
fn the_node_path_alone_moves_nothing() {
    let mut leader = Leader::new(service(failover()));
    for node in 2..=3 {
        leader.send(node, |r| r.nodes.push((1, RED_SEEN)));
    }
    assert_eq!(leader.verdicts(), vec![]);
}

#[test]
fn a_site_with_two_nodes_has_one_vote_and_green_wins_in_it() {
    let mut leader = Leader::new(service(failover()));
    let peer = ([10, 0, 0, 4], 7000).into();
    let member = zonekeeper_core::entry::Member {
        site: site("b"),
        duty: zonekeeper_core::entry::Duty::Full,
        peer,
        admin: None,
        version: 1,
    };
    leader.log.ok(Command::PutMember(4, member));
    let next = leader.log.state.generation.index + 1;
    leader.log.state.set_voters(next, [1, 2, 3, 4].into());
    leader.seen_red("a", &[2]);
    let see = |r: &mut Report, v| {
        r.node = 4;
        r.endpoints = vec![(target("a"), v)];
    };
    leader.send(2, |r| see(r, RED_SEEN)); // with node 2 two reds, of one site
    leader.now += DEGRADED_MS;
    assert!(leader.verdicts().iter().all(|(_, v)| *v != Standing::Down));
    leader.seen_red("a", &[2, 3]);
    leader.send(2, |r| see(r, GREEN));
    assert!(leader.verdicts().iter().all(|(_, v)| *v != Standing::Down), "b reaches it after all");
}

#[test]
fn sick_and_silent_observers_disarm_failover() {
    let mut leader = Leader::new(service(failover()));
    leader.seen_red("a", &[2, 3]);
    leader.send(3, |r| {
        r.abstains = Some("misses 2 of 2 peers".into());
        r.endpoints.iter_mut().for_each(|(_, v)| *v = RED_SEEN);
    });
    assert_eq!(leader.verdicts(), vec![], "one red, one abstains");
    let disarmed = leader.texts(Some(Alarm::Disarmed));
    assert!(disarmed.contains(&"a: disarmed: 1 of 3 voting sites can judge it, 2 are needed".to_string()));

    leader.seen_red("a", &[2, 3]);
    leader.now += REPORT_LIFE_MS;
    assert_eq!(leader.verdicts(), vec![], "too old");
    assert_eq!(leader.texts(Some(Alarm::Disarmed)).len(), 3);
}

#[test]
fn reports_of_learners_and_strangers_do_not_vote() {
    let mut leader = Leader::new(service(failover()));
    let next = leader.log.state.generation.index + 1;
    leader.log.state.set_voters(next, [1, 2].into());
    leader.seen_red("a", &[2, 3]);
    leader.now += DEGRADED_MS;
    assert!(leader.verdicts().iter().all(|(_, v)| *v != Standing::Down));
}

#[test]
fn an_older_report_is_ignored_until_the_newer_one_has_expired() {
    let mut evidence = Evidence::default();
    let report = |seq| Report { node: 1, seq, abstains: None, endpoints: vec![], nodes: vec![], own: vec![] };
    assert!(evidence.receive(report(5), Mono(0)));
    assert!(!evidence.receive(report(5), Mono(1)));
    assert!(!evidence.receive(report(4), Mono(REPORT_LIFE_MS - 1)));
    assert!(evidence.receive(report(1), Mono(REPORT_LIFE_MS)), "the node has restarted");
}

#[test]
fn time_that_runs_out_is_a_proposal() {
    let mut leader = Leader::new(service(failover()));
    leader.log.judge("a", Standing::Down);
    leader.log.judge("a", Standing::Up);
    assert_eq!(leader.texts(None), ["a: hold-down, 60 s left"]);
    leader.now = 59_999;
    assert_eq!(leader.decide().proposal, None);
    leader.now = 60_000;
    let proposal = leader.decide().proposal.unwrap();
    assert_eq!(proposal.command, Command::Tick);
    leader.log.now += 60_000;
    leader.now = 0;
    leader.log.apply(proposal);
    assert_eq!(leader.log.answered(), "a");
    assert_eq!(leader.decide().proposal, None);
}

#[test]
fn an_expired_override_is_a_proposal() {
    let mut leader = Leader::new(service(failover()));
    let scope = zonekeeper_core::entry::Scope::Site(site("a"));
    leader.log.ok(over(scope, Force::Drain, Some(START + 10)));
    assert_eq!(leader.decide().proposal, None);
    leader.now = 10;
    assert_eq!(leader.decide().proposal.map(|p| p.command), Some(Command::Tick));
}

#[test]
fn every_reason_to_stay_is_told() {
    let mut leader = Leader::new(service(failover()));
    leader.log.force("b", Force::Drain);
    leader.log.force("c", Force::Down);
    assert_eq!(leader.texts(None), ["b: drained by an operator", "c: forced down by an operator"]);
    leader.log.release("b");
    leader.log.ok(Command::Move { service: web(), to: Some(site("b")) });
    assert_eq!(leader.texts(None)[0], "a: up, but an operator moved the service to b");
    leader.log.ok(Command::Automation { service: None, on: false });
    leader.log.judge("b", Standing::Down);
    assert_eq!(leader.texts(None)[..2], ["a: up, but automation is off", "b: down, but automation is off"]);
    assert_eq!(leader.decide().proposal, None);
}

#[test]
fn what_moves_traffic_goes_first_and_an_entry_stays_small() {
    let mut leader = Leader::new(service(failover()));
    leader.seen_red("a", &[2, 3]);
    leader.seen_red("b", &[1]);
    for node in 2..=3 {
        leader.send(node, |r| {
            r.endpoints.iter_mut().filter(|(t, _)| *t == target("a")).for_each(|(_, v)| *v = RED_SEEN);
        });
    }
    leader.verdicts();
    leader.now += DEGRADED_MS;
    let verdicts = leader.verdicts();
    assert_eq!(verdicts[0], ("a".into(), Standing::Down));
    assert_eq!(verdicts[1], ("b".into(), Standing::Degraded));
}

/// `s0`, `s1` and so on, each as `web`.
fn many(n: usize) -> Leader {
    let mut leader = Leader::new(service(failover()));
    let names = |i| vec![name(&format!("s{i}.example.com."))];
    let put = |i| {
        let spec = Service { names: names(i), ..service(failover()) };
        Change::PutService(format!("s{i}").parse().unwrap(), Box::new(spec))
    };
    leader.log.ok(Command::Configure((0..n).map(put).collect()));
    leader
}

#[test]
fn a_site_with_many_services_moves_in_bounded_entries_and_no_decision_is_lost() {
    let mut leader = many(300);
    for node in [2, 3] {
        let at_a = |i: usize| Target { service: format!("s{i}").parse().unwrap(), ..target("a") };
        leader.send(node, |r| r.endpoints = (0..300).map(|i| (at_a(i), RED_SEEN)).collect());
    }
    let before = leader.log.state.generation;
    let mut entries = 0;
    while let Some(proposal) = leader.decide().proposal {
        let Command::Judge(rows) = &proposal.command else { panic!("{proposal:?}") };
        assert!(rows.len() <= HISTORY / 16, "{} rows", rows.len());
        assert!(matches!(leader.log.apply(proposal), Outcome::Applied(_)));
        entries += 1;
    }
    assert_eq!(entries, 5);
    let told: Vec<_> = leader.log.state.history.iter().filter(|d| d.epoch > before).collect();
    assert_eq!(told.len(), 300);
    for decision in told {
        assert_eq!(decision.cause, "a down: refused from b, refused from c", "its own evidence alone");
        assert_eq!(decision.rows.len(), 1);
    }
}

#[test]
fn the_decisions_of_one_entry_are_kept_whole_and_the_history_is_bounded() {
    let n = HISTORY + 50;
    let mut leader = many(n);
    assert_eq!(leader.log.state.history.len(), n, "the first answers of all of them");
    leader.log.force("a", Force::Drain);
    let (index, history) = (leader.log.state.generation, &leader.log.state.history);
    assert_eq!(history.iter().filter(|d| d.epoch == index).count(), n + 1);
    assert_eq!(history.len(), n + 1);
    leader.log.ok(Command::Move { service: web(), to: Some(site("c")) });
    assert_eq!(leader.log.state.history.len(), HISTORY);
}

#[test]
fn a_cluster_of_one_site_is_not_disarmed_for_ever() {
    let mut leader = Leader::new(service(failover()));
    let next = leader.log.state.generation.index + 1;
    leader.log.state.set_voters(next, [1].into());
    leader.send(1, |_| {});
    assert_eq!(leader.texts(Some(Alarm::Disarmed)), [""; 0]);
    assert_eq!(leader.texts(None)[0], "a: no other site votes: only its own word can move it");
    leader.now += REPORT_LIFE_MS; // b and c have an observer, which is silent now
    assert_eq!(leader.texts(Some(Alarm::Disarmed)).len(), 2);
}
