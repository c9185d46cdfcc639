//! The files that an operator would write: node files, the zone, the declared configuration.

use super::{ADMIN, BACKEND, DNS, HTTP, LabError, NAME, Node, Options, PEER, TCP};
use std::{collections::BTreeSet, fs, path::Path};

/// Writes everything that the nodes and `zonekeeper apply` read.
pub(super) fn write(folder: &Path, nodes: &[Node], options: &Options) -> Result<(), LabError> {
    for node in nodes {
        fs::write(folder.join(format!("node-{}.toml", node.id)), node_file(node))?;
    }
    let dir = folder.join("cluster-config");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("example.com.zone"), zone_file(nodes) + &options.records)?;
    fs::write(dir.join("cluster.toml"), cluster_file(nodes, options))?;
    Ok(())
}

/// A site's address is that of its first node that serves; further nodes of a site stand beside it.
pub(super) fn first_of_each_site(nodes: &[Node]) -> Vec<&Node> {
    let serving: Vec<&Node> = nodes.iter().filter(|n| !n.witness).collect();
    let first = |(i, n): &(usize, &&Node)| serving[..*i].iter().all(|other| other.site != n.site);
    serving.iter().enumerate().filter(first).map(|(_, n)| *n).collect()
}

fn cluster_file(nodes: &[Node], options: &Options) -> String {
    let sites = &first_of_each_site(nodes);
    let mut t = String::from("[zone.\"example.com\"]\nfile = \"example.com.zone\"\n\n");
    let listed = |of: &dyn Fn(&Node) -> String| sites.iter().map(|n| of(n)).collect::<Vec<_>>().join(", ");
    for site in nodes.iter().map(|n| &n.site).collect::<BTreeSet<_>>() {
        t += &format!("[site.{site}]\n");
    }
    let order = listed(&|n| format!("{:?}", n.site));
    t += &format!(
        "\n[service.www]\nnames = [{NAME:?}]\npolicy = \"failover\"\nsites = [{order}]\npool = \"web\"\n"
    );
    t += &options.service;
    t += &format!("check = {}\n[service.www.endpoint]\n", options.check);
    for node in sites {
        t += &format!("{} = [\"{}\"]\n", node.site, node.at(HTTP));
    }
    t += "\n[pool.web]\ncheck = { kind = \"tcp\" }\nbackends = [\n";
    for node in sites {
        for i in 0..options.backends {
            t += &format!("  {{ site = {:?}, addr = \"{}\" }},\n", node.site, node.at(BACKEND + i as u16));
        }
    }
    t += "]\n";
    for (name, protocol, port) in [("web", "http", HTTP), ("raw", "tcp", TCP)] {
        let binds = listed(&|n| format!("{{ site = {:?}, addr = \"{}\" }}", n.site, n.at(port)));
        t += &format!("\n[listener.{name}]\nprotocol = \"{protocol}\"\npool = \"web\"\nbind = [{binds}]\n");
    }
    sites.iter().fold(t + &options.more, |t, n| t.replace(&format!("{{{}}}", n.site), &n.ip.to_string()))
}

fn node_file(node: &Node) -> String {
    let serves = format!("\n[dns]\nlisten = [\"{}\"]\nworkers = 1\n\n[proxy]\nworkers = 1\n", node.at(DNS));
    format!(
        "id = {id}\nsite = {site:?}\n{duty}data_dir = \"data-{id}\"\nkeys_dir = \"keys/node-{id}\"\n\n\
         [peer]\nlisten = \"{peer}\"\n\n[admin]\nlisten = \"{admin}\"\nallow_remote = {remote}\n{serves}",
        id = node.id,
        site = node.site,
        duty = if node.witness { "duty = \"witness\"\n" } else { "" },
        peer = node.at(PEER),
        admin = node.at(ADMIN),
        remote = !node.ip.is_loopback(),
        serves = if node.witness { "" } else { &serves },
    )
}

fn zone_file(nodes: &[Node]) -> String {
    let mut t = String::from(
        "$ORIGIN example.com.\n$TTL 300\n@ SOA ns1 hostmaster ( 2026010100 3600 600 604800 60 )\n",
    );
    for (i, node) in nodes.iter().enumerate().filter(|(_, n)| !n.witness) {
        t += &format!("@ NS ns{n}\nns{n} A {ip}\n", n = i + 1, ip = node.ip);
    }
    t + "mail A 192.0.2.25\n@ MX 10 mail\nalias CNAME www\n*.wild TXT \"any name\"\n"
}
