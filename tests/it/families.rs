//! Services with IPv4 and IPv6: each family of a site is judged, moved and answered by itself. Sites are network
//! namespaces with an address of each family.

use crate::{
    load::{patient, unmoved},
    support::{lab, not_run, options, share, wait},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{self, A, AAAA, Asker},
    backend::Backend,
    lab::{DNS, HTTP, Lab},
    net::{Net, possible},
};

const WITHIN: Duration = Duration::from_secs(30);
const SIX: &str = "six.example.com";

/// A service with both families at each site: the proxy's listener serves IPv4, something else IPv6.
fn service(net: &Net) -> String {
    let mut text = format!(
        "\n[service.six]\nnames = [{SIX:?}]\nsites = [\"fra\", \"ams\", \"iad\"]\nhold_down = \"1s\"\n\
         failback_after = \"1s\"\ncheck = {{ kind = \"http\", path = \"/\" }}\n[service.six.endpoint]\n"
    );
    for (i, site) in ["fra", "ams", "iad"].into_iter().enumerate() {
        let six = SocketAddr::new(net.address6(i), HTTP);
        text += &format!("{site} = [\"{{{site}}}:{HTTP}\", \"{six}\"]\n");
    }
    text
}

#[test]
fn the_families_of_a_site_are_judged_apart() {
    if let Err(why) = possible() {
        not_run(&why);
        return;
    }
    let _turn = share();
    let net = Arc::new(Net::new(3).unwrap());
    net.add_ipv6().unwrap();
    net.inside(|| {
        let mut options = options();
        options.net = Some(net.clone());
        options.more = service(&net);
        let lab = lab(options);
        let mut sixes: Vec<Option<Backend>> = (0..3).map(|i| Some(six(&lab, &net, i))).collect();
        wait(&lab, "every family of every site is seen green", WITHIN, green);
        answered(&lab, &net, [0, 0]);

        // nobody listens on IPv6 at fra: AAAA moves, A never does
        let v4 = asks(&lab, A);
        sixes[0] = None;
        answered(&lab, &net, [0, 1]);
        unmoved(&v4, lab.nodes[0].ip);
        the_decision_names_its_family(&lab);
        sixes[0] = Some(six(&lab, &net, 0));
        answered(&lab, &net, [0, 0]);

        // silence on IPv4 alone, as seen by the other sites: A moves, AAAA never does
        let v6 = asks(&lab, AAAA);
        drop_ipv4_to(&lab.nodes[0].ip.to_string()).unwrap();
        answered(&lab, &net, [1, 0]);
        unmoved(&v6, net.address6(0));
        net.cut(&[]).unwrap();
        answered(&lab, &net, [0, 0]);
    })
    .unwrap();
}

fn six(lab: &Lab, net: &Net, i: usize) -> Backend {
    lab.serve(i, SocketAddr::new(net.address6(i), HTTP), "six").unwrap()
}

/// Waits until every node answers A from the one site and AAAA from the other.
#[track_caller]
fn answered(lab: &Lab, net: &Net, [four, six]: [usize; 2]) {
    let begun = Instant::now();
    let wanted: [BTreeSet<IpAddr>; 2] = [[lab.nodes[four].ip].into(), [net.address6(six)].into()];
    wait(lab, &format!("A is {} and AAAA {}", lab.nodes[four].site, lab.nodes[six].site), WITHIN, |lab| {
        let read = |i: usize, rtype| asker::ask(lab.nodes[i].at(DNS), SIX, rtype, Duration::from_millis(300));
        (0..3).all(|i| {
            let holds =
                |(rtype, wanted): (u16, &BTreeSet<IpAddr>)| read(i, rtype).is_ok_and(|a| a.addrs == *wanted);
            [A, AAAA].into_iter().zip(&wanted).all(holds)
        })
    });
    eprintln!("A from {four}, AAAA from {six} after {:?}", begun.elapsed());
}

fn asks(lab: &Lab, rtype: u16) -> Vec<Asker> {
    lab.nodes.iter().map(|n| patient(n.at(DNS), SIX, rtype)).collect()
}

/// What served IPv6 came up after the nodes: by now no site is held down for the time before, and each family of each
/// site is green to both of the other nodes.
fn green(lab: &Lab) -> bool {
    let evidence = lab.get(1, "/v1/evidence").unwrap_or_default();
    let targets = evidence["data"]["targets"].as_array().cloned().unwrap_or_default();
    let six = targets.iter().filter(|t| t["service"] == "six");
    let seen = six.filter(|t| {
        let verdicts = t["verdicts"].as_array().cloned().unwrap_or_default();
        t["held"] != "down" && verdicts.len() >= 2 && verdicts.iter().all(|v| v["colour"] == "green")
    });
    seen.count() == 6
}

fn the_decision_names_its_family(lab: &Lab) {
    let decisions = lab.get(1, "/v1/decisions?service=six&limit=1").unwrap();
    let decision = &decisions["data"][0];
    let row = &decision["rows"][0];
    assert_eq!(
        (&decision["family"], &row["family"], &row["site"]),
        (&"v6".into(), &"v6".into(), &"fra".into())
    );
    assert!(decision["cause"].as_str().is_some_and(|c| c.contains("IPv6")), "{decision}");
    let evidence = lab.get(1, "/v1/evidence").unwrap();
    let targets = evidence["data"]["targets"].as_array().unwrap().clone();
    let held = |family: &str| {
        let of = |t: &&Value| t["service"] == "six" && t["site"] == "fra" && t["family"] == family;
        targets.iter().find(of).map(|t| t["held"].clone())
    };
    assert_eq!(held("v6"), Some("down".into()), "{evidence}");
    assert_ne!(held("v4"), Some("down".into()), "{evidence}");
}

/// In the hub, in which this test runs: clients of other sites do not reach the listener there by IPv4.
fn drop_ipv4_to(addr: &str) -> std::io::Result<()> {
    let rules = format!(
        "table inet cut {{\nchain c {{\ntype filter hook forward priority 0; policy accept;\n\
         ip daddr {addr} tcp dport {HTTP} drop\n}}\n}}\n"
    );
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rules)?;
    let done = std::process::Command::new("nft").arg("-f").arg(file.path()).output()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
