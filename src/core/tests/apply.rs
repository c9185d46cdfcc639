//! What `apply` says of entries: stale reads, refusals, staging, expiry, members, references.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use support::*;
use zonekeeper_core::{
    Command, Outcome, Proposal, State, codec,
    entry::{
        Cause, Delta, Duty, Entry, Force, Init, Join, MAX_ENTRY, Member, Object, Role, Scope, Timing, Token,
    },
    evidence::{
        Kind,
        Standing::{Down, Up},
        Vote,
    },
    id::PoolId,
    model::{Backend, Balance, Change, HashKey, Pool, Site, ZoneOwner},
    time::LogTime,
    zone::RrSet,
};

fn log() -> Log {
    Log::new(service(failover()))
}

fn txt(n: u8) -> Change {
    Change::PutRecords(name("example.com."), vec![record(&format!("w{n}.example.com."), 16, &[1, n])])
}

fn applied(outcome: Outcome) -> Delta {
    match outcome {
        Outcome::Applied(delta) => delta,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_applied_before_the_cluster_has_a_name() {
    let mut state = State::default();
    let entry = |command| Entry { time: LogTime(5), proposal: Proposal::by("ops", command).into() };
    assert!(matches!(state.apply(1, &entry(Command::Tick)), Outcome::Refused(_)));
    let init = |cluster, version, timing| Command::Init(Init { cluster, version, timing });
    for bad in [init(0, 1, Timing::Lan), init(1, 0, Timing::Lan), init(1, 99, Timing::Lan)] {
        assert!(matches!(state.apply(2, &entry(bad)), Outcome::Refused(_)));
    }
    let timing = Timing::Heartbeat { ms: 1 };
    assert!(matches!(state.apply(3, &entry(init(1, 1, timing))), Outcome::Refused(_)));
    assert!(matches!(state.apply(4, &entry(init(1, 1, Timing::Lan))), Outcome::Applied(_)));
    assert!(matches!(state.apply(5, &entry(init(2, 1, Timing::Lan))), Outcome::Refused(_)), "once only");
}

#[test]
fn a_proposal_on_an_older_version_is_stale_and_says_of_what() {
    let mut log = log();
    let proposal = |log: &Log, object| {
        let command = Command::Judge(vec![fitting("a", Down)]);
        Proposal { reads: vec![log.read(object)], cause: Cause::Automation, command }
    };
    let on_service = proposal(&log, Object::Service(web()));
    let on_voters = proposal(&log, Object::Voters);
    log.force("b", Force::Drain);
    assert_eq!(log.apply(on_service), Outcome::Stale(log.read(Object::Service(web()))));
    assert_eq!(log.answered(), "a");
    let next = log.state.generation.index + 1;
    log.state.set_voters(next, BTreeSet::from([1, 2]));
    assert_eq!(log.apply(on_voters), Outcome::Stale(log.read(Object::Voters)));
}

#[test]
fn record_edits_do_not_starve_a_decision() {
    let mut log = log();
    let reads = vec![log.read(Object::Service(web())), log.read(Object::Voters), log.read(Object::Config)];
    for n in 0..10 {
        log.configure(txt(n));
    }
    let judge = Command::Judge(vec![fitting("a", Down)]);
    applied(log.apply(Proposal { reads, cause: Cause::Automation, command: judge }));
    assert_eq!(log.answered(), "b");
}

#[test]
fn health_and_decisions_never_touch_the_revision() {
    let mut log = log();
    let revision = log.read(Object::Config);
    log.judge("a", Down);
    log.force("b", Force::Drain);
    log.after(1_000_000);
    assert_eq!(log.read(Object::Config), revision);
    log.configure(Change::PutSite(site("d"), Site::default()));
    assert_ne!(log.read(Object::Config), revision);
}

#[test]
fn two_plans_on_one_revision_cannot_both_be_applied() {
    let mut log = log();
    let plan = |log: &Log, s: &str| Proposal {
        reads: vec![log.read(Object::Config)],
        cause: Cause::Operator("ops".into()),
        command: Command::Configure(vec![Change::PutSite(site(s), Site::default())]),
    };
    let (one, two) = (plan(&log, "x"), plan(&log, "y"));
    applied(log.apply(one));
    assert!(matches!(log.apply(two), Outcome::Stale(_)));
    assert!(!log.state.sites.contains_key(&site("y")));
}

#[test]
fn evidence_is_counted_again() {
    let forged = [
        row("a", &[("b", RED), ("c", Vote::Green)], None, Down),
        row("a", &[("b", RED), ("a", RED)], None, Down),
        row("a", &[("b", RED), ("x", RED)], None, Down),
        row("a", &[("b", RED), ("b", RED)], None, Down),
        row("a", &[("b", RED)], None, Down),
        row("a", &[("b", Vote::Green)], None, Up),
        row("a", &[("b", Vote::Yellow), ("c", Vote::Abstain)], None, Up),
        row("a", &[("b", Vote::Green), ("c", Vote::Green)], Some(Kind::Unhealthy), Up),
        row("x", &[("a", RED), ("b", RED), ("c", RED)], None, Down),
    ];
    let mut log = log();
    for row in forged {
        let outcome = log.automatic(Command::Judge(vec![row.clone()]));
        assert!(matches!(outcome, Outcome::Refused(_)), "{row:?}: {outcome:?}");
    }
    let good_and_bad = vec![fitting("b", Down), row("a", &[("b", RED), ("c", Vote::Green)], None, Down)];
    assert!(matches!(log.automatic(Command::Judge(good_and_bad)), Outcome::Refused(_)));
    assert!(log.state.services[&web()].health.is_empty(), "a refused entry leaves nothing behind");
}

#[test]
fn a_refused_or_stale_entry_moves_index_and_time_only() {
    let mut log = log();
    let before = log.state.clone();
    log.now += 5_000;
    log.refused(Command::Abort { id: 9 }, "no stage");
    let mut expected = before;
    expected.skip(log.state.generation.index);
    expected.time = LogTime(log.now);
    assert_eq!(log.state.hash(), expected.hash());
}

#[test]
fn log_time_never_goes_back() {
    let mut log = log();
    log.now -= 500_000;
    log.ok(Command::Tick);
    assert_eq!(log.state.time, LogTime(START));
}

#[test]
fn a_decision_is_written_down_with_its_evidence_and_epoch() {
    let mut log = log();
    log.judge("a", Down);
    let decision = log.state.history.back().unwrap();
    assert_eq!((decision.from.clone(), decision.to.clone()), (vec![site("a")], vec![site("b")]));
    assert_eq!(decision.rows, vec![fitting("a", Down)]);
    assert_eq!(decision.epoch, log.state.generation);
    assert_eq!(decision.cause, "a down: refused from b, refused from c");
}

#[test]
fn a_move_advances_the_serial_of_its_zone_and_names_it() {
    let mut log = log();
    let serial = |log: &Log| log.state.zones[&name("example.com.")].serial();
    let before = serial(&log);
    let delta = applied(log.automatic(Command::Judge(vec![fitting("a", Down)])));
    assert_eq!((serial(&log), delta.zones), (before + 1, vec![name("example.com.")]));
    assert_eq!(delta.services.len(), 1);
    let delta = applied(log.automatic(Command::Tick));
    assert_eq!((serial(&log), delta.zones, delta.services), (before + 1, vec![], vec![]), "nothing changed");
}

#[test]
fn a_stage_is_visible_at_one_index_and_not_before() {
    let mut log = log();
    let stage = |part, n| Command::Stage { id: 4, part, changes: vec![txt(n)] };
    let held = |log: &Log| log.state.zones[&name("example.com.")].get(&name("w1.example.com."), 16).is_some();
    log.ok(stage(0, 1));
    log.refused(stage(2, 3), "expects part 1");
    log.ok(stage(1, 2));
    let other = Proposal::by("another", stage(2, 9));
    assert!(matches!(log.apply(other), Outcome::Refused(why) if why.contains("belongs to ops")));
    assert!(!held(&log));
    log.refused(Command::Commit { id: 4, parts: 3 }, "2 of 3 parts");
    assert!(!log.state.stages.is_empty(), "and the stage is still there");
    log.ok(Command::Commit { id: 4, parts: 2 });
    assert!(held(&log) && log.state.stages.is_empty());
    log.refused(Command::Commit { id: 4, parts: 2 }, "no stage");
}

#[test]
fn a_stage_with_one_bad_part_changes_nothing() {
    let mut log = log();
    log.ok(Command::Stage { id: 1, part: 0, changes: vec![txt(1)] });
    log.ok(Command::Stage { id: 1, part: 1, changes: vec![Change::RemoveSite(site("nowhere"))] });
    let zones = log.state.zones.clone();
    log.refused(Command::Commit { id: 1, parts: 2 }, "does not exist");
    assert_eq!(log.state.zones[&name("example.com.")].hash(), zones[&name("example.com.")].hash());
}

/// A new zone in parts: its apex, then `n` names in each of `parts` parts.
fn new_zone(parts: u32, n: u32) -> Vec<Vec<Change>> {
    let origin = || name("example.net.");
    let apex = [6, 2].map(|t| zone().iter().find_map(|c| apex_of(c, t)).unwrap());
    let apex = apex.map(|set| RrSet { name: origin(), ..set });
    let a = |i: u32| record(&format!("h{i}.example.net."), 1, &i.to_be_bytes());
    let records = |part: u32| Change::PutRecords(origin(), (part * n..(part + 1) * n).map(a).collect());
    let first = vec![Change::PutZone(origin(), ZoneOwner::Api), Change::PutRecords(origin(), apex.to_vec())];
    std::iter::once(first).chain((0..parts).map(|part| vec![records(part)])).collect()
}

fn apex_of(change: &Change, rtype: u16) -> Option<RrSet> {
    match change {
        Change::PutRecords(_, sets) => sets.iter().find(|s| s.rtype == rtype).cloned(),
        _ => None,
    }
}

fn stage_all(log: &mut Log, parts: &[Vec<Change>]) {
    for (part, changes) in (0..).zip(parts) {
        log.ok(Command::Stage { id: 7, part, changes: changes.clone() });
    }
}

#[test]
fn a_staged_zone_is_the_one_that_was_put_at_once_and_survives_a_snapshot_half_way() {
    let parts = new_zone(5, 40);
    let mut at_once = log();
    at_once.ok(Command::Configure(parts.concat()));
    let mut staged = log();
    stage_all(&mut staged, &parts[..3]);
    assert!(!staged.state.zones.contains_key(&name("example.net.")));
    let (bytes, hash) = (codec::bytes(&staged.state), staged.state.hash());
    staged.state = codec::from_bytes(&bytes).unwrap();
    assert_eq!(staged.state.hash(), hash);
    for (part, changes) in (3..).zip(&parts[3..]) {
        staged.ok(Command::Stage { id: 7, part, changes: changes.clone() });
    }
    assert_ne!(staged.state.hash(), hash, "what is staged counts");
    staged.ok(Command::Commit { id: 7, parts: 6 });
    let zone = |log: &Log| log.state.zones[&name("example.net.")].clone();
    assert_eq!(zone(&staged), zone(&at_once));
    assert_eq!(zone(&staged).len(), 202);
}

#[test]
fn a_staged_zone_that_was_created_meanwhile_is_refused_and_so_is_one_without_an_apex() {
    let parts = new_zone(1, 3);
    let mut log = log();
    stage_all(&mut log, &parts);
    log.ok(Command::Configure(parts.concat()));
    log.refused(Command::Commit { id: 7, parts: 2 }, "created meanwhile");
    log.ok(Command::Abort { id: 7 });
    log.ok(Command::Configure(vec![Change::RemoveZone(name("example.net."))]));
    stage_all(&mut log, &[vec![parts[0][0].clone()], parts[1].clone()]);
    log.refused(Command::Commit { id: 7, parts: 2 }, "SOA");
    assert!(!log.state.zones.contains_key(&name("example.net.")));
}

/// Prints what a part and the commit cost: `cargo test --release -p zonekeeper-core -- --ignored --nocapture million`.
#[test]
#[ignore = "a measurement"]
fn a_million_names_staged() {
    let parts = new_zone(1000, 1000);
    let mut log = log();
    let begin = std::time::Instant::now();
    stage_all(&mut log, &parts);
    let staged = begin.elapsed();
    log.ok(Command::Commit { id: 7, parts: 1001 });
    println!("staged in {staged:?}, committed in {:?}", begin.elapsed() - staged);
}

#[test]
fn stages_are_bounded_and_expire() {
    let mut log = log();
    for id in 0..8 {
        log.ok(Command::Stage { id, part: 0, changes: vec![txt(1)] });
    }
    log.refused(Command::Stage { id: 8, part: 0, changes: vec![txt(1)] }, "stages are open");
    log.ok(Command::Abort { id: 0 });
    log.ok(Command::Stage { id: 8, part: 0, changes: vec![txt(1)] });
    log.after(599_999);
    assert_eq!(log.state.stages.len(), 8);
    log.after(1);
    assert!(log.state.stages.is_empty());
}

#[test]
fn a_stage_is_its_owners_alone() {
    let mut log = log();
    log.ok(Command::Stage { id: 4, part: 0, changes: vec![txt(1)] });
    for command in [Command::Commit { id: 4, parts: 1 }, Command::Abort { id: 4 }] {
        let outcome = log.apply(Proposal::by("another", command));
        assert!(matches!(&outcome, Outcome::Refused(why) if why.contains("belongs to ops")), "{outcome:?}");
    }
    log.ok(Command::Commit { id: 4, parts: 1 });
}

#[test]
fn all_stages_together_are_bounded() {
    const MOST: u32 = (1 << 30) / MAX_ENTRY as u32;
    let mut log = log();
    let stage = |id, part| Command::Stage { id, part, changes: vec![] };
    (0..MOST / 2).for_each(|part| log.ok(stage(1, part)));
    (0..MOST / 2).for_each(|part| log.ok(stage(2, part)));
    log.refused(stage(2, MOST / 2), "all that a node keeps");
    log.refused(stage(3, 0), "all that a node keeps");
    log.ok(Command::Abort { id: 1 });
    log.ok(stage(3, 0));
}

#[test]
fn a_token_is_not_replaced_and_has_no_name_of_the_programs_own() {
    let mut log = log();
    let put = |name: &str, n: u8, expires: Option<u64>| {
        let (name, expires) = (name.into(), expires.map(LogTime));
        Command::PutToken(Token { name, hash: [n; 32], role: Role::Read, expires })
    };
    log.ok(put("ana", 1, Some(START + 1_000)));
    log.refused(put("ana", 2, None), "there is a token ana already");
    assert_eq!(log.state.tokens["ana"].hash, [1; 32], "its secret is still good");
    for own in ["automation", "bootstrap", "join", "serve"] {
        log.refused(put(own, 3, None), "by itself");
    }
    log.refused(put("", 3, None), "1 to 63 bytes");
    log.now += 1_000;
    log.ok(put("ana", 4, None)); // the first has expired
    log.ok(Command::RemoveToken("ana".into()));
    log.ok(put("ana", 5, None));
}

#[test]
fn joins_expire_and_are_used_once() {
    let mut log = log();
    let join = |hash, expires| Command::PutJoin(Join { hash: [hash; 32], expires: LogTime(expires) });
    log.ok(join(1, START + 1_000));
    log.ok(join(2, START + 1_000));
    let take = |hash, node| Command::UseJoin { hash: [hash; 32], node };
    log.refused(take(9, 4), "unknown");
    log.refused(take(1, 3), "taken");
    log.ok(take(1, 4));
    log.refused(take(1, 5), "unknown or was used");
    log.now += 1_000;
    log.refused(take(2, 5), "expired");
    log.after(0);
    assert!(log.state.joins.is_empty());
}

#[test]
fn a_node_id_is_never_used_again() {
    let mut log = log();
    let member = |peer: u8| Member {
        site: site("a"),
        duty: Duty::Full,
        peer: ([10, 0, 1, peer], 7000).into(),
        admin: None,
        version: 1,
    };
    log.ok(Command::PutMember(9, member(9)));
    log.refused(Command::PutMember(10, member(9)), "has the peer address");
    log.refused(Command::RemoveMember(1), "votes");
    log.ok(Command::RemoveMember(9));
    log.refused(Command::PutMember(9, member(9)), "used before");
    log.refused(Command::RemoveMember(9), "no member");
    log.ok(Command::PutMember(10, member(9)));
}

#[test]
fn references_are_kept_whole() {
    let mut log = log();
    let put = |spec| Change::PutService(web(), Box::new(spec));
    log.refused(Command::Configure(vec![Change::RemoveSite(site("a"))]), "site a is not declared");
    log.refused(Command::Configure(vec![Change::RemoveZone(name("example.com."))]), "lies in no zone");
    let mut spec = service(failover());
    spec.pool = Some("p".parse::<PoolId>().unwrap());
    log.refused(Command::Configure(vec![put(spec)]), "pool p is not declared");
    let mut spec = service(failover());
    spec.endpoints.clear();
    log.refused(Command::Configure(vec![put(spec)]), "no endpoint");
    let second = Change::PutService("second".parse().unwrap(), Box::new(service(failover())));
    log.refused(Command::Configure(vec![second]), "belongs to service");
    let apex = Change::RemoveRecords(name("example.com."), vec![(name("example.com."), 6)]);
    log.refused(Command::Configure(vec![apex]), "SOA");
    log.refused(Command::Configure(vec![txt(1), Change::RemoveSite(site("x"))]), "site x does not exist");
    assert!(
        log.state.zones[&name("example.com.")].get(&name("w1.example.com."), 16).is_none(),
        "all or none"
    );
}

#[test]
fn another_address_is_another_endpoint() {
    let mut log = log();
    log.judge("a", Down);
    let mut spec = service(failover());
    spec.ttl = 5;
    log.configure(Change::PutService(web(), Box::new(spec.clone())));
    assert_eq!(log.answered(), "b", "what is known of it stays");
    spec.endpoints.get_mut(&site("a")).unwrap()[0].port = 8443;
    log.configure(Change::PutService(web(), Box::new(spec)));
    assert_eq!(log.answered(), "a");
}

#[test]
fn overrides_go_with_what_they_cover() {
    let mut log = log();
    log.configure(Change::PutSite(site("d"), Site::default()));
    log.force("d", Force::Drain);
    log.refused(over(Scope::Site(site("nowhere")), Force::Drain, None), "not declared");
    log.refused(over(Scope::Site(site("a")), Force::Drain, Some(START)), "expire before it begins");
    log.configure(Change::RemoveSite(site("d")));
    assert!(log.state.overrides.is_empty());
}

#[test]
fn the_same_log_gives_the_same_hash() {
    let run = || {
        let mut log = log();
        log.judge("a", Down);
        log.force("b", Force::Drain);
        log.configure(txt(3));
        log.after(70_000);
        log.state.hash()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_site_that_a_pool_or_a_listener_names_must_be_declared() {
    let refused = |change: Change| match log().apply(Proposal::by("ana", Command::Configure(vec![change]))) {
        Outcome::Refused(why) => why,
        other => panic!("{other:?}"),
    };
    let (muc, addr) = (Some(site("muc")), ([192, 0, 2, 1], 80).into());
    let pool = Pool {
        backends: vec![Backend { site: muc.clone(), addr, weight: 1 }],
        names: Vec::new(),
        balance: Balance::RoundRobin,
        check: None,
        connect_timeout_ms: 1000,
        response_timeout_ms: 1000,
        max_connections: 0,
        retries: 0,
        eject_ms: 0,
        hash: HashKey::Cookie("user".into()),
        slow_start_ms: 0,
        eject_errors: 0,
        max_ejected: 0,
        http2: false,
        tls: None,
        send_proxy: None,
        sticky: None,
        max_queue: 0,
        queue_timeout_ms: 0,
        retry_budget: 0,
    };
    let why = refused(Change::PutPool("web".parse().unwrap(), Box::new(pool)));
    assert_eq!(why, "pool web: site muc is not declared");
}

#[test]
fn a_zone_that_is_removed_and_made_again_goes_on_with_its_serial() {
    let mut log = Log::empty();
    log.ok(Command::Configure(zone()));
    log.configure(txt(1));
    log.configure(txt(2));
    let served = log.state.zones[&name("example.com.")].serial();
    log.configure(Change::RemoveZone(name("example.com.")));
    log.ok(Command::Configure(zone()));
    assert_eq!(log.state.zones[&name("example.com.")].serial(), served + 1);
    let mut again = vec![Change::RemoveZone(name("example.com."))];
    again.extend(zone());
    log.ok(Command::Configure(again));
    assert_eq!(log.state.zones[&name("example.com.")].serial(), served + 2, "in one entry too");
    assert!(log.state.removed_zones.is_empty());
}

#[test]
fn an_override_that_expires_leaves_no_service_without_a_site() {
    let mut log = log();
    let soon = Some(log.now + 5_000);
    log.ok(over(Scope::Site(site("a")), Force::Down, None));
    log.ok(over(Scope::ServiceSite(web(), site("a")), Force::Up, soon));
    log.ok(over(Scope::Site(site("b")), Force::Down, None));
    log.refused(over(Scope::Site(site("c")), Force::Down, None), "release one first");
    log.after(6_000);
    assert_eq!(log.answered(), "c");
}
