//! Faults: what they are, in data and in words, and whom they excuse for being left.

use crate::{history::Asked, net::Path, wan::Link};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whom a fault meets. Roles are looked up when it begins, so that a replay meets the same role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// A node by its place, from 1.
    Node(usize),
    /// The node that leads.
    Leader,
    /// A node that does not lead.
    Follower,
    /// The site that is answered.
    Primary,
    /// A site that is not answered and does not lead.
    Standby,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Node(n) => write!(f, "node {n}"),
            Who::Leader => f.write_str("the leader"),
            Who::Follower => f.write_str("a follower"),
            Who::Primary => f.write_str("the answered site"),
            Who::Standby => f.write_str("a standby"),
        }
    }
}

/// Which directions of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Both.
    Both,
    /// What comes from the others to the site.
    In,
    /// What goes from the site to the others.
    Out,
}

/// One fault, or something an operator does in the middle of faults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fault {
    /// SIGKILL; started again at the end.
    Kill {
        /// Whose process.
        who: Vec<Who>,
    },
    /// SIGKILL of all at once; all are started again at the end.
    KillAll,
    /// Killed and started again, over and over.
    Storm {
        /// Whose process.
        who: Who,
        /// From one kill to the next, in milliseconds.
        every_ms: u64,
    },
    /// SIGTERM, an announced restart; started again at the end.
    Drain {
        /// Whose process.
        who: Who,
    },
    /// SIGSTOP; SIGCONT at the end.
    Pause {
        /// Whose process.
        who: Who,
    },
    /// A site is cut off from all others (the judge still reaches it).
    Isolate {
        /// The site.
        who: Who,
        /// Node path, client path or all.
        path: Path,
        /// Which directions.
        way: Way,
    },
    /// Clients from outside do not reach a site's services; all nodes do.
    Hide {
        /// The site.
        who: Who,
    },
    /// Two sites do not reach each other.
    Cut {
        /// One of them.
        a: Who,
        /// The other.
        b: Who,
        /// Node path, client path or all.
        path: Path,
        /// As `a` sees it.
        way: Way,
    },
    /// The leader reaches one other node only, which reaches everybody.
    Bridge,
    /// A link that goes away and comes back.
    Flap {
        /// One end.
        a: Who,
        /// The other.
        b: Who,
        /// Half a period, in milliseconds.
        every_ms: u64,
    },
    /// Packets between sites are lost at random.
    Loss {
        /// Of 1000.
        per_mille: u32,
    },
    /// Links between sites become like this. Needs the forwarder.
    Weather {
        /// What each link is like.
        link: Link,
    },
    /// All backends of a site die while its node lives.
    Backends {
        /// The site.
        who: Who,
    },
    /// A node's disk is full; at the end there is room again and the node is restarted.
    FullDisk {
        /// Whose disk.
        who: Who,
    },
    /// A node's disk takes longer for each fsync.
    SlowDisk {
        /// Whose disk.
        who: Who,
        /// By so many milliseconds.
        ms: u32,
    },
    /// A node's fsyncs fail (EIO); at the end they work again and the node is restarted.
    FailingFsync {
        /// Whose disk.
        who: Who,
    },
    /// A node gets no new descriptor: no connection is accepted or made, no file opened.
    Starve {
        /// Whose descriptors.
        who: Who,
    },
    /// A node loses its power: what its disk does not hold yet is gone. Started again at the end.
    PowerCut {
        /// Whose power.
        who: Who,
    },
    /// A node's clocks run too fast, the monotonic one too.
    Drift {
        /// Whose clocks.
        who: Who,
        /// By so many millionths; negative: too slow.
        ppm: i32,
    },
    /// So many records are written at once, enough for a snapshot: who was away meanwhile must get it.
    Flood {
        /// Records.
        writes: usize,
    },
    /// A node's wall clock jumps, and back at the end.
    Clock {
        /// Whose clock.
        who: Who,
        /// By so many seconds.
        seconds: i64,
    },
    /// Leadership is handed over.
    Lead {
        /// To whom.
        to: Who,
    },
    /// A voter is demoted; promoted again at the end.
    Demote {
        /// Which.
        who: Who,
    },
    /// A zone of so many names is imported; removed at the end.
    Import {
        /// Names.
        names: usize,
    },
    /// Everything ends, and the cluster must heal before the schedule goes on.
    Heal,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill { who } => {
                let who: Vec<String> = who.iter().map(Who::to_string).collect();
                write!(f, "SIGKILL of {}", who.join(" and "))
            }
            Fault::KillAll => f.write_str("SIGKILL of all nodes"),
            Fault::Storm { who, every_ms } => write!(f, "restart storm of {who}, every {every_ms} ms"),
            Fault::Drain { who } => write!(f, "announced restart (SIGTERM) of {who}"),
            Fault::Pause { who } => write!(f, "SIGSTOP of {who}"),
            Fault::Isolate { who, path, way } => write!(f, "{who} is cut off{}", words(*path, *way)),
            Fault::Hide { who } => write!(f, "clients from outside do not reach {who}"),
            Fault::Cut { a, b, path, way } => {
                write!(f, "{a} and {b} are cut off from each other{}", words(*path, *way))
            }
            Fault::Bridge => f.write_str("the leader reaches only one node, which reaches all"),
            Fault::Flap { a, b, every_ms } => write!(f, "the link of {a} and {b} flaps every {every_ms} ms"),
            Fault::Loss { per_mille } => {
                write!(f, "{}.{} % of packets between sites are lost", per_mille / 10, per_mille % 10)
            }
            Fault::Weather { link } => {
                write!(f, "links: {} ms one way, {} ms jitter", link.delay_ms, link.jitter_ms)?;
                if link.loss > 0 {
                    write!(
                        f,
                        ", {} % loss in bursts of {} ms every {} ms",
                        link.loss / 10,
                        link.bad_ms,
                        link.good_ms
                    )?;
                }
                if link.reorder > 0 {
                    write!(f, ", {} of 1000 packets overtake", link.reorder)?;
                }
                Ok(())
            }
            Fault::Backends { who } => write!(f, "the backends of {who} die"),
            Fault::FullDisk { who } => write!(f, "the disk of {who} is full"),
            Fault::SlowDisk { who, ms } => write!(f, "each fsync of {who} takes {ms} ms longer"),
            Fault::FailingFsync { who } => write!(f, "the fsyncs of {who} fail"),
            Fault::Starve { who } => write!(f, "{who} gets no new descriptor"),
            Fault::PowerCut { who } => write!(f, "{who} loses its power"),
            Fault::Drift { who, ppm } => write!(f, "the clocks of {who} drift by {ppm} ppm"),
            Fault::Flood { writes } => write!(f, "{writes} records are written at once"),
            Fault::Clock { who, seconds } => write!(f, "the wall clock of {who} jumps by {seconds} s"),
            Fault::Lead { to } => write!(f, "leadership is handed to {to}"),
            Fault::Demote { who } => write!(f, "{who} is demoted to learner"),
            Fault::Import { names } => write!(f, "a zone of {names} names is imported"),
            Fault::Heal => f.write_str("everything heals"),
        }
    }
}

fn words(path: Path, way: Way) -> String {
    let path = match path {
        Path::All => "",
        Path::Node => ", node path only",
        Path::Client => ", client path only",
    };
    let way = match way {
        Way::Both => "",
        Way::In => ", inbound only",
        Way::Out => ", outbound only",
    };
    format!("{path}{way}")
}

/// What must be there for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing beyond processes.
    Nothing,
    /// Network namespaces, so root.
    Namespaces,
    /// A TUN device, so root.
    Forwarder,
    /// A small file system, so root.
    Disk,
    /// The shim for clocks and fsyncs, so a C compiler.
    Shim,
}

impl Fault {
    /// What must be there for it.
    pub fn needs(&self) -> Needs {
        match self {
            Fault::Isolate { .. }
            | Fault::Hide { .. }
            | Fault::Cut { .. }
            | Fault::Bridge
            | Fault::Flap { .. }
            | Fault::Loss { .. } => Needs::Namespaces,
            Fault::Weather { .. } => Needs::Forwarder,
            Fault::FullDisk { .. } | Fault::PowerCut { .. } => Needs::Disk,
            Fault::Clock { .. } | Fault::Drift { .. } => Needs::Shim,
            Fault::SlowDisk { .. } | Fault::FailingFsync { .. } => Needs::Shim,
            _ => Needs::Nothing,
        }
    }
}

/// One line of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// When it begins, in milliseconds since the load began; waits for healing are not counted.
    pub at_ms: u64,
    /// How long it lasts.
    pub lasts_ms: u64,
    /// What happens.
    pub fault: Fault,
}

/// How a fault went in one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Happened {
    /// Its line in the schedule; the greatest number: the driver's own.
    pub step: usize,
    /// What it is, with the roles as they were looked up.
    pub text: String,
    /// Nodes that it met, from 0.
    pub nodes: Vec<usize>,
    /// Directed links that it cut for clients of the service: from, to; by places from 0.
    pub blinded: Vec<(usize, usize)>,
    /// Whether each node that it met may be left: it does not serve, or not for longer than is tolerated.
    pub excuses: bool,
    /// Whether clients from outside do not reach the services of the nodes that it met.
    #[serde(default)]
    pub hidden: bool,
    /// Whether only what comes over a stream may stay without an answer: datagrams need no descriptor.
    #[serde(default)]
    pub streams_only: bool,
    /// From then on, until they answer again, the nodes that it met do not have to answer.
    pub silent_from_us: Option<u64>,
    /// Microseconds since the run began.
    pub from_us: u64,
    /// When it ended.
    pub to_us: u64,
    /// What could not be done, if something could not.
    pub trouble: Option<String>,
}

impl Happened {
    /// Whether it met what this asker asks, in a way that may silence it.
    pub(crate) fn silences(&self, asked: &Asked) -> bool {
        self.nodes.contains(&asked.node) && (asked.over != "udp" || !self.streams_only)
    }
}
