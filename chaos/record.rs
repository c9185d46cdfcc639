//! The file of a run: everything from which it can be judged, shown and done again.

use crate::{
    check::Finding,
    fault::Happened,
    history::{Asked, Mark, Move, Op, Served, Shown, Verdict},
    plan::Plan,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// Version of the file's form.
pub const FORMAT: u32 = 1;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// What was planned.
    pub plan: Plan,
    /// Where and with what.
    pub setting: Setting,
    /// Sites, in order.
    pub sites: Vec<String>,
    /// Their addresses.
    pub addresses: Vec<String>,
    /// What happened, in order of time.
    pub happened: Vec<Happened>,
    /// When the load began, when the last fault ended, when everything was healed (none: it was not), and the end; in
    /// microseconds since the run began.
    pub phases: Phases,
    /// What each asker saw.
    pub asked: Vec<Asked>,
    /// By node, what the admin API showed.
    pub shown: Vec<Vec<Shown>>,
    /// By node, index and hash at each look.
    pub marks: Vec<Vec<Mark>>,
    /// Verdicts of all nodes.
    pub verdicts: Vec<Verdict>,
    /// Moves of the service.
    pub moves: Vec<Move>,
    /// Operations on registers.
    pub ops: Vec<Op>,
    /// Names written, and whether that was acknowledged.
    pub names: BTreeMap<u64, bool>,
    /// By node, which of these names were there at the end, with their address.
    pub found: Vec<BTreeMap<u64, String>>,
    /// Requests of users.
    pub served: Vec<Served>,
    /// The verdicts.
    pub findings: Vec<Finding>,
    /// The end of each node's log, when something was wrong.
    pub logs: String,
}

/// Where and with what a run was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// `zonekeeper --version`.
    pub zonekeeper: String,
    /// The kernel.
    pub kernel: String,
    /// Processors.
    pub processors: usize,
    /// `network namespaces` or `loopback addresses`.
    pub network: String,
    /// Seconds since 1970.
    pub began_s: u64,
    /// What this machine could not do.
    pub not_tested: Vec<String>,
}

/// Moments of a run, in microseconds since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// The load began.
    pub load_us: u64,
    /// The last fault ended.
    pub calm_us: u64,
    /// Everything was healed; none: it was not.
    pub healed_us: Option<u64>,
    /// The end.
    pub end_us: u64,
}

impl Record {
    /// Whether every check holds.
    pub fn good(&self) -> bool {
        self.findings.iter().all(|f| f.good)
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let file = io::BufWriter::new(fs::File::create(path)?);
        serde_json::to_writer(file, self).map_err(io::Error::other)
    }

    /// Reads a file.
    pub fn read(path: &Path) -> io::Result<Record> {
        let text = fs::read(path)?;
        let bad = |e| io::Error::other(format!("{} is no file of a run: {e}", path.display()));
        serde_json::from_slice(&text).map_err(bad)
    }
}
