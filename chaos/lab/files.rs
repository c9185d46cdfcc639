//! The files that an operator would write: node files, the zone, the declared configuration.

use super::{ADMIN, BACKEND, DNS, HTTP, LabError, NAME, Node, Options, PEER, TCP};
use std::{fs, path::Path};

/// Writes everything that the nodes and `zonekeeper apply` read.
pub(super) fn write(folder: &Path, nodes: &[Node], options: &Options) -> Result<(), LabError> {
    for node in nodes {
        fs::write(folder.join(format!("node-{}.toml", node.id)), node_file(node))?;
    }
    let dir = folder.join("cluster-config");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("example.com.zone"), zone_file(nodes) + &options.records)?;
    fs::write(dir.join("cluster.toml"), cluster_file(&first_of_each_site(nodes), options))?;
    Ok(())
}

/// A site's address is that of its first node; further nodes of a site stand beside it.
fn first_of_each_site(nodes: &[Node]) -> Vec<&Node> {
    let first = |(i, n): &(usize, &Node)| nodes[..*i].iter().all(|other| other.site != n.site);
    nodes.iter().enumerate().filter(first).map(|(_, n)| n).collect()
}

fn cluster_file(sites: &[&Node], options: &Options) -> String {
    let mut t = String::from("[zone.\"example.com\"]\nfile = \"example.com.zone\"\n\n");
    let listed = |of: &dyn Fn(&Node) -> String| sites.iter().map(|n| of(n)).collect::<Vec<_>>().join(", ");
    for node in sites {
        t += &format!("[site.{}]\n", node.site);
    }
    let order = listed(&|n| format!("{:?}", n.site));
    t += &format!(
        "\n[service.www]\nnames = [{NAME:?}]\npolicy = \"failover\"\nsites = [{order}]\npool = \"web\"\n"
    );
    t += &options.service;
    t += "check = { kind = \"http\", path = \"/\" }\n[service.www.endpoint]\n";
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
    format!(
        "id = {id}\nsite = {site:?}\ndata_dir = \"data-{id}\"\nkeys_dir = \"keys/node-{id}\"\n\n\
         [peer]\nlisten = \"{peer}\"\n\n[admin]\nlisten = \"{admin}\"\nallow_remote = {remote}\n\n\
         [dns]\nlisten = [\"{dns}\"]\nworkers = 1\n\n[proxy]\nworkers = 1\n",
        id = node.id,
        site = node.site,
        peer = node.at(PEER),
        admin = node.at(ADMIN),
        remote = !node.ip.is_loopback(),
        dns = node.at(DNS),
    )
}

fn zone_file(nodes: &[Node]) -> String {
    let mut t = String::from(
        "$ORIGIN example.com.\n$TTL 300\n@ SOA ns1 hostmaster ( 2026010100 3600 600 604800 60 )\n",
    );
    for (i, node) in nodes.iter().enumerate() {
        t += &format!("@ NS ns{n}\nns{n} A {ip}\n", n = i + 1, ip = node.ip);
    }
    t + "mail A 192.0.2.25\n@ MX 10 mail\nalias CNAME www\n*.wild TXT \"any name\"\n"
}
