//! What a laboratory asks its nodes, and what it waits for: the admin API, the command line, levels.

use super::{ADMIN, Lab, LabError, Node, checked, files::first_of_each_site, not_interrupted};
use crate::http;
use serde_json::{Value, json};
use std::{
    fs, io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A call that should be answered at once.
const SHORT: Duration = Duration::from_millis(500);

impl Lab {
    /// Whether a node says that it is ready.
    pub fn ready(&self, i: usize) -> bool {
        http::get(self.nodes[i].at(ADMIN), "/readyz", SHORT).is_ok_and(|a| a.status == 200)
    }

    /// Whether a node's API answers at all.
    pub fn lives(&self, i: usize) -> bool {
        http::get(self.nodes[i].at(ADMIN), "/healthz", SHORT).is_ok()
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

    /// One request to a node's admin API, whatever comes back.
    pub fn request(
        &self,
        i: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<http::Answer> {
        http::request(self.nodes[i].at(ADMIN), method, path, Some(&self.token), body, Duration::from_secs(60))
    }

    /// `GET` from a node's admin API.
    pub fn get(&self, i: usize, path: &str) -> Result<Value, LabError> {
        self.call(i, "GET", path, None)
    }

    /// `POST` to a node's admin API.
    pub fn post(&self, i: usize, path: &str, body: &Value) -> Result<Value, LabError> {
        self.call(i, "POST", path, Some(body))
    }

    /// `PUT` to a node's admin API.
    pub fn put(&self, i: usize, path: &str, body: &Value) -> Result<Value, LabError> {
        self.call(i, "PUT", path, Some(body))
    }

    fn call(&self, i: usize, method: &str, path: &str, body: Option<&Value>) -> Result<Value, LabError> {
        let answer = self.request(i, method, path, body)?;
        if !(200..300).contains(&answer.status) {
            let text = String::from_utf8_lossy(&answer.body);
            return Err(LabError(format!("{method} {path} at node {}: {} {text}", i + 1, answer.status)));
        }
        Ok(if answer.body.is_empty() { Value::Null } else { answer.json()? })
    }

    /// The index of the node that leads, as another running node sees it.
    pub fn leader(&self) -> Option<usize> {
        let seen = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| n.runs())
            .find_map(|(i, _)| self.get(i, "/v1/cluster").ok()?["data"]["leader"].as_u64())?;
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

    /// As node `i` has heard: each endpoint is held up, and green from every running voter of the other sites. A node
    /// without a vote hears no reports.
    fn green(&self, i: usize) -> bool {
        let evidence = self.get(i, "/v1/evidence").unwrap_or_default();
        let voters = self.get(i, "/v1/cluster").unwrap_or_default()["data"]["voters"].clone();
        let votes = |n: &Node| voters.as_array().is_some_and(|v| v.contains(&n.id.into()));
        if voters.is_array() && !votes(&self.nodes[i]) {
            return true;
        }
        let mut targets = evidence["data"]["targets"].as_array().cloned().unwrap_or_default();
        targets.retain(|t| t["service"] == "www");
        targets.len() == first_of_each_site(&self.nodes).len()
            && targets.iter().all(|t| {
                let others = |n: &&Node| n.runs() && votes(n) && t["site"] != *n.site;
                let observers = self.nodes.iter().filter(others).count();
                let verdicts = t["verdicts"].as_array().cloned().unwrap_or_default();
                let green = verdicts.iter().filter(|v| v["colour"] == "green").count();
                t["held"] != "down" && green >= observers && green == verdicts.len()
            })
    }

    /// Waits until something holds; says what did not, with the end of each node's log.
    pub fn wait(&self, what: &str, within: Duration, holds: impl Fn(&Lab) -> bool) -> Result<(), LabError> {
        let done = self.poll(within, Duration::from_millis(20), || holds(self).then_some(()))?;
        done.ok_or_else(|| LabError(format!("waited {within:?} in vain: {what}{}", self.tails())))
    }

    /// Looks every so often, at most for so long.
    pub fn poll<T>(
        &self,
        within: Duration,
        every: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>, LabError> {
        let end = Instant::now() + within;
        loop {
            not_interrupted()?;
            let seen = look();
            if seen.is_some() || Instant::now() > end {
                return Ok(seen);
            }
            std::thread::sleep(every);
        }
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
