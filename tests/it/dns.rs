//! DNS as people see it: three tools, two transports, every node.

use crate::{
    ask::{Reply, TOOLS, ask, records},
    support::{lab, options, tools, turn, wait},
};
use serde_json::json;
use std::time::Duration;
use zonekeeper_chaos::{
    asker::{self, SOA},
    lab::{DNS, Lab},
};

/// What the tests ask for beside the laboratory's own records.
const RECORDS: &str = "\
@ TXT \"v=spf1 -all\" \"second\"\n\
child NS ns.child\n\
ns.child A 192.0.2.53\n\
chain CNAME step\n\
step CNAME mail\n\
out CNAME host.example.org.\n\
_sip._tcp SRV 1 2 5060 mail\n\
*.wild A 192.0.2.77\n\
exact.wild A 192.0.2.78\n\
empty.non.terminal A 192.0.2.79\n\
@ CAA 0 issue \"ca.example.net\"\n\
six AAAA 2001:db8::6\n";

fn serial(lab: &Lab, i: usize) -> Option<u32> {
    asker::ask(lab.nodes[i].at(DNS), "example.com", SOA, Duration::from_secs(2)).ok()?.serial
}

struct Expect {
    name: &'static str,
    rtype: &'static str,
    rcode: &'static str,
    authoritative: bool,
    answer: &'static [&'static str],
}

const fn expect(name: &'static str, rtype: &'static str, answer: &'static [&'static str]) -> Expect {
    Expect { name, rtype, rcode: "NOERROR", authoritative: true, answer }
}

const QUESTIONS: &[Expect] = &[
    expect("mail.example.com", "A", &["mail.example.com. A 192.0.2.25"]),
    expect("MAIL.Example.COM", "A", &["mail.example.com. A 192.0.2.25"]),
    expect("example.com", "MX", &["example.com. MX 10 mail.example.com."]),
    expect("example.com", "TXT", &["example.com. TXT \"v=spf1 -all\" \"second\""]),
    expect("example.com", "CAA", &["example.com. CAA 0 issue \"ca.example.net\""]),
    expect("six.example.com", "AAAA", &["six.example.com. AAAA 2001:db8::6"]),
    expect("_sip._tcp.example.com", "SRV", &["_sip._tcp.example.com. SRV 1 2 5060 mail.example.com."]),
    expect("any.wild.example.com", "A", &["any.wild.example.com. A 192.0.2.77"]),
    expect("deep.any.wild.example.com", "TXT", &["deep.any.wild.example.com. TXT \"any name\""]),
    expect("exact.wild.example.com", "A", &["exact.wild.example.com. A 192.0.2.78"]),
    expect(
        "chain.example.com",
        "A",
        &[
            "chain.example.com. CNAME step.example.com.",
            "step.example.com. CNAME mail.example.com.",
            "mail.example.com. A 192.0.2.25",
        ],
    ),
    expect("chain.example.com", "CNAME", &["chain.example.com. CNAME step.example.com."]),
    expect("out.example.com", "A", &["out.example.com. CNAME host.example.org."]),
    // negative: the name is there, the type is not; by wildcard; by an empty non-terminal (RFC 4592 §2.2)
    expect("mail.example.com", "TXT", &[]),
    expect("exact.wild.example.com", "TXT", &[]),
    expect("non.terminal.example.com", "A", &[]),
    expect("terminal.example.com", "A", &[]),
    Expect { rcode: "NXDOMAIN", ..expect("nothing.example.com", "A", &[]) },
    Expect { authoritative: false, ..expect("host.child.example.com", "A", &[]) },
    Expect { rcode: "REFUSED", authoritative: false, ..expect("example.org", "A", &[]) },
];

fn check(expect: &Expect, reply: &Reply) {
    let Expect { name, rtype, .. } = expect;
    assert_eq!(reply.rcode, expect.rcode, "{name} {rtype}: {reply:?}");
    assert_eq!(reply.authoritative, expect.authoritative, "{name} {rtype}: {reply:?}");
    assert_eq!(reply.answer, records(expect.answer), "{name} {rtype}");
    if expect.answer.is_empty() && expect.authoritative {
        // RFC 2308 §2: a negative answer carries the SOA
        assert!(
            reply.authority.iter().all(|r| r.starts_with("example.com. SOA ")),
            "{name} {rtype}: {reply:?}"
        );
        assert_eq!(reply.authority.len(), 1, "{name} {rtype}: {reply:?}");
    }
}

#[test]
fn dig_kdig_and_drill_agree_on_every_node() {
    if !tools(&TOOLS) {
        return;
    }
    let _turn = turn();
    let mut options = options();
    options.records = RECORDS.into();
    let lab = lab(options);
    for node in &lab.nodes {
        for expect in QUESTIONS {
            check(expect, &ask(node.at(DNS), expect.name, expect.rtype));
        }
        let referral = ask(node.at(DNS), "host.child.example.com", "A");
        assert_eq!(referral.authority, records(&["child.example.com. NS ns.child.example.com."]));
        assert!(referral.additional.contains("ns.child.example.com. A 192.0.2.53"), "glue: {referral:?}");
        let service = ask(node.at(DNS), "alias.example.com", "A");
        let ip = lab.nodes[0].ip;
        assert_eq!(
            service.answer,
            records(&["alias.example.com. CNAME www.example.com.", &format!("www.example.com. A {ip}")])
        );
        assert_eq!(service.ttls, [10, 300].into(), "the service's TTL and the zone's");
    }
    an_edit_appears_on_all_nodes_with_one_serial(&lab);
}

fn an_edit_appears_on_all_nodes_with_one_serial(lab: &Lab) {
    let before = serial(lab, 0).unwrap();
    // through a follower and through the leader, by API and by command line
    let follower = (0..3).find(|i| lab.leader() != Some(*i)).unwrap();
    let body = json!({"ttl": 60, "records": ["192.0.2.99"]});
    lab.put(follower, "/v1/zones/example.com/records/edited/A", &body).unwrap();
    lab.cli(&["zone", "put", "example.com", "edited", "TXT", "\"by hand\"", "--ttl", "60"]).unwrap();
    wait(lab, "the edits appear on all nodes", Duration::from_secs(10), |lab| {
        (0..3).all(|i| serial(lab, i) == Some(before + 2))
    });
    for node in &lab.nodes {
        let address = ask(node.at(DNS), "edited.example.com", "A");
        assert_eq!(
            (address.answer, address.ttls),
            (records(&["edited.example.com. A 192.0.2.99"]), [60].into())
        );
        let text = ask(node.at(DNS), "edited.example.com", "TXT");
        assert_eq!(text.answer, records(&["edited.example.com. TXT \"by hand\""]));
    }
    lab.cli(&["zone", "remove", "example.com", "edited", "A"]).unwrap();
    wait(lab, "the removal appears on all nodes", Duration::from_secs(10), |lab| {
        (0..3).all(|i| serial(lab, i) == Some(before + 3))
    });
    for node in &lab.nodes {
        assert!(ask(node.at(DNS), "edited.example.com", "A").answer.is_empty());
    }
    // drift from the file shows, and is undone
    let dir = lab.folder().join("cluster-config");
    let plan = std::process::Command::new(crate::support::exe())
        .args(["plan", &dir.to_string_lossy()])
        .env("ZONEKEEPER_ADMIN", format!("http://{}", lab.nodes[0].at(zonekeeper_chaos::lab::ADMIN)))
        .env("ZONEKEEPER_TOKEN", lab.token())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&plan.stdout);
    assert_eq!(plan.status.code(), Some(2), "a difference: {shown}");
    assert!(shown.contains("edited"), "{shown}");
    lab.apply().unwrap();
    wait(lab, "the drift is undone", Duration::from_secs(10), |lab| {
        (0..3).all(|i| {
            let reply =
                asker::ask(lab.nodes[i].at(DNS), "edited.example.com", asker::A, Duration::from_secs(2));
            reply.is_ok_and(|r| r.rcode == 3)
        })
    });
}
