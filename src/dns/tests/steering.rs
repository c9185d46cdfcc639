//! Answers that go by the client: networks, databases, EDNS Client Subnet with its scope; and exact shares on real sockets.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;
#[path = "common/mmdb.rs"]
mod mmdb;
#[path = "common/steered.rs"]
mod steered;

use arc_swap::ArcSwap;
use common::{Answer, Asker, published, query, read, with_edns};
use mmdb::{asn, city};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use steered::{cities, service, site, steered};
use tempfile::NamedTempFile;
use zonekeeper_core::{model::Policy, state::State};
use zonekeeper_dns::{Condition, DnsConfig, DnsFlags, DnsServer, Geo, Transport, View};

struct Client {
    asker: Asker,
    geo: Option<Geo>,
}

impl Client {
    fn new(state: &State, files: &[&NamedTempFile]) -> Client {
        let paths: Vec<_> = files.iter().map(|f| f.path().to_owned()).collect();
        let geo = (!paths.is_empty()).then(|| Geo::open(&paths).unwrap());
        Client { asker: Asker::of(state), geo }
    }

    fn ask(&mut self, from: &str, q: &[u8]) -> Answer {
        let view = View {
            table: &self.asker.table,
            condition: Condition::default(),
            secrets: None,
            geo: self.geo.as_ref(),
            transport: Transport::Udp,
        };
        let mut buf = vec![0; 4096];
        buf[..q.len()].copy_from_slice(q);
        let from = SocketAddr::new(from.parse().unwrap(), 5353);
        let len = self.asker.responder.answer_to(&view, Some(from), &mut buf, q.len()).unwrap();
        read(&buf[..len])
    }

    /// The address that a client gets.
    fn at(&mut self, from: &str) -> String {
        let mut a = self.ask(from, &query("cdn.example", 1));
        assert_eq!((a.rcode, a.answer.len(), a.opt), (0, 1, None));
        a.answer.remove(0).3
    }

    /// The address that the clients of a subnet get, and its scope.
    fn of(&mut self, qname: &str, subnet: &str) -> (Option<String>, u8) {
        let a = self.ask("203.0.113.1", &with_edns(query(qname, 1), 1232, 0, &ecs(subnet)));
        let (_, _, opt) = a.opt.unwrap();
        let sent = ecs(subnet);
        assert_eq!((&opt[..7], &opt[8..]), (&sent[..7], &sent[8..]), "the network comes back as it was");
        (a.answer.last().map(|r| r.3.clone()), opt[7])
    }
}

/// An option for `198.51.100.0/24`.
fn ecs(subnet: &str) -> Vec<u8> {
    let (addr, bits) = subnet.split_once('/').unwrap();
    let bits: u8 = bits.parse().unwrap();
    let (family, octets) = match addr.parse().unwrap() {
        IpAddr::V4(a) => (1, a.octets().to_vec()),
        IpAddr::V6(a) => (2, a.octets().to_vec()),
    };
    let octets = &octets[..usize::from(bits).div_ceil(8)];
    [&[0, 8, 0, 4 + octets.len() as u8, 0, family, bits, 0][..], octets].concat()
}

const FRA: &str = "192.0.2.1";
const IAD: &str = "192.0.2.2";
const HND: &str = "192.0.2.3";

#[test]
fn a_client_is_answered_by_what_is_known_of_its_address() {
    let (cities, systems) = (cities(), mmdb::write(&[("203.0.113.8/29", asn(64500))]));
    let mut client = Client::new(&steered(), &[&cities, &systems]);
    for (from, site) in [
        ("198.51.100.1", IAD),
        ("198.51.100.100", HND),
        ("203.0.113.1", FRA),
        ("203.0.113.9", HND),
        ("203.0.113.130", IAD),
        ("203.0.113.200", HND),
        ("203.0.113.230", FRA),
        ("192.0.2.200", FRA),
        ("2001:db8:5::1", HND),
        ("2001:db8:1::1", IAD),
        ("2001:db8:9::1", FRA),
        ("::ffff:203.0.113.130", IAD),
    ] {
        assert_eq!(client.at(from), site, "{from}");
        assert_eq!(client.at(from), site, "{from} again");
    }
    let v6 = client.ask("203.0.113.130", &query("cdn.example", 28));
    assert_eq!(v6.answer[0].3, "2001:db8::2", "the client's family is not the answer's");
    let mut blind = Client::new(&steered(), &[]);
    assert_eq!((blind.at("198.51.100.1"), blind.at("203.0.113.130")), (IAD.into(), FRA.into()));
}

#[test]
fn a_new_database_counts_at_once() {
    let mut client = Client::new(&steered(), &[&cities()]);
    assert_eq!(client.at("203.0.113.130"), IAD);
    let moved = mmdb::write(&[("203.0.113.0/24", city("JP", "AS", Some((35.7, 139.7))))]);
    client.geo = Some(Geo::open(&[moved.path().to_owned()]).unwrap());
    assert_eq!(client.at("203.0.113.130"), HND);
}

#[test]
fn a_site_that_is_not_usable_is_never_the_nearest() {
    let mut state = steered();
    let cdn = Arc::make_mut(state.services.values_mut().next().unwrap());
    for assignment in cdn.assignment.values_mut() {
        assignment.sites.retain(|s| *s != site("iad"));
    }
    let mut client = Client::new(&state, &[&cities()]);
    assert_eq!(client.at("198.51.100.1"), FRA, "nothing but its network was known of it");
    assert_eq!(client.at("203.0.113.130"), HND, "from Vancouver Tokyo is nearer than Frankfurt");
}

#[test]
fn the_scope_says_for_which_clients_an_answer_holds() {
    let cities = cities();
    let mut client = Client::new(&steered(), &[&cities]);
    for (subnet, site, scope) in [
        ("198.51.100.0/24", IAD, 26), // a more specific network lies in it
        ("198.51.100.128/25", IAD, 25),
        ("198.51.100.64/32", HND, 26),
        ("203.0.113.128/32", IAD, 26), // as the database has it
        ("203.0.113.192/32", HND, 27),
        ("2001:db8:5::/56", HND, 48),
        ("2001:db8:1::/48", IAD, 48),
        ("::ffff:198.51.100.64/128", HND, 96 + 26), // an IPv4 address in IPv6
    ] {
        assert_eq!(client.of("cdn.example", subnet), (Some(site.into()), scope), "{subnet}");
    }
    assert_eq!(client.of("short.example", "198.51.100.64/32"), (Some(HND.into()), 26), "through a CNAME");
    assert_eq!(client.of("flat.example", "198.51.100.64/32"), (Some(HND.into()), 26), "through an ALIAS");
    assert_eq!(client.of("cdn.example", "0.0.0.0/0"), (Some(FRA.into()), 0), "the resolver's own address");
    for (qname, last) in
        [("www.example", Some("192.0.2.80".into())), ("absent.example", None), ("x.sub.example", None)]
    {
        assert_eq!(client.of(qname, "198.51.100.64/32"), (last, 0), "{qname} is the same for everybody");
    }
    let a =
        client.ask("198.51.100.64", &with_edns(query("mail.example", 15), 1232, 0, &ecs("198.51.100.64/32")));
    assert_eq!(
        (a.additional[0].3.as_str(), a.opt.unwrap().2[7]),
        (FRA, 0),
        "beside other records: RFC 7871 §7.3.1"
    );
}

#[test]
fn a_malformed_subnet_is_a_format_error() {
    let mut client = Client::new(&steered(), &[]);
    for data in [
        &[0, 1, 24, 0, 198, 51][..],
        &[0, 1, 33, 0, 1, 2, 3, 4, 5],
        &[0, 1, 24, 1, 198, 51, 100],
        &[0, 9, 0, 0],
    ] {
        let option = [&[0, 8, 0, data.len() as u8], data].concat();
        assert_eq!(client.ask("203.0.113.1", &with_edns(query("cdn.example", 1), 1232, 0, &option)).rcode, 1);
    }
}

#[test]
fn damaged_databases_are_refused_or_know_nothing() {
    let good = std::fs::read(cities().path()).unwrap();
    let mut opened = 0;
    for i in (0..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[i] ^= 0x55;
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bad).unwrap();
        let Ok(geo) = Geo::open(&[file.path().to_owned()]) else { continue };
        opened += 1;
        for last in 0..=255 {
            geo.find([203, 0, 113, last].into()); // an error is no panic
        }
    }
    assert!(opened > good.len() / 30, "{opened} opened");
    let error = Geo::open(&["/nowhere/geo.mmdb".into()]).unwrap_err().to_string();
    assert!(error.contains("/nowhere/geo.mmdb") && error.contains("MaxMind"), "{error}");
}

#[test]
fn what_comes_along_takes_no_turn() {
    let mut state = common::state(&[(
        "example.",
        "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.9\n@ MX 10 w\nw HTTPS 1 . alpn=h2\n",
    )]);
    let weights = [("fra", 1), ("iad", 1)].map(|(s, w)| (site(s), w)).into();
    let weighted = service("w.example.", Policy::Weighted(weights), &["fra", "iad"]);
    state.services.insert("w".parse().unwrap(), Arc::new(weighted));
    let mut asker = Asker::of(&state);
    for (qname, rtype) in [("w.example", 65), ("example", 15)] {
        let mut counts = BTreeMap::new();
        for _ in 0..10 {
            *counts.entry(asker.ask("w.example", 1).answer[0].3.clone()).or_insert(0) += 1;
            let with = asker.ask(qname, rtype);
            assert_eq!((with.answer.len(), with.additional.len()), (1, 2), "{qname} {rtype}: {with:?}");
        }
        assert_eq!(counts, [(FRA.to_string(), 5), (IAD.to_string(), 5)].into(), "beside {qname} {rtype}");
    }
}

/// Asks over UDP, each question from a socket of its own, so that the kernel spreads them over the workers.
fn shares(to: SocketAddr, qname: &str, questions: usize) -> BTreeMap<String, usize> {
    let sockets: Vec<UdpSocket> = (0..50).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let (mut counts, q) = (BTreeMap::new(), query(qname, 1));
    for i in 0..questions {
        let socket = &sockets[i % sockets.len()];
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(&q, to).unwrap();
        let mut buf = [0; 512];
        let len = socket.recv(&mut buf).unwrap();
        *counts.entry(read(&buf[..len]).answer[0].3.clone()).or_insert(0) += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_are_exact_on_real_sockets() {
    let mut state = steered();
    let weights = [("fra", 5), ("iad", 2), ("hnd", 1)].map(|(s, w)| (site(s), w)).into();
    let weighted = service("w.example.", Policy::Weighted(weights), &["fra", "iad", "hnd"]);
    state.services.insert("w".parse().unwrap(), Arc::new(weighted));
    let now = Arc::new(ArcSwap::from_pointee(published(state, 1)));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    for workers in [1, 2] {
        let config = DnsConfig { addrs: vec![any], workers, ..DnsConfig::default() };
        let server = DnsServer::start(config, now.clone(), Arc::new(DnsFlags::default())).unwrap();
        let to = server.local_addrs()[0];
        let counts = tokio::task::spawn_blocking(move || shares(to, "w.example", 800)).await.unwrap();
        for (addr, exact) in [(FRA, 500), (IAD, 200), (HND, 100)] {
            // each worker goes round on its own: at most one turn is open at each
            let off = counts[addr].abs_diff(exact);
            assert!(off < workers, "{workers} workers: {counts:?}");
        }
        let near = tokio::task::spawn_blocking(move || shares(to, "cdn.example", 100)).await.unwrap();
        assert_eq!(near, [(FRA.to_string(), 100)].into(), "loopback is in no network of the service");
        server.shutdown().await;
    }
}
