//! A cluster of real processes on loopback: keys, configuration, start, kill, restart.
//!
//! Each site has an address of its own in 127.0.0.0/8, so that every site uses the same ports and two laboratories do
//! not meet; or a network namespace of its own (see [`crate::net`]), where it can be cut off. Everything is done as an
//! operator does it: with the binary's commands and its admin API.

mod files;
mod talk;

use crate::{backend::Backend, net::Net, process};
use serde_json::json;
use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
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
    /// Names of the sites, one for each node. A name that stands again is a further node of that site.
    pub sites: Vec<String>,
    /// How many of the nodes are a cluster from the start; the others have files and keys, and wait for [`Lab::add`].
    pub founders: usize,
    /// Sample backends per site.
    pub backends: usize,
    /// More lines for the service `www`, in TOML.
    pub service: String,
    /// Its check, in TOML.
    pub check: String,
    /// More cluster configuration, in TOML; `{SITE}` stands for that site's address.
    pub more: String,
    /// More records of the zone `example.com`.
    pub records: String,
    /// Nodes, by index, that only vote and observe: they have no DNS and no proxy, and their site no endpoint unless
    /// another node stands there.
    pub witnesses: Vec<usize>,
    /// Nodes, by index, that [`Lab::add`] leaves learners.
    pub learners: Vec<usize>,
    /// More arguments of `keys new`.
    pub keys: Vec<String>,
    /// Where the sites stand; none: on loopback.
    pub net: Option<Arc<Net>>,
    /// Environment of the nodes' processes; `{ID}` stands for the node's id and `{FOLDER}` for the laboratory's folder.
    pub env: Vec<(String, String)>,
}

impl Options {
    /// Three sites with two backends each. A site that was down comes back after two seconds of health, so that a
    /// script need not wait long; everything else is the default.
    pub fn new(exe: PathBuf) -> Options {
        Options {
            exe,
            sites: ["fra", "ams", "iad"].map(String::from).to_vec(),
            founders: 3,
            backends: 2,
            service: "hold_down = \"2s\"\nhold_down_max = \"2s\"\nfailback_after = \"2s\"\n".into(),
            check: "{ kind = \"http\", path = \"/\" }".into(),
            more: String::new(),
            records: String::new(),
            witnesses: Vec::new(),
            learners: Vec::new(),
            keys: Vec::new(),
            net: None,
            env: Vec::new(),
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

/// An error once a signal has come that ends the program.
pub(crate) fn not_interrupted() -> Result<(), LabError> {
    if process::interrupted() { Err(LabError("interrupted".into())) } else { Ok(()) }
}

/// One node of the laboratory.
pub struct Node {
    /// Raft id, from 1.
    pub id: u64,
    /// Its site.
    pub site: String,
    /// Its site's address.
    pub ip: IpAddr,
    /// It votes and observes only.
    pub witness: bool,
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
    mounts: Vec<PathBuf>,
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
        progress("keys");
        lab.prepare()?;
        lab.found(progress)?;
        Ok(lab)
    }

    /// What [`Lab::start`] does once everything is prepared.
    pub fn found(&mut self, progress: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        let count = self.options.founders.min(self.nodes.len());
        progress("first node");
        self.spawn(0, &["--bootstrap"])?;
        self.read_token()?;
        for i in 1..count {
            progress(&format!("node {} joins", i + 1));
            self.add(i)?;
        }
        progress("configuration");
        self.apply()?;
        progress("health");
        self.wait("every node answers for the first site", Duration::from_secs(60), |lab| {
            if count == lab.nodes.len() {
                lab.settled()
            } else {
                (0..count).all(|i| lab.answered(i).len() == 1)
            }
        })
    }

    /// Makes keys, backends and files; starts no node.
    pub fn prepare(&mut self) -> Result<(), LabError> {
        self.keys()?;
        self.serve_backends()?;
        files::write(self.folder.path(), &self.nodes, &self.options)
    }

    /// A folder and addresses, no process.
    pub fn empty(options: Options) -> Result<Lab, LabError> {
        let folder = tempfile::Builder::new().prefix("zonekeeper-lab-").tempdir()?;
        let number = 1 + LABS.fetch_add(1, Relaxed);
        let nodes = options.sites.iter().enumerate();
        let nodes = nodes
            .map(|(i, site)| {
                let ip = options.net.as_ref().map_or_else(|| address(number, i), |net| net.address(i));
                let witness = options.witnesses.contains(&i);
                Node { id: 1 + i as u64, site: site.clone(), ip, witness, child: None }
            })
            .collect();
        Ok(Lab { folder, options, nodes, backends: Vec::new(), token: String::new(), mounts: Vec::new() })
    }

    /// The laboratory's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder when the laboratory goes, for someone to read the nodes' logs; its path.
    pub fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder()
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
            .args(&self.options.keys)
            .output()?;
        checked("keys new", made).map(drop)
    }

    fn serve_backends(&mut self) -> Result<(), LabError> {
        for node in 0..self.nodes.len() {
            let start = |i: usize| self.start_backend(node, i).map(Some);
            self.backends.push((0..self.options.backends).map(start).collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    fn start_backend(&self, node: usize, i: usize) -> Result<Backend, LabError> {
        let name = format!("{} backend {}", self.nodes[node].site, i + 1);
        self.serve(node, self.nodes[node].at(BACKEND + i as u16), &name)
    }

    /// Starts a backend at a node's place, on any address that is there.
    pub fn serve(&self, node: usize, addr: SocketAddr, name: &str) -> Result<Backend, LabError> {
        let started = match &self.options.net {
            None => Backend::start(addr, name),
            Some(net) => net.at_site(node, || Backend::start(addr, name))?,
        };
        started.map_err(|e| LabError(format!("cannot listen on {addr}: {e}")))
    }

    /// Starts a sample backend again.
    pub fn revive_backend(&mut self, site: usize, i: usize) -> Result<(), LabError> {
        self.backends[site][i] = Some(self.start_backend(site, i)?);
        Ok(())
    }

    /// Where a node's output goes.
    pub fn log(&self, i: usize) -> PathBuf {
        self.folder().join(format!("node-{}.log", self.nodes[i].id))
    }

    /// Starts a node's process.
    pub fn spawn(&mut self, i: usize, more: &[&str]) -> Result<(), LabError> {
        let log = File::options().create(true).append(true).open(self.log(i))?;
        let mut command = self.node_command(i, "run", more);
        self.nodes[i].child = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// A command of the binary at node `i`, about its node file.
    fn node_command(&self, i: usize, verb: &str, more: &[&str]) -> Command {
        let mut command = match &self.options.net {
            None => Command::new(&self.options.exe),
            Some(net) => net.command(i, &self.options.exe),
        };
        command.args([verb, "--config"]).arg(self.file(i)).args(more).stdin(Stdio::null());
        for (name, value) in &self.options.env {
            let folder = self.folder().to_string_lossy();
            let value = value.replace("{ID}", &self.nodes[i].id.to_string()).replace("{FOLDER}", &folder);
            command.env(name, value);
        }
        command
    }

    /// A command of the binary about node `i` while it stands still, as `recover`; what it said, or its complaint.
    pub fn offline(&self, i: usize, verb: &str, more: &[&str]) -> Result<String, LabError> {
        checked(verb, self.node_command(i, verb, more).output()?)
    }

    /// A node's own file.
    pub fn file(&self, i: usize) -> PathBuf {
        self.folder().join(format!("node-{}.toml", self.nodes[i].id))
    }

    /// A node's data directory.
    pub fn data(&self, i: usize) -> PathBuf {
        self.folder().join(format!("data-{}", self.nodes[i].id))
    }

    /// Runs `run` where it should refuse; the text that it ended with.
    pub fn refused(&mut self, i: usize, more: &[&str]) -> Result<String, LabError> {
        let mut child =
            self.node_command(i, "run", more).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let end = Instant::now() + Duration::from_secs(20);
        while child.try_wait()?.is_none() {
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                return Err(LabError(format!("node {} runs, although it should refuse to", i + 1)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let done = child.wait_with_output()?;
        match done.status.success() {
            true => Err(LabError(format!("node {} ended without an error", i + 1))),
            false => Ok(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    /// Gives a node a disk of its own of so many MiB, before its first start. Needs root.
    pub fn small_disk(&mut self, i: usize, mib: usize) -> Result<(), LabError> {
        let dir = self.data(i);
        fs::create_dir_all(&dir)?;
        let size = format!("size={mib}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).output()?;
        checked("mount", done)?;
        self.mounts.push(dir);
        Ok(())
    }

    /// Gives a node a disk of its own of so many MiB, before its first start: ext4 in a file, from which a power cut can
    /// take what was not synced. Needs root.
    pub fn loop_disk(&mut self, i: usize, mib: u64) -> Result<(), LabError> {
        let (dir, image) = (self.data(i), self.image(i));
        fs::create_dir_all(&dir)?;
        File::create(&image)?.set_len(mib << 20)?;
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image).output()?;
        checked("mkfs.ext4", made)?;
        mount(&image, &dir)?;
        self.mounts.push(dir);
        Ok(())
    }

    fn image(&self, i: usize) -> PathBuf {
        self.folder().join(format!("disk-{}.img", self.nodes[i].id))
    }

    /// A node loses its power: its disk holds what was written out to it at this moment, and nothing of what the kernel
    /// still had in memory. The process stands still for the copy: a disk that changes while it is copied gives one with
    /// an old beginning and a new end, which no power cut leaves.
    pub fn power_cut(&mut self, i: usize) -> Result<(), LabError> {
        let (dir, image) = (self.data(i), self.image(i));
        let copy = image.with_extension("cut");
        self.pause(i, true);
        let mut quiet = false;
        for _ in 0..20 {
            let copied = Command::new("cp").arg("--sparse=always").arg(&image).arg(&copy).output()?;
            checked("cp", copied)?;
            quiet = Command::new("cmp").arg("-s").arg(&image).arg(&copy).status()?.success();
            if quiet {
                break;
            }
        }
        self.kill(i)?;
        if !quiet {
            return Err(LabError(format!("the disk of node {} is never quiet", i + 1)));
        }
        checked("umount", Command::new("umount").arg("-l").arg(&dir).output()?)?;
        fs::rename(&copy, &image)?;
        mount(&image, &dir)
    }

    /// `zonekeeper join`: node `i` gets its keys from node `via` with a token, then runs.
    pub fn join(&mut self, i: usize, via: usize, token: &str) -> Result<(), LabError> {
        let via = self.nodes[via].at(PEER).to_string();
        let done = self.node_command(i, "join", &["--via", &via, "--token", token]).output()?;
        checked("join", done)?;
        self.spawn(i, &[])
    }

    /// Waits until the first node runs, and takes the token that its data directory holds.
    pub fn read_token(&mut self) -> Result<(), LabError> {
        let path = self.folder().join("data-1").join("admin.token");
        self.wait("the first node founds the cluster", Duration::from_secs(30), |lab| {
            fs::read_to_string(&path).is_ok_and(|t| t.ends_with('\n')) && lab.ready(0)
        })?;
        self.token = fs::read_to_string(path)?.trim().to_owned();
        Ok(())
    }

    /// Starts a node that the cluster does not know yet, adds it and makes it a voter, unless it is to stay a learner.
    pub fn add(&mut self, i: usize) -> Result<(), LabError> {
        self.spawn(i, &["--new"])?;
        let node = &self.nodes[i];
        let (id, site, peer) = (node.id, node.site.clone(), node.at(PEER).to_string());
        let duty = if node.witness { "witness" } else { "full" };
        self.wait("the new node listens", Duration::from_secs(20), |lab| lab.lives(i))?;
        self.post(0, "/v1/members", &json!({"id": id, "site": site, "duty": duty, "peer": peer}))?;
        if !self.options.learners.contains(&i) {
            self.post(0, &format!("/v1/members/{id}/promote"), &json!({}))?;
        }
        Ok(())
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

    /// SIGTERM; [`Lab::stop`] waits for the end.
    pub fn terminate(&self, i: usize) {
        if let Some(child) = &self.nodes[i].child {
            process::send(child, process::Signal::Terminate);
        }
    }

    /// SIGSTOP or SIGCONT.
    pub fn pause(&self, i: usize, pause: bool) {
        if let Some(child) = &self.nodes[i].child {
            process::send(child, if pause { process::Signal::Stop } else { process::Signal::Continue });
        }
    }

    /// Takes from a node the right to new descriptors, or gives it back. One that has just been started gets the time to
    /// be up: without descriptors it would not start at all, and nobody restarts it here as a supervisor would. False
    /// when it did not come up.
    pub fn starve(&self, i: usize, starve: bool) -> Result<bool, LabError> {
        let up = || self.lives(i).then_some(());
        if starve && self.poll(Duration::from_secs(5), Duration::from_millis(100), up)?.is_none() {
            return Ok(false);
        }
        let Some(child) = &self.nodes[i].child else { return Ok(!starve) };
        process::starve(child, starve)?;
        Ok(true)
    }

    /// Starts a node that ran before.
    pub fn restart(&mut self, i: usize) -> Result<Instant, LabError> {
        let at = Instant::now();
        self.spawn(i, &[])?;
        Ok(at)
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
        for dir in &self.mounts {
            // at once, though an fsync of a killed node may still hold it
            let _ = Command::new("umount").arg("-l").arg(dir).status();
        }
    }
}

fn mount(image: &Path, dir: &Path) -> Result<(), LabError> {
    checked("mount", Command::new("mount").args(["-o", "loop"]).arg(image).arg(dir).output()?).map(drop)
}

fn checked(what: &str, done: Output) -> Result<String, LabError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(LabError(format!("`{what}`: {} {}", text(&done.stdout), text(&done.stderr)))),
    }
}
