//! What was asked and answered: nobody is left without an answer, and everything heals.

use super::{
    Finding, at,
    windows::{ECHO_US, must_answer},
};
use crate::{
    history::{Served, User},
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
    Finding::of("no answer is empty or wrong", 6, format!("{questions} questions"), wrong)
}

/// Invariant 9, its second half: every live node answers throughout, quorum or not.
pub fn live_nodes_answer(record: &Record) -> Finding {
    let (mut wrong, mut live_us, mut questions) = (Vec::new(), 0, 0);
    for asked in &record.asked {
        let (site, over) = (&record.sites[asked.node], &asked.over);
        questions += asked.questions.0;
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

/// Invariant 9: after the last fault everything heals in time, and in each pause of a schedule too.
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
    let looked = format!("healed {} ms after the last fault, of {bound} ms", took.unwrap_or_default());
    Finding::of("everything heals", 9, looked, wrong)
}

/// Users fail only near a fault that takes away what served them. One request alone that ran out of time says as much
/// of the judge's machine as of the cluster; two in a row do not.
pub fn users(record: &Record) -> Finding {
    let hit = |user: User, us: u64| {
        let own = |h: &crate::fault::Happened| user != User::Frozen || h.nodes.contains(&0);
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
    use crate::check::samples::{self, SECOND};

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
    fn a_request_that_fails_without_a_fault_is_seen() {
        let mut record = samples::record();
        record.served =
            vec![Served { at_us: 12 * SECOND, done_us: 12 * SECOND, site: None, user: User::Tcp }; 2];
        assert!(!users(&record).good);
        record.happened.push(samples::kill(2, 11 * SECOND, 13 * SECOND));
        assert!(users(&record).good);
        record.served.iter_mut().for_each(|r| r.user = User::Frozen);
        assert!(!users(&record).good, "another site was hit than the one that it goes to");
        record.served[1].user = User::Http;
        assert!(users(&record).good, "one alone");
        record.served.iter_mut().for_each(|r| r.user = User::Http);
        record.happened = vec![samples::blind(&[(1, 0)], 11 * SECOND, 13 * SECOND)];
        assert!(!users(&record).good, "other nodes were blinded, not the users");
        record.happened[0].hidden = true;
        assert!(users(&record).good);
    }
}
