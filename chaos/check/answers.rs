//! What was asked and answered: nobody is left without an answer, and everything heals.

use super::{
    Finding, at,
    windows::{ECHO_US, must_answer},
};
use crate::{
    history::{Kind, Op, Served, User},
    record::Record,
};
use std::collections::BTreeSet;

/// A node that was started again answers within this time, on a machine that is busy.
const BACK_US: u64 = 30_000_000;

/// Invariant 6: no answer for the service is empty, wrong or an error, whatever happens.
pub fn never_empty(record: &Record) -> Finding {
    let known: BTreeSet<&String> = record.addresses.iter().collect();
    let (mut wrong, mut questions) = (Vec::new(), 0);
    for asked in record.asked.iter().filter(|a| a.rtype == "A") {
        questions += asked.questions.0;
        for said in &asked.changes {
            let Some(answer) = &said.answer else { continue };
            let foreign = answer.addrs.iter().any(|a| !known.contains(a));
            if answer.rcode != 0 || answer.addrs.is_empty() || foreign {
                let (site, over) = (&record.sites[asked.node], &asked.over);
                wrong.push(format!(
                    "at {} {site} answered over {over} with code {} and {:?}",
                    at(said.at_us),
                    answer.rcode,
                    answer.addrs
                ));
            }
        }
    }
    if questions == 0 {
        wrong.push("nobody asked".into());
    }
    Finding::of("no answer is empty or wrong", 6, format!("{questions} questions"), wrong)
}

/// Invariant 9, its second half: every live node answers throughout, quorum or not.
pub fn live_nodes_answer(record: &Record) -> Finding {
    let (mut wrong, mut live_us, mut questions) = (Vec::new(), 0, 0);
    for asked in &record.asked {
        let (site, over) = (&record.sites[asked.node], &asked.over);
        questions += asked.questions.0;
        if asked.questions.0 == asked.questions.1 {
            wrong.push(format!("{site} never answered over {over}"));
        }
        let windows = must_answer(record, asked);
        live_us += windows.iter().map(|(a, b)| b - a).sum::<u64>();
        for said in asked.changes.iter().filter(|s| s.answer.is_none()) {
            if windows.iter().any(|(from, to)| *from <= said.asked_us && said.at_us <= *to) {
                wrong.push(format!(
                    "{site} did not answer over {over} what was asked at {}",
                    at(said.asked_us)
                ));
            }
        }
        for h in record.happened.iter().filter(|h| h.silent_from_us.is_some() && h.silences(asked)) {
            let until = h.to_us + BACK_US;
            let again = record.happened.iter().any(|o| {
                o.silences(asked)
                    && o.silent_from_us.is_some_and(|s| {
                        h.to_us <= s && s < until || o.from_us < h.to_us && o.to_us > h.to_us
                    })
            });
            let back = windows.iter().any(|(from, to)| *from <= until && *to > h.to_us);
            if !back && !again && until < record.phases.end_us {
                wrong.push(format!("{site} still does not answer over {over} 30 s after {}", at(h.to_us)));
            }
        }
    }
    let looked = format!("{questions} questions, {:.0} s of nodes that must answer", live_us as f64 / 1e6);
    Finding::of("every live node answers", 9, looked, wrong)
}

/// Invariant 9: after the last fault everything heals in time, writes too, and in each pause of a schedule as well.
pub fn healed(record: &Record) -> Finding {
    let bound = record.plan.heal_within_ms;
    let mut wrong: Vec<String> =
        record.happened.iter().filter(|h| h.step == usize::MAX).filter_map(|h| h.trouble.clone()).collect();
    let took = record.phases.healed_us.map(|h| h.saturating_sub(record.phases.calm_us) / 1000);
    match took {
        Some(ms) if ms <= bound => {}
        Some(ms) => wrong.push(format!("healed only {ms} ms after the last fault; {bound} ms are allowed")),
        None => wrong.push(format!("not healed {bound} ms after the last fault")),
    }
    let calm = record.phases.calm_us;
    let written =
        |o: &&Op| matches!(o.kind, Kind::Write(_)) && o.called_us >= calm && o.returned_us.is_some();
    let writes = record.ops.iter().filter(written).count();
    if writes == 0 {
        wrong.push("no write was acknowledged after the last fault".into());
    }
    let looked = format!(
        "healed {} ms after the last fault, of {bound} ms; {writes} writes since",
        took.unwrap_or_default()
    );
    Finding::of("everything heals", 9, looked, wrong)
}

/// What was planned did happen: all of a scenario, and most of what a soak draws, for there one fault may take away
/// what the next one needs.
pub fn happened(record: &Record) -> Finding {
    let planned = record.happened.iter().filter(|h| h.step != usize::MAX);
    let failed: Vec<String> = planned
        .clone()
        .filter_map(|h| Some(format!("at {}, {}: {}", at(h.from_us), h.text, h.trouble.as_ref()?)))
        .collect();
    let (count, left_out) = (planned.count(), failed.len());
    let allowed = if record.plan.drawn() { count / 4 } else { 0 };
    let wrong = if left_out > allowed { failed } else { Vec::new() };
    Finding::of("what was planned did happen", None, format!("{} of {count} events", count - left_out), wrong)
}

/// What a user was told holds for him so long: the TTL of the laboratory's service, and a request under way.
const TOLD_US: u64 = 3_000_000;

/// Sites that users were sent to at a moment: by any node, then or as long before as that holds.
fn sent_to(record: &Record, us: u64) -> BTreeSet<usize> {
    let mut out = BTreeSet::new();
    for asked in record.asked.iter().filter(|a| a.rtype == "A") {
        let until = asked.changes.partition_point(|s| s.at_us <= us);
        for said in asked.changes[..until].iter().rev() {
            let addrs = said.answer.iter().flat_map(|a| &a.addrs);
            out.extend(addrs.filter_map(|a| record.addresses.iter().position(|o| o == a)));
            if said.answer.is_some() && said.at_us + TOLD_US < us {
                break;
            }
        }
    }
    out
}

/// Users fail only near a fault that takes away the site that they were sent to, or most of the sites. One request alone
/// that ran out of time says as much of the judge's machine as of the cluster; two in a row do not.
pub fn users(record: &Record) -> Finding {
    let hit = |user: User, us: u64| {
        let sites = if user == User::Frozen { BTreeSet::from([0]) } else { sent_to(record, us) };
        let most =
            |h: &crate::fault::Happened| user != User::Frozen && h.nodes.len() > record.sites.len() / 2;
        let own = |h: &crate::fault::Happened| h.nodes.iter().any(|n| sites.contains(n)) || most(h);
        let touches =
            |h: &&crate::fault::Happened| (h.excuses || h.hidden || h.silent_from_us.is_some()) && own(h);
        let near =
            |h: &crate::fault::Happened| h.from_us <= us + 1_000_000 && us <= h.to_us.saturating_add(ECHO_US);
        record.happened.iter().filter(touches).any(near)
    };
    let failed = record.served.iter().filter(|r| r.site.is_none()).count();
    let mut wrong = Vec::new();
    for user in User::ALL {
        let served: Vec<&Served> = record.served.iter().filter(|r| r.user == user).collect();
        if served.iter().all(|r| r.site.is_none()) {
            wrong.push(format!("{user:?}: no request was served at all"));
        }
        let twice = served.windows(2).filter(|w| w.iter().all(|r| r.site.is_none() && !hit(user, r.at_us)));
        wrong.extend(
            twice.map(|w| format!("{user:?}: requests of {} and {} failed", at(w[0].at_us), at(w[1].at_us))),
        );
    }
    let looked = format!("{failed} of {} requests failed, near a fault or alone", record.served.len());
    Finding::of("users fail only where something was taken away", None, looked, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::samples::{self, SECOND},
        fault::Happened,
        plan::SOAK,
    };

    #[test]
    fn an_empty_or_foreign_answer_is_seen() {
        let mut record = samples::record();
        assert!(never_empty(&record).good);
        record.asked[0].changes.push(samples::said(5, None, None));
        assert!(!never_empty(&record).good, "empty");
        record.asked[0].changes.pop();
        record.asked[0].changes.push(samples::said(5, Some("192.0.2.1"), None));
        assert!(!never_empty(&record).good, "foreign");
    }

    #[test]
    fn silence_of_a_live_node_is_seen_and_of_a_dead_one_is_not() {
        let mut record = samples::record();
        record.asked[0] = samples::asked(0, &[(0, true), (10 * SECOND, false), (21 * SECOND, true)]);
        assert!(!live_nodes_answer(&record).good);
        record.happened.push(samples::kill(0, 9 * SECOND, 20 * SECOND));
        assert!(live_nodes_answer(&record).good);
    }

    #[test]
    fn a_node_that_does_not_come_back_is_seen() {
        let mut record = samples::record();
        record.happened.push(samples::kill(0, 9 * SECOND, 20 * SECOND));
        record.asked[0] = samples::asked(0, &[(0, true), (10 * SECOND, false)]);
        assert!(!live_nodes_answer(&record).good);
    }

    #[test]
    fn what_does_not_heal_in_time_is_seen() {
        let mut record = samples::record();
        assert!(healed(&record).good);
        record.phases.healed_us = Some(record.phases.calm_us + 31 * SECOND);
        assert!(!healed(&record).good);
        record.phases.healed_us = None;
        assert!(!healed(&record).good);
    }

    #[test]
    fn a_cluster_that_takes_no_write_is_not_healed() {
        let mut record = samples::record();
        record.ops[0].called_us = record.phases.calm_us - 1;
        assert!(!healed(&record).good);
    }

    #[test]
    fn what_did_not_happen_as_planned_is_seen() {
        let mut record = samples::record();
        let could_not =
            |at| Happened { trouble: Some("there is no leader".into()), ..samples::kill(0, at, at) };
        record.happened = vec![could_not(SECOND)];
        assert!(!happened(&record).good);
        record.plan.name = SOAK.into();
        assert!(!happened(&record).good, "all that was drawn");
        record.happened.extend((2..5).map(|s| samples::kill(0, s * SECOND, s * SECOND)));
        assert!(happened(&record).good, "one of four");
    }

    #[test]
    fn who_never_asked_or_was_never_answered_saw_nothing() {
        let mut record = samples::record();
        assert!(live_nodes_answer(&record).good);
        record.asked[1].questions = (100, 100);
        assert!(!live_nodes_answer(&record).good);
        record.asked.clear();
        assert!(!never_empty(&record).good);
    }

    #[test]
    fn a_request_that_fails_without_a_fault_is_seen() {
        let mut record = samples::record();
        assert!(users(&record).good);
        let failed = |user| Served { at_us: 12 * SECOND, done_us: 12 * SECOND, site: None, user };
        let fail = |record: &mut Record, users: [User; 2]| {
            record.served = [samples::record().served, users.map(failed).into()].concat();
        };
        fail(&mut record, [User::Tcp; 2]);
        assert!(!users(&record).good);
        record.happened.push(samples::kill(2, 11 * SECOND, 13 * SECOND));
        assert!(!users(&record).good, "another site was hit than the one that is answered");
        record.happened[0] = samples::kill(0, 11 * SECOND, 13 * SECOND);
        assert!(users(&record).good);
        record.happened[0] = Happened { nodes: vec![1, 2], ..samples::kill(2, 11 * SECOND, 13 * SECOND) };
        assert!(users(&record).good, "most of them were hit");
        fail(&mut record, [User::Frozen; 2]);
        assert!(!users(&record).good, "others were hit than the one that it goes to");
        fail(&mut record, [User::Frozen, User::Http]);
        assert!(users(&record).good, "one alone");
        record.served.retain(|r| r.user != User::Tcp);
        assert!(!users(&record).good, "a kind of user of whom nobody was ever served");
        fail(&mut record, [User::Http; 2]);
        record.happened = vec![samples::blind(&[(1, 0)], 11 * SECOND, 13 * SECOND)];
        assert!(!users(&record).good, "other nodes were blinded, not the users");
        record.happened[0] = Happened { hidden: true, nodes: vec![0], ..record.happened[0].clone() };
        assert!(users(&record).good);
    }
}
