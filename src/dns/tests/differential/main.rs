//! Our answers beside those of Knot, NSD and BIND, for generated zones and generated questions.
//!
//! What most of the peers say must be what we say, or a rule in `rules.rs` tells why not. A peer that is not installed is
//! `NOT RUN`, loudly, and fails where `CI` is set. `ZONEKEEPER_SEED` asks other questions; the seed is printed. `ZONEKEEPER_LONG=1` asks ten
//! times as many.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test ends at the first surprise, and says what it compared

#[path = "../common/mod.rs"]
mod common;
mod peers;
mod questions;
mod rules;
mod sign;
mod validate;
mod zones;

use common::{Asker, Rr, read};
use peers::{Peer, ZoneFile};
use questions::{Question, questions};
use rules::{Difference, Essence, Origins, Part, RULES, essence, same};
use sign::{Chain, sign};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
};
use zonekeeper_core::name::Name;
use zonekeeper_dns::{
    Transport,
    zonefile::{rdata_text, type_name},
};
use zones::{Rng, Text, family};

/// Families of zones in one run.
const FAMILIES: usize = 40;
/// Questions in one run.
const QUESTIONS: usize = 24_000;
/// Questions under way at once; their numbers are the ids.
const BATCH: usize = 4000;
/// Most zones that a chain of aliases passes in an answer of ours.
const MAX_CHAIN: usize = 16;

fn seed() -> u64 {
    let seed = env::var("ZONEKEEPER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122);
    println!("seed {seed}: ZONEKEEPER_SEED={seed} asks the same questions");
    seed
}

fn times() -> usize {
    if env::var_os("ZONEKEEPER_LONG").is_some() { 10 } else { 1 }
}

#[test]
fn knot_nsd_and_bind_answer_alike_for_generated_zones() {
    let mut rng = Rng(seed());
    let mut zones: Vec<Text> = (0..FAMILIES).flat_map(|k| family(&mut rng, k)).collect();
    zones.push(zones::written());
    let dir = tempfile::tempdir().unwrap();
    compare(dir.path(), &zones, &mut rng, QUESTIONS * times());
}

/// Families of signed zones in one run.
const SIGNED: usize = 9;

#[test]
fn knot_nsd_and_bind_answer_alike_for_signed_zones() {
    let mut rng = Rng(seed() ^ 1);
    let dir = tempfile::tempdir().unwrap();
    let mut zones = Vec::new();
    for (k, chain) in (0..SIGNED).zip([Chain::Nsec, Chain::Nsec3, Chain::OptOut].into_iter().cycle()) {
        for zone in family(&mut rng, k) {
            let Some(signed) = sign(dir.path(), &mut rng, &zone, chain) else { return };
            zones.push(signed);
        }
    }
    compare(dir.path(), &zones, &mut rng, 8000 * times());
}

#[test]
fn a_validating_resolver_takes_our_answers_for_secure() {
    let dir = tempfile::tempdir().unwrap();
    validate::secure(dir.path(), &mut Rng(seed() ^ 2));
}

fn compare(dir: &Path, zones: &[Text], rng: &mut Rng, n: usize) {
    let file = |(i, z): (usize, &Text)| {
        let file = format!("zone{i}");
        fs::write(dir.join(&file), &z.text).unwrap();
        ZoneFile { origin: z.origin.clone(), file }
    };
    let files: Vec<ZoneFile> = zones.iter().enumerate().map(file).collect();
    let peers = peers::start(dir, &files);
    let texts: Vec<(&str, &str)> = zones.iter().map(|z| (z.origin.as_str(), z.text.as_str())).collect();
    let origins = Origins::new(&zones.iter().map(|z| Name::parse(&z.origin).unwrap()).collect::<Vec<_>>());
    let state = common::state(&texts);
    let mut records = BTreeSet::new();
    for set in state.zones.values().flat_map(|z| z.iter().collect::<Vec<_>>()) {
        let owner = set.name.to_string();
        let rr = |rdata: &[u8]| (owner.clone(), set.rtype, set.ttl, rdata_text(set.rtype, rdata));
        records.extend(set.rdata.iter().map(|r| rr(r)));
    }
    let names = records.iter().map(|r: &Rr| r.0.clone()).collect();
    let (mut report, mut asker) =
        (Report { origins, names, records, ..Report::default() }, Asker::of(&state));
    let all = questions(rng, zones, n);
    for batch in all.chunks(BATCH) {
        for tcp in [false, true] {
            let some: Vec<&Question> = batch.iter().filter(|q| q.mode.tcp == tcp).collect();
            report.ask(&mut asker, &peers, &some, tcp);
        }
    }
    report.finish(n, zones);
}

/// A peer's answers; where one ends with an alias into another of our zones, it is asked for that name too.
fn ask_on(peer: &Peer, questions: &[&Question], tcp: bool, origins: &Origins) -> Vec<Essence> {
    let ask =
        |wires: &[Vec<u8>]| peer.ask(wires, tcp).iter().map(|a| essence(a, origins)).collect::<Vec<_>>();
    let mut answers = ask(&questions.iter().map(|q| q.wire.clone()).collect::<Vec<_>>());
    let mut asked = BTreeSet::new();
    for _ in 0..MAX_CHAIN {
        let leads = |(i, a): (usize, &Essence)| Some((i, a.leads_to(questions[i], origins)?));
        let on = answers.iter().enumerate().filter_map(leads);
        let on: Vec<(usize, Name)> = on.filter(|on| asked.insert(on.clone())).collect();
        if on.is_empty() {
            break;
        }
        let next = ask(&on.iter().map(|(i, name)| questions[*i].about(name)).collect::<Vec<_>>());
        for ((i, _), next) in on.into_iter().zip(next) {
            answers[i].then(next);
        }
    }
    answers
}

#[derive(Default)]
struct Report {
    origins: Origins,
    names: BTreeSet<String>,
    records: BTreeSet<Rr>,
    compared: usize,
    cut: usize,
    /// Cut short by us alone.
    alone: usize,
    by_rule: BTreeMap<&'static str, usize>,
    /// Each peer says something else, and we what one of them says; not those for ANY.
    split: usize,
    unexplained: Vec<String>,
    count: usize,
}

impl Report {
    fn ask(&mut self, asker: &mut Asker, peers: &[Peer], questions: &[&Question], tcp: bool) {
        let origins = &self.origins;
        let theirs: Vec<Vec<Essence>> = std::thread::scope(|s| {
            let asked: Vec<_> =
                peers.iter().map(|p| s.spawn(|| ask_on(p, questions, tcp, origins))).collect();
            asked.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        for (i, q) in questions.iter().enumerate() {
            let raw = asker.raw(transport, &q.wire).unwrap();
            let end = 12 + q.name.wire().len() + 4;
            assert_eq!(raw[12..end], q.wire[12..end], "the question comes back as it was");
            let ours = read(&raw);
            for section in [&ours.answer, &ours.authority, &ours.additional] {
                assert_eq!(
                    section.iter().collect::<BTreeSet<_>>().len(),
                    section.len(),
                    "nothing stands twice: {ours:?}"
                );
            }
            let ours = essence(&ours, &self.origins);
            assert!(!tcp || !ours.tc, "cut short over TCP: {} type {}", q.name, q.rtype);
            let theirs: Vec<(&'static str, Essence)> =
                peers.iter().zip(&theirs).map(|(p, a)| (p.name, a[i].clone())).collect();
            let limit = if tcp {
                65_535
            } else if q.mode.edns {
                1232
            } else {
                512
            };
            self.judge(q, &ours, &theirs, limit - raw.len());
        }
    }

    fn judge(
        &mut self,
        question: &Question,
        ours: &Essence,
        theirs: &[(&'static str, Essence)],
        room: usize,
    ) {
        self.compared += theirs.len();
        let cut = ours.tc || theirs.iter().any(|t| t.1.tc); // what is left then is each server's own choice
        self.cut += usize::from(cut);
        self.alone += usize::from(ours.tc && !theirs.iter().any(|t| t.1.tc));
        for part in [Part::Rcode, Part::Aa, Part::Answer, Part::Authority, Part::Additional] {
            if cut && !matches!(part, Part::Rcode | Part::Aa) {
                continue;
            }
            let alike = |a: &Essence| theirs.iter().filter(|t| same(part, a, &t.1)).count();
            let most = theirs.iter().map(|t| alike(&t.1)).max().unwrap_or(0);
            if alike(ours) == most && most > 0 {
                self.split += usize::from(most == 1 && theirs.len() > 1 && question.rtype != rules::ANY);
                continue;
            }
            let difference =
                Difference { question, ours, theirs, part, room, names: &self.names, records: &self.records };
            match RULES.iter().find(|r| (r.holds)(&difference)) {
                Some(rule) => *self.by_rule.entry(rule.name).or_default() += 1,
                None => {
                    let text = told(&difference);
                    self.count += 1;
                    if self.unexplained.len() < 25 {
                        self.unexplained.push(text);
                    }
                    return;
                }
            }
        }
    }

    fn finish(self, questions: usize, zones: &[Text]) {
        println!(
            "{questions} questions, {} answers compared, {} cut short, {} of them by us alone; {} times three peers said three \
             things, and we one of them",
            self.compared, self.cut, self.alone, self.split
        );
        assert!(self.split * 200 <= questions, "{} of {questions} answers have no majority", self.split);
        // names in RDATA are not compressed here, so that some answers are larger than theirs
        assert!(self.alone * 50 <= questions, "{} of {questions} answers cut short by us alone", self.alone);
        for rule in RULES.iter().filter(|r| self.by_rule.contains_key(r.name)) {
            println!("{:6} {}: {}", self.by_rule[rule.name], rule.name, rule.reason);
        }
        for d in &self.unexplained {
            println!("{d}");
        }
        if self.count > 0 {
            let texts: Vec<&str> = zones.iter().map(|z| z.text.as_str()).collect();
            let path = env::temp_dir().join("zonekeeper-differential.zones");
            fs::write(&path, texts.join("\n")).unwrap();
            panic!("{} differences without a reason; the zones are in {}", self.count, path.display());
        }
    }
}

/// A difference in words: our answer, and by peer what it lacks (-) and has (+) beside ours.
fn told(d: &Difference<'_>) -> String {
    let (q, ours) = (d.question, d.ours);
    let mut out = format!("--- {:?}: {} type {} {:?}", d.part, q.name, q.rtype, q.mode);
    let short = |r: &Rr| format!("{} {} {} {:.60}", r.0, r.2, type_name(r.1), r.3);
    for (name, section) in [("an", &ours.answer), ("ns", &ours.authority), ("ar", &ours.additional)] {
        section.iter().for_each(|r| out.push_str(&format!("\n      {name} {}", short(r))));
    }
    for (name, e) in d.theirs {
        out.push_str(&format!(
            "\n  {name}: rcode {} for {}, aa {} for {}",
            e.rcode, ours.rcode, e.aa, ours.aa
        ));
        let sections =
            [(&ours.answer, &e.answer), (&ours.authority, &e.authority), (&ours.additional, &e.additional)];
        for (mine, their) in sections {
            mine.difference(their).for_each(|r| out.push_str(&format!("\n    - {}", short(r))));
            their.difference(mine).for_each(|r| out.push_str(&format!("\n    + {}", short(r))));
        }
    }
    out
}
