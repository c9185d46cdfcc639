//! A run as one HTML page that needs nothing else: what happened in words, a timeline per node, each failover close
//! up, and the checks.

mod story;
mod timeline;

use crate::{check::Finding, record::Record};
use std::fmt::Write as _;
use story::Failover;

/// The page. `file` is where the run's JSON stands, for the command that replays it.
pub fn html(record: &Record, file: &str) -> String {
    let mut t = String::with_capacity(1 << 20);
    let failovers = story::failovers(record);
    let name = escape(&record.plan.name);
    let _ = write!(
        t,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name} · Zonekeeper chaos</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head><body><main>"
    );
    head(&mut t, record, file);
    summary(&mut t, record, &failovers);
    t += "<h2>The whole run</h2><p class=\"quiet\">Faults stand on top. Below, for each site: whether its node leads, what it \
          sees of the others, and what it answers (thick over UDP, thin over TCP). A failover is a change of the answers' colour.</p>";
    timeline::legend(&mut t, record);
    timeline::draw(&mut t, record, 0, record.phases.end_us);
    for (i, failover) in failovers.iter().enumerate().take(CLOSE_UPS) {
        close_up(&mut t, record, i, failover);
    }
    if failovers.len() > CLOSE_UPS {
        rest(&mut t, &failovers[CLOSE_UPS..]);
    }
    checks(&mut t, &record.findings);
    events(&mut t, record);
    if !record.logs.is_empty() {
        let _ = write!(
            t,
            "<details><summary>The end of each node's log</summary><pre>{}</pre></details>",
            escape(&record.logs)
        );
    }
    t += "</main></body></html>";
    t
}

/// So many failovers are shown close up.
const CLOSE_UPS: usize = 12;

fn head(t: &mut String, record: &Record, file: &str) {
    let (plan, s) = (&record.plan, &record.setting);
    let broken = record.findings.iter().filter(|f| !f.good).count();
    let (class, verdict) = match broken {
        0 => ("good", "all checks hold".to_owned()),
        n => ("bad", format!("{n} of {} checks broken", record.findings.len())),
    };
    let _ = write!(
        t,
        "<header><p class=\"kicker\">Zonekeeper chaos</p><h1>{} <span class=\"badge {class}\">{verdict}</span></h1><p class=\"about\">{}</p>",
        escape(&plan.name),
        escape(&plan.about)
    );
    let link = plan.link.map_or(String::new(), |l| format!(", {} ms apart", 2 * l.delay_ms));
    let rows = [
        (
            "Cluster",
            format!(
                "{} sites with one node each ({}){link}, Raft timing {}",
                record.sites.len(),
                record.sites.join(", "),
                plan.timing
            ),
        ),
        ("Seed", plan.seed.to_string()),
        ("Program", s.zonekeeper.clone()),
        ("Machine", format!("Linux {}, {} processors, {}", s.kernel, s.processors, s.network)),
        ("Lasted", seconds(record.phases.end_us)),
        ("Replay", format!("cargo run --release -p zonekeeper-chaos -- replay {file}")),
    ];
    t.push_str("<dl>");
    for (key, value) in rows {
        let _ = write!(t, "<dt>{key}</dt><dd>{}</dd>", escape(&value));
    }
    for lack in &s.not_tested {
        let _ = write!(t, "<dt>Not tested</dt><dd class=\"warn\">{}</dd>", escape(lack));
    }
    t.push_str("</dl></header>");
}

fn summary(t: &mut String, record: &Record, failovers: &[Failover]) {
    let questions: u64 = record.asked.iter().map(|a| a.questions.0).sum();
    let failed = record.served.iter().filter(|r| r.site.is_none()).count();
    let faults = record.happened.iter().filter(|h| h.step != usize::MAX && h.trouble.is_none()).count();
    let worst = failovers
        .iter()
        .filter_map(Failover::slowest_ms)
        .fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b))));
    let healed = record.phases.healed_us.map(|h| h.saturating_sub(record.phases.calm_us));
    let cards = [
        ("faults", faults.to_string(), "inflicted, one or several at a time"),
        ("failovers", failovers.len().to_string(), "moves away from a site"),
        (
            "slowest failover",
            worst.map_or("none".into(), |ms| format!("{ms:.0} ms")),
            "from the fault to the changed answer on the last live node",
        ),
        ("healed", healed.map_or("no".into(), seconds), "after the last fault, back on the first site"),
        ("DNS questions", questions.to_string(), "asked of all nodes, over UDP and TCP"),
        (
            "user requests",
            format!("{failed} / {}", record.served.len()),
            "failed, of all through the proxies",
        ),
        ("register operations", record.ops.len().to_string(), "writes and linearizable reads"),
    ];
    t.push_str("<div class=\"cards\">");
    for (name, value, what) in cards {
        let _ = write!(t, "<div class=\"card\"><b>{value}</b><span>{name}</span><small>{what}</small></div>");
    }
    t.push_str("</div>");
}

fn close_up(t: &mut String, record: &Record, i: usize, f: &Failover) {
    let _ = write!(
        t,
        "<h2>Failover {}: {} → {}</h2><p class=\"told\">{}</p><ol class=\"story\">",
        i + 1,
        escape(&f.left),
        escape(&f.taken),
        escape(&f.told)
    );
    for line in &f.story {
        let _ = write!(t, "<li><time>{}</time> {}</li>", escape(&line.0), escape(&line.1));
    }
    t.push_str(
        "</ol><p class=\"quiet\">Answers and requests are timed by the judge, who asks every few milliseconds. Roles, verdicts \
         and decisions are what the admin API shows when it is polled, so they stand a little later than they were.</p>",
    );
    timeline::draw(t, record, f.from_us.saturating_sub(300_000), f.until_us + 400_000);
}

/// The failovers that are not shown close up.
fn rest(t: &mut String, failovers: &[Failover]) {
    let _ = write!(
        t,
        "<h2>{} more failovers</h2><table><thead><tr><th>Fault at</th><th>From</th><th>To</th><th>Last live name server \
         changed after</th><th>What happened</th></tr></thead><tbody>",
        failovers.len()
    );
    for f in failovers {
        let _ = write!(
            t,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            seconds(f.from_us),
            escape(&f.left),
            escape(&f.taken),
            f.slowest_ms().map_or("-".into(), |ms| format!("{ms:.0} ms")),
            escape(&f.fault)
        );
    }
    t.push_str("</tbody></table>");
}

fn checks(t: &mut String, findings: &[Finding]) {
    t.push_str("<h2>Checks</h2><table><thead><tr><th></th><th>What must hold</th><th>Invariant</th><th>What was looked at, or found</th></tr></thead><tbody>");
    for f in findings {
        let (class, mark) = if f.good { ("good", "✓ holds") } else { ("bad", "✗ broken") };
        let lines: Vec<String> = f.lines.iter().map(|l| escape(l)).collect();
        let number = f.invariant.map_or("scenario".into(), |n| n.to_string());
        let _ = write!(
            t,
            "<tr><td class=\"{class}\">{mark}</td><td>{}</td><td>{number}</td><td>{}</td></tr>",
            escape(&f.check),
            lines.join("<br>")
        );
    }
    t.push_str("</tbody></table><p class=\"quiet\">Invariants are numbered as in the design. 8 and 11 need a node's disk and are checked by the simulation and the storage tests.</p>");
}

fn events(t: &mut String, record: &Record) {
    t.push_str("<h2>What was done</h2><table><thead><tr><th>From</th><th>To</th><th>What</th><th></th></tr></thead><tbody>");
    for h in &record.happened {
        let _ = write!(
            t,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"warn\">{}</td></tr>",
            seconds(h.from_us),
            seconds(h.to_us),
            escape(&h.text),
            escape(h.trouble.as_deref().unwrap_or_default())
        );
    }
    t.push_str("</tbody></table>");
}

fn seconds(us: u64) -> String {
    format!("{:.2} s", us as f64 / 1e6)
}

/// Text inside an element or an attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{self, SECOND, moved};

    fn page() -> String {
        let mut record = samples::record();
        record.plan.about = "A <b>site</b> dies & another one is answered.".into();
        record.happened.push(samples::kill(0, 10 * SECOND, 20 * SECOND));
        record.moves.push(moved(10 * SECOND + 90_000, 9, "fra", "ams"));
        for node in [1, 2] {
            record.asked[node].changes.push(samples::said(10 * SECOND + 100_000, Some("10.77.2.1"), None));
        }
        record.findings = crate::check::all(&record);
        html(&record, "x.json")
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = page();
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn text_is_escaped_and_elements_are_closed() {
        let page = page();
        assert!(page.contains("A &lt;b&gt;site&lt;/b&gt; dies &amp; another"));
        for element in ["svg", "g", "table", "tbody", "ol", "dl", "main", "header", "h2", "title", "div"] {
            let opened =
                page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""), "numbers are numbers");
    }

    #[test]
    fn a_failover_is_told_from_the_fault_to_the_answer() {
        let page = page();
        assert!(page.contains("Failover 1: fra → ams"));
        assert!(page.contains("What happened: ") && page.contains("answers ams instead of fra"), "{page}");
        assert!(page.contains("ams answers 10.77.2.1") && page.contains("+100 ms"), "{page}");
        assert!(page.contains("replay x.json"));
    }
}
