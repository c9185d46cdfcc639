//! Each failover in words and numbers: the fault, who saw it, what was decided, who answered when.

use crate::{
    check::moves::{away, changed, left},
    history::{Move, User},
    record::Record,
};

/// One move away from a site.
pub(super) struct Failover {
    pub(super) left: String,
    pub(super) taken: String,
    /// The fault that explains it.
    pub(super) fault: String,
    /// When it began; the decision itself when there is none.
    pub(super) from_us: u64,
    /// When the last live node answered otherwise.
    pub(super) until_us: u64,
    /// From the fault to the changed answer on each live node.
    pub(super) answered: Vec<(String, Option<f64>)>,
    /// The whole of it in a few sentences.
    pub(super) told: String,
    /// Time since the fault, and what happened.
    pub(super) story: Vec<(String, String)>,
}

impl Failover {
    /// The last live node's, in milliseconds.
    pub(super) fn slowest_ms(&self) -> Option<f64> {
        self.answered
            .iter()
            .filter_map(|(_, ms)| *ms)
            .fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b))))
    }
}

/// All of them, oldest first.
pub(super) fn failovers(record: &Record) -> Vec<Failover> {
    record.moves.iter().filter_map(|m| Some(tell(record, m, left(record, m)?))).collect()
}

/// Longest time from a fault to the answers that it changes.
const LONGEST_US: u64 = 30_000_000;

fn tell(record: &Record, m: &Move, gone: usize) -> Failover {
    let site = &record.sites[gone];
    let near = |h: &&crate::fault::Happened| {
        h.trouble.is_none() && h.from_us <= m.seen_us && m.seen_us < h.from_us + LONGEST_US
    };
    let near = || record.happened.iter().rev().filter(near);
    // what hit the site itself says more than what hid it from one observer
    let own = near().find(|h| h.excuses && h.nodes.contains(&gone) && m.seen_us <= h.to_us);
    let hidden = || near().find(|h| h.blinded.iter().any(|(_, to)| *to == gone));
    let before = || near().find(|h| h.excuses && h.nodes.contains(&gone));
    let fault = own.or_else(hidden).or_else(before);
    let from_us = fault.map_or(m.seen_us, |h| h.from_us);
    let away = fault.map(|h| away(h, record.sites.len())).unwrap_or_default();
    let mut answered = changed(record, from_us, &away);
    answered.iter_mut().for_each(|(_, ms)| *ms = ms.filter(|ms| *ms * 1e3 < LONGEST_US as f64));
    let last = answered.iter().filter_map(|(_, ms)| *ms).fold(0.0, f64::max);
    let until_us = (from_us + (last * 1e3) as u64).max(m.seen_us.min(from_us + LONGEST_US));
    let fault = fault.map_or("no fault explains this".into(), |h| h.text.clone());
    let mut events = vec![(from_us, fault.clone())];
    verdicts(record, site, from_us, until_us, &mut events);
    events.push((m.seen_us, decision(record, m)));
    leaders(record, from_us, until_us, &mut events);
    for (name, ms) in &answered {
        let Some(ms) = ms else { continue };
        let at = from_us + (ms * 1e3) as u64;
        events.push((at, format!("{name} answers {}", address(record, m))));
    }
    users(record, from_us, until_us, &mut events);
    events.sort_by_key(|(at, _)| *at);
    let since = |at: u64| format!("+{:.0} ms", (at as f64 - from_us as f64) / 1e3);
    let story = events.iter().map(|(at, text)| (since(*at), text.clone())).collect();
    let told = sentences(record, m, &fault, last);
    let (left, taken) = (m.from.join(", "), m.to.join(", "));
    Failover { left, taken, fault, from_us, until_us, answered, told, story }
}

fn address(record: &Record, m: &Move) -> String {
    let of = |s: &String| record.sites.iter().position(|o| o == s).and_then(|i| record.addresses.get(i));
    m.to.iter().filter_map(of).map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Why the service moved and how long that took, for somebody who did not see it.
fn sentences(record: &Record, m: &Move, fault: &str, last_ms: f64) -> String {
    let (from, to) = (m.from.join(", "), m.to.join(", "));
    let red: Vec<&str> =
        m.votes.iter().filter(|v| v.vote.starts_with("red")).map(|v| v.site.as_str()).collect();
    let why = match (&m.own, red.as_slice()) {
        // the decision came with a row about another site: this one was judged before
        _ if !m.from.contains(&m.about) => "an earlier verdict, or time that ran out, called for it".into(),
        (Some(own), _) => {
            format!("{from} said of itself that it cannot serve ({own}), which needs no majority")
        }
        (None, red) => {
            let (count, sites) = (red.len(), record.sites.len());
            let majority = if count > sites / 2 { ", a majority" } else { "" };
            format!("{} saw {from} fail: {count} of {sites} voting sites{majority}", red.join(" and "))
        }
    };
    let took = match last_ms > 0.0 {
        true => format!(" The last live name server answered {to} {last_ms:.0} ms after the fault began."),
        false => String::new(),
    };
    format!(
        "What happened: {fault}. {why}. So the leader committed one log entry with this evidence (epoch {}), and every \
         node that applied it answers {to} instead of {from}.{took}",
        m.epoch.1
    )
}

/// Who begins to lead meanwhile.
fn leaders(record: &Record, from_us: u64, until_us: u64, events: &mut Vec<(u64, String)>) {
    for (node, shown) in record.shown.iter().enumerate() {
        for pair in shown.windows(2).filter(|p| p[1].role == "leader" && p[0].role != "leader") {
            if (from_us..=until_us + 500_000).contains(&pair[1].at_us) {
                let site = record.sites.get(node).map_or("?", String::as_str);
                events.push((pair[1].at_us, format!("{site} leads, term {}", pair[1].term)));
            }
        }
    }
}

/// The first red of each observer, as the admin API showed it: up to a poll later than it was.
fn verdicts(record: &Record, site: &str, from_us: u64, until_us: u64, events: &mut Vec<(u64, String)>) {
    let mut seen = Vec::new();
    let within = |at: u64| from_us <= at && at <= until_us + 500_000;
    for v in record.verdicts.iter().filter(|v| v.site == site && v.colour == "red" && within(v.at_us)) {
        if !seen.contains(&v.observer) {
            seen.push(v.observer);
            let observer = record.sites.get(v.observer).map_or("?", String::as_str);
            events.push((v.at_us, format!("{observer} shows {site} red: {}", v.kind)));
        }
    }
}

fn decision(record: &Record, m: &Move) -> String {
    let at = record.sites.get(m.node).map_or("?", String::as_str);
    let votes: Vec<String> = m.votes.iter().map(|v| format!("{} {}", v.site, v.vote)).collect();
    let evidence = match (&m.own, votes.is_empty()) {
        (_, true) if m.own.is_none() => "an earlier verdict".into(),
        (Some(own), _) => format!("{}'s own word: {own}", m.about),
        (None, _) => format!("on {}: {}", m.about, votes.join(", ")),
    };
    format!(
        "{at} shows the committed decision, epoch {}: {} → {} ({}); evidence: {evidence}",
        m.epoch.1,
        m.from.join(", "),
        m.to.join(", "),
        m.cause
    )
}

fn users(record: &Record, from_us: u64, until_us: u64, events: &mut Vec<(u64, String)>) {
    let near: Vec<_> = record
        .served
        .iter()
        .filter(|r| r.user == User::Http && r.at_us >= from_us && r.at_us <= until_us + 2_000_000)
        .collect();
    if let Some(first) = near.iter().find(|r| r.done_us >= until_us && r.site.is_some()) {
        let site = first.site.as_deref().unwrap_or_default();
        let until = near.iter().filter(|r| r.at_us <= first.at_us);
        let (failed, all) = (until.clone().filter(|r| r.site.is_none()).count(), until.count());
        events.push((
            first.done_us,
            format!("a user is served by {site}; {failed} of {all} requests failed until then"),
        ));
    }
}
