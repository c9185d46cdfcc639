//! The timeline as SVG: faults on top, then for each node what it is, what it sees and what it answers.

use super::escape;
use crate::{
    history::{Asked, Kind, Mark, User},
    record::Record,
};
use std::fmt::Write as _;

/// Colours of sites, told apart by people who do not tell red from green.
const SITES: [&str; 7] = ["#3b7dd8", "#e08a1e", "#8e5bc4", "#2a9d8f", "#b5838d", "#6b7f2a", "#7a7a7a"];
const LEADER: &str = "#d4a514";
const FOLLOWER: &str = "#b9c6d6";
const CANDIDATE: &str = "#e6b8f5";
const LEARNER: &str = "#cfe3c8";
const ABSENT: &str = "#f0c9c9";

const NAMES: f64 = 92.0;
const FAULT: f64 = 19.0;
const NODE: f64 = 66.0;
const TOP: f64 = 24.0;

fn colour(record: &Record, site: &str) -> &'static str {
    let place = record.sites.iter().position(|s| s == site);
    place.and_then(|i| SITES.get(i)).copied().unwrap_or("#999999")
}

/// What the colours mean.
pub(super) fn legend(t: &mut String, record: &Record) {
    t.push_str("<div class=\"legend\">");
    let mut item = |colour: &str, text: &str| {
        let _ = write!(t, "<span><i style=\"background:{colour}\"></i>{}</span>", escape(text));
    };
    for site in &record.sites {
        item(colour(record, site), &format!("answers {site}"));
    }
    item(LEADER, "leads");
    item(FOLLOWER, "follows");
    item(CANDIDATE, "stands for election");
    item(LEARNER, "does not vote");
    item(ABSENT, "its API shows nothing");
    item("var(--bad)", "red verdict / failed request / write of unknown fate");
    t.push_str(
        "<span>thin line below the role: the node applies new log entries; thin line above its answers: it holds the site of \
         that colour for down or degraded</span><span>dashed lines: committed decisions; hover over anything to read what it \
         is</span></div>",
    );
}

/// One drawing of a part of the run.
struct Drawing<'a> {
    record: &'a Record,
    from: u64,
    to: u64,
    width: f64,
    top: f64,
}

impl Drawing<'_> {
    fn x(&self, us: u64) -> f64 {
        let span = self.to.saturating_sub(self.from).max(1) as f64;
        us.clamp(self.from, self.to).saturating_sub(self.from) as f64 / span * self.width
    }

    fn bar(&self, t: &mut String, y: f64, height: f64, span: (u64, u64), style: &str, title: &str) {
        let (a, b) = (self.x(span.0), self.x(span.1));
        if span.1 < self.from || span.0 > self.to {
            return;
        }
        let _ = write!(
            t,
            "<rect x=\"{a:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"2\" {style}><title>{}</title></rect>",
            (b - a).max(1.0),
            escape(title)
        );
    }

    fn dot(&self, t: &mut String, y: f64, us: u64, class: &str, title: &str) {
        if (self.from..=self.to).contains(&us) {
            let _ = write!(
                t,
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3.4\" class=\"{class}\"><title>{}</title></circle>",
                self.x(us),
                escape(title)
            );
        }
    }
}

/// Draws from `from` to `to`, in microseconds since the run began.
pub(super) fn draw(t: &mut String, record: &Record, from: u64, to: u64) {
    let seconds = to.saturating_sub(from) as f64 / 1e6;
    let width = (seconds * 14.0).clamp(1090.0, 24_000.0);
    let rows = fault_rows(record, from, to);
    let height_of = |rows: usize| TOP + rows as f64 * FAULT + 10.0;
    let lanes = rows.iter().map(|(row, _)| row + 1).max().unwrap_or(0);
    let d = Drawing { record, from, to, width, top: height_of(lanes) };
    let bottom = d.top + record.sites.len() as f64 * NODE;
    let height = bottom + 46.0;
    names(t, record, &d, height);
    let _ = write!(t, "<div class=\"scroll\"><svg width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">");
    grid(t, &d, height);
    for (row, place) in rows {
        let h = &record.happened[place];
        let y = TOP + row as f64 * FAULT;
        d.bar(t, y, FAULT - 4.0, (h.from_us, h.to_us), "class=\"fault\"", &h.text);
        let _ = write!(
            t,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"s\">{}</text>",
            d.x(h.from_us) + 4.0,
            y + 11.0,
            escape(&h.text)
        );
    }
    for node in 0..record.sites.len() {
        node_lane(t, &d, node);
    }
    bottom_lane(t, &d, bottom);
    for m in record.moves.iter().filter(|m| (from..=to).contains(&m.seen_us)) {
        let x = d.x(m.seen_us);
        let title = format!("decision {} → {}: {}", m.from.join(", "), m.to.join(", "), m.cause);
        let _ = write!(
            t,
            "<g><line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" class=\"move\"/><title>{}</title></g>",
            d.top - 6.0,
            escape(&title)
        );
    }
    t.push_str("</svg></div></div>");
}

/// Rows in which faults stand without covering each other, as far as their words reach.
fn fault_rows(record: &Record, from: u64, to: u64) -> Vec<(usize, usize)> {
    let (mut ends, mut out): (Vec<u64>, Vec<(usize, usize)>) = Default::default();
    let px = 1e6 / 14.0_f64.max(1090.0 / (to.saturating_sub(from).max(1) as f64 / 1e6));
    for (place, h) in record.happened.iter().enumerate() {
        if h.to_us < from || h.from_us > to || h.trouble.is_some() && h.step != usize::MAX {
            continue;
        }
        let begins = h.from_us.max(from);
        let words = begins + (h.text.len() as f64 * 6.2 * px) as u64;
        let row = ends.iter().position(|e| *e <= begins).unwrap_or(ends.len());
        if row == ends.len() {
            ends.push(0);
        }
        ends[row] = h.to_us.max(words);
        out.push((row, place));
    }
    out
}

fn names(t: &mut String, record: &Record, d: &Drawing<'_>, height: f64) {
    let _ = write!(
        t,
        "<div class=\"line\"><div class=\"names\"><svg width=\"{NAMES}\" height=\"{height:.0}\"><text x=\"10\" y=\"{:.1}\" class=\"s\">faults</text>",
        TOP + 11.0
    );
    for (i, site) in record.sites.iter().enumerate() {
        let y = d.top + i as f64 * NODE;
        let _ = write!(t, "<text x=\"10\" y=\"{:.1}\" font-weight=\"600\">{}</text>", y + 13.0, escape(site));
        for (row, text) in ["", "sees", "answers"].iter().enumerate() {
            let _ = write!(
                t,
                "<text x=\"44\" y=\"{:.1}\" class=\"s\">{text}</text>",
                y + 13.0 + row as f64 * 18.0
            );
        }
    }
    let y = d.top + record.sites.len() as f64 * NODE;
    let _ = write!(
        t,
        "<text x=\"10\" y=\"{:.1}\" class=\"s\">users</text><text x=\"10\" y=\"{:.1}\" class=\"s\">writes</text></svg></div>",
        y + 12.0,
        y + 32.0
    );
}

fn grid(t: &mut String, d: &Drawing<'_>, height: f64) {
    let span = d.to.saturating_sub(d.from).max(1);
    let wanted = span as f64 * 90.0 / d.width;
    let step = [
        10_000u64, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
        30_000_000,
    ]
    .into_iter()
    .find(|s| *s as f64 >= wanted)
    .unwrap_or(60_000_000);
    let mut at = d.from.div_ceil(step) * step;
    while at <= d.to {
        let x = d.x(at);
        let text = if step >= 1_000_000 {
            format!("{} s", at / 1_000_000)
        } else {
            format!("{:.2} s", at as f64 / 1e6)
        };
        let _ = write!(
            t,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"18\" y2=\"{height:.0}\" class=\"grid\"/><text x=\"{:.1}\" y=\"13\" class=\"s\">{text}</text>",
            x + 3.0
        );
        at += step;
    }
}

fn node_lane(t: &mut String, d: &Drawing<'_>, node: usize) {
    let (record, y) = (d.record, d.top + node as f64 * NODE);
    let shown = &record.shown[node];
    for (i, s) in shown.iter().enumerate() {
        let until = shown.get(i + 1).map_or(d.to, |n| n.at_us);
        let fill = match s.role.as_str() {
            "leader" => LEADER,
            "follower" => FOLLOWER,
            "candidate" => CANDIDATE,
            "learner" => LEARNER,
            _ => ABSENT,
        };
        let role = if s.role.is_empty() { "shows nothing" } else { &s.role };
        let mut title = format!("{} {role}, term {}", record.sites[node], s.term);
        s.abstains.iter().for_each(|why| title += &format!("; abstains: {why}"));
        s.alarms.iter().for_each(|alarm| title += &format!("; alarm: {alarm}"));
        d.bar(t, y + 4.0, 12.0, (s.at_us, until), &format!("fill=\"{fill}\""), &title);
        standing(t, d, y + 33.0, (s.at_us, until), &s.standing);
    }
    applies(t, d, y + 17.5, &record.marks[node]);
    for v in record.verdicts.iter().filter(|v| v.observer == node && v.at_us > record.phases.load_us) {
        let title = format!("{} sees {} {} {}", record.sites[node], v.site, v.colour, v.kind);
        d.dot(t, y + 27.0, v.at_us, &v.colour, &title);
    }
    for asked in record.asked.iter().filter(|a| a.node == node && a.rtype == "A") {
        let (dy, height) = if asked.over == "udp" { (38.0, 12.0) } else { (51.0, 4.0) };
        answers(t, d, asked, y + dy, height);
    }
}

/// Sites that a node does not hold for up.
fn standing(t: &mut String, d: &Drawing<'_>, y: f64, span: (u64, u64), standing: &[(String, String)]) {
    let wrong: Vec<_> = standing.iter().filter(|(_, s)| s == "down" || s == "degraded").collect();
    let Some((site, _)) = wrong.first() else { return };
    let words: Vec<String> = wrong.iter().map(|(site, s)| format!("{site} for {s}")).collect();
    let fill = format!("fill=\"{}\"", colour(d.record, site));
    d.bar(t, y, 3.0, span, &fill, &format!("holds {}", words.join(", ")));
}

/// A node that shows no new log index for so long applies nothing.
const STILL_US: u64 = 600_000;

/// While a node applies log entries: the load writes several in a second.
fn applies(t: &mut String, d: &Drawing<'_>, y: f64, marks: &[Mark]) {
    let grown =
        marks.chunk_by(|a, b| (a.incarnation, a.index) == (b.incarnation, b.index)).filter_map(<[_]>::first);
    let grown: Vec<&Mark> = grown.collect();
    for run in grown.chunk_by(|a, b| b.at_us < a.at_us + STILL_US) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let title = format!("applied the log from index {} to {}", first.index, last.index);
        d.bar(t, y, 2.5, (first.at_us, last.at_us), "class=\"green\" fill-opacity=\".7\"", &title);
    }
}

fn answers(t: &mut String, d: &Drawing<'_>, asked: &Asked, y: f64, height: f64) {
    let record = d.record;
    for (i, said) in asked.changes.iter().enumerate() {
        // a silence begins with the question that was not answered
        let until =
            asked.changes.get(i + 1).map_or(d.to, |n| if n.answer.is_none() { n.asked_us } else { n.at_us });
        let Some(answer) = &said.answer else {
            let style = "fill=\"var(--bad)\" fill-opacity=\".25\"";
            d.bar(t, y, height, (said.asked_us, until), style, &format!("no answer over {}", asked.over));
            continue;
        };
        let place = answer.addrs.first().and_then(|a| record.addresses.iter().position(|o| o == a));
        let site = place.map_or("nobody", |i| record.sites[i].as_str());
        let title = format!("answers {site} ({}) over {}", answer.addrs.join(", "), asked.over);
        d.bar(t, y, height, (said.at_us, until), &format!("fill=\"{}\"", colour(record, site)), &title);
    }
}

/// What users and writers met.
fn bottom_lane(t: &mut String, d: &Drawing<'_>, y: f64) {
    let record = d.record;
    let mut run: Option<(u64, u64, &str)> = None;
    for r in record.served.iter().filter(|r| r.user == User::Http) {
        match (&r.site, &mut run) {
            (None, _) => d.dot(t, y + 8.0, r.at_us, "red", "a request failed"),
            (Some(site), Some((_, to, held))) if *held == site => *to = r.done_us,
            (Some(site), run) => {
                if let Some((from, to, held)) = run.replace((r.at_us, r.done_us, site)) {
                    d.bar(
                        t,
                        y + 3.0,
                        10.0,
                        (from, to),
                        &format!("fill=\"{}\" fill-opacity=\".55\"", colour(record, held)),
                        &format!("users are served by {held}"),
                    );
                }
            }
        }
    }
    if let Some((from, to, held)) = run {
        d.bar(
            t,
            y + 3.0,
            10.0,
            (from, to),
            &format!("fill=\"{}\" fill-opacity=\".55\"", colour(record, held)),
            &format!("users are served by {held}"),
        );
    }
    for op in record.ops.iter().filter(|o| matches!(o.kind, Kind::Write(_))) {
        match op.returned_us {
            Some(at) => d.bar(
                t,
                y + 23.0,
                9.0,
                (at, at),
                "class=\"green\" fill-opacity=\".6\"",
                "a write was acknowledged",
            ),
            None => d.bar(
                t,
                y + 23.0,
                9.0,
                (op.called_us, op.called_us),
                "class=\"red\" fill-opacity=\".6\"",
                &format!("a write at {} has no known fate, status {}", record.sites[op.node], op.status),
            ),
        }
    }
}
