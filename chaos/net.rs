//! Sites in network namespaces of their own, routed by a hub in which the judge sits, so that a site can be cut off
//! from the others and still be asked.
//!
//! ```text
//! site 1 ──veth── hub ──veth── site 2        hub: the judge, its askers and clients, and the filter
//!                  └───veth── site 3
//! ```
//!
//! Needs root, `ip` and `nft`. Nothing is made in the namespace that one came from.

use crate::{
    lab::{HTTP, PEER, TCP},
    process,
    wan::DEVICE,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

/// A hub and so many sites around it. Dropped, it removes its namespaces.
#[derive(Debug)]
pub struct Net {
    hub: String,
    sites: Vec<String>,
}

static NETS: AtomicU8 = AtomicU8::new(0);

/// Whether this machine lets us: says what is missing.
pub fn possible() -> Result<(), String> {
    for (tool, args) in [("ip", ["netns", "list"]), ("nft", ["list", "tables"])] {
        let done = Command::new(tool).args(args).output().map_err(|e| format!("`{tool}`: {e}"))?;
        if !done.status.success() {
            return Err(format!(
                "`{tool} {}`: {}",
                args.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            ));
        }
    }
    match process::is_root() {
        true => Ok(()),
        false => Err("network namespaces need root".into()),
    }
}

impl Net {
    /// Builds a hub and `count` sites (at most 100).
    pub fn new(count: usize) -> io::Result<Net> {
        sweep()?;
        let hub = format!("zk{}x{}", std::process::id(), NETS.fetch_add(1, Relaxed));
        let mut net = Net { hub: hub.clone(), sites: Vec::new() };
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        for i in 0..count.min(100) {
            let site = format!("{hub}s{}", i + 1);
            ip(&["netns", "add", &site])?;
            net.sites.push(site);
            net.wire(i)?;
        }
        net.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        Ok(net)
    }

    /// Joins site `i` to the hub: `10.77.i.1` there, `10.77.i.254` here.
    fn wire(&self, i: usize) -> io::Result<()> {
        let (hub, site, port) = (&self.hub, &self.sites[i], format!("s{}", i + 1));
        let net = format!("10.77.{}", i + 1);
        ip(&["-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "wan", "netns", site])?;
        ip(&["-n", hub, "addr", "add", &format!("{net}.254/24"), "dev", &port])?;
        ip(&["-n", hub, "link", "set", &port, "up"])?;
        ip(&["-n", site, "link", "set", "lo", "up"])?;
        ip(&["-n", site, "addr", "add", &format!("{net}.1/24"), "dev", "wan"])?;
        ip(&["-n", site, "link", "set", "wan", "up"])?;
        ip(&["-n", site, "route", "add", "default", "via", &format!("{net}.254")])
    }

    /// How many sites there are.
    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    /// Sends what goes from one site to another through a device in the hub.
    pub(crate) fn detour(&self, device: &str) -> io::Result<()> {
        let hub = &self.hub;
        ip(&["-n", hub, "link", "set", device, "txqueuelen", "5000", "up"])?;
        ip(&["-n", hub, "route", "add", "10.77.0.0/16", "dev", device, "table", "77"])?;
        for i in 0..self.sites.len() {
            ip(&["-n", hub, "rule", "add", "iif", &format!("s{}", i + 1), "lookup", "77"])?;
        }
        // what comes back from the device has the address of a site that lies elsewhere
        let all = ["all".to_owned(), "default".to_owned(), device.to_owned()];
        self.inside(|| {
            all.iter().try_for_each(|d| std::fs::write(format!("/proc/sys/net/ipv4/conf/{d}/rp_filter"), "0"))
        })?
    }

    /// Removes a device from the hub, with its routes; what was sent through it takes the straight way again.
    pub(crate) fn remove(&self, device: &str) -> io::Result<()> {
        ip(&["-n", &self.hub, "link", "del", device])
    }

    /// Makes exactly these rules hold between sites; none makes all links whole. What [`Net::cut`] cut stays cut.
    pub fn rules(&self, rules: &[Rule]) -> io::Result<()> {
        let mut text = String::from("table inet faults\ndelete table inet faults\n");
        if !rules.is_empty() {
            let lines: String = rules.iter().map(|r| r.line(self)).collect();
            text += &format!(
                "table inet faults {{\nchain c {{\ntype filter hook forward priority 0; policy accept;\n{lines}}}\n}}\n"
            );
        }
        self.nft(&text)
    }

    /// The address of site `i`.
    pub fn address(&self, i: usize) -> IpAddr {
        Ipv4Addr::new(10, 77, 1 + i as u8, 1).into()
    }

    /// The IPv6 address of site `i`, once there is one.
    pub fn address6(&self, i: usize) -> IpAddr {
        Ipv6Addr::new(0xfd77, 0, 0, 1 + i as u16, 0, 0, 0, 1).into()
    }

    /// Gives every site an IPv6 address beside its own.
    pub fn add_ipv6(&self) -> io::Result<()> {
        for (i, site) in self.sites.iter().enumerate() {
            let (hub, net, port) = (&self.hub, format!("fd77:0:0:{:x}", i + 1), format!("s{}", i + 1));
            // without duplicate address detection, so that it can be used at once
            ip(&["-n", hub, "addr", "add", &format!("{net}::fe/64"), "dev", &port, "nodad"])?;
            ip(&["-n", site, "addr", "add", &format!("{net}::1/64"), "dev", "wan", "nodad"])?;
            ip(&["-n", site, "route", "add", "default", "via", &format!("{net}::fe")])?;
        }
        self.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1"))?
    }

    /// Runs something in the hub, on a thread of its own; threads and processes that it starts are there too.
    pub fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> io::Result<T> {
        within(&self.hub, run)
    }

    /// Runs something at site `i`, on a thread of its own.
    pub fn at_site<T: Send>(&self, i: usize, run: impl FnOnce() -> T + Send) -> io::Result<T> {
        within(&self.sites[i], run)
    }

    /// A command that runs at site `i`; the process is the program's own, so that its id can be signalled.
    pub(crate) fn command(&self, i: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.sites[i]]).arg(program);
        command
    }

    /// Cuts these sites off from all others (not from each other, and not from the hub), by dropping every packet;
    /// none heals everything.
    pub fn cut(&self, away: &[usize]) -> io::Result<()> {
        let mut rules = String::from("table inet cut\ndelete table inet cut\n");
        if !away.is_empty() {
            let ports: Vec<String> = away.iter().map(|i| format!("\"s{}\"", i + 1)).collect();
            let set = ports.join(", ");
            rules += &format!(
                "table inet cut {{\nchain c {{\ntype filter hook forward priority 0; policy accept;\n\
                 iifname {{ {set} }} oifname != {{ {set} }} drop\n\
                 oifname {{ {set} }} iifname != {{ {set} }} drop\n}}\n}}\n"
            );
        }
        self.nft(&rules)
    }

    /// Keeps clients in the hub away from these sites, while sites reach each other; none heals.
    pub fn hide(&self, sites: &[usize]) -> io::Result<()> {
        let mut rules = String::from("table inet hidden\ndelete table inet hidden\n");
        if !sites.is_empty() {
            let ports: Vec<String> = sites.iter().map(|i| format!("\"s{}\"", i + 1)).collect();
            rules += &format!(
                "table inet hidden {{\nchain c {{\ntype filter hook output priority 0; policy accept;\n\
                 oifname {{ {} }} tcp dport {{ {HTTP}, {TCP} }} drop\n}}\n}}\n",
                ports.join(", ")
            );
        }
        self.nft(&rules)
    }

    /// Makes the line to and from site `i` as thin as so many megabits a second (token bucket, 200 ms of queue).
    pub fn slow(&self, i: usize, mbit: u32) -> io::Result<()> {
        let rate = format!("{mbit}mbit");
        for (space, device) in [(&self.hub, format!("s{}", i + 1)), (&self.sites[i], "wan".to_owned())] {
            let mut tc = Command::new("ip");
            tc.args(["netns", "exec", space, "tc", "qdisc", "replace", "dev", &device, "root", "tbf"]);
            tc.args(["rate", &rate, "burst", "64kb", "latency", "200ms"]);
            let done = tc.stdin(Stdio::null()).output()?;
            if !done.status.success() {
                return Err(io::Error::other(format!("tc: {}", String::from_utf8_lossy(&done.stderr))));
            }
        }
        Ok(())
    }

    /// Bytes that the hub has sent to site `i` so far.
    pub fn carried(&self, i: usize) -> io::Result<u64> {
        let device = format!("s{}", i + 1);
        let done =
            Command::new("ip").args(["-n", &self.hub, "-s", "-j", "link", "show", &device]).output()?;
        let shown: serde_json::Value = serde_json::from_slice(&done.stdout).map_err(io::Error::other)?;
        let bytes = shown[0]["stats64"]["tx"]["bytes"].as_u64();
        bytes.ok_or_else(|| io::Error::other(format!("no counters of {device}: {shown}")))
    }

    fn nft(&self, rules: &str) -> io::Result<()> {
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.hub, "nft", "-f", "-"]);
        let mut child = nft.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes())?;
        }
        let done = child.wait_with_output()?;
        let why = || io::Error::other(format!("nft: {}", String::from_utf8_lossy(&done.stderr)));
        if done.status.success() { Ok(()) } else { Err(why()) }
    }
}

/// Which packets a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// All.
    All,
    /// Node to node: heartbeats, reports, Raft.
    Node,
    /// What a client of the service sees.
    Client,
}

/// What happens to packets from one site to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Site, counted from 0.
    pub from: usize,
    /// Site.
    pub to: usize,
    /// Which packets.
    pub path: Path,
    /// Of these so many are dropped, in per mille.
    pub loss: u32,
}

impl Rule {
    fn line(&self, net: &Net) -> String {
        let ports = match self.path {
            Path::All => String::new(),
            // towards the listener: without its SYN no connection is made, and one that stands comes to a halt
            Path::Node => format!("tcp dport {PEER} "),
            Path::Client => format!("tcp dport {{ {HTTP}, {TCP} }} "),
        };
        // a packet that comes back from the forwarder was judged when it went in
        let dice = match self.loss {
            1000.. => String::new(),
            loss => format!("iifname != \"{DEVICE}\" numgen random mod 1000 < {loss} "),
        };
        let (from, to) = (net.address(self.from), net.address(self.to));
        format!("ip saddr {from} ip daddr {to} {ports}{dice}drop\n")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.sites.iter().chain([&self.hub]) {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// Removes what programs left behind that were killed before they could: their namespaces, and what runs in them.
fn sweep() -> io::Result<()> {
    let listed = Command::new("ip").args(["netns", "list"]).output()?;
    for name in String::from_utf8_lossy(&listed.stdout).lines().filter_map(|l| l.split(' ').next()) {
        let Some(maker) = maker(name) else { continue };
        if std::path::Path::new(&format!("/proc/{maker}")).exists() {
            continue;
        }
        let inside = Command::new("ip").args(["netns", "pids", name]).output()?;
        let pids = String::from_utf8_lossy(&inside.stdout).into_owned();
        pids.lines().filter_map(|p| p.parse().ok()).for_each(process::kill);
        let _ = ip(&["netns", "del", name]); // another program may sweep too
    }
    Ok(())
}

/// The process that made a namespace of this name, if it is one of ours: `zk<pid>x<n>`, with `s<site>`.
fn maker(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("zk")?.split_once('x')?;
    let numbers = rest.split('s').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    pid.parse().ok().filter(|_| numbers)
}

fn ip(args: &[&str]) -> io::Result<()> {
    let done = Command::new("ip").args(args).output()?;
    let why = || {
        io::Error::other(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
    };
    if done.status.success() { Ok(()) } else { Err(why()) }
}

fn within<T: Send>(name: &str, run: impl FnOnce() -> T + Send) -> io::Result<T> {
    let space = File::open(format!("/run/netns/{name}"))?;
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| process::enter(&space).map(|()| run()));
        thread.join()
    });
    match done {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic), // a failed assertion stays a failed assertion
    }
}
