//! A good run to spoil: three sites, nothing happens.

use crate::{
    fault::Happened,
    history::{Answer, Asked, Kind, Mark, Move, Op, Said, Served, Shown, User, Vote},
    plan::{Expect, Plan},
    record::{FORMAT, Phases, Record, Setting},
};

pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const SITES: [&str; 3] = ["fra", "ams", "iad"];

pub(crate) fn record() -> Record {
    let plan = Plan {
        name: "sample".into(),
        about: String::new(),
        seed: 1,
        sites: 3,
        link: None,
        pairs: Vec::new(),
        timing: "lan".into(),
        quorum: "majority".into(),
        steps: Vec::new(),
        lasts_ms: 60_000,
        heal_within_ms: 30_000,
        expect: Expect::Anything,
    };
    let phases =
        Phases { load_us: 0, calm_us: 60 * SECOND, healed_us: Some(61 * SECOND), end_us: 62 * SECOND };
    Record {
        format: FORMAT,
        plan,
        setting: Setting::default(),
        sites: SITES.map(String::from).into(),
        addresses: (1..=3).map(|n| format!("10.77.{n}.1")).collect(),
        happened: Vec::new(),
        phases,
        asked: (0..3).map(|n| asked(n, &[(0, true)])).collect(),
        shown: vec![vec![shown(0, (0, 5))]; 3],
        marks: vec![vec![mark(0, 7, "aa")]; 3],
        verdicts: Vec::new(),
        moves: Vec::new(),
        ops: [(Kind::Write(1), 61), (Kind::Read(Some(1)), 62)].map(|(kind, s)| op(kind, s * SECOND)).into(),
        names: [(1, true)].into(),
        found: vec![[(1, crate::load::address(1))].into(); 3],
        served: User::ALL
            .map(|user| Served { at_us: SECOND, done_us: SECOND, site: Some("fra".into()), user })
            .into(),
        findings: Vec::new(),
        logs: String::new(),
    }
}

pub(crate) fn op(kind: Kind, called_us: u64) -> Op {
    Op { client: 2, node: 1, key: 0, kind, called_us, returned_us: Some(called_us + 1), status: 200 }
}

pub(crate) fn mark(at_us: u64, index: u64, hash: &str) -> Mark {
    Mark { at_us, incarnation: 0, index, hash: hash.into() }
}

pub(crate) fn shown(at_us: u64, epoch: (u32, u64)) -> Shown {
    Shown { at_us, role: "follower".into(), answered: vec!["fra".into()], epoch, ..Shown::default() }
}

pub(crate) fn said(at_us: u64, addr: Option<&str>, serial: Option<u32>) -> Said {
    let addrs = addr.into_iter().map(String::from).collect();
    Said { asked_us: at_us, at_us, answer: Some(Answer { rcode: 0, addrs, serial }) }
}

pub(crate) fn silence(at_us: u64) -> Said {
    Said { asked_us: at_us, at_us: at_us + 1, answer: None }
}

pub(crate) fn asked(node: usize, changes: &[(u64, bool)]) -> Asked {
    let say = |(at, answers): &(u64, bool)| {
        if *answers { said(*at, Some("10.77.1.1"), None) } else { silence(*at) }
    };
    Asked {
        node,
        over: "udp".into(),
        rtype: "A".into(),
        questions: (100, 0),
        changes: changes.iter().map(say).collect(),
    }
}

pub(crate) fn kill(node: usize, from_us: u64, to_us: u64) -> Happened {
    Happened {
        step: 0,
        text: "SIGKILL".into(),
        nodes: vec![node],
        blinded: Vec::new(),
        excuses: true,
        hidden: false,
        streams_only: false,
        silent_from_us: Some(from_us),
        from_us,
        to_us,
        trouble: None,
    }
}

pub(crate) fn blind(pairs: &[(usize, usize)], from_us: u64, to_us: u64) -> Happened {
    let none =
        Happened { nodes: Vec::new(), excuses: false, silent_from_us: None, ..kill(0, from_us, to_us) };
    Happened { blinded: pairs.to_vec(), ..none }
}

/// A move with the evidence of two reds.
pub(crate) fn moved(seen_us: u64, index: u64, from: &str, to: &str) -> Move {
    let red = |site: &str| Vote { site: site.into(), vote: "red (refused)".into() };
    let votes = SITES.iter().filter(|s| **s != from).map(|s| red(s)).collect();
    Move {
        seen_us,
        node: 1,
        epoch: (0, index),
        time: format!("2026-01-01T00:00:{:02}.000Z", seen_us / SECOND),
        family: "v4".into(),
        from: vec![from.into()],
        to: vec![to.into()],
        basis: "usable".into(),
        cause: "fra down".into(),
        own: None,
        about: from.into(),
        verdict: "down".into(),
        votes,
        rows: 1,
    }
}
