//! `dig`, `kdig` and `drill` over UDP and TCP: six judges that must say the same.

use crate::support::output;
use std::{collections::BTreeSet, net::SocketAddr};

/// What a tool read in an answer, so far as all tools show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// As `NOERROR`.
    pub(crate) rcode: String,
    /// AA bit.
    pub(crate) authoritative: bool,
    /// `owner TYPE rdata` of each record, lower case where DNS is.
    pub(crate) answer: BTreeSet<String>,
    /// The same of the authority section.
    pub(crate) authority: BTreeSet<String>,
    /// The same of the additional section.
    pub(crate) additional: BTreeSet<String>,
    /// TTLs of the answer section.
    pub(crate) ttls: BTreeSet<u32>,
}

/// The tools that [`ask`] needs.
pub(crate) const TOOLS: [&str; 3] = ["dig", "kdig", "drill"];

/// What all tools agree on, over UDP and TCP.
#[track_caller]
pub(crate) fn ask(server: SocketAddr, name: &str, rtype: &str) -> Reply {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let mut replies = Vec::new();
    for tcp in [false, true] {
        let plus = if tcp { "+tcp" } else { "+notcp" };
        let dig = ["-p", &port, &at, name, rtype, "+norecurse", "+tries=1", "+time=5", "+nocookie", plus];
        let kdig = ["-p", &port, &at, name, rtype, "+norec", "+retry=0", "+time=5", plus];
        let drill = ["-p", &port, "-o", "rd", if tcp { "-t" } else { "-u" }, &at, name, rtype];
        replies.push(("dig", tcp, read(&run("dig", &dig))));
        replies.push(("kdig", tcp, read(&run("kdig", &kdig))));
        replies.push(("drill", tcp, read(&run("drill", &drill))));
    }
    let first = replies[0].2.clone();
    for (tool, tcp, reply) in &replies {
        let over = if *tcp { "TCP" } else { "UDP" };
        assert_eq!(*reply, first, "{tool} over {over} reads {name} {rtype} otherwise than dig over UDP");
    }
    first
}

#[track_caller]
fn run(tool: &str, args: &[&str]) -> String {
    let done = output(tool, args);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        text.contains("->>HEADER<<-"),
        "{tool} {args:?}: {text} {}",
        String::from_utf8_lossy(&done.stderr)
    );
    text
}

fn read(text: &str) -> Reply {
    let mut reply = Reply {
        rcode: String::new(),
        authoritative: false,
        answer: BTreeSet::new(),
        authority: BTreeSet::new(),
        additional: BTreeSet::new(),
        ttls: BTreeSet::new(),
    };
    let mut section = None;
    for line in text.lines() {
        let lower = line.to_ascii_lowercase();
        if let Some((_, rest)) = line.split_once("->>HEADER<<-") {
            let word = |w: &str| {
                rest.split_once(w).map(|(_, r)| r.trim().chars().take_while(char::is_ascii_alphabetic))
            };
            reply.rcode =
                word("status:").or_else(|| word("rcode:")).map(Iterator::collect).unwrap_or_default();
        } else if let Some(flags) = lower.strip_prefix(";; flags:") {
            let flags = flags.split(';').next().unwrap_or_default();
            reply.authoritative = flags.split_whitespace().any(|f| f == "aa");
        } else if line.starts_with(";;") {
            section = ["ANSWER", "AUTHORITY", "ADDITIONAL"]
                .iter()
                .position(|s| line.contains(&format!(" {s} SECTION")));
        } else if let (Some(section), false) = (section, line.is_empty() || line.starts_with(';')) {
            let mut words = line.split_whitespace();
            let (owner, ttl) = (words.next().unwrap_or_default().to_ascii_lowercase(), words.next());
            let rest: Vec<&str> = words.skip(1).collect(); // without the class
            let record = format!("{owner} {}", rest.join(" "));
            match section {
                0 => {
                    reply.ttls.extend(ttl.and_then(|t| t.parse::<u32>().ok()));
                    reply.answer.insert(record);
                }
                1 => _ = reply.authority.insert(record),
                _ => _ = reply.additional.insert(record),
            }
        }
    }
    reply
}

/// Records as [`Reply`] holds them.
pub(crate) fn records(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|r| (*r).to_owned()).collect()
}

/// The addresses that all tools read for `name`.
#[track_caller]
pub(crate) fn addresses(server: SocketAddr, name: &str) -> BTreeSet<String> {
    let reply = ask(server, name, "A");
    assert_eq!((reply.rcode.as_str(), reply.authoritative), ("NOERROR", true), "{name}: {reply:?}");
    reply.answer.iter().filter_map(|r| r.split_once(" A ").map(|(_, a)| a.to_owned())).collect()
}
