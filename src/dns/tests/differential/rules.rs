//! What is compared, and the differences from the majority that are right, each with the RFC sentence that says so.

use crate::{
    common::{Answer, Rr},
    questions::Question,
};
use std::collections::{BTreeMap, BTreeSet};
use zonekeeper_core::name::Name;

/// An answer as it is compared: sections as sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Essence {
    pub(crate) rcode: u16,
    pub(crate) aa: bool,
    pub(crate) tc: bool,
    pub(crate) answer: BTreeSet<Rr>,
    pub(crate) authority: BTreeSet<Rr>,
    pub(crate) additional: BTreeSet<Rr>,
}

/// Takes an answer apart. The NS RRset of a zone beside an answer that is complete is each server's own choice: RFC 1034
/// §4.3.2 does not ask for it.
pub(crate) fn essence(a: &Answer, origins: &Origins) -> Essence {
    let set = |rrs: &[Rr]| rrs.iter().cloned().collect::<BTreeSet<Rr>>();
    let mut authority = set(&a.authority);
    if !a.answer.is_empty() {
        let ns = |r: &Rr| r.1 == 2 || (r.1 == 46 && r.3.starts_with("NS "));
        authority.retain(|r| !(ns(r) && origins.1.contains(&r.0)));
    }
    Essence {
        rcode: a.rcode,
        aa: a.aa,
        tc: a.tc,
        answer: set(&a.answer),
        authority,
        additional: set(&a.additional),
    }
}

/// The apexes of the zones that are served.
#[derive(Default)]
pub(crate) struct Origins(BTreeSet<Name>, BTreeSet<String>);

impl Origins {
    pub(crate) fn new(names: &[Name]) -> Origins {
        Origins(names.iter().cloned().collect(), names.iter().map(Name::to_string).collect())
    }

    /// The zone of a name.
    pub(crate) fn of(&self, name: &Name) -> Option<&Name> {
        let mut at = Some(name.clone());
        while let Some(name) = at {
            if let Some(zone) = self.0.get(&name) {
                return Some(zone);
            }
            at = name.parent();
        }
        None
    }
}

impl Essence {
    /// Where a chain of aliases ends, when that is in another of our zones.
    pub(crate) fn leads_to(&self, question: &Question, origins: &Origins) -> Option<Name> {
        let (mut at, mut zone) = (question.name.clone(), None);
        if !self.answer.iter().any(|r| r.1 == 5) {
            return None;
        }
        if question.rtype == 5 {
            return None; // the alias is the answer
        }
        let renamed = |name: &str| {
            let above = |r: &&Rr| r.1 == 39 && name.ends_with(&format!(".{}", r.0));
            self.answer.iter().any(|r| above(&r))
        };
        for _ in 0..=self.answer.len() {
            let Some(cname) = self.answer.iter().find(|r| r.1 == 5 && r.0 == at.to_string()) else { break };
            if question.rtype == ANY && !renamed(&cname.0) {
                return None; // so it is here
            }
            zone = origins.of(&at);
            at = Name::parse(&cname.3).unwrap();
        }
        let answered = self.answer.iter().any(|r| r.0 == at.to_string() && r.1 != 46);
        (zone.is_some() && !answered && origins.of(&at).is_some_and(|z| Some(z) != zone)).then_some(at)
    }

    /// The answer together with that for the name where it leads. RFC 1034 §4.3.2 step 3a: "change QNAME to the canonical
    /// name in the CNAME RR, and go back to step 1", which is to search "the available zones". The peers stop at the border
    /// of the zone. What they prove about wildcards on the way stays.
    pub(crate) fn then(&mut self, next: Essence) {
        let before = std::mem::replace(self, next);
        self.aa = before.aa;
        self.answer.extend(before.answer);
        let referral = before.authority.iter().any(|r| r.1 == 43);
        let proof = |r: &Rr| matches!(r.1, 47 | 50) || (r.1 == 46 && r.3.starts_with("NSEC"));
        self.authority.extend(before.authority.into_iter().filter(|r| proof(r) && !referral));
    }
}

/// A part of an answer that differs from what most peers say.
pub(crate) struct Difference<'a> {
    pub(crate) question: &'a Question,
    pub(crate) ours: &'a Essence,
    /// By peer.
    pub(crate) theirs: &'a [(&'static str, Essence)],
    pub(crate) part: Part,
    /// Bytes that are left in our answer.
    pub(crate) room: usize,
    /// All owners of records, and the records.
    pub(crate) names: &'a BTreeSet<String>,
    pub(crate) records: &'a BTreeSet<Rr>,
}

impl Difference<'_> {
    /// Whether the record stands in a zone, at its owner or at a wildcard above.
    fn is_written(&self, (owner, rtype, ttl, rdata): &Rr) -> bool {
        let above = owner.match_indices('.').map(|(dot, _)| format!("*{}", &owner[dot..]));
        [owner.clone()]
            .into_iter()
            .chain(above)
            .any(|o| self.records.contains(&(o, *rtype, *ttl, rdata.clone())))
    }

    /// Whether a wildcard above the name exists only because of names below it.
    fn is_below_empty_wildcard(&self, name: &str) -> bool {
        name.match_indices('.').any(|(dot, _)| {
            let (wildcard, below) = (format!("*{}", &name[dot..]), format!(".*{}", &name[dot..]));
            !self.names.contains(&wildcard) && self.names.iter().any(|n| n.ends_with(&below))
        })
    }

    /// Bytes of the smallest RRset that theirs has beside ours; 0 when there is none.
    fn missing(&self, theirs: &Essence) -> usize {
        let mut sets = BTreeMap::<(&str, u16), usize>::new();
        for (owner, rtype, _, rdata) in theirs.additional.difference(&self.ours.additional) {
            *sets.entry((owner, *rtype)).or_default() +=
                12 + if *rtype == 1 { 4 } else { rdata.len().max(16) };
        }
        sets.into_values().min().unwrap_or(0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Rcode,
    Aa,
    Answer,
    Authority,
    Additional,
}

/// One rule: its name, its reason, and when it holds.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) holds: fn(&Difference<'_>) -> bool,
}

pub(crate) const ANY: u16 = 255;

pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "any",
        reason: "RFC 8482 §4.1: \"MAY decide to return a single RRset or a larger subset of the available RRsets\"",
        holds: |d| {
            let owners = |e: &Essence| e.answer.iter().map(|r| r.0.clone()).collect::<BTreeSet<_>>();
            let given = |r: &Rr| d.theirs.iter().any(|t| t.1.answer.contains(r)) || d.is_written(r);
            d.question.rtype == ANY
                && d.part >= Part::Answer
                && d.ours.answer.iter().all(given)
                && d.theirs.iter().any(|t| owners(&t.1) == owners(d.ours))
        },
    },
    Rule {
        name: "any behind a dname",
        reason: "RFC 1034 §4.3.2 step 3a: an alias is followed where \"QTYPE doesn't match CNAME\"; ANY does match, and whether the \
                 one that is made up for a DNAME is the answer is each server's choice: NSD and we follow it",
        holds: |d| {
            let renamed = d.ours.answer.iter().any(|r| r.1 == 39);
            let less = |e: &Essence| e.answer.is_subset(&d.ours.answer);
            d.question.rtype == ANY && renamed && d.theirs.iter().filter(|t| less(&t.1)).count() >= 2
        },
    },
    Rule {
        name: "nsec3 at an alias",
        reason: "RFC 4035 §2.5, RFC 5155 §7.2.8: an NSEC3 stands beside no CNAME, so the alias is followed; Knot and NSD deny \
                 that there is one",
        holds: |d| {
            let same = |e: &Essence| e.answer == d.ours.answer && e.authority == d.ours.authority;
            d.question.rtype == 50
                && d.ours.answer.iter().any(|r| r.1 == 5)
                && d.theirs.iter().any(|t| same(&t.1))
        },
    },
    Rule {
        name: "wildcard without records",
        reason: "RFC 4035 §3.1.3.4: where a wildcard has no data, one NSEC proves that of the wildcard \"and\" another that the \
                 name does not exist (RFC 5155 §7.2.5 with NSEC3); some leave out the former where the wildcard is an empty \
                 non-terminal, or take another",
        holds: |d| {
            let denial = |r: &Rr| matches!(r.1, 47 | 50) || (r.1 == 46 && r.3.starts_with("NSEC"));
            let less = |e: &Essence| {
                d.ours.authority.is_superset(&e.authority)
                    && d.ours.authority.difference(&e.authority).all(denial)
            };
            let targets = d.ours.answer.iter().filter(|r| r.1 == 5).map(|r| r.3.clone());
            let mut names = targets.chain([d.question.name.to_string()]);
            d.part == Part::Authority
                && d.ours.rcode == 0
                && d.theirs.iter().filter(|t| less(&t.1)).count() >= 2
                && names.any(|n| d.is_below_empty_wildcard(&n))
        },
    },
    Rule {
        name: "asterisk",
        reason: "RFC 5155 §7.2.5: \"in addition to the closest encloser proof\" the record of the wildcard: Knot and NSD leave \
                 the proof out where the name that was asked for begins with an asterisk itself",
        holds: |d| {
            let proof = |r: &Rr| r.1 == 50 || (r.1 == 46 && r.3.starts_with("NSEC3"));
            let more = |e: &Essence| d.ours.authority.difference(&e.authority).all(proof);
            d.part == Part::Authority
                && d.ours.rcode == 0
                && d.question.name.is_wildcard()
                && d.theirs.iter().all(|t| more(&t.1))
                && d.theirs.iter().any(|t| t.1.authority == d.ours.authority)
        },
    },
    Rule {
        name: "endless",
        reason: "RFC 1034 §3.6.2: \"CNAME chains should be followed\", how far is each server's choice: we follow 16, and none \
                 that leads back",
        holds: |d| {
            let part = |e: &Essence| e.answer.is_subset(&d.ours.answer) || d.ours.answer.is_subset(&e.answer);
            let chain = d.ours.answer.iter().filter(|r| r.1 == 5).count();
            let owner = |name: &str| d.ours.answer.iter().any(|r| r.1 == 5 && r.0 == name);
            let back = d.ours.answer.iter().filter(|r| r.1 == 5).all(|r| owner(&r.3));
            let long = back || chain >= 16 || (chain >= 8 && d.ours.tc);
            d.ours.rcode == 0 && chain > 0 && long && d.theirs.iter().filter(|t| part(&t.1)).count() >= 2
        },
    },
    Rule {
        name: "ds of the parent",
        reason: "RFC 4035 §3.1.4.1: the DS of a zone is the parent's, also where an alias in the child leads to its apex",
        holds: |d| {
            let (aliases, answer) = (|r: &&Rr| r.1 == 5, &d.ours.answer);
            let ends = |r: &&Rr| !answer.iter().any(|next| next.1 == 5 && next.0 == r.3);
            let end = answer.iter().filter(aliases).find(ends).map(|r| r.3.as_str());
            let soa = |e: &Essence| e.authority.iter().find(|r| r.1 == 6).map(|r| r.0.clone());
            let child = d.theirs.iter().any(|t| soa(&t.1).as_deref() == end);
            let parents = |end: &str| match soa(d.ours) {
                Some(owner) => end.ends_with(&format!(".{owner}")),
                None => answer.iter().any(|r| r.1 == 43 && r.0 == end),
            };
            d.question.rtype == 43 && child && end.is_some_and(parents)
        },
    },
    Rule {
        name: "own target",
        reason: "RFC 9460 §2.5.2: \"if TargetName has the value '.', then the owner name of this record MUST be used\", and \
                 §4.1: servers SHOULD return its addresses",
        holds: |d| {
            let dot =
                d.ours.answer.iter().any(|r| matches!(r.1, 64 | 65) && r.3.split(' ').nth(1) == Some("."));
            let own = |r: &Rr| d.ours.answer.iter().any(|a| a.0 == r.0);
            d.part == Part::Additional && dot && d.ours.additional.iter().any(own)
        },
    },
    Rule {
        name: "useful",
        reason: "RFC 1034 §4.3.2 step 6: \"attempt to add other RRs which may be useful\": ours has what all have, and \
                 nothing that nobody has",
        holds: |d| {
            let mut all = d.theirs.iter().map(|t| &t.1.additional);
            let nobody = |r: &&Rr| !d.theirs.iter().any(|t| t.1.additional.contains(*r));
            let common = all.next().cloned().unwrap_or_default();
            let common = all.fold(common, |c, a| &c & a);
            let referral = !d.ours.aa;
            d.part == Part::Additional
                && !referral
                && d.ours.additional.is_superset(&common)
                && !d.ours.additional.iter().any(|r| nobody(&r))
        },
    },
    Rule {
        name: "no room",
        reason: "RFC 1035 §4.1.4: \"programs are free to avoid using pointers\", and we do in RDATA: over UDP fewer of the \
                 addresses fit that RFC 9471 §3 does not require",
        holds: |d| {
            let least = d.theirs.iter().map(|t| d.missing(&t.1)).max().unwrap_or(0);
            d.part == Part::Additional && !d.question.mode.tcp && least > d.room
        },
    },
    Rule {
        name: "no wildcard is glue",
        reason: "RFC 4592 §2.1.1 and §4.2, RFC 1034 §4.2.1: below a cut the zone has no authority, and what is glue is \
                 \"not part of the authoritative data\": a wildcard there makes no records",
        holds: |d| {
            let made = |r: &Rr| !d.names.contains(&r.0);
            let given =
                |e: &Essence| e.additional.iter().filter(|r| !made(r)).cloned().collect::<BTreeSet<_>>();
            d.part == Part::Additional
                && !d.ours.aa
                && d.theirs.iter().any(|t| given(&t.1) == d.ours.additional)
        },
    },
];

/// The part of the answer, so that two can be compared.
pub(crate) fn same(part: Part, a: &Essence, b: &Essence) -> bool {
    match part {
        Part::Rcode => a.rcode == b.rcode,
        Part::Aa => a.aa == b.aa,
        Part::Answer => a.answer == b.answer,
        Part::Authority => a.authority == b.authority,
        Part::Additional => a.additional == b.additional,
    }
}
