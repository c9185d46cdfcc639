//! A committed log with the state hashes that it must produce, replayed for ever.
//!
//! `fixture/v1.log` and `fixture/v2.log` (what cluster version 2 brought) hold one log entry a line: its index, what it is (`blank`, `voters 1,2`, or `entry` with the bytes
//! of the codec in hex) and the hash of the state after it. Old logs must replay in every later version, so once a
//! version is released its file is never written again: a new cluster version gets a file of its own. Before that,
//! `UPDATE_FIXTURE=1 cargo test -p zonekeeper-core --test fixture` writes it anew.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{collections::BTreeSet, fs, path::PathBuf};
use support::*;
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State, codec,
    cookies::CookieSecret,
    entry::{
        Cause, Duty, Force, Init, Join, Member, Object, Read, Recovery, Role, Scope, Secret, Timing, Token,
        Webhook,
    },
    evidence::{
        Kind,
        Standing::{Degraded, Down, Up},
        Vote,
    },
    id::{ListenerId, PoolId, ServiceId},
    model::{
        Backend, BackendTls, Balance, Bind, Certificate, Change, Check, CheckKind, Endpoint, Failback,
        Family, GrpcCheck, HashKey, Http2, HttpCheck, Listener, NamedBackend, Network, PathMatch, Policy,
        Pool, Protocol, ProxyHeader, Quorum, RateLimit, Redirect, Respond, ResponseRewrite, Rewrite, Route,
        RouteLimits, Service, Site, Target, Tls, TlsFiles, WhenAllDown, ZoneOwner,
    },
    secrets::{KeyId, SecretId},
    time::LogTime,
};

/// One line of the log.
enum Item {
    Blank,
    Voters(BTreeSet<u64>),
    Entry(Box<Entry>),
}

/// The logs by cluster version.
fn scripts() -> [(u32, Vec<Item>); 2] {
    [(1, script()), (2, sealed())]
}

fn file(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixture/v{version}.log"))
}

fn replay(state: &mut State, index: u64, item: &Item) -> Option<Outcome> {
    match item {
        Item::Blank => state.skip(index),
        Item::Voters(voters) => state.set_voters(index, voters.clone()),
        Item::Entry(entry) => return Some(state.apply(index, entry)),
    }
    None
}

fn write(item: &Item) -> String {
    match item {
        Item::Blank => "blank".into(),
        Item::Voters(v) => format!("voters {}", v.iter().map(u64::to_string).collect::<Vec<_>>().join(",")),
        Item::Entry(entry) => {
            let hex: String = codec::bytes(entry).iter().map(|b| format!("{b:02x}")).collect();
            format!("entry {hex}")
        }
    }
}

fn parse(text: &str) -> Item {
    match text.split_once(' ') {
        None => Item::Blank,
        Some(("voters", ids)) => Item::Voters(ids.split(',').map(|id| id.parse().unwrap()).collect()),
        Some((_, hex)) => {
            let bytes: Vec<u8> =
                (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
            Item::Entry(Box::new(codec::from_bytes(&bytes).expect("an old entry decodes for ever")))
        }
    }
}

#[test]
fn the_committed_log_gives_the_committed_hashes() {
    for (version, script) in scripts() {
        if std::env::var_os("UPDATE_FIXTURE").is_some() {
            fs::create_dir_all(file(version).parent().unwrap()).unwrap();
            fs::write(file(version), generate(version, &script)).unwrap();
        }
        let (mut state, mut lines) = (State::default(), 0);
        for line in fs::read_to_string(file(version)).expect("the fixture is committed").lines() {
            let (index, rest) = line.split_once(' ').unwrap();
            let (item, hash) = rest.rsplit_once(' ').unwrap();
            replay(&mut state, index.parse().unwrap(), &parse(item));
            let item = &item[..item.len().min(80)];
            assert_eq!(format!("{:032x}", state.hash()), hash, "v{version} after {index}: {item}");
            lines += 1;
        }
        assert_eq!((lines, state.cluster_version), (script.len(), version));
    }
}

#[test]
fn a_snapshot_of_the_fixture_is_the_same_state() {
    for (_, script) in scripts() {
        let mut state = State::default();
        for (index, item) in (0..).zip(script) {
            replay(&mut state, index, &item);
            let again: State = codec::from_bytes(&codec::bytes(&state)).unwrap();
            assert_eq!(again, state);
        }
    }
}

fn generate(version: u32, script: &[Item]) -> String {
    let (mut state, mut text, mut outcomes) = (State::default(), String::new(), [0; 3]);
    for (index, item) in (0..).zip(script) {
        match replay(&mut state, index, item) {
            Some(Outcome::Applied(_)) => outcomes[0] += 1,
            Some(Outcome::Stale(_)) => outcomes[1] += 1,
            Some(Outcome::Refused(_)) => outcomes[2] += 1,
            None => {}
        }
        text += &format!("{index} {} {:032x}\n", write(item), state.hash());
    }
    match version {
        1 => assert!(outcomes[0] > 40 && outcomes[1] > 0 && outcomes[2] > 3, "{outcomes:?}"),
        _ => assert!(outcomes[0] > 15 && outcomes[2] > 3, "{outcomes:?}"),
    }
    text
}

/// What version 2 brought: secrets of version 1 are sealed, rolled, sealed anew under another key.
fn sealed() -> Vec<Item> {
    let hook = || SecretId::Webhook("https://hook.example".into());
    let cert = || SecretId::Certificate("www".parse().unwrap());
    let put = |id, after, key| Command::PutSealed { id, after, key: KeyId(key), bytes: vec![key as u8; 44] };
    let reseal =
        |id, generation, key| Command::Reseal { id, generation, key: KeyId(key), bytes: vec![key as u8; 44] };
    let with = |from: Option<u64>, to| Command::SealWith { from: from.map(KeyId), to: KeyId(to) };
    let webhook = || Webhook { url: "https://hook.example".into(), secret: "s".into() };
    let Command::PutMember(_, old) = member(2, "b", Duty::Full) else { unreachable!() };
    let plain = [
        Command::Init(Init { cluster: 0xfeed, version: 1, timing: Timing::Lan }),
        Command::PutMember(2, Member { version: 2, ..old }),
        Command::PutSecret(Secret([1; 32])),
        Command::PutSecret(Secret([2; 32])),
        Command::RollCookies(CookieSecret([1; 16])),
        Command::PutWebhook(webhook()),
        with(None, 7),                 // refused: version 1
        Command::Configure(checked()), // the same
        Command::Upgrade(2),
    ];
    let mut commands: Vec<(u64, Command)> = plain.into_iter().map(|c| (10, c)).collect();
    let first = commands.len() as u64 + 2; // two items stand before them
    let later = [
        (10, Command::PutWebhook(webhook())),  // refused: sealed ones alone
        (10, put(SecretId::Session, None, 7)), // refused: no key yet
        (10, with(None, 7)),
        (10, put(SecretId::Session, None, 7)),
        (10, put(SecretId::DnsCookie, None, 7)),
        (10, put(hook(), None, 7)),
        (10, put(SecretId::Session, Some(first + 3), 7)), // known: rolled
        (10, put(SecretId::Session, Some(first + 3), 7)), // refused: changed meanwhile
        (60_000, Command::Tick),
        (10, Command::Rekey),
        (10, with(Some(7), 8)),
        (10, put(SecretId::DnsCookie, Some(first + 4), 7)), // refused: the old key
        (10, put(SecretId::DnsCookie, Some(first + 4), 8)),
        (10, reseal(SecretId::Session, first + 6, 8)),
        (10, reseal(hook(), first + 5, 8)),
        (10, reseal(hook(), 1, 8)), // refused: no such generation
        (10, put(cert(), None, 8)),
        (10, Command::Configure(certified())),
        (10, put(cert(), Some(first + 16), 8)), // replaced
        (10, reseal(cert(), first + 18, 8)),
        (10, Command::RemoveCertificate("www".parse().unwrap())), // refused: in use
        (10, put(SecretId::Certificate("gone".parse().unwrap()), None, 8)),
        (10, Command::RemoveCertificate("gone".parse().unwrap())),
        (4_000_000, Command::Tick),
        (4_000_000, Command::Tick),
        (10, Command::RemoveWebhook("https://hook.example".into())),
        (10, recovery()),
        (10, Command::Configure(checked())),
        (10, Command::Configure(marked())),
    ];
    commands.extend(later);
    let mut now = START;
    let entry = |(ms, command)| {
        now += ms;
        Item::Entry(Box::new(Entry { time: LogTime(now), proposal: Proposal::by("ops", command).into() }))
    };
    let items = [Item::Voters([2].into()), Item::Blank].into_iter();
    items.chain(commands.into_iter().map(entry)).collect()
}

/// The log of version 1: every command once at least, applied, stale and refused.
fn script() -> Vec<Item> {
    let mut items = vec![Item::Voters([1, 2, 3].into()), Item::Blank];
    let mut now = START;
    let mut entry = |ms: u64, cause: Option<&str>, reads: Vec<Read>, command: Command| {
        now += ms;
        let cause = cause.map_or(Cause::Automation, |who| Cause::Operator(who.into()));
        let proposal = Proposal { reads, cause, command };
        Item::Entry(Box::new(Entry { time: LogTime(now), proposal: proposal.into() }))
    };
    for command in members() {
        items.push(entry(3, Some("bootstrap"), vec![], command));
    }
    let config = Read { object: Object::Config, version: 0 };
    items.push(entry(10, Some("ops"), vec![config.clone()], Command::Configure(declared())));
    items.push(entry(10, Some("ops"), vec![config], Command::Configure(declared()))); // stale
    for command in records_and_stages() {
        items.push(entry(7, Some("ops"), vec![], command));
    }
    for (ms, command) in incident() {
        items.push(entry(ms, None, vec![], command));
    }
    for (ms, command) in operators() {
        items.push(entry(ms, Some("ops"), vec![], command));
    }
    items.push(Item::Voters([1, 2, 3, 4].into()));
    items.push(Item::Blank);
    items.push(entry(1_000, None, vec![], Command::Judge(vec![fitting("a", Down)]))); // refused: d is left out
    items.push(entry(400_000, None, vec![], Command::Tick));
    items.push(entry(1_000, Some("recover"), vec![], recovery())); // refused: four voters
    items.push(Item::Voters([2].into()));
    items.push(entry(1_000, Some("recover"), vec![], recovery()));
    items
}

/// Pools with the checks that came later.
fn checked() -> Vec<Change> {
    let (tls, verify, host, body) = (true, false, String::from("inside.example"), String::from("well"));
    let grpc = GrpcCheck { tls, verify, host: host.clone(), service: "shop.Cart".into() };
    let (path, status_min, status_max) = (String::from("/healthz"), 200, 299);
    let http2 = HttpCheck { tls, verify, host, path, status_min, status_max, body };
    let put = |id: &str, kind| {
        let check = Some(Check { kind, ..check() });
        Change::PutPool(id.parse().unwrap(), Box::new(Pool { check, ..Pool::default() }))
    };
    vec![put("asked", CheckKind::Http2(http2)), put("calls", CheckKind::Grpc(grpc))]
}

/// A listener whose requests may be sent twice, and whose responses are changed.
fn marked() -> Vec<Change> {
    let target = Target::Idempotent(vec![("asked".parse().unwrap(), 1)]);
    let response =
        ResponseRewrite { set: vec![("x-served".into(), "1".into())], remove: vec!["server".into()] };
    let routes = vec![Route { target, response, ..Route::default() }];
    let binds = vec![Bind { site: None, addr: ([0, 0, 0, 0], 80).into() }];
    let listener = Listener { binds, routes, ..Listener::default() };
    vec![Change::PutListener("twice".parse().unwrap(), Box::new(listener))]
}

/// A listener with a certificate that the cluster holds.
fn certified() -> Vec<Change> {
    let tls = Tls {
        certificates: vec![Certificate::Held("www".parse().unwrap())],
        client_ca: None,
        client_optional: false,
        only_13: true,
    };
    let binds = vec![Bind { site: None, addr: ([0, 0, 0, 0], 443).into() }];
    let listener = Listener { binds, tls: Some(tls), ..Listener::default() };
    vec![Change::PutListener("certified".parse().unwrap(), Box::new(listener))]
}

#[test]
fn what_an_older_node_cannot_decode_needs_its_version() {
    for (changes, version) in [(declared(), 1), (checked(), 2), (marked(), 2), (certified(), 2)] {
        assert_eq!(Command::Configure(changes).since(), version);
    }
}

fn recovery() -> Command {
    let member = Member {
        site: site("b"),
        duty: Duty::Full,
        peer: ([10, 0, 0, 2], 7000).into(),
        admin: None,
        version: 1,
    };
    let reason = "the others are lost".into();
    Command::Recover(Recovery { incarnation: 1, cluster: 0xfeed, node: 2, member, reason })
}

fn member(n: u8, at: &str, duty: Duty) -> Command {
    Command::PutMember(
        n.into(),
        Member { site: site(at), duty, peer: ([10, 0, 0, n], 7000).into(), admin: None, version: 1 },
    )
}

fn members() -> Vec<Command> {
    let hash = [7; 32];
    vec![
        Command::Tick, // refused: no cluster yet
        Command::Init(Init { cluster: 0xfeed, version: 1, timing: Timing::Lan }),
        member(1, "a", Duty::Full),
        member(2, "b", Duty::Full),
        member(3, "c", Duty::Witness),
        Command::PutJoin(Join { hash, expires: LogTime(START + 9_000) }),
        Command::UseJoin { hash, node: 4 },
        member(4, "d", Duty::Full),
        member(5, "d", Duty::Full),
        Command::RemoveMember(5),
        member(5, "d", Duty::Full), // refused: used before
        Command::SetTiming(Timing::Heartbeat { ms: 120 }),
        Command::PutToken(Token {
            name: "ci".into(),
            hash,
            role: Role::Operate,
            expires: Some(LogTime(START + 50)),
        }),
        Command::PutToken(Token { name: "old".into(), hash, role: Role::Admin, expires: None }),
        Command::RemoveToken("old".into()),
        Command::PutWebhook(Webhook { url: "https://hook.example".into(), secret: "s".into() }),
        Command::PutWebhook(Webhook { url: "http://gone.example".into(), secret: "s".into() }),
        Command::RemoveWebhook("http://gone.example".into()),
        Command::PutSecret(Secret([1; 32])),
        Command::PutSecret(Secret([2; 32])),
        Command::PutSecret(Secret([3; 32])), // the first one goes
        Command::RollCookies(CookieSecret([1; 16])),
        Command::RollCookies(CookieSecret([2; 16])),
        Command::RollCookies(CookieSecret([3; 16])), // refused
        Command::Upgrade(9),                         // refused
    ]
}

fn declared() -> Vec<Change> {
    let mut changes: Vec<Change> = ["a", "b", "c", "d"]
        .map(|s| Change::PutSite(site(s), Site { description: format!("site {s}"), location: None }))
        .to_vec();
    changes.extend(zone());
    let pool: PoolId = "pool".parse().unwrap();
    let backend = |n| Backend { site: Some(site("a")), addr: ([127, 0, 0, n], 9000).into(), weight: n };
    let pool_spec = Pool {
        backends: vec![backend(1), backend(2)],
        names: vec![NamedBackend { site: None, name: "app.internal".into(), port: 80, weight: 1 }],
        balance: Balance::ResponseTime,
        check: Some(check()),
        connect_timeout_ms: 1_000,
        response_timeout_ms: 30_000,
        max_connections: 100,
        retries: 1,
        eject_ms: 5_000,
        hash: HashKey::Cookie("user".into()),
        slow_start_ms: 20_000,
        eject_errors: 40,
        max_ejected: 34,
        http2: true,
        tls: Some(BackendTls {
            ca: Some("/etc/ca.pem".into()),
            name: Some("inside.example".into()),
            client: Some(TlsFiles { cert: "/etc/c.pem".into(), key: "/etc/k.pem".into() }),
        }),
        send_proxy: Some(ProxyHeader::V2),
        sticky: Some("zk".into()),
        max_queue: 50,
        queue_timeout_ms: 2_000,
        retry_budget: 10,
    };
    changes.push(Change::PutPool(pool.clone(), Box::new(pool_spec)));
    let route = Route {
        hosts: vec!["*.example.com".into()],
        methods: vec!["POST".into()],
        path: PathMatch::Regex("/api/([0-9]+)".into()),
        query: Some(("v".into(), "2".into())),
        header: Some(("x-test".into(), String::new())),
        cookie: None,
        sources: vec![Network { addr: [192, 0, 2, 0].into(), bits: 24 }],
        target: Target::Pools(vec![(pool.clone(), 3)]),
        rewrite: Rewrite {
            path: Some("/$1".into()),
            host: Some("inside.example.com".into()),
            set: vec![("x-by".into(), "us".into())],
            remove: vec!["x-secret".into()],
        },
        limits: RouteLimits {
            response_timeout_ms: Some(5_000),
            retries: Some(0),
            max_body: Some(1 << 20),
            request_timeout_ms: Some(60_000),
        },
        rate_limit: Some(RateLimit {
            requests: 10,
            per_ms: 60_000,
            burst: 5,
            key: HashKey::Header("x-key".into()),
        }),
        response: ResponseRewrite::default(),
    };
    let location = Redirect { status: 308, scheme: Some("https".into()), host: None, path: None };
    let redirect = Route { target: Target::Redirect(location), ..Route::default() };
    let page = Respond { status: 404, content_type: "text/plain".into(), body: "none\n".into() };
    let respond =
        Route { path: PathMatch::Exact("/".into()), target: Target::Respond(page), ..Route::default() };
    let listener = Listener {
        binds: vec![Bind { site: None, addr: ([0, 0, 0, 0], 443).into() }],
        protocol: Protocol::Http,
        tls: Some(Tls {
            certificates: vec![Certificate::Files(TlsFiles {
                cert: "/etc/c.pem".into(),
                key: "/etc/k.pem".into(),
            })],
            client_ca: Some("/etc/ca.pem".into()),
            client_optional: true,
            only_13: true,
        }),
        routes: vec![route, respond, redirect],
        max_connections: 0,
        header_timeout_ms: 5_000,
        idle_timeout_ms: 60_000,
        max_body: 0,
        access_log: 100,
        identify: true,
        client_first: true,
        http2: Http2::PriorKnowledge,
        proxy_from: vec![Network { addr: [192, 0, 2, 0].into(), bits: 24 }],
        trusted: vec![Network { addr: [198, 51, 100, 0].into(), bits: 24 }],
        max_per_address: 100,
        rate_limit: None,
        min_rate: 100,
        request_timeout_ms: 0,
        tunnel_timeout_ms: 3_600_000,
    };
    changes.push(Change::PutListener("front".parse::<ListenerId>().unwrap(), Box::new(listener)));
    let put = |id: &str, spec: Service| Change::PutService(id.parse::<ServiceId>().unwrap(), Box::new(spec));
    let mut dual = service(failover());
    dual.endpoints
        .get_mut(&site("b"))
        .unwrap()
        .push(Endpoint { addr: "2001:db8::b".parse().unwrap(), port: 443 });
    dual.pool = Some(pool);
    changes.push(put("web", dual));
    let named = |n: &str, spec| Service { names: vec![name(n)], ..spec };
    let all = Service { min_answers: 2, failback: Failback::Manual, ..service(Policy::All) };
    changes.push(put("all", named("all.example.com.", all)));
    let weights = [("a", 3), ("b", 1)].map(|(s, w)| (site(s), w)).into();
    let (quorum, when_all_down) = (Quorum::Unanimous, WhenAllDown::ServFail);
    let weighted = Service { quorum, when_all_down, ..service(Policy::Weighted(weights)) };
    changes.push(put("weighted", named("example.com.", weighted)));
    changes
}

fn txt(n: u8) -> Change {
    Change::PutRecords(name("example.com."), vec![record(&format!("t{n}.example.com."), 16, &[1, n])])
}

fn records_and_stages() -> Vec<Command> {
    let second = name("example.net.");
    let remove = Change::RemoveRecords(name("example.com."), vec![(name("t1.example.com."), 16)]);
    let stage = |id, part, changes| Command::Stage { id, part, changes };
    vec![
        Command::Configure(vec![txt(1), txt(2)]),
        Command::Configure(vec![remove.clone()]),
        Command::Configure(vec![remove]), // refused: it is gone
        Command::Configure(vec![Change::PutZone(second.clone(), ZoneOwner::File)]), // refused: no SOA
        stage(1, 0, vec![Change::PutZone(second.clone(), ZoneOwner::File)]),
        stage(1, 1, zone_of("example.net.")),
        Command::Commit { id: 1, parts: 2 },
        stage(2, 0, vec![txt(9)]),
        Command::Abort { id: 2 },
        stage(3, 0, vec![txt(8)]), // expires
        Command::Configure(vec![Change::RemoveZone(second)]),
    ]
}

fn zone_of(origin: &str) -> Vec<Change> {
    let soa = [&[2, b'n', b's', 0, 0][..], &[0; 20]].concat();
    let records = vec![record(origin, 6, &soa), record(origin, 2, &[2, b'n', b's', 0])];
    vec![Change::PutRecords(name(origin), records)]
}

fn incident() -> Vec<(u64, Command)> {
    let of = |id: &str, mut row: zonekeeper_core::evidence::Row| {
        row.target.service = id.parse().unwrap();
        row
    };
    let mut v6 = fitting("b", Down);
    v6.target.family = Family::V6;
    let judge = |rows| Command::Judge(rows);
    vec![
        (
            500,
            judge(vec![
                fitting("a", Down),
                of("all", fitting("a", Down)),
                of("weighted", fitting("a", Down)),
            ]),
        ),
        (500, judge(vec![row("b", &[("a", RED), ("c", Vote::Yellow)], None, Down)])), // refused
        (500, judge(vec![row("b", &[("a", Vote::Green), ("c", Vote::Green)], Some(Kind::Draining), Down)])),
        (500, judge(vec![fitting("c", Degraded), v6])),
        (500, judge(vec![of("all", fitting("b", Down)), of("weighted", fitting("b", Down))])),
        (9_000, judge(vec![fitting("a", Up), fitting("b", Up), of("all", fitting("a", Up))])),
        (1_000, Command::Tick),
        (60_000, Command::Tick),
    ]
}

fn operators() -> Vec<(u64, Command)> {
    let own = Scope::ServiceSite(web(), site("b"));
    let backend = Scope::Backend("pool".parse().unwrap(), ([127, 0, 0, 1], 9000).into());
    vec![
        (100, over(Scope::Site(site("a")), Force::Drain, Some(START + 10_000_000))),
        (100, over(own.clone(), Force::Up, Some(START + 200_000))),
        (100, over(backend.clone(), Force::Down, None)),
        (100, over(Scope::Site(site("x")), Force::Down, None)), // refused
        (100, Command::Release(Scope::Site(site("a")))),
        (100, Command::Move { service: web(), to: Some(site("c")) }),
        (100, Command::Automation { service: None, on: false }),
        (100, Command::Automation { service: Some(web()), on: false }),
        (100, Command::Automation { service: None, on: true }),
        (100, Command::Move { service: web(), to: None }),
        (100, Command::Release(backend)),
        (100, Command::Release(own)),
        (100, Command::Configure(vec![Change::RemoveListener("front".parse().unwrap())])),
        (100, Command::Configure(vec![Change::RemoveService("all".parse().unwrap())])),
        (100, Command::Configure(vec![Change::RemovePool("pool".parse().unwrap())])), // refused: web needs it
        (100, Command::Configure(vec![Change::RemoveSite(site("d"))])),
        (100, Command::RemoveMember(1)), // refused: it votes
    ]
}
