use super::*;
use crate::{
    id::{ServiceId, SiteId},
    model::{Endpoint, Failback, Policy, Quorum, Service, WhenAllDown, ZoneOwner},
    state::{Assignment, Basis, Epoch, ServiceState},
    time::LogTime,
    zone::RrSet,
};
use alloc::{boxed::Box, collections::BTreeMap, string::String, vec, vec::Vec};
use proptest::prelude::*;

fn name(s: &str) -> Name {
    Name::parse(s).unwrap()
}

fn site(s: &str) -> SiteId {
    s.parse().unwrap()
}

fn zone(origin: &str) -> Zone {
    let mut z = Zone::new(name(origin), ZoneOwner::File);
    let mut soa = vec![0, 0];
    for n in [1u32, 1, 1, 1, 30] {
        soa.extend_from_slice(&n.to_be_bytes());
    }
    let put = |z: &mut Zone, owner: &str, rtype, rdata: &[u8]| {
        z.put(RrSet::new(name(owner), rtype, 300, vec![Box::from(rdata)]).unwrap()).unwrap();
    };
    put(&mut z, origin, rtype::SOA, &soa);
    put(&mut z, origin, rtype::NS, b"\x02ns\x07example\0");
    put(&mut z, origin, 16, b"\x01x");
    put(&mut z, &alloc::format!("www.{origin}"), rtype::AAAA, &[1; 16]);
    put(&mut z, &alloc::format!("cut.{origin}"), rtype::NS, b"\x02ns\x07example\0");
    z.advance_serial();
    z
}

/// A service with an IPv4 endpoint `192.0.2.n` at the site number n.
fn service(names: &[&str], sites: &[&str], policy: Policy) -> ServiceState {
    let endpoint = |i: usize| vec![Endpoint { addr: [192, 0, 2, i as u8 + 1].into(), port: 80 }];
    let spec = Service {
        names: names.iter().map(|n| name(n)).collect(),
        policy,
        endpoints: sites.iter().enumerate().map(|(i, s)| (site(s), endpoint(i))).collect(),
        ttl: 60,
        check: None,
        pool: None,
        min_backends: 0,
        when_all_down: WhenAllDown::FailOpen,
        hold_down_ms: 0,
        hold_down_max_ms: 0,
        failback: Failback::Manual,
        quorum: Quorum::Majority,
        min_answers: 1,
        automation: true,
    };
    let sites = sites.iter().map(|s| site(s)).collect();
    let assignment = Assignment { epoch: Epoch::default(), since: LogTime(0), sites, basis: Basis::Usable };
    ServiceState {
        version: 1,
        spec,
        health: BTreeMap::new(),
        assignment: [(Family::V4, assignment)].into(),
        suspects: Default::default(),
        pinned: Default::default(),
        automation: None,
    }
}

fn state(services: &[(&str, ServiceState)]) -> State {
    let mut state = State::default();
    for origin in ["example.", "other.test.", "sub.example."] {
        state.zones.insert(name(origin), Arc::new(zone(origin)));
    }
    for (id, s) in services {
        state.services.insert(id.parse().unwrap(), Arc::new(s.clone()));
    }
    state
}

fn failover(names: &[&str]) -> ServiceState {
    let mut s = service(names, &["a", "b"], Policy::Failover(vec![site("a"), site("b")]));
    s.assignment.get_mut(&Family::V4).unwrap().sites.truncate(1);
    s
}

/// What a question finds, in short.
fn ask(table: &DnsTable, qname: &str, qtype: u16) -> String {
    let qname = name(qname);
    let Some((zone, origin)) = table.zone_of(qname.wire(), false) else { return "refused".into() };
    let mut key = Key::default();
    assert!(key.set(qname.wire(), origin));
    match zone.find(&mut key, qtype) {
        Found::Service(a) => match (a.prepared(), a.set(0)) {
            (_, Some(set)) => alloc::format!("{} ttl {}", addresses(set), set.ttl()),
            (p, None) => alloc::format!("{p:?}"),
        },
        Found::Set(s) => alloc::format!("set {}", s.rtype()),
        Found::Referral(..) => "referral".into(),
        Found::NoData => "nodata".into(),
        Found::NxDomain => "nxdomain".into(),
        Found::Alias(_) => "alias".into(),
        other => alloc::format!("{other:?}"),
    }
}

fn addresses(set: RrView<'_>) -> String {
    set.records().map(|r| alloc::format!(".{}", r.rdata()[3])).collect()
}

#[test]
fn services_stand_beside_the_zone_s_records_at_any_name() {
    let table = DnsTable::build(&state(&[
        ("web", failover(&["example.", "www.example.", "a.deep.example.", "*.any.example."])),
        ("hidden", failover(&["x.cut.example.", "x.nowhere."])),
        ("inner", failover(&["sub.example."])),
    ]));
    for qname in ["example.", "www.example.", "a.deep.example.", "q.any.example.", "sub.example."] {
        assert_eq!(ask(&table, qname, rtype::A), ".1 ttl 60", "{qname}");
    }
    assert_eq!(ask(&table, "example.", 16), "set 16", "other types come from the zone");
    assert_eq!(ask(&table, "www.example.", rtype::AAAA), "set 28", "a family without endpoints too");
    assert_eq!(ask(&table, "a.deep.example.", rtype::AAAA), "nodata");
    assert_eq!(ask(&table, "deep.example.", rtype::A), "nodata", "services make empty non-terminals");
    assert_eq!(ask(&table, "b.deep.example.", rtype::A), "nxdomain");
    assert_eq!(ask(&table, "q.any.example.", 16), "nodata");
    assert_eq!(ask(&table, "x.cut.example.", rtype::A), "referral", "a delegation hides what is below it");
    assert_eq!(ask(&table, "x.nowhere.", rtype::A), "refused");
}

#[test]
fn what_is_answered_when_nothing_is_usable_is_the_service_s_choice() {
    for (choice, want) in [
        (WhenAllDown::NoData, "NoData"),
        (WhenAllDown::ServFail, "ServFail"),
        (WhenAllDown::FailOpen, "ServFail"),
    ] {
        let mut s = failover(&["web.example."]);
        s.spec.when_all_down = choice;
        let a = s.assignment.get_mut(&Family::V4).unwrap();
        (a.sites, a.basis) = (vec![], Basis::Nothing);
        assert_eq!(ask(&DnsTable::build(&state(&[("web", s)])), "web.example.", rtype::A), want);
    }
}

#[test]
fn suspicion_shortens_the_ttl() {
    let mut s = failover(&["web.example."]);
    s.suspects.insert(site("a"));
    assert_eq!(ask(&DnsTable::build(&state(&[("web", s.clone())])), "web.example.", rtype::A), ".1 ttl 5");
    s.spec.ttl = 2;
    assert_eq!(ask(&DnsTable::build(&state(&[("web", s)])), "web.example.", rtype::A), ".1 ttl 2");
}

#[test]
fn a_makeshift_answer_is_short_too() {
    for (basis, ttl) in [(Basis::Usable, 60), (Basis::Drained, 5), (Basis::LastSet, 5)] {
        let mut s = failover(&["web.example."]);
        s.assignment.get_mut(&Family::V4).unwrap().basis = basis;
        let want = alloc::format!(".1 ttl {ttl}");
        assert_eq!(ask(&DnsTable::build(&state(&[("web", s)])), "web.example.", rtype::A), want, "{basis:?}");
    }
}

/// A state whose example. has an HTTPS template at www: port 8443 and a hint that nobody should see.
fn with_template(services: &[(&str, ServiceState)]) -> State {
    with_mandatory(services, &[])
}

/// As [`with_template`], with this as its first parameter.
fn with_mandatory(services: &[(&str, ServiceState)], mandatory: &[u8]) -> State {
    let mut state = state(services);
    let template = [&[0, 1, 0], mandatory, &[0, 3, 0, 2, 0x20, 0xfb, 0, 4, 0, 4], &[9; 4]].concat();
    let set = RrSet::new(name("www.example."), rtype::HTTPS, 300, vec![template.into()]).unwrap();
    Arc::make_mut(state.zones.get_mut(&name("example.")).unwrap()).put(set).unwrap();
    state
}

fn https(table: &DnsTable) -> (u32, Vec<u8>) {
    let mut key = Key::default();
    let (zone, origin) = table.zone_of(name("www.example.").wire(), false).unwrap();
    key.set(name("www.example.").wire(), origin);
    let Found::Set(set) = zone.find(&mut key, rtype::HTTPS) else { panic!("a set") };
    (set.ttl(), set.records().next().unwrap().rdata().to_vec())
}

#[test]
fn an_https_record_at_a_service_has_the_hints_of_now() {
    let mut state = with_template(&[("web", failover(&["www.example."]))]);
    let table = DnsTable::build(&state);
    let hinted = |last: u8| [&[0, 1, 0, 0, 3, 0, 2, 0x20, 0xfb, 0, 4, 0, 4, 192, 0, 2][..], &[last]].concat();
    assert_eq!(https(&table), (60, hinted(1)));
    let id: ServiceId = "web".parse().unwrap();
    let web = Arc::make_mut(state.services.get_mut(&id).unwrap());
    web.assignment.get_mut(&Family::V4).unwrap().sites = vec![site("b")];
    let moved = table.update(&state, &Delta { services: vec![(id, Family::V4)], ..Delta::default() });
    assert_eq!(https(&moved), (60, hinted(2)), "they move with the service");
    Arc::make_mut(state.zones.get_mut(&name("example.")).unwrap()).advance_serial();
    let edited = moved.update(&state, &Delta { zones: vec![name("example.")], ..Delta::default() });
    assert_eq!(https(&edited), (60, hinted(2)), "and stay when the zone changes");
    let weights = [(site("a"), 1), (site("b"), 1)].into();
    let turns = service(&["www.example."], &["a", "b"], Policy::Weighted(weights));
    let table = DnsTable::build(&with_template(&[("web", turns)]));
    assert_eq!(https(&table), (300, vec![0, 1, 0, 0, 3, 0, 2, 0x20, 0xfb]), "one site in turn has no hint");
}

#[test]
fn what_is_mandatory_is_there() {
    let turns = || {
        let weights = [(site("a"), 1), (site("b"), 1)].into();
        service(&["www.example."], &["a", "b"], Policy::Weighted(weights))
    };
    for (mandatory, left) in [
        (&[0, 0, 0, 4, 0, 3, 0, 4][..], &[0, 0, 0, 2, 0, 3][..]),
        (&[0, 0, 0, 2, 0, 4], &[]),
        (&[0, 0, 0, 2, 0, 3], &[0, 0, 0, 2, 0, 3]),
    ] {
        let fixed = with_mandatory(&[("web", failover(&["www.example."]))], mandatory);
        let whole = [&[0, 1, 0], mandatory, &[0, 3, 0, 2, 0x20, 0xfb, 0, 4, 0, 4, 192, 0, 2, 1]].concat();
        assert_eq!(https(&DnsTable::build(&fixed)).1, whole, "with a hint nothing is missing");
        let table = DnsTable::build(&with_mandatory(&[("web", turns())], mandatory));
        assert_eq!(https(&table).1, [&[0, 1, 0], left, &[0, 3, 0, 2, 0x20, 0xfb]].concat(), "RFC 9460 §8");
    }
}

#[test]
fn all_answers_every_site_and_weighted_one() {
    let all = service(&["all.example."], &["a", "b", "c"], Policy::All);
    let weights = [("a", 3), ("b", 1)].map(|(s, w)| (site(s), w)).into();
    let weighted = service(&["w.example."], &["a", "b"], Policy::Weighted(weights));
    let table = DnsTable::build(&state(&[("all", all), ("w", weighted)]));
    assert_eq!(ask(&table, "all.example.", rtype::A), ".1.2.3 ttl 60");
    let mut key = Key::default();
    let (zone, origin) = table.zone_of(name("w.example.").wire(), false).unwrap();
    key.set(name("w.example.").wire(), origin);
    let Found::Service(answer) = zone.find(&mut key, rtype::A) else { panic!("a service") };
    let turns: Vec<String> = (0..8).map(|t| addresses(answer.set(t).unwrap())).collect();
    assert_eq!(turns, [".1", ".1", ".2", ".1", ".1", ".1", ".2", ".1"], "3 of 4, spread, again and again");
    assert!((answer.slot() as usize) < table.slots());
}

#[test]
fn an_update_touches_what_changed_and_equals_a_build() {
    let mut state = state(&[("web", failover(&["www.example."])), ("two", failover(&["two.other.test."]))]);
    let old = DnsTable::build(&state);
    let id: ServiceId = "web".parse().unwrap();
    let web = Arc::make_mut(state.services.get_mut(&id).unwrap());
    web.assignment.get_mut(&Family::V4).unwrap().sites = vec![site("b")];
    Arc::make_mut(state.zones.get_mut(&name("example.")).unwrap()).advance_serial();
    let delta = Delta { services: vec![(id, Family::V4)], zones: vec![name("example.")], ..Delta::default() };
    let new = old.update(&state, &delta);
    assert_eq!(
        (ask(&new, "www.example.", 1), ask(&old, "www.example.", 1)),
        (".2 ttl 60".into(), ".1 ttl 60".into())
    );
    assert_eq!(ask(&new, "two.other.test.", 1), ".1 ttl 60");
    let of = |t: &DnsTable, z: &str| t.zones[t.origin(name(z).wire()).unwrap()].1.clone();
    assert!(Arc::ptr_eq(&of(&new, "other.test."), &of(&old, "other.test.")), "untouched zones are shared");
    assert_eq!(of(&new, "example.").zone().serial(), 2);
    assert_eq!(alloc::format!("{:?}", new.zones), alloc::format!("{:?}", DnsTable::build(&state).zones));
    state.zones.remove(&name("other.test."));
    let gone = new.update(&state, &Delta { zones: vec![name("other.test.")], ..Delta::default() });
    assert_eq!(ask(&gone, "two.other.test.", 1), "refused");
}

#[test]
fn an_alias_stands_for_addresses_only() {
    let mut state = state(&[]);
    let zone = Arc::make_mut(state.zones.get_mut(&name("example.")).unwrap());
    let alias =
        |owner: &str| RrSet::new(name(owner), rtype::ALIAS, 60, vec![Box::from(*b"\x01x\0")]).unwrap();
    zone.put(alias("example.")).unwrap();
    let refused = zone.put(alias("www.example.")).unwrap_err();
    assert!(alloc::format!("{refused}").contains("beside an ALIAS"), "www has an AAAA");
    let table = DnsTable::build(&state);
    for (qtype, want) in [(rtype::A, "alias"), (rtype::AAAA, "alias"), (16, "set 16"), (rtype::MX, "nodata")]
    {
        assert_eq!(ask(&table, "example.", qtype), want);
    }
    assert_eq!(ask(&table, "example.", rtype::ALIAS), "nodata", "it is ours alone");
}

#[test]
fn explain_tells_zone_service_and_reason() {
    let state = state(&[("web", failover(&["www.example."]))]);
    let table = DnsTable::build(&state);
    assert_eq!(
        table.explain(&state, &name("www.example."), 1, Asker::default()),
        [
            "zone example. with serial 1 is the closest to www.example.",
            "service web stands at this name with policy failover",
            "assigned to [a] (usable) by the decision at epoch 0.0",
            "b is not answered: up; the policy prefers another",
            "1 addresses with TTL 60",
        ]
    );
    let last = |qname: &str| table.explain(&state, &name(qname), 1, Asker::default()).pop().unwrap();
    assert!(
        last("x.example.").contains("NXDOMAIN")
            && last("nowhere.").contains("REFUSED")
            && last("x.cut.example.").contains("referral")
    );
}

#[test]
fn explain_follows_what_leads_on() {
    let mut state = state(&[("web", failover(&["www.example."]))]);
    let zone = Arc::make_mut(state.zones.get_mut(&name("example.")).unwrap());
    let mut put = |owner: &str, rtype, target: &str| {
        let rdata = vec![Box::from(name(target).wire())];
        zone.put(RrSet::new(name(owner), rtype, 60, rdata).unwrap()).unwrap();
    };
    put("a.example.", rtype::CNAME, "www.moved.example.");
    put("moved.example.", rtype::DNAME, "example.");
    put("flat.example.", rtype::ALIAS, "a.example.");
    put("round.example.", rtype::CNAME, "about.example.");
    put("about.example.", rtype::CNAME, "round.example.");
    put("out.example.", rtype::CNAME, "www.elsewhere.");
    put("flat-out.example.", rtype::ALIAS, "out.example.");
    put("flat-round.example.", rtype::ALIAS, "round.example.");
    put("flat-none.example.", rtype::ALIAS, "none.example.");
    put("flat-cut.example.", rtype::ALIAS, "x.cut.example.");
    (0..20).for_each(|i| {
        put(&alloc::format!("long{i}.example."), rtype::CNAME, &alloc::format!("long{}.example.", i + 1))
    });
    put("flat-long.example.", rtype::ALIAS, "long0.example.");
    let table = DnsTable::build(&state);
    let path = |qname: &str, qtype| {
        let why = table.explain(&state, &name(qname), qtype, Asker::default());
        let names: Vec<String> =
            why.iter().filter_map(|w| w.strip_prefix("which leads to ")).map(String::from).collect();
        (names.join(" "), why.last().unwrap().clone())
    };
    let www = "a.example. www.moved.example. www.example.";
    assert_eq!(path("flat.example.", 1), (www.into(), "1 addresses with TTL 60".into()));
    let (names, end) = path("round.example.", 1);
    assert_eq!(names, "about.example. round.example.");
    assert!(end.contains("loop"), "{end}");
    let (names, end) = path("out.example.", 1);
    assert_eq!(
        (names.as_str(), end.as_str()),
        ("www.elsewhere.", "www.elsewhere. lies in no zone of this cluster")
    );
    for (qname, code) in [
        ("flat-out", "SERVFAIL"),
        ("flat-round", "SERVFAIL"),
        ("flat-none", "NODATA"),
        ("flat-cut", "SERVFAIL"),
        ("flat-long", "SERVFAIL"),
        ("long0", "the answer ends here"),
    ] {
        let (names, end) = path(&alloc::format!("{qname}.example."), 1);
        assert!(end.contains(code), "{qname}: {end}");
        let most = if qname == "flat-long" { 9 } else { 16 };
        assert!(names.split(' ').count() <= most, "{qname}: {names}");
    }
    let (names, end) = path("www.moved.example.", rtype::CNAME);
    assert!(names.is_empty() && end.contains("DNAME"), "{names} {end}");
    let ds = table.explain(&state, &name("sub.example."), rtype::DS, Asker::default());
    assert!(ds[0].starts_with("zone example. "), "the parent's: {ds:?}");
}

proptest! {
    #[test]
    fn a_schedule_gives_each_weight_its_exact_share_evenly(weights in prop::collection::vec(1u32..=255, 1..8)) {
        let schedule = service::schedule(&weights);
        let total: u32 = weights.iter().sum();
        for (i, w) in weights.iter().enumerate() {
            let n = schedule.iter().filter(|s| usize::from(**s) == i).count() as u64;
            prop_assert_eq!(n * u64::from(total), u64::from(*w) * schedule.len() as u64);
            // Spread: in any prefix, a share is off by less than the number of sites.
            for (k, _) in schedule.iter().enumerate() {
                let got = schedule[..=k].iter().filter(|s| usize::from(**s) == i).count() as i64 * i64::from(total);
                let due = (k as i64 + 1) * i64::from(*w);
                prop_assert!((got - due).abs() <= i64::from(total) * weights.len() as i64);
            }
        }
    }
}

#[test]
fn nearest_goes_by_network_system_country_continent_distance_and_order() {
    use crate::model::{Area, Location, Nearest, Site};
    let areas: BTreeMap<Area, Vec<SiteId>> = [
        ("198.51.100.0/24", vec!["b"]),
        ("198.51.100.128/25", vec!["c", "a"]),
        ("AS64500", vec!["c"]),
        ("country:CA", vec!["b", "c"]),
        ("continent:NA", vec!["a"]),
    ]
    .map(|(area, sites)| (area.parse().unwrap(), sites.into_iter().map(site).collect()))
    .into();
    let policy = Nearest { sites: ["b", "a", "c"].map(site).into(), areas };
    let mut near = service(&["n.example."], &["a", "b", "c"], Policy::Nearest(Box::new(policy)));
    near.assignment.get_mut(&Family::V4).unwrap().sites = ["b", "a", "c"].map(site).into();
    let mut state = state(&[("near", near)]);
    for (id, latitude, longitude) in
        [("a", 500_000, 80_000), ("b", 390_000, -770_000), ("c", 350_000, 1_390_000)]
    {
        let location = Some(Location { latitude, longitude });
        state.sites.insert(site(id), Arc::new(Site { location, ..Site::default() }));
    }
    let choose = |state: &State, addr: Option<&str>, known: Whereabouts| {
        let table = DnsTable::build(state);
        let mut key = Key::default();
        let (zone, origin) = table.zone_of(name("n.example.").wire(), false).unwrap();
        key.set(name("n.example.").wire(), origin);
        let Found::Service(answer) = zone.find(&mut key, rtype::A) else { panic!("a service") };
        let Prepared::Nearest(steering) = answer.prepared() else { panic!("steered") };
        let chosen = steering.choose(addr.map(|a| a.parse().unwrap()), |_| known);
        alloc::format!("{} {:?} /{}", steering.sites()[chosen.site].0.as_str(), chosen.step, chosen.scope)
    };
    let known = |asn, country: &[u8; 2], continent: &[u8; 2], place: Option<(f64, f64)>| Whereabouts {
        asn,
        country: *country,
        continent: *continent,
        direction: place.map(|(n, e)| Direction::of(n, e)),
        bits: 20,
    };
    let nowhere = Whereabouts { bits: 9, ..Whereabouts::default() };
    let sydney = Some((-33.9, 151.2));
    assert_eq!(choose(&state, Some("198.51.100.1"), nowhere), "b Network /25");
    assert_eq!(choose(&state, Some("::ffff:198.51.100.1"), nowhere), "b Network /121");
    assert_eq!(choose(&state, Some("198.51.100.200"), nowhere), "c Network /25", "the longest prefix");
    assert_eq!(choose(&state, Some("203.0.113.1"), known(64500, b"CA", b"NA", sydney)), "c Asn /20");
    assert_eq!(choose(&state, Some("203.0.113.1"), known(1, b"CA", b"NA", sydney)), "b Country /20");
    assert_eq!(choose(&state, Some("203.0.113.1"), known(1, b"US", b"NA", sydney)), "a Continent /20");
    assert_eq!(choose(&state, Some("203.0.113.1"), known(1, b"AU", b"OC", sydney)), "c Distance /20");
    assert_eq!(choose(&state, Some("203.0.113.1"), nowhere), "b Order /9");
    assert_eq!(choose(&state, Some("2001:db8::1"), nowhere), "b Order /9");
    assert_eq!(choose(&state, None, nowhere), "b Order /0");
    // c is not usable: each step gives the next of its sites, or passes on to the next step
    let near = Arc::make_mut(state.services.get_mut(&"near".parse::<ServiceId>().unwrap()).unwrap());
    near.assignment.get_mut(&Family::V4).unwrap().sites = ["b", "a"].map(site).into();
    assert_eq!(choose(&state, Some("198.51.100.200"), nowhere), "a Network /25");
    assert_eq!(choose(&state, Some("203.0.113.1"), known(64500, b"CA", b"NA", sydney)), "b Country /20");
    assert_eq!(
        choose(&state, Some("203.0.113.1"), known(1, b"AU", b"OC", Some((47.4, 8.5)))),
        "a Distance /20"
    );
    let asker = Asker { addr: Some([203, 0, 113, 1].into()), known: Some(known(1, b"CA", b"NA", None)) };
    let why = DnsTable::build(&state).explain(&state, &name("n.example."), 1, asker);
    let last = "to 203.0.113.1, and to all that share its first 20 bits, the nearest usable site is b, by the client's country";
    assert_eq!(why.last().map(String::as_str), Some(last), "{why:?}");
    assert!(why.iter().any(|w| w.starts_with("c is not answered")), "{why:?}");
    let blind = Asker { known: None, ..asker };
    let why = DnsTable::build(&state).explain(&state, &name("n.example."), 1, blind);
    assert!(why.last().unwrap().ends_with("no database that knows where clients are"), "{why:?}");
}
