//! A cluster of real processes on loopback: keys, configuration, start, kill, restart.
//!
//! Each site has an address of its own in 127.0.0.0/8, so that every site uses the same ports and two laboratories do
//! not meet. Everything is done as an operator does it: with the binary's commands and its admin API.

use crate::{backend::Backend, http, process};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Port of the admin API on a site's address.
pub const ADMIN: u16 = 8053;
/// Port of node-to-node traffic.
pub const PEER: u16 = 8054;
/// Port of DNS.
pub const DNS: u16 = 5300;
/// Port of the HTTP listener.
pub const HTTP: u16 = 8080;
/// Port of the TCP listener.
pub const TCP: u16 = 8081;
/// First port of the sample backends.
pub const BACKEND: u16 = 9001;
/// The service that the laboratory declares.
pub const NAME: &str = "www.example.com";

/// How a laboratory is built.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary under test.
    pub exe: PathBuf,
    /// Names of the sites; one node each.
    pub sites: Vec<String>,
    /// Sample backends per site.
    pub backends: usize,
    /// More lines for the service `www`, in TOML.
    pub service: String,
}

impl Options {
    /// Three sites with two backends each. A site that was down comes back after two seconds of health, so that a
    /// script need not wait long; everything else is the default.
    pub fn new(exe: PathBuf) -> Options {
        Options {
            exe,
            sites: ["fra", "ams", "iad"].map(String::from).to_vec(),
            backends: 2,
            service: "hold_down = \"2s\"\nfailback_after = \"2s\"\n".into(),
        }
    }
}

/// Why a laboratory did not come up, with the end of what the nodes said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LabError(pub String);

impl From<io::Error> for LabError {
    fn from(e: io::Error) -> LabError {
        LabError(e.to_string())
    }
}

/// One node of the laboratory.
pub struct Node {
    /// Raft id, from 1.
    pub id: u64,
    /// Its site.
    pub site: String,
    /// Its site's address.
    pub ip: IpAddr,
    child: Option<Child>,
}

impl Node {
    /// An address at this node's site.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// Whether its process was started and not killed.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

/// A running laboratory. Dropped, it kills its processes and removes its folder.
pub struct Lab {
    folder: tempfile::TempDir,
    options: Options,
    /// The nodes, in the order of the sites.
    pub nodes: Vec<Node>,
    /// Sample backends by site; taken out to stop them.
    pub backends: Vec<Vec<Option<Backend>>>,
    token: String,
}

static LABS: AtomicU8 = AtomicU8::new(0);

/// An address for site `i`, which no other laboratory of this machine uses, within reason.
fn address(lab: u8, i: usize) -> IpAddr {
    let process = 1 + (std::process::id() % 250) as u8;
    Ipv4Addr::new(127, process, lab, 1 + i as u8).into()
}

impl Lab {
    /// Builds keys and configuration, starts the processes, makes them a cluster, and waits until every node answers
    /// for the first site.
    pub fn start(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Lab, LabError> {
        let mut lab = Lab::empty(options)?;
        let count = lab.nodes.len();
        progress("keys");
        lab.keys()?;
        lab.serve_backends()?;
        lab.write_files()?;
        progress("first node");
        lab.spawn(0, &["--bootstrap"])?;
        lab.read_token()?;
        for i in 1..count {
            progress(&format!("node {} joins", i + 1));
            lab.add(i)?;
        }
        progress("configuration");
        lab.apply()?;
        progress("health");
        lab.wait("every node answers for the first site", Duration::from_secs(30), |lab| lab.settled())?;
        Ok(lab)
    }

    /// A folder and addresses, no process.
    pub fn empty(options: Options) -> Result<Lab, LabError> {
        let folder = tempfile::Builder::new().prefix("zonekeeper-lab-").tempdir()?;
        let number = 1 + LABS.fetch_add(1, Relaxed);
        let nodes = options.sites.iter().enumerate();
        let nodes = nodes
            .map(|(i, site)| Node { id: 1 + i as u64, site: site.clone(), ip: address(number, i), child: None })
            .collect();
        Ok(Lab { folder, options, nodes, backends: Vec::new(), token: String::new() })
    }

    /// The laboratory's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The admin token.
    pub fn token(&self) -> &str {
        &self.token
    }

    fn keys(&self) -> Result<(), LabError> {
        let nodes: Vec<String> = self.nodes.iter().map(|n| format!("{}={}", n.id, n.site)).collect();
        let keys = self.folder().join("keys");
        let made = Command::new(&self.options.exe)
            .args(["keys", "new"])
            .arg(keys)
            .args(["--nodes", &nodes.join(",")])
            .output()?;
        checked("keys new", made).map(drop)
    }

    fn serve_backends(&mut self) -> Result<(), LabError> {
        for node in &self.nodes {
            let start = |i: usize| {
                let name = format!("{} backend {}", node.site, i + 1);
                let addr = node.at(BACKEND + i as u16);
                Backend::start(addr, &name).map(Some).map_err(|e| LabError(format!("cannot listen on {addr}: {e}")))
            };
            self.backends.push((0..self.options.backends).map(start).collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    /// Starts a sample backend again.
    pub fn revive_backend(&mut self, site: usize, i: usize) -> Result<(), LabError> {
        let node = &self.nodes[site];
        let name = format!("{} backend {}", node.site, i + 1);
        self.backends[site][i] = Some(Backend::start(node.at(BACKEND + i as u16), &name)?);
        Ok(())
    }

    fn write_files(&self) -> Result<(), LabError> {
        for node in &self.nodes {
            fs::write(self.folder().join(format!("node-{}.toml", node.id)), node_file(node))?;
        }
        let dir = self.folder().join("cluster-config");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("example.com.zone"), zone_file(&self.nodes))?;
        fs::write(dir.join("cluster.toml"), self.cluster_file())?;
        Ok(())
    }

    fn cluster_file(&self) -> String {
        let mut t = String::from("[zone.\"example.com\"]\nfile = \"example.com.zone\"\n\n");
        let quoted = |of: &dyn Fn(&Node) -> String| self.nodes.iter().map(of).collect::<Vec<_>>().join(", ");
        for node in &self.nodes {
            t += &format!("[site.{}]\n", node.site);
        }
        let sites = quoted(&|n| format!("{:?}", n.site));
        t += &format!("\n[service.www]\nnames = [{NAME:?}]\npolicy = \"failover\"\nsites = [{sites}]\npool = \"web\"\n");
        t += &self.options.service;
        t += "check = { kind = \"http\", path = \"/\" }\n[service.www.endpoint]\n";
        for node in &self.nodes {
            t += &format!("{} = [\"{}\"]\n", node.site, node.at(HTTP));
        }
        t += "\n[pool.web]\ncheck = { kind = \"tcp\" }\nbackends = [\n";
        for node in &self.nodes {
            for i in 0..self.options.backends {
                t += &format!("  {{ site = {:?}, addr = \"{}\" }},\n", node.site, node.at(BACKEND + i as u16));
            }
        }
        t += "]\n";
        for (name, protocol, port) in [("web", "http", HTTP), ("raw", "tcp", TCP)] {
            let binds = quoted(&|n| format!("{{ site = {:?}, addr = \"{}\" }}", n.site, n.at(port)));
            t += &format!("\n[listener.{name}]\nprotocol = \"{protocol}\"\npool = \"web\"\nbind = [{binds}]\n");
        }
        t
    }

    fn log(&self, i: usize) -> PathBuf {
        self.folder().join(format!("node-{}.log", self.nodes[i].id))
    }

    /// Starts a node's process.
    pub fn spawn(&mut self, i: usize, more: &[&str]) -> Result<(), LabError> {
        let log = File::options().create(true).append(true).open(self.log(i))?;
        let node = &mut self.nodes[i];
        let file = self.folder.path().join(format!("node-{}.toml", node.id));
        let child = Command::new(&self.options.exe)
            .args(["run", "--config"])
            .arg(file)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        node.child = Some(child);
        Ok(())
    }

    fn read_token(&mut self) -> Result<(), LabError> {
        let path = self.folder().join("data-1").join("admin.token");
        self.wait("the first node founds the cluster", Duration::from_secs(30), |lab| {
            fs::read_to_string(&path).is_ok_and(|t| t.ends_with('\n')) && lab.ready(0)
        })?;
        self.token = fs::read_to_string(path)?.trim().to_owned();
        Ok(())
    }

    /// Whether a node says that it is ready.
    pub fn ready(&self, i: usize) -> bool {
        http::get(self.nodes[i].at(ADMIN), "/readyz", SHORT).is_ok_and(|a| a.status == 200)
    }

    /// Starts a node that the cluster does not know yet, adds it and makes it a voter.
    pub fn add(&mut self, i: usize) -> Result<(), LabError> {
        self.spawn(i, &["--new"])?;
        let node = &self.nodes[i];
        let (id, site, peer) = (node.id, node.site.clone(), node.at(PEER).to_string());
        self.wait("the new node listens", Duration::from_secs(20), |lab| {
            http::get(lab.nodes[i].at(ADMIN), "/healthz", SHORT).is_ok()
        })?;
        self.post(0, "/v1/members", &json!({"id": id, "site": site, "peer": peer}))?;
        self.post(0, &format!("/v1/members/{id}/promote"), &json!({}))?;
        Ok(())
    }

    /// Applies the laboratory's configuration folder through the first running node.
    pub fn apply(&self) -> Result<(), LabError> {
        let dir = self.folder().join("cluster-config");
        let dir = dir.to_string_lossy().into_owned();
        self.cli(&["apply", "--yes", &dir]).map(drop)
    }

    /// Runs a client command of the binary against the first running node.
    pub fn cli(&self, args: &[&str]) -> Result<String, LabError> {
        let node = self.nodes.iter().find(|n| n.runs()).ok_or_else(|| LabError("no node runs".into()))?;
        let done = Command::new(&self.options.exe)
            .args(args)
            .env("ZONEKEEPER_ADMIN", format!("http://{}", node.at(ADMIN)))
            .env("ZONEKEEPER_TOKEN", &self.token)
            .stdin(Stdio::null())
            .output()?;
        checked(&args.join(" "), done)
    }

    /// `GET` from a node's admin API.
    pub fn get(&self, i: usize, path: &str) -> Result<Value, LabError> {
        self.call(i, "GET", path, None)
    }

    /// `POST` to a node's admin API.
    pub fn post(&self, i: usize, path: &str, body: &Value) -> Result<Value, LabError> {
        self.call(i, "POST", path, Some(body))
    }

    fn call(&self, i: usize, method: &str, path: &str, body: Option<&Value>) -> Result<Value, LabError> {
        let addr = self.nodes[i].at(ADMIN);
        let answer = http::request(addr, method, path, Some(&self.token), body, Duration::from_secs(60))?;
        if !(200..300).contains(&answer.status) {
            let text = String::from_utf8_lossy(&answer.body);
            return Err(LabError(format!("{method} {path} at node {}: {} {text}", i + 1, answer.status)));
        }
        Ok(if answer.body.is_empty() { Value::Null } else { answer.json()? })
    }

    /// SIGKILL: the process is gone, its sockets are closed by the kernel.
    pub fn kill(&mut self, i: usize) -> Result<Instant, LabError> {
        let Some(mut child) = self.nodes[i].child.take() else { return Ok(Instant::now()) };
        let at = Instant::now();
        child.kill()?;
        child.wait()?;
        Ok(at)
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self, i: usize) -> Result<(), LabError> {
        let Some(mut child) = self.nodes[i].child.take() else { return Ok(()) };
        process::send(&child, process::Signal::Terminate);
        let end = Instant::now() + Duration::from_secs(20);
        while child.try_wait()?.is_none() {
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                return Err(LabError(format!("node {} did not stop within 20 s{}", i + 1, self.tails())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub fn pause(&self, i: usize, pause: bool) {
        if let Some(child) = &self.nodes[i].child {
            process::send(child, if pause { process::Signal::Stop } else { process::Signal::Continue });
        }
    }

    /// Starts a node that ran before.
    pub fn restart(&mut self, i: usize) -> Result<Instant, LabError> {
        let at = Instant::now();
        self.spawn(i, &[])?;
        Ok(at)
    }

    /// The index of the node that leads, as another running node sees it.
    pub fn leader(&self) -> Option<usize> {
        let seen = self.nodes.iter().enumerate().filter(|(_, n)| n.runs()).find_map(|(i, _)| {
            self.get(i, "/v1/cluster").ok()?["data"]["leader"].as_u64()
        })?;
        self.nodes.iter().position(|n| n.id == seen)
    }

    /// Hands leadership over and waits for it.
    pub fn lead(&self, i: usize) -> Result<(), LabError> {
        if self.leader() == Some(i) {
            return Ok(());
        }
        self.post(i, &format!("/v1/members/{}/lead", self.nodes[i].id), &json!({}))?;
        self.wait("leadership moves", Duration::from_secs(10), |lab| lab.leader() == Some(i))
    }

    /// Sites that are answered for the service, as node `i` holds them.
    pub fn answered(&self, i: usize) -> Vec<String> {
        let service = self.get(i, "/v1/services/www").unwrap_or_default();
        let sites = service["data"]["lanes"][0]["answered"].as_array().cloned().unwrap_or_default();
        sites.iter().filter_map(|s| s.as_str().map(String::from)).collect()
    }

    /// Every running node answers the first site, which is up, and every observer sees every endpoint green.
    pub fn settled(&self) -> bool {
        let first = [self.nodes[0].site.clone()];
        let running = || self.nodes.iter().enumerate().filter(|(_, n)| n.runs());
        running().all(|(i, _)| self.answered(i) == first) && running().all(|(i, _)| self.green(i))
    }

    /// As node `i` has heard: each endpoint is held up, and green from every other running node.
    fn green(&self, i: usize) -> bool {
        let evidence = self.get(i, "/v1/evidence").unwrap_or_default();
        let observers = self.nodes.iter().filter(|n| n.runs()).count();
        let targets = evidence["data"]["targets"].as_array().cloned().unwrap_or_default();
        targets.len() == self.nodes.len()
            && targets.iter().all(|t| {
                let verdicts = t["verdicts"].as_array().cloned().unwrap_or_default();
                let green = verdicts.iter().filter(|v| v["colour"] == "green").count();
                t["held"] != "down" && green + 1 >= observers && green == verdicts.len()
            })
    }

    /// Waits until something holds; says what did not, with the end of each node's log.
    pub fn wait(&self, what: &str, within: Duration, holds: impl Fn(&Lab) -> bool) -> Result<(), LabError> {
        let end = Instant::now() + within;
        while !holds(self) {
            if Instant::now() > end {
                return Err(LabError(format!("waited {within:?} in vain: {what}{}", self.tails())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The last lines of each node's log.
    pub fn tails(&self) -> String {
        let mut text = String::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let log = fs::read_to_string(self.log(i)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n  ");
            text += &format!("\nnode {} ({}) said last:\n  {last}", node.id, node.site);
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// A call that should be answered at once.
const SHORT: Duration = Duration::from_millis(500);

fn checked(what: &str, done: Output) -> Result<String, LabError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(LabError(format!("`zonekeeper {what}`: {} {}", text(&done.stdout), text(&done.stderr)))),
    }
}

fn node_file(node: &Node) -> String {
    format!(
        "id = {id}\nsite = {site:?}\ndata_dir = \"data-{id}\"\nkeys_dir = \"keys/node-{id}\"\n\n\
         [peer]\nlisten = \"{peer}\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [dns]\nlisten = [\"{dns}\"]\nworkers = 1\n\n[proxy]\nworkers = 1\n",
        id = node.id,
        site = node.site,
        peer = node.at(PEER),
        admin = node.at(ADMIN),
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
