//! What moved, and whether it may: invariants 1, 5, 7 (in part) and 10, and what a scenario expects.

use super::{Finding, at, progress::words, windows::excused};
use crate::{
    fault::Happened,
    history::{Move, Shown},
    plan::Expect,
    record::Record,
};
use std::collections::BTreeSet;
use zonekeeper_core::{
    id::SiteId,
    invariant::epoch::Epochs,
    model::Family,
    state::{Basis, Epoch},
};

/// Hold-down of the laboratory's service.
const HOLD_DOWN_MS: i64 = 2_000;

/// Invariant 1: what nodes show at one epoch is the same on all of them, at all times.
pub fn one_assignment_per_epoch(record: &Record) -> Finding {
    let (mut epochs, mut wrong, mut looked) = (Epochs::default(), Vec::new(), 0);
    for (node, shown) in record.shown.iter().enumerate() {
        for s in shown.iter().filter(|s| s.epoch.1 > 0) {
            let Some((service, answer)) = words().map(|w| w.1).zip(answer(&s.answered, &s.basis)) else {
                continue;
            };
            looked += 1;
            let epoch = Epoch { incarnation: s.epoch.0, index: s.epoch.1 };
            if let Err(v) = epochs.seen(node as u64 + 1, (service, Family::V4, epoch), answer) {
                wrong.push(format!("at {}: {}", at(s.at_us), v.text));
            }
        }
    }
    Finding::of("one assignment per epoch", 1, format!("{looked} assignments that nodes showed"), wrong)
}

fn answer(sites: &[String], basis: &str) -> Option<(Vec<SiteId>, Basis)> {
    let sites = sites.iter().map(|s| s.parse().ok()).collect::<Option<Vec<SiteId>>>()?;
    Some((sites, serde_json::from_value(basis.into()).ok()?))
}

/// The site that a move leaves, when it is no way back to an earlier one.
pub fn left(record: &Record, m: &Move) -> Option<usize> {
    let place = |s: &String| record.sites.iter().position(|o| o == s);
    let gone = m.from.iter().find(|s| !m.to.contains(s)).and_then(place)?;
    let back = m.to.iter().filter_map(place).any(|to| to < gone);
    (!back).then_some(gone)
}

/// Invariant 5: a site is left by evidence of a majority, or by its own word.
pub fn evidence(record: &Record) -> Finding {
    let mut wrong = Vec::new();
    for m in &record.moves {
        let Some(gone) = left(record, m) else { continue };
        let site = &record.sites[gone];
        // a row about the site itself must carry enough; another one, or none, may act on what was judged before
        let good = match finds_down(m, site) {
            true => carries_enough(record, m, site),
            false => down_before(record, m, site),
        };
        if !good {
            wrong.push(format!(
                "epoch {} left {site} by {} red of {} sites, own word {:?}",
                m.epoch.1,
                red(m, site),
                record.sites.len(),
                m.own
            ));
        }
    }
    Finding::of("every move away carries its evidence", 5, format!("{} moves", record.moves.len()), wrong)
}

/// The move's row is about this site, and finds it down.
fn finds_down(m: &Move, site: &str) -> bool {
    m.about == site && m.verdict == "down"
}

/// Sites that hold this one for down in the move's row, itself left aside.
fn red(m: &Move, site: &str) -> usize {
    let red = m.votes.iter().filter(|v| v.vote.starts_with("red") && v.site != site);
    red.map(|v| &v.site).collect::<BTreeSet<_>>().len()
}

/// The site's own word, or that of a majority.
fn carries_enough(record: &Record, m: &Move, site: &str) -> bool {
    m.own.is_some() || red(m, site) > record.sites.len() / 2
}

/// The site was judged before, by a row that moved nothing because nobody could take over then: a node showed it down
/// under the assignment that the move ended, or that row made this very assignment, too short a while before for a look.
fn down_before(record: &Record, m: &Move, site: &str) -> bool {
    let ended = record.moves.iter().rev().find(|e| e.epoch < m.epoch);
    if ended.is_some_and(|e| e.basis == "last-set" && finds_down(e, site) && carries_enough(record, e, site))
    {
        return true;
    }
    let before = |shown: &Vec<Shown>| {
        let last =
            shown.iter().rev().find(|s| !s.role.is_empty() && s.epoch < m.epoch && s.at_us <= m.seen_us);
        last.is_some_and(|s| s.standing.iter().any(|(at, standing)| at == site && standing == "down"))
    };
    record.shown.iter().any(before)
}

/// Invariant 7 as far as it is seen from outside: nobody goes back inside the hold-down.
pub fn hold_down(record: &Record) -> Finding {
    let (mut wrong, mut backs) = (Vec::new(), 0);
    // where the site that took over has failed itself, the way back is open at once
    let forced = |m: &Move| m.from.iter().any(|s| finds_down(m, s) || down_before(record, m, s));
    let back = |m: &Move| left(record, m).is_none() && !forced(m);
    for (i, m) in record.moves.iter().enumerate().filter(|(_, m)| back(m)) {
        // One that was left for a site before it in the order had not failed, and may be needed again at once.
        let failed = |e: &&Move| left(record, e).is_some_and(|gone| m.to.contains(&record.sites[gone]));
        let earlier = record.moves[..i].iter().rev().find(failed);
        let Some((then, now)) = earlier.and_then(|e| Some((millis(&e.time)?, millis(&m.time)?))) else {
            continue;
        };
        backs += 1;
        let waited = (now - then).rem_euclid(86_400_000);
        if waited < HOLD_DOWN_MS {
            wrong.push(format!("epoch {} went back to {:?} after {waited} ms", m.epoch.1, m.to));
        }
    }
    Finding::of("no way back inside the hold-down", 7, format!("{backs} ways back"), wrong)
}

/// A process that is gone is found down by who is well so soon, with room for a machine that is busy.
const FOUND_US: u64 = 8_000_000;

/// Invariant 7, another part: nobody moves to a site that was dead all the while in which a majority of the others, which
/// nothing had hit, could find that out.
pub fn lives(record: &Record) -> Finding {
    let mut wrong = Vec::new();
    for m in record.moves.iter().filter(|m| m.basis == "usable") {
        let since = m.seen_us.saturating_sub(FOUND_US);
        let over = |h: &&Happened| h.trouble.is_none() && h.from_us <= m.seen_us && h.to_us >= since;
        let near: Vec<&Happened> = record.happened.iter().filter(over).collect();
        let everywhere = near.iter().any(|h| h.nodes.is_empty() && h.step != usize::MAX);
        let well = (0..record.sites.len()).filter(|i| !near.iter().any(|h| h.nodes.contains(i))).count();
        if everywhere || well <= record.sites.len() / 2 {
            continue;
        }
        for site in m.to.iter().filter_map(|s| record.sites.iter().position(|o| o == s)) {
            if near.iter().any(|h| takes_away(h, site) && h.from_us <= since && h.to_us >= m.seen_us) {
                wrong.push(format!(
                    "at {} the service moved to {}, which was dead",
                    at(m.seen_us),
                    record.sites[site]
                ));
            }
        }
    }
    Finding::of("no move to a site that is dead", 7, format!("{} moves", record.moves.len()), wrong)
}

/// Whether the site does not serve while this lasts.
fn takes_away(h: &Happened, site: usize) -> bool {
    h.trouble.is_none() && h.excuses && h.nodes.contains(&site)
}

/// Milliseconds of the day, of RFC 3339 with milliseconds in UTC.
fn millis(time: &str) -> Option<i64> {
    let clock = time.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = clock.split(':');
    let (h, m): (i64, i64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let s: f64 = parts.next()?.parse().ok()?;
    Some((h * 60 + m) * 60_000 + (s * 1000.0).round() as i64)
}

/// Invariant 10: no move away from a site that served its clients all along.
pub fn no_false_failover(record: &Record) -> Finding {
    let mut wrong = Vec::new();
    for m in &record.moves {
        let Some(gone) = left(record, m) else { continue };
        if !excused(record, gone, m.seen_us) {
            wrong.push(format!(
                "at {} {} was left, which nothing had hit: {}",
                at(m.seen_us),
                record.sites[gone],
                m.cause
            ));
        }
    }
    Finding::of(
        "no false failover",
        10,
        format!("{} moves, each away from what was hit", record.moves.len()),
        wrong,
    )
}

/// What the scenario expects; times count from the first fault that hit a site or the way to it.
pub fn expected(record: &Record) -> Option<Finding> {
    let hits = |h: &&Happened| h.trouble.is_none() && (h.excuses || !h.blinded.is_empty());
    let first = record.happened.iter().find(hits).or(record.happened.first())?;
    match record.plan.expect {
        Expect::Anything => None,
        Expect::Stays => Some(Finding::of("nothing moves", None, "no move".into(), moved(&record.moves))),
        Expect::Elects => {
            let mut wrong = moved(&record.moves);
            let last = record.happened.iter().rfind(|h| h.step + 1 == record.plan.steps.len());
            let leads = |hit: &Happened| {
                let others =
                    record.shown.iter().enumerate().filter(|(node, _)| hit.nodes.first() != Some(node));
                let mut shown = others.flat_map(|(_, shown)| shown);
                shown.any(|s| s.role == "leader" && (hit.from_us..=hit.to_us).contains(&s.at_us))
            };
            if !last.is_some_and(leads) {
                wrong.push("nobody else began to lead".into());
            }
            Some(Finding::of("another node leads, and nothing moves", None, "no move".into(), wrong))
        }
        Expect::Degraded => {
            let degraded = |s: &Shown| s.standing.iter().any(|(_, standing)| standing == "degraded");
            let mut wrong = moved(&record.moves);
            if !record.shown.iter().flatten().any(degraded) {
                wrong.push("no node showed a site as degraded".into());
            }
            Some(Finding::of("a site is degraded, and nothing moves", None, "no move".into(), wrong))
        }
        Expect::Disarmed => {
            let disarmed = |s: &Shown| s.alarms.iter().any(|a| a.contains("disarmed"));
            let mut wrong = moved(&record.moves);
            if !record.shown.iter().flatten().any(disarmed) {
                wrong.push("no node alarmed that too few can judge".into());
            }
            Some(Finding::of("failover is disarmed, and nothing moves", None, "no move".into(), wrong))
        }
        Expect::Moves { within_ms } | Expect::MovesOnce { within_ms } => {
            let mut wrong: Vec<String> = Vec::new();
            let times = changed(record, first.from_us, &away(first, record.sites.len()));
            for (site, ms) in &times {
                match ms {
                    Some(ms) if *ms <= within_ms as f64 => {}
                    Some(ms) => wrong.push(format!("{site} changed its answer only after {ms:.0} ms")),
                    None => wrong.push(format!("{site} never changed its answer")),
                }
            }
            let leaves: Vec<Move> =
                record.moves.iter().filter(|m| left(record, m).is_some()).cloned().collect();
            if matches!(record.plan.expect, Expect::MovesOnce { .. }) && leaves.len() > 1 {
                wrong.extend(moved(&leaves));
            }
            let words: Vec<String> =
                times.iter().map(|(s, ms)| format!("{s} after {:.0} ms", ms.unwrap_or_default())).collect();
            Some(Finding::of(
                &format!("the service moves within {within_ms} ms"),
                None,
                words.join(", "),
                wrong,
            ))
        }
    }
}

fn moved(moves: &[Move]) -> Vec<String> {
    moves.iter().map(|m| format!("at {} {:?} -> {:?}: {}", at(m.seen_us), m.from, m.to, m.cause)).collect()
}

/// The nodes that need not change their answer: their process was hit, or they hear no majority while the fault lasts.
pub fn away(hit: &Happened, sites: usize) -> Vec<usize> {
    let deaf = |n: &usize| hit.blinded.iter().filter(|(from, _)| from == n).count() > (sites - 1) / 2;
    let silent = hit.nodes.iter().copied().filter(|_| hit.silent_from_us.is_some());
    silent.chain((0..sites).filter(deaf)).collect()
}

/// When each node that had to first answered a site that lives, and another than before `from_us`, in milliseconds.
pub fn changed(record: &Record, from_us: u64, away: &[usize]) -> Vec<(String, Option<f64>)> {
    let mut out = Vec::new();
    for asked in record.asked.iter().filter(|a| a.rtype == "A" && a.over == "udp" && !away.contains(&a.node))
    {
        let before = asked.changes.iter().rev().find(|s| s.at_us <= from_us).and_then(|s| s.answer.as_ref());
        let dead = |addr: &String, us: u64| {
            let site = record.addresses.iter().position(|a| a == addr);
            let lasts = |h: &&Happened| h.from_us <= us && us <= h.to_us;
            site.is_none_or(|s| record.happened.iter().filter(lasts).any(|h| takes_away(h, s)))
        };
        let other = |s: &&crate::history::Said| {
            let other = s.answer.as_ref().filter(|a| Some(*a) != before);
            s.at_us > from_us && other.is_some_and(|a| !a.addrs.iter().any(|a| dead(a, s.at_us)))
        };
        let changed = asked.changes.iter().find(other).map(|s| (s.at_us - from_us) as f64 / 1e3);
        out.push((record.sites[asked.node].clone(), changed));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::samples::{self, SECOND, moved},
        fault::{Fault, Step},
    };

    #[test]
    fn two_answers_at_one_epoch_are_seen() {
        let mut record = samples::record();
        record.shown.iter_mut().flatten().for_each(|s| s.basis = "usable".into());
        assert!(one_assignment_per_epoch(&record).good);
        record.shown[1][0].answered = vec!["ams".into()];
        assert!(!one_assignment_per_epoch(&record).good);
    }

    #[test]
    fn a_move_without_a_majority_is_seen() {
        let mut record = samples::record();
        record.moves = vec![moved(10 * SECOND, 9, "fra", "ams")];
        assert!(evidence(&record).good);
        record.moves[0].votes[0].vote = "green".into();
        assert!(!evidence(&record).good, "one red of three");
        record.moves[0].own = Some("unhealthy".into());
        assert!(evidence(&record).good, "by its own word");
        record.moves[0].about = "iad".into();
        assert!(!evidence(&record).good, "evidence on another site");
        let down = |epoch| Shown {
            standing: vec![("fra".into(), "down".into())],
            ..samples::shown(9 * SECOND, (0, epoch))
        };
        record.shown[1].push(down(9));
        assert!(!evidence(&record).good, "down in the very entry that moved");
        record.shown[1].insert(1, down(5));
        assert!(evidence(&record).good, "down before, when nobody could take over");
        record.moves[0] = moved(10 * SECOND, 9, "fra", "ams");
        record.moves[0].votes[0].vote = "green".into();
        assert!(!evidence(&record).good, "a row about the site itself carries enough or is wrong");
    }

    /// Nobody can take over from a site that is found down; the next entry, before any look, finds another one up.
    #[test]
    fn a_site_found_down_in_the_entry_before_may_be_left() {
        let mut record = samples::record();
        let stays = Move { basis: "last-set".into(), ..moved(10 * SECOND, 9, "iad", "iad") };
        let next =
            |to: &str| Move { about: to.into(), verdict: "up".into(), ..moved(10 * SECOND, 10, "iad", to) };
        record.moves = vec![stays, next("fra")];
        (record.moves[0].about, record.moves[0].verdict) = ("iad".into(), "down".into());
        let good = |r: &Record| evidence(r).good && hold_down(r).good;
        record.moves.insert(0, moved(9 * SECOND, 8, "fra", "iad"));
        assert!(good(&record), "back to fra inside the hold-down, since iad has failed");
        record.moves[1].basis = "usable".into();
        assert!(!good(&record), "an assignment for another reason");
        record.moves[1].basis = "last-set".into();
        record.moves[1].votes.truncate(1);
        assert!(!good(&record), "one vote is no majority");
        record.moves[1] = Move { about: "ams".into(), ..record.moves[1].clone() };
        assert!(!good(&record), "another site was found down");
    }

    #[test]
    fn a_move_without_a_fault_is_a_false_failover() {
        let mut record = samples::record();
        record.moves = vec![moved(10 * SECOND, 9, "fra", "ams")];
        assert!(!no_false_failover(&record).good);
        record.happened.push(samples::kill(1, 9 * SECOND, 12 * SECOND));
        assert!(!no_false_failover(&record).good, "another site was hit");
        record.happened.push(samples::kill(0, 9 * SECOND, 12 * SECOND));
        assert!(no_false_failover(&record).good);
        record.moves = vec![moved(50 * SECOND, 9, "ams", "fra")];
        assert!(no_false_failover(&record).good, "the way back");
    }

    #[test]
    fn a_way_back_inside_the_hold_down_is_seen() {
        let mut record = samples::record();
        let back = |at| Move { rows: 0, about: String::new(), ..moved(at, 10, "ams", "fra") };
        record.moves = vec![moved(10 * SECOND, 9, "fra", "ams"), back(12 * SECOND)];
        assert!(hold_down(&record).good);
        record.moves[1] = back(11 * SECOND);
        assert!(!hold_down(&record).good);
        record.moves[1] =
            Move { about: "fra".into(), verdict: "up".into(), ..moved(11 * SECOND, 10, "ams", "fra") };
        assert!(!hold_down(&record).good, "in the entry that finds it up");
        record.moves[1] = moved(11 * SECOND, 10, "ams", "fra");
        assert!(hold_down(&record).good, "the site that took over has failed");
        record.moves = vec![moved(5 * SECOND, 9, "fra", "ams"), back(9 * SECOND)];
        record.moves.push(moved(10 * SECOND, 11, "fra", "iad"));
        let second = Move { rows: 0, about: String::new(), ..moved(11 * SECOND, 12, "iad", "ams") };
        record.moves.push(second.clone());
        assert!(hold_down(&record).good, "ams was not left because it failed");
        record.moves[1] = moved(9 * SECOND, 10, "ams", "iad");
        record.moves.truncate(2);
        record.moves.push(Move { seen_us: 10 * SECOND, time: moved(10 * SECOND, 0, "", "").time, ..second });
        assert!(!hold_down(&record).good, "here it was");
    }

    #[test]
    fn a_move_to_a_dead_site_is_seen() {
        let mut record = samples::record();
        record.moves = vec![moved(30 * SECOND, 9, "fra", "ams")];
        record.happened = vec![samples::kill(1, 20 * SECOND, 40 * SECOND)];
        assert!(!lives(&record).good);
        record.happened[0].from_us = 25 * SECOND;
        assert!(lives(&record).good, "it died a short time before");
        record.happened = vec![samples::kill(1, 20 * SECOND, 40 * SECOND), samples::kill(2, 0, 24 * SECOND)];
        assert!(lives(&record).good, "no majority was well enough to find out");
    }

    #[test]
    fn an_answer_of_a_dead_site_is_no_failover() {
        let mut record = samples::record();
        let both = Happened { nodes: vec![0, 1], ..samples::kill(0, 10 * SECOND, 20 * SECOND) };
        record.happened.push(both);
        record.plan.expect = Expect::Moves { within_ms: 500 };
        record.asked[2].changes.push(samples::said(10 * SECOND + 100_000, Some("10.77.2.1"), None));
        assert!(!expected(&record).unwrap().good, "ams was killed too");
        record.asked[2].changes.push(samples::said(10 * SECOND + 200_000, Some("10.77.3.1"), None));
        assert!(expected(&record).unwrap().good);
    }

    #[test]
    fn an_election_that_is_expected_has_to_come() {
        let mut record = samples::record();
        record.plan.expect = Expect::Elects;
        record.plan.steps = vec![Step { at_ms: 0, lasts_ms: 9_000, fault: Fault::KillAll }];
        record
            .happened
            .push(Happened { nodes: vec![0], ..samples::blind(&[(0, 1)], 10 * SECOND, 20 * SECOND) });
        let good = |r: &Record| expected(r).unwrap().good;
        let leads = |at| Shown { role: "leader".into(), ..samples::shown(at, (0, 5)) };
        record.shown[0].push(leads(12 * SECOND));
        record.shown[1].push(leads(22 * SECOND));
        assert!(!good(&record), "the leader itself, and one that leads when it is over");
        record.shown[2].push(leads(12 * SECOND));
        assert!(good(&record));
        record.moves.push(moved(12 * SECOND, 9, "fra", "ams"));
        assert!(!good(&record), "it moved");
    }

    #[test]
    fn expectations_are_held_against_the_answers() {
        let mut record = samples::record();
        record.happened.push(samples::kill(0, 10 * SECOND, 20 * SECOND));
        record.plan.expect = Expect::Moves { within_ms: 500 };
        let wrong = |r: &Record| expected(r).is_some_and(|f| !f.good);
        assert!(wrong(&record), "nobody moved");
        for node in [1, 2] {
            record.asked[node].changes.push(samples::said(10 * SECOND + 400_000, Some("10.77.2.1"), None));
        }
        assert!(!wrong(&record));
        record.plan.expect = Expect::Moves { within_ms: 300 };
        assert!(wrong(&record), "too late");
        record.plan.expect = Expect::Stays;
        assert!(!wrong(&record));
        record.moves.push(moved(10 * SECOND, 9, "fra", "ams"));
        assert!(wrong(&record), "it moved");
        record.plan.expect = Expect::MovesOnce { within_ms: 500 };
        assert!(!wrong(&record));
        record.moves.push(moved(14 * SECOND, 12, "fra", "ams"));
        assert!(wrong(&record), "twice");
        (record.plan.expect, record.moves) = (Expect::Degraded, Vec::new());
        assert!(wrong(&record), "no node showed it");
        record.shown[2][0].standing = vec![("fra".into(), "degraded".into())];
        assert!(!wrong(&record));
        record.plan.expect = Expect::Disarmed;
        assert!(wrong(&record), "no node alarmed");
        record.shown[2][0].alarms = vec!["www fra v4: disarmed: 0 of 3".into()];
        assert!(!wrong(&record));
    }

    #[test]
    fn who_hears_no_majority_need_not_change_its_answer() {
        let cut = |pairs: &[(usize, usize)]| samples::blind(pairs, 0, SECOND);
        assert_eq!(away(&cut(&[(0, 1), (1, 0), (0, 2), (2, 0)]), 3), [0]);
        assert_eq!(away(&cut(&[(0, 1), (1, 0)]), 3), [0usize; 0]);
        assert_eq!(away(&samples::kill(1, 0, SECOND), 3), [1]);
        // the bridge, node 1, hears all; the leader, node 0, hears it alone
        let bridge: Vec<_> = (2..5).flat_map(|o| [(0, o), (o, 0)]).collect();
        assert_eq!(away(&cut(&bridge), 5), [0]);
    }
}
