//! Makes faults happen to a laboratory. At any moment the faults that last say together what should be: who is down,
//! who stands still, which packets are dropped. [`Stage::settle`] makes it so.

mod deeds;
mod wants;

use crate::{
    fault::{Fault, Happened, Needs, Step, Who},
    lab::{Lab, LabError, not_interrupted},
    net::Net,
    shim::Told,
    wan::{Link, Wan},
    watch::Watch,
};
use deeds::Deeds;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    sync::Arc,
    time::Instant,
};
use wants::Wants;

/// A fault that lasts, with the roles looked up.
struct Active {
    happened: usize,
    fault: Fault,
    /// Nodes that it meets; of a pair the first is `a`.
    nodes: Vec<usize>,
    from_us: u64,
    ends_us: u64,
}

/// Where faults happen.
pub struct Stage<'a> {
    /// The laboratory.
    pub lab: &'a mut Lab,
    watch: &'a Watch,
    net: Option<Arc<Net>>,
    wan: Option<&'a Wan>,
    /// What the links are like without weather.
    link: Link,
    start: Instant,
    active: Vec<Active>,
    /// Everything that happened.
    pub happened: Vec<Happened>,
    now: Wants,
    /// What each node's shim was told.
    told: Vec<Told>,
    deeds: Deeds,
    /// What restarts now: the events last until it is done.
    restarting: Vec<usize>,
    able: BTreeSet<Needs>,
}

impl<'a> Stage<'a> {
    /// A stage on which nothing has happened yet; `able` says what this machine can do.
    pub fn new(
        lab: &'a mut Lab,
        watch: &'a Watch,
        net: Option<Arc<Net>>,
        wan: Option<(&'a Wan, Link)>,
        start: Instant,
        able: BTreeSet<Needs>,
    ) -> Stage<'a> {
        let deeds = Deeds::new(lab, start);
        let (wan, link) = wan.unzip();
        let told = vec![Told::default(); lab.nodes.len()];
        let (active, happened, now, restarting) = Default::default();
        Stage {
            lab,
            watch,
            net,
            wan,
            link: link.unwrap_or_default(),
            start,
            active,
            happened,
            now,
            told,
            deeds,
            restarting,
            able,
        }
    }

    fn us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// The node that has this role now, if one has it.
    pub fn find(&self, who: Who) -> Option<usize> {
        let last = self.watch.last();
        let runs = |i: &usize| {
            self.lab.nodes[*i].runs() && !self.now.paused.contains(i) && !last[*i].role.is_empty()
        };
        let all = || (0..last.len()).filter(runs);
        let leader = || all().filter(|i| last[*i].role == "leader").max_by_key(|i| last[*i].term);
        let primary = || {
            let by = leader().or_else(|| all().max_by_key(|i| last[*i].epoch))?;
            let site = last[by].answered.first()?;
            self.lab.nodes.iter().position(|n| n.site == *site)
        };
        match who {
            Who::Node(n) => (1..=last.len()).contains(&n).then(|| n - 1),
            Who::Leader => leader(),
            Who::Follower => all().find(|i| Some(*i) != leader()),
            Who::Primary => primary(),
            Who::Standby => all().find(|i| Some(*i) != leader() && Some(*i) != primary()),
        }
    }

    /// A fault begins.
    pub fn begin(&mut self, number: usize, step: &Step) -> Result<(), LabError> {
        let (from_us, fault) = (self.us(), step.fault.clone());
        let ends_us = from_us + step.lasts_ms * 1000;
        let (nodes, missing) = self.cast(&fault);
        let mut happened = Happened {
            step: number,
            text: fault.to_string(),
            excuses: excuses(&fault, step.lasts_ms),
            silent_from_us: silences(&fault).then_some(from_us),
            hidden: matches!(fault, Fault::Hide { .. }),
            streams_only: matches!(fault, Fault::Starve { .. }),
            blinded: Vec::new(),
            nodes: nodes.clone(),
            from_us,
            to_us: ends_us,
            trouble: None,
        };
        let sites: Vec<&str> = nodes.iter().map(|i| self.lab.nodes[*i].site.as_str()).collect();
        if !sites.is_empty() {
            happened.text += &format!(": {}", sites.join(", "));
        }
        let cannot =
            (!self.able.contains(&fault.needs())).then(|| format!("this machine lacks {:?}", fault.needs()));
        happened.trouble = cannot.or(missing);
        let place = self.happened.len();
        let skipped = happened.trouble.is_some();
        self.happened.push(happened);
        if skipped {
            return Ok(());
        }
        if let Some(deed) = deeds::of(&fault, &nodes) {
            self.deeds.begin(place, deed);
        }
        self.active.push(Active { happened: place, fault, nodes, from_us, ends_us });
        let blinded = wants::blinded(&self.wants_of(self.active.len() - 1));
        self.happened[place].blinded = blinded;
        self.settle()
    }

    /// Looks the roles up; what is missing, if something is.
    fn cast(&self, fault: &Fault) -> (Vec<usize>, Option<String>) {
        let who: Vec<Who> = match fault {
            Fault::Kill { who } => who.clone(),
            Fault::Storm { who, .. } | Fault::Drain { who } | Fault::Pause { who } => vec![*who],
            Fault::Isolate { who, .. } | Fault::Hide { who } | Fault::Backends { who } => vec![*who],
            Fault::FullDisk { who } => vec![*who],
            Fault::Clock { who, .. } | Fault::Demote { who } | Fault::Lead { to: who } => vec![*who],
            Fault::SlowDisk { who, .. } | Fault::Drift { who, .. } => vec![*who],
            Fault::FailingFsync { who } | Fault::PowerCut { who } | Fault::Starve { who } => vec![*who],
            Fault::Cut { a, b, .. } | Fault::Flap { a, b, .. } => vec![*a, *b],
            Fault::Bridge => vec![Who::Leader, Who::Follower],
            Fault::KillAll => return ((0..self.lab.nodes.len()).collect(), None),
            Fault::Loss { .. } | Fault::Weather { .. } => return (vec![], None),
            Fault::Import { .. } | Fault::Flood { .. } | Fault::Heal => return (vec![], None),
        };
        let mut nodes = Vec::new();
        for who in who {
            match self.find(who) {
                // two roles at one node: the second is anybody else
                Some(i) if nodes.contains(&i) => {
                    nodes.extend((0..self.lab.nodes.len()).find(|n| !nodes.contains(n)))
                }
                Some(i) => nodes.push(i),
                None => return (nodes, Some(format!("there is no {who}"))),
            }
        }
        (nodes, None)
    }

    /// What changes by itself as time passes: ends, storms, flaps.
    pub fn tick(&mut self) -> Result<(), LabError> {
        not_interrupted()?;
        let now = self.us();
        self.end(|a| a.ends_us <= now)?;
        self.settle()
    }

    /// Whether faults last.
    pub fn busy(&self) -> bool {
        !self.active.is_empty()
    }

    /// Everything ends.
    pub fn heal(&mut self) -> Result<(), LabError> {
        self.end(|_| true)?;
        self.settle()
    }

    /// What an operator does beside it has come to its end.
    pub fn rest(&mut self) {
        for (place, trouble) in self.deeds.finish() {
            self.happened[place].trouble = trouble;
        }
    }

    fn end(&mut self, which: impl Fn(&Active) -> bool) -> Result<(), LabError> {
        let now = self.us();
        for gone in self.active.extract_if(.., |a| which(a)) {
            self.happened[gone.happened].to_us = now;
            let why = match gone.fault {
                Fault::FullDisk { .. } | Fault::FailingFsync { .. } => Some(" on a disk that takes writes"),
                Fault::Drain { .. } => Some(""),
                _ => None,
            };
            if let Some(why) = why {
                let text = format!("restarted{why}: {}", self.lab.nodes[gone.nodes[0]].site);
                let (excuses, silent_from_us, from_us, to_us) = (true, Some(now), now, now + RESTART_US);
                let nodes = gone.nodes.clone();
                let again =
                    Happened { text, nodes, excuses, silent_from_us, from_us, to_us, ..Happened::default() };
                self.restarting.push(self.happened.len());
                self.happened.push(Happened { step: self.happened[gone.happened].step, ..again });
            }
            if let Some(deed) = deeds::undo(&gone.fault, &gone.nodes) {
                self.deeds.begin(gone.happened, deed);
            }
        }
        Ok(())
    }

    fn wants_of(&self, active: usize) -> Wants {
        let a = &self.active[active];
        wants::of(&a.fault, &a.nodes, self.us().saturating_sub(a.from_us) / 1000, self.lab.nodes.len())
    }

    /// Makes what should be, of what is.
    fn settle(&mut self) -> Result<(), LabError> {
        let mut want = Wants::default();
        for i in 0..self.active.len() {
            want.add(self.wants_of(i));
        }
        let was = std::mem::replace(&mut self.now, want);
        self.processes(&was)?;
        let now = self.us();
        for place in self.restarting.drain(..) {
            self.happened[place].to_us = now + RESTART_US; // a program that drains takes its time
        }
        if was.rules != self.now.rules
            && let Some(net) = &self.net
        {
            net.rules(&self.now.rules)?;
        }
        if was.weather != self.now.weather
            && let Some(wan) = self.wan
        {
            let n = self.lab.nodes.len();
            let link = self.now.weather.unwrap_or(self.link);
            (0..n).for_each(|a| (0..a).for_each(|b| wan.set(a, b, link)));
        }
        if was.hidden != self.now.hidden
            && let Some(net) = &self.net
        {
            net.hide(&self.now.hidden.iter().copied().collect::<Vec<_>>())?;
        }
        self.backends(&was)?;
        for i in 0..self.lab.nodes.len() {
            self.told[i].tell(self.lab, i, self.now.wrong(i))?;
        }
        Ok(())
    }

    fn processes(&mut self, was: &Wants) -> Result<(), LabError> {
        for i in 0..self.lab.nodes.len() {
            let (full, filled) = (self.now.full.contains(&i), was.full.contains(&i));
            if full && !filled {
                fill(&self.lab.data(i))?;
            } else if !full && filled {
                match fs::remove_file(self.lab.data(i).join(FILLER)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                    _ => {} // a power cut may have taken it
                }
                self.lab.kill(i)?; // a node whose store failed goes on answering until it is restarted
            }
            if was.wrong(i).fail && !self.now.wrong(i).fail {
                self.lab.kill(i)?; // for the same reason
            }
            let down = self.now.down.contains(&i) || self.now.dark.contains(&i);
            if self.now.dark.contains(&i) && !was.dark.contains(&i) {
                self.lab.power_cut(i)?;
            }
            if down {
                self.lab.kill(i)?;
            } else if self.now.drained.contains(&i) && !was.drained.contains(&i) {
                self.lab.terminate(i);
            } else if !self.now.drained.contains(&i) && was.drained.contains(&i) {
                match was.paused.contains(&i) {
                    true => _ = self.lab.kill(i)?, // what stands still does not stop by itself
                    false => self.lab.stop(i)?,
                }
            }
            let again = !down && !self.now.drained.contains(&i) && !self.lab.nodes[i].runs();
            if again {
                self.lab.restart(i)?;
            }
            let starved = self.now.starved.contains(&i);
            if starved != (was.starved.contains(&i) && !again) && !self.lab.starve(i, starved)? {
                let starves = |a: &&Active| matches!(a.fault, Fault::Starve { .. }) && a.nodes.contains(&i);
                for a in self.active.iter().filter(starves) {
                    self.happened[a.happened].trouble = Some("the node was not up to be starved".into());
                }
            }
            let paused = self.now.paused.contains(&i);
            if paused != (was.paused.contains(&i) && !again) {
                self.lab.pause(i, paused);
            }
        }
        Ok(())
    }

    fn backends(&mut self, was: &Wants) -> Result<(), LabError> {
        for i in 0..self.lab.nodes.len() {
            let (empty, was) = (self.now.emptied.contains(&i), was.emptied.contains(&i));
            for b in 0..self.lab.backends[i].len() {
                if empty && !was {
                    self.lab.backends[i][b] = None;
                } else if !empty && was {
                    self.lab.revive_backend(i, b)?;
                }
            }
        }
        Ok(())
    }
}

/// Killing a process and starting it again takes less than this, on a machine that is busy.
const RESTART_US: u64 = 1_000_000;

/// Pauses shorter than this are tolerated by the default preset (2 s), with room for a signal that is late.
const TOLERATED_MS: u64 = 1_800;

/// Whether the nodes that it meets may be left.
fn excuses(fault: &Fault, lasts_ms: u64) -> bool {
    match fault {
        Fault::Kill { .. } | Fault::KillAll | Fault::Storm { .. } | Fault::PowerCut { .. } => true,
        Fault::Drain { .. } | Fault::Backends { .. } | Fault::Starve { .. } => true,
        Fault::Pause { .. } => lasts_ms >= TOLERATED_MS,
        _ => false,
    }
}

/// Whether the nodes that it meets do not have to answer.
fn silences(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Kill { .. }
            | Fault::KillAll
            | Fault::Storm { .. }
            | Fault::Drain { .. }
            | Fault::Pause { .. }
            | Fault::Starve { .. }
            | Fault::PowerCut { .. }
    )
}

const FILLER: &str = "filler";

/// Writes until there is no room left.
fn fill(dir: &std::path::Path) -> Result<(), LabError> {
    let mut file = fs::File::create(dir.join(FILLER))?;
    for size in [1 << 20, 4096, 1] {
        loop {
            match file.write_all(&vec![0; size]) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::StorageFull => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}
