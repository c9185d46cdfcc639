//! Configurations that tests are made of.
#![allow(dead_code)] // each test binary uses a part

use proptest::{collection as some, option, prelude::*, sample::select};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use zonekeeper_config::ClusterConfig;
use zonekeeper_core::{
    id::SiteId,
    model::{
        Area, Backend, BackendTls, Balance, Bind, Certificate, Check, CheckKind, Endpoint, Failback,
        GrpcCheck, HashKey, Http2, HttpCheck, Listener, Location, NamedBackend, Nearest, Network, PathMatch,
        Policy, Pool, Protocol, ProxyHeader, Quorum, RateLimit, Redirect, Respond, ResponseRewrite, Rewrite,
        Route, RouteLimits, Service, Site, Target, Tls, TlsFiles, WhenAllDown, ZoneOwner,
    },
    name::Name,
    zone::RrSet,
};

pub(crate) const SITES: [&str; 3] = ["ams", "fra", "iad"];

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn site(i: usize) -> SiteId {
    SITES[i].parse().unwrap()
}

pub(crate) fn set(owner: &str, rtype: u16, rdata: &[&[u8]]) -> RrSet {
    RrSet::new(name(owner), rtype, 300, rdata.iter().map(|r| Box::from(*r)).collect()).unwrap()
}

pub(crate) fn soa(serial: u32, minimum: u32) -> RrSet {
    let mut rdata = b"\x03ns1\x07example\x03com\0\x01h\x07example\x03com\0".to_vec();
    [serial, 3600, 900, 1_209_600, minimum].iter().for_each(|n| rdata.extend(n.to_be_bytes()));
    set("example.com", 6, &[&rdata])
}

pub(crate) fn a(owner: &str, last: u8) -> RrSet {
    set(owner, 1, &[&[192, 0, 2, last]])
}

/// SOA, NS and its address: what every zone needs, and then some.
pub(crate) fn records(more: &[RrSet]) -> Vec<RrSet> {
    let mut all =
        vec![soa(1, 60), set("example.com", 2, &[b"\x03ns1\x07example\x03com\0"]), a("ns1.example.com", 53)];
    all.extend(more.iter().cloned());
    all.sort_by(|a, b| (&a.name, a.rtype).cmp(&(&b.name, b.rtype)));
    all
}

pub(crate) fn zones(more: &[RrSet]) -> BTreeMap<Name, (ZoneOwner, Vec<RrSet>)> {
    BTreeMap::from([(name("example.com"), (ZoneOwner::File, records(more)))])
}

pub(crate) fn check() -> Check {
    let (kind, jitter_percent) = (CheckKind::Tcp, 10);
    Check { kind, interval_ms: 500, timeout_ms: 900, rise: 2, fall: 3, jitter_percent, patience_ms: 2_400 }
}

/// A failover service over all sites, with one pool and one listener.
pub(crate) fn small() -> ClusterConfig {
    let endpoint = |i: u8| vec![Endpoint { addr: Ipv4Addr::new(198, 51, 100, i).into(), port: 80 }];
    let service = Service {
        names: vec![name("www.example.com")],
        policy: Policy::Failover((0..3).map(site).collect()),
        endpoints: (0..3).map(|i| (site(i), endpoint(i as u8 + 1))).collect(),
        ttl: 10,
        check: Some(check()),
        pool: Some("web".parse().unwrap()),
        min_backends: 1,
        when_all_down: WhenAllDown::FailOpen,
        hold_down_ms: 30_000,
        hold_down_max_ms: 480_000,
        failback: Failback::Auto { healthy_ms: 30_000 },
        quorum: Quorum::Majority,
        min_answers: 1,
        automation: true,
    };
    let pool = Pool {
        backends: vec![Backend { site: None, addr: "10.0.0.1:80".parse().unwrap(), weight: 1 }],
        ..Pool::default()
    };
    let listener = Listener {
        binds: vec![Bind { site: None, addr: "0.0.0.0:80".parse().unwrap() }],
        protocol: Protocol::Http,
        tls: None,
        routes: vec![Route::to("web".parse().unwrap())],
        max_connections: 10_000,
        header_timeout_ms: 10_000,
        idle_timeout_ms: 60_000,
        max_body: 0,
        ..Listener::default()
    };
    ClusterConfig {
        sites: (0..3).map(|i| (site(i), Site::default())).collect(),
        voters: (0..3).map(site).collect(),
        services: BTreeMap::from([("web".parse().unwrap(), service)]),
        pools: BTreeMap::from([("web".parse().unwrap(), pool)]),
        listeners: BTreeMap::from([("http".parse().unwrap(), listener)]),
        zones: zones(&[]),
    }
}

fn text() -> impl Strategy<Value = String> {
    "[ -~äß€\"\\\\#]{0,20}"
}

fn any_check() -> impl Strategy<Value = Check> {
    let http = (
        any::<bool>(),
        any::<bool>(),
        "([a-z]{1,9}\\.example)?",
        "/[!-\"$-~]{0,12}",
        100..300u16,
        300..600u16,
        text(),
    )
        .prop_map(|(tls, verify, host, path, status_min, status_max, body)| HttpCheck {
            tls,
            verify,
            host,
            path,
            status_min,
            status_max,
            body,
        })
        .boxed();
    let grpc = (any::<bool>(), any::<bool>(), "([a-z]{1,9}\\.example)?", text())
        .prop_map(|(tls, verify, host, service)| CheckKind::Grpc(GrpcCheck { tls, verify, host, service }));
    let (http, http2) = (http.clone().prop_map(CheckKind::Http), http.prop_map(CheckKind::Http2));
    let kind = prop_oneof![Just(CheckKind::Tcp), http, http2, grpc];
    (kind, 500..3_600_001u32, 10..10_000u32, 1..21u8, 1..21u8, 0..51u8).prop_map(
        |(kind, interval_ms, timeout_ms, rise, fall, jitter_percent)| Check {
            kind,
            interval_ms,
            timeout_ms,
            rise,
            fall,
            jitter_percent,
            patience_ms: 0,
        },
    )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let sites = || Just((0..3).map(site).collect::<Vec<_>>());
    prop_oneof![
        Just(Policy::All),
        sites().prop_shuffle().prop_map(Policy::Failover),
        some::vec(1..=255u8, 3).prop_map(|w| Policy::Weighted((0..3).map(|i| (site(i), w[i])).collect())),
        (
            sites().prop_shuffle(),
            some::btree_map(any_area(), some::vec((0..3usize).prop_map(site), 1..3), 0..6)
        )
            .prop_map(|(sites, areas)| Policy::Nearest(Box::new(Nearest { sites, areas }))),
    ]
}

fn any_area() -> impl Strategy<Value = Area> {
    let code = || (b'A'..=b'Z', b'A'..=b'Z').prop_map(|(a, b)| [a, b]);
    let v4 = (any::<u32>(), 0..=32u32).prop_map(|(a, bits)| {
        let addr = Ipv4Addr::from_bits(a & u32::MAX.checked_shl(32 - bits).unwrap_or(0));
        Area::Network(Network { addr: addr.into(), bits: bits as u8 })
    });
    let v6 = (any::<u128>(), 0..=128u32).prop_map(|(a, bits)| {
        let addr = Ipv6Addr::from_bits(a & u128::MAX.checked_shl(128 - bits).unwrap_or(0));
        Area::Network(Network { addr: addr.into(), bits: bits as u8 })
    });
    let continent = select(vec![*b"AF", *b"EU", *b"NA", *b"OC"]).prop_map(Area::Continent);
    prop_oneof![v4, v6, (1..=u32::MAX).prop_map(Area::Asn), code().prop_map(Area::Country), continent]
}

/// A service with a number of its own, so that names and addresses are too.
fn any_service(number: u8) -> impl Strategy<Value = Service> {
    let down =
        prop_oneof![Just(WhenAllDown::FailOpen), Just(WhenAllDown::NoData), Just(WhenAllDown::ServFail)];
    let back = prop_oneof![
        Just(Failback::Manual),
        (0..604_800_001u64).prop_map(|healthy_ms| Failback::Auto { healthy_ms })
    ];
    let quorum = prop_oneof![Just(Quorum::Majority), Just(Quorum::Unanimous)];
    let more = (down, 0..604_800_001u64, back, quorum, 0..4u32, any::<bool>(), any::<bool>());
    (any_policy(), some::vec(0..3u8, 3), 1..65_536u32, 1..86_401u32, option::of(any_check()), more).prop_map(
        move |(policy, families, port, ttl, check, more)| {
            let (when_all_down, hold_down_ms, failback, quorum, min_answers, pool, automation) = more;
            let v4 = |i: usize| IpAddr::from(Ipv4Addr::new(198, 51, number, i as u8 + 1));
            let v6 = |i: usize| {
                IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, i as u16 + 1))
            };
            let endpoints = |i: usize| match families[i] {
                0 => vec![v4(i)],
                1 => vec![v6(i)],
                _ => vec![v4(i), v6(i)],
            };
            let of = |i: usize| {
                endpoints(i).into_iter().map(|addr| Endpoint { addr, port: port as u16 }).collect()
            };
            Service {
                names: vec![name(&format!("s{number}.example.com")), name(&format!("t{number}.example.com"))],
                policy,
                endpoints: (0..3).map(|i| (site(i), of(i))).collect(),
                ttl,
                check,
                pool: pool.then(|| "p0".parse().unwrap()),
                min_backends: 1,
                when_all_down,
                hold_down_ms,
                hold_down_max_ms: hold_down_ms.max(3_600_000),
                failback,
                quorum,
                min_answers,
                automation,
            }
        },
    )
}

fn any_pool() -> impl Strategy<Value = Pool> {
    let balance = prop_oneof![
        Just(Balance::RoundRobin),
        Just(Balance::ResponseTime),
        Just(Balance::TwoChoices),
        Just(Balance::Hash)
    ];
    let times = (10..60_001u32, 100..3_600_001u32, 0..3_600_001u32);
    (
        some::vec((option::of(0..3usize), 1..=255u8), 1..5),
        balance,
        option::of(any_check()),
        times,
        0..1_000_001u32,
        0..11u8,
    )
        .prop_map(
            |(backends, balance, check, (connect, response, eject_ms), max_connections, retries)| {
                let shared = Backend { site: None, addr: SocketAddr::from(([10, 0, 0, 99], 80)), weight: 0 };
                let backend = |(i, (s, weight)): (usize, (Option<usize>, u8))| Backend {
                    site: s.map(site),
                    addr: SocketAddr::from(([10, 0, 0, i as u8], 80)),
                    weight,
                };
                Pool {
                    backends: backends.into_iter().enumerate().map(backend).chain([shared]).collect(),
                    names: (0..usize::from(retries % 3))
                        .map(|i| NamedBackend {
                            site: (i == 1).then(|| site(i)),
                            name: format!("app-{i}.internal"),
                            port: 8000 + i as u16,
                            weight: retries,
                        })
                        .collect(),
                    balance,
                    check,
                    connect_timeout_ms: connect,
                    response_timeout_ms: response,
                    max_connections,
                    retries,
                    eject_ms,
                    hash: if balance == Balance::Hash {
                        HashKey::Cookie("Sid".into())
                    } else {
                        HashKey::default()
                    },
                    slow_start_ms: eject_ms,
                    eject_errors: 10 * retries,
                    max_ejected: 100 - 10 * retries,
                    http2: retries % 2 == 1,
                    tls: (retries > 6).then(|| BackendTls {
                        ca: (retries > 7).then(|| "/nonexistent/ca.pem".into()),
                        name: (retries > 8).then(|| "inside.example".into()),
                        client: (retries > 9).then(|| TlsFiles {
                            cert: "/nonexistent/c.pem".into(),
                            key: "/nonexistent/k.pem".into(),
                        }),
                    }),
                    sticky: (retries == 3).then(|| "zk-site".into()),
                    send_proxy: match retries % 2 {
                        0 => [None, Some(ProxyHeader::V1), Some(ProxyHeader::V2)][eject_ms as usize % 3],
                        _ => None, // not beside http2
                    },
                    max_queue: u32::from(retries) * 10_000,
                    queue_timeout_ms: connect,
                    retry_budget: retries * 10,
                }
            },
        )
}

fn conditions() -> impl Strategy<Value = Route> {
    let pair = || option::of(("[a-z-]{1,9}", text()));
    let path = prop_oneof![
        Just(PathMatch::Any),
        "/[a-z~%0-9]{0,9}".prop_map(PathMatch::Prefix),
        "/[a-z~%0-9]{0,9}".prop_map(PathMatch::Exact),
        "/[a-z]{0,5}(\\([a-z]\\+\\))?".prop_map(PathMatch::Regex),
    ];
    let network = (any::<[u8; 4]>(), 0..33u8).prop_map(|(a, bits)| Network { addr: a.into(), bits });
    let words = (some::vec("(\\*\\.)?[a-z]{1,5}\\.example", 0..3), some::vec("[A-Z]{1,6}", 0..3));
    let limits = option::of(0..(1u64 << 50));
    (words, path, pair(), pair(), pair(), some::vec(network, 0..3), limits).prop_map(
        |((hosts, methods), path, query, header, cookie, sources, max_body)| Route {
            hosts,
            methods,
            path,
            query,
            header,
            cookie,
            sources,
            limits: RouteLimits { max_body, ..RouteLimits::default() },
            ..Route::default()
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    let pools = (1..256u16).prop_map(|n| Target::Pools(vec![("p0".parse().unwrap(), n as u8)]));
    let redirect =
        (select(vec![301u16, 302, 303, 307, 308]), option::of("/[a-z]{0,5}")).prop_map(|(status, path)| {
            Target::Redirect(Redirect { status, scheme: Some("https".into()), host: None, path })
        });
    let respond = (200..600u16, text()).prop_map(|(status, body)| {
        Target::Respond(Respond { status, content_type: "text/html".into(), body })
    });
    let idempotent = pools.clone().prop_map(|target| Target::Idempotent(target.pools().to_vec()));
    prop_oneof![3 => pools, 1 => redirect, 1 => respond, 1 => idempotent]
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    let set = some::btree_map("x-[a-z]{1,5}", text(), 0..3).prop_map(|m| m.into_iter().collect());
    (
        option::of("/[a-z$1]{0,5}"),
        option::of("[a-z]{1,5}\\.example(:81)?"),
        set,
        some::vec("y-[a-z]{1,5}", 0..3),
    )
        .prop_map(|(path, host, set, remove)| Rewrite { path, host, set, remove })
}

fn any_listener(number: u16) -> impl Strategy<Value = Listener> {
    let response = rewrite().prop_map(|Rewrite { set, remove, .. }| ResponseRewrite { set, remove });
    let route =
        (conditions(), target(), rewrite(), response).prop_map(|(route, target, rewrite, response)| {
            let mut route = Route { target, response, ..route };
            if route.target.forwards() {
                route.rewrite = rewrite;
                (route.limits.retries, route.limits.response_timeout_ms) = (Some(3), Some(1500));
            }
            route
        });
    let files = |tls: bool, routes: usize| {
        tls.then(|| Tls {
            certificates: (0..1 + routes % 2)
                .map(|i| match i + routes {
                    2 | 4 => Certificate::Held("held".parse().unwrap()),
                    _ => Certificate::Files(TlsFiles {
                        cert: "/nonexistent/c.pem".into(),
                        key: "/nonexistent/k.pem".into(),
                    }),
                })
                .collect(),
            client_ca: (routes > 1).then(|| "/nonexistent/ca.pem".into()),
            client_optional: routes > 2,
            only_13: routes == 2,
        })
    };
    let limits = (0..1_000_001u32, 100..300_001u32, 1000..86_400_001u32, 0..(1u64 << 50));
    (any::<bool>(), option::of(0..3usize), any::<bool>(), some::vec(route, 1..4), limits).prop_map(
        move |(tcp, s, tls, mut routes, (max_connections, header_timeout_ms, idle_timeout_ms, max_body))| {
            if tcp {
                routes = vec![Route::to("p0".parse().unwrap())];
            }
            let limit = (max_connections % 5 == 1).then(|| RateLimit {
                requests: 1 + max_connections % 100_000,
                per_ms: 1000 + max_connections,
                burst: 1 + max_connections % 7,
                key: if tcp { HashKey::Source } else { HashKey::Header("x-key".into()) },
            });
            if !tcp {
                routes[0].rate_limit.clone_from(&limit);
            }
            let networks = vec![
                Network { addr: [10, 0, 0, 0].into(), bits: 8 },
                Network { addr: "::1".parse().unwrap(), bits: 128 },
            ];
            Listener {
                binds: vec![Bind {
                    site: s.map(site),
                    addr: SocketAddr::from(([0, 0, 0, 0], 1000 + number)),
                }],
                protocol: if tcp { Protocol::Tcp } else { Protocol::Http },
                tls: files(tls, routes.len()),
                routes,
                max_connections,
                header_timeout_ms,
                idle_timeout_ms,
                max_body,
                access_log: max_connections / 7,
                identify: max_connections % 2 == 1,
                client_first: max_connections % 3 == 1,
                http2: [Http2::Off, Http2::Tls, Http2::PriorKnowledge][max_connections as usize % 3],
                proxy_from: networks[..usize::from(tcp)].to_vec(),
                trusted: if tcp { Vec::new() } else { networks },
                max_per_address: max_connections / 3,
                rate_limit: limit.clone(),
                min_rate: max_connections,
                request_timeout_ms: idle_timeout_ms,
                tunnel_timeout_ms: idle_timeout_ms,
            }
        },
    )
}

fn any_records() -> impl Strategy<Value = Vec<RrSet>> {
    let txt = some::vec(any::<u8>(), 0..200).prop_map(|b| (16u16, [&[b.len() as u8][..], &b].concat()));
    let opaque = some::vec(any::<u8>(), 0..40).prop_map(|b| (65_280u16, b));
    let addr = any::<[u8; 4]>().prop_map(|b| (1u16, b.to_vec()));
    let six = any::<[u8; 16]>().prop_map(|b| (28u16, b.to_vec()));
    let mx = (any::<u16>(), "[a-z]{1,9}")
        .prop_map(|(p, n)| (15u16, [&p.to_be_bytes()[..], name(&n).wire()].concat()));
    let srv = (any::<[u8; 6]>(), "[a-z]{1,9}").prop_map(|(p, n)| (33u16, [&p[..], name(&n).wire()].concat()));
    let ptr = "[a-z]{1,9}\\.[a-z]{1,9}".prop_map(|n| (12u16, name(&n).wire().to_vec()));
    let caa = (any::<bool>(), "[ -~]{0,30}").prop_map(|(critical, v)| {
        (257u16, [&[u8::from(critical) * 128, 5][..], b"issue", v.as_bytes()].concat())
    });
    let rdata = prop_oneof![txt, opaque, addr, six, mx, srv, ptr, caa];
    let owner = "(\\*\\.)?[a-f]{1,2}(\\.[a-f_-]{1,3})?|[!-~]{1,4}";
    some::vec((owner, rdata, 0..100_000u32), 0..12).prop_map(|all| {
        let mut sets: BTreeMap<(Name, u16), RrSet> = BTreeMap::new();
        for (owner, (rtype, rdata), ttl) in all {
            let Ok(owner) = Name::parse(&format!("{owner}.x.example.com")) else { continue };
            if let Ok(set) = RrSet::new(owner, rtype, ttl, vec![rdata.into()]) {
                sets.insert((set.name.clone(), rtype), set);
            }
        }
        sets.into_values().collect()
    })
}

/// A valid configuration with every kind of object.
pub(crate) fn any_config() -> impl Strategy<Value = ClusterConfig> {
    let sites = some::vec(text(), 3);
    let objects = (sites, any_service(1), any_service(2), any_pool(), any_listener(1), any_listener(2));
    (objects, any_records(), any::<bool>()).prop_map(|((texts, s1, s2, pool, l1, l2), more, api)| {
        let owner = if api { ZoneOwner::Api } else { ZoneOwner::File };
        ClusterConfig {
            sites: (0..3)
                .map(|i| {
                    (
                        site(i),
                        Site {
                            description: texts[i].clone(),
                            location: (i > 0)
                                .then(|| Location { latitude: -900_000 + i as i32, longitude: 86_800 }),
                        },
                    )
                })
                .collect(),
            voters: (0..3).map(site).collect(),
            services: [("s1", s1), ("s.2", s2)].into_iter().map(|(k, v)| (k.parse().unwrap(), v)).collect(),
            pools: BTreeMap::from([("p0".parse().unwrap(), pool)]),
            listeners: [("l1", l1), ("l2", l2)].into_iter().map(|(k, v)| (k.parse().unwrap(), v)).collect(),
            zones: BTreeMap::from([(name("example.com"), (owner, records(&more)))]),
        }
    })
}
