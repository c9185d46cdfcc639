//! What clients did and saw, as checkers and reports read it.

use serde::{Deserialize, Serialize};

/// One operation on a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Whose it was; a client does one thing after the other.
    pub client: usize,
    /// The node that was asked.
    pub node: usize,
    /// The register.
    pub key: usize,
    /// What was asked for, and of a read also what came back.
    pub kind: Kind,
    /// When it was called, in microseconds since the run began.
    pub called_us: u64,
    /// When it returned with success; none: its fate is unknown.
    pub returned_us: Option<u64>,
    /// Status of the answer; 0: none came.
    pub status: u16,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Writes a value that no other write has.
    Write(u64),
    /// Reads, linearizably; none: there is no value.
    Read(Option<u64>),
}

/// What one DNS asker saw: changes only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// The node that was asked.
    pub node: usize,
    /// `udp` or `tcp`.
    pub over: String,
    /// `A` or `SOA`.
    pub rtype: String,
    /// Questions, and those of them without an answer.
    pub questions: (u64, u64),
    /// Every change.
    pub changes: Vec<Said>,
}

/// From this moment on a server said this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// When the question went out, in microseconds since the run began.
    pub asked_us: u64,
    /// When the answer (or the timeout) came.
    pub at_us: u64,
    /// The answer; none: silence.
    pub answer: Option<Answer>,
}

/// An answer, as far as the checks need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// RCODE.
    pub rcode: u8,
    /// Addresses.
    pub addrs: Vec<String>,
    /// Serial of a SOA.
    pub serial: Option<u32>,
}

/// What one node's admin API showed: changes only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// When, in microseconds since the run began.
    pub at_us: u64,
    /// `leader`, `follower`, ...; empty: the API did not answer.
    pub role: String,
    /// The leader that it knows, by id.
    pub leader: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// Sites answered for the service.
    pub answered: Vec<String>,
    /// Why these.
    pub basis: String,
    /// Epoch of that assignment: incarnation and index.
    pub epoch: (u32, u64),
    /// What is held of each site.
    pub standing: Vec<(String, String)>,
    /// Alarms.
    pub alarms: Vec<String>,
    /// Why this node abstains.
    pub abstains: Option<String>,
    /// Ids of the voters.
    pub voters: Vec<u64>,
}

/// A node's state at one look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When, in microseconds since the run began.
    pub at_us: u64,
    /// Incarnation of the publication.
    pub incarnation: u32,
    /// Its log index.
    pub index: u64,
    /// Hash of the state.
    pub hash: String,
}

/// A committed decision that moved the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// When it was first seen, in microseconds since the run began.
    pub seen_us: u64,
    /// Where it was first seen.
    pub node: usize,
    /// Incarnation and index.
    pub epoch: (u32, u64),
    /// Log time.
    pub time: String,
    /// `v4` or `v6`.
    pub family: String,
    /// Sites before.
    pub from: Vec<String>,
    /// Sites after.
    pub to: Vec<String>,
    /// `usable`, `drained`, `last-set` or `nothing`.
    pub basis: String,
    /// In words.
    pub cause: String,
    /// What the site said of itself.
    pub own: Option<String>,
    /// Site that the first row of evidence is about.
    pub about: String,
    /// What it concludes: `up`, `degraded` or `down`.
    pub verdict: String,
    /// Votes of the first row.
    pub votes: Vec<Vote>,
    /// Rows of evidence.
    pub rows: usize,
}

/// One site's vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The site.
    pub site: String,
    /// `green`, `yellow`, `red (refused)`, ..., or `abstains`.
    pub vote: String,
}

/// A verdict as the evidence table showed it: changes only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// When, in microseconds since the run began.
    pub at_us: u64,
    /// The node that observes.
    pub observer: usize,
    /// The site that it observes.
    pub site: String,
    /// `green`, `yellow` or `red`.
    pub colour: String,
    /// `refused`, `silent`, ...
    pub kind: String,
}

/// A kind of user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// Asks DNS anew for each request, and comes through the HTTP listener.
    #[default]
    Http,
    /// The same through the TCP listener.
    Tcp,
    /// Has asked once, and goes to the HTTP listener of the first site for ever.
    Frozen,
}

impl User {
    /// All of them.
    pub const ALL: [User; 3] = [User::Http, User::Tcp, User::Frozen];
}

/// One request of a user through a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// When it began, in microseconds since the run began.
    pub at_us: u64,
    /// When it ended.
    pub done_us: u64,
    /// The site that served it; none: it failed.
    pub site: Option<String>,
    /// What kind of user.
    #[serde(default)]
    pub user: User,
}
