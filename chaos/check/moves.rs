//! What moved, and whether it may: invariants 1, 5, 7 (in part) and 10, and what a scenario expects.

use super::{Finding, at, progress::words, windows::excused};
use crate::{history::Move, plan::Expect, record::Record};
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
    let majority = record.sites.len() / 2 + 1;
    let mut wrong = Vec::new();
    for m in &record.moves {
        let Some(gone) = left(record, m) else { continue };
        let site = &record.sites[gone];
        let mut red: Vec<&String> =
            m.votes.iter().filter(|v| v.vote.starts_with("red")).map(|v| &v.site).collect();
        red.sort_unstable();
        red.dedup();
        red.retain(|s| *s != site);
        let down = m.about == *site && m.verdict == "down" && (m.own.is_some() || red.len() >= majority);
        if !down && !held_down(record, m, site) {
            wrong.push(format!(
                "epoch {} left {site} by {} red of {} sites, own word {:?}",
                m.epoch.1,
                red.len(),
                record.sites.len(),
                m.own
            ));
        }
    }
    Finding::of("every move away carries its evidence", 5, format!("{} moves", record.moves.len()), wrong)
}

/// The site was judged down before, by a row that moved nothing because nobody could take over then.
fn held_down(record: &Record, m: &Move, site: &str) -> bool {
    let before = |s: &&crate::history::Shown| s.at_us <= m.seen_us + 1_000_000;
    record.shown.iter().any(|shown| {
        let near = shown.iter().rev().filter(before).take(8);
        near.flat_map(|s| &s.standing).any(|(s, standing)| s == site && standing == "down")
    })
}

/// Invariant 7 as far as it is seen from outside: nobody goes back inside the hold-down.
pub fn hold_down(record: &Record) -> Finding {
    let (mut wrong, mut backs) = (Vec::new(), 0);
    for (i, m) in record.moves.iter().enumerate().filter(|(_, m)| left(record, m).is_none() && m.rows == 0) {
        let earlier = record.moves[..i]
            .iter()
            .rev()
            .find(|e| m.to.iter().any(|s| e.from.contains(s) && !e.to.contains(s)));
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

/// What the scenario expects.
pub fn expected(record: &Record) -> Option<Finding> {
    let first = record.happened.first()?;
    match record.plan.expect {
        Expect::Anything => None,
        Expect::Stays => {
            let moves = record.moves.iter();
            let wrong =
                moves.map(|m| format!("at {} {:?} -> {:?}: {}", at(m.seen_us), m.from, m.to, m.cause));
            Some(Finding::of("nothing moves", None, "no move".into(), wrong.collect()))
        }
        Expect::Moves { within_ms } => {
            let mut wrong: Vec<String> = Vec::new();
            let times = changed(record, first.from_us, &first.nodes);
            for (site, ms) in &times {
                match ms {
                    Some(ms) if *ms <= within_ms as f64 => {}
                    Some(ms) => wrong.push(format!("{site} changed its answer only after {ms:.0} ms")),
                    None => wrong.push(format!("{site} never changed its answer")),
                }
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

/// When each node whose process was not hit first answered something else than before `from_us`, in milliseconds.
pub fn changed(record: &Record, from_us: u64, hit: &[usize]) -> Vec<(String, Option<f64>)> {
    let mut out = Vec::new();
    let silenced = |n: &usize| {
        let near = |h: &&crate::fault::Happened| h.from_us <= from_us && from_us <= h.to_us;
        hit.contains(n)
            && record.happened.iter().filter(near).any(|h| h.silent_from_us.is_some() && h.nodes.contains(n))
    };
    for asked in record.asked.iter().filter(|a| a.rtype == "A" && a.over == "udp" && !silenced(&a.node)) {
        let before = asked.changes.iter().rev().find(|s| s.at_us <= from_us).and_then(|s| s.answer.as_ref());
        let other = |s: &&crate::history::Said| {
            s.at_us > from_us && s.answer.as_ref().is_some_and(|a| Some(a) != before)
        };
        let changed = asked.changes.iter().find(other).map(|s| (s.at_us - from_us) as f64 / 1e3);
        out.push((record.sites[asked.node].clone(), changed));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{self, SECOND, moved};

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
        let back = |at| Move { rows: 0, ..moved(at, 10, "ams", "fra") };
        record.moves = vec![moved(10 * SECOND, 9, "fra", "ams"), back(12 * SECOND)];
        assert!(hold_down(&record).good);
        record.moves[1] = back(11 * SECOND);
        assert!(!hold_down(&record).good);
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
    }
}
