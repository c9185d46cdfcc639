//! Executes a plan: builds the laboratory, lets load and faults loose on it, waits for healing, judges.

use crate::{
    check,
    fault::{Fault, Happened, Needs, Who},
    history::Move,
    lab::{HTTP, Lab, LabError, Options, not_interrupted},
    load::{Load, SPARE},
    net::{self, Net},
    plan::Plan,
    record::{FORMAT, Phases, Record, Setting},
    shim,
    stage::Stage,
    wan::{Link, Wan},
    watch::Watch,
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

/// Names of sites; the first ones are used.
const SITES: [&str; 7] = ["fra", "ams", "iad", "sin", "gru", "syd", "nrt"];
/// From one look of the driver to the next.
const TICK: Duration = Duration::from_millis(10);
/// Size of a node's own disk, in MiB, where a scenario fills it.
const DISK_MIB: u64 = 128;

/// Told what happens while it runs.
pub type Progress<'a> = &'a mut (dyn FnMut(&str) + Send);

/// Runs a plan with the binary `exe`.
pub fn run(plan: &Plan, exe: &Path, progress: Progress<'_>) -> Result<Record, LabError> {
    let (able, not_tested) = able(plan);
    for lack in &not_tested {
        progress(&format!("NOT TESTED HERE: {lack}"));
    }
    let mut setting = setting(exe);
    setting.not_tested = not_tested;
    if !able.contains(&Needs::Namespaces) {
        setting.network = "loopback addresses".into();
        return play(plan, exe, None, able, setting, progress);
    }
    setting.network = "network namespaces".into();
    let net = Arc::new(Net::new(plan.sites)?);
    net.clone().inside(|| play(plan, exe, Some(net), able, setting, progress))?
}

/// Why this machine cannot play a plan. A soak leaves out what it cannot; of a scenario everything has to happen.
pub fn cannot(plan: &Plan) -> Option<String> {
    let (able, lacks) = able(plan);
    let misses = |n: Needs| !able.contains(&n);
    let far = plan.link.is_some() || !plan.pairs.is_empty();
    let short = plan.steps.iter().any(|s| misses(s.fault.needs())) || far && misses(Needs::Forwarder);
    (short && !plan.drawn()).then(|| lacks.join("; "))
}

/// What this machine can do, and what of the plan it cannot.
fn able(plan: &Plan) -> (BTreeSet<Needs>, Vec<String>) {
    let needs = |n: Needs| plan.steps.iter().any(|s| s.fault.needs() == n);
    let mut able = BTreeSet::from([Needs::Nothing]);
    let mut lacks = Vec::new();
    match net::possible() {
        Ok(()) => {
            able.insert(Needs::Namespaces);
            match Path::new("/dev/net/tun").exists() {
                true => _ = able.insert(Needs::Forwarder),
                false if needs(Needs::Forwarder) || plan.link.is_some() => {
                    lacks.push("distance, jitter, bursts, reordering: no /dev/net/tun".into())
                }
                false => {}
            }
            match Command::new("mkfs.ext4").arg("-V").output().is_ok_and(|o| o.status.success()) {
                true => _ = able.insert(Needs::Disk),
                false if needs(Needs::Disk) => lacks.push("full disks, power cuts: no mkfs.ext4".into()),
                false => {}
            }
        }
        Err(why) => lacks.push(format!("partitions, loss, distance, full disks, power cuts: {why}")),
    }
    let compiler = Command::new("cc").arg("--version").output().is_ok_and(|o| o.status.success());
    match compiler {
        true => _ = able.insert(Needs::Shim),
        false if needs(Needs::Shim) => {
            lacks.push("wrong clocks, slow and failing fsyncs: no C compiler `cc` for the shim".into())
        }
        false => {}
    }
    (able, lacks)
}

fn setting(exe: &Path) -> Setting {
    let version =
        Command::new(exe).arg("--version").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().into());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Setting {
        zonekeeper: version.unwrap_or_default(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        network: String::new(),
        began_s: now.map_or(0, |d| d.as_secs()),
        not_tested: Vec::new(),
    }
}

/// The laboratory's options for a plan.
fn options(plan: &Plan, exe: &Path, net: Option<Arc<Net>>) -> Options {
    let mut options = Options::new(exe.into());
    options.sites = SITES.iter().take(plan.sites).map(|s| (*s).to_owned()).collect();
    options.founders = plan.sites;
    // what overrides are written about: nothing else comes of them
    let order: Vec<String> = options.sites.iter().map(|s| format!("{s:?}")).collect();
    let endpoints: Vec<String> = options.sites.iter().map(|s| format!("{s} = \"{{{s}}}:{HTTP}\"")).collect();
    options.more = format!(
        "\n[service.{SPARE}]\nnames = [\"{SPARE}.example.com\"]\nsites = [{}]\ncheck = \"none\"\n\
         endpoint = {{ {} }}\n",
        order.join(", "),
        endpoints.join(", ")
    );
    options.service += &format!("quorum = {:?}\n", plan.quorum);
    options.net = net;
    options
}

fn play(
    plan: &Plan,
    exe: &Path,
    net: Option<Arc<Net>>,
    able: BTreeSet<Needs>,
    setting: Setting,
    progress: Progress<'_>,
) -> Result<Record, LabError> {
    let uses = |n: Needs| able.contains(&n) && plan.steps.iter().any(|s| s.fault.needs() == n);
    let mut options = options(plan, exe, net.clone());
    if uses(Needs::Shim) {
        options.env = shim::env();
    }
    let mut lab = Lab::empty(options)?;
    if uses(Needs::Shim) {
        shim::build(&lab)?;
    }
    if uses(Needs::Disk) {
        (0..plan.sites).try_for_each(|i| lab.loop_disk(i, DISK_MIB))?;
    }
    let wan = match &net {
        Some(net) if able.contains(&Needs::Forwarder) && (plan.link.is_some() || uses(Needs::Forwarder)) => {
            Some(Wan::start(net, Link::default(), plan.seed)?)
        }
        _ => None,
    };
    lab.prepare()?;
    lab.found(progress)?;
    let link = plan.link.unwrap_or_default();
    if plan.timing != "lan" {
        lab.put(0, "/v1/timing", &json!(plan.timing))?;
    }
    if let Some(wan) = &wan {
        (0..plan.sites).for_each(|a| (0..a).for_each(|b| wan.set(a, b, link)));
        plan.pairs.iter().for_each(|(a, b, rtt)| wan.set(*a, *b, Link::rtt(*rtt)));
    }
    lab.wait("every node answers for the first site", Duration::from_secs(90), Lab::settled)?;
    let mut drive = Drive::new(plan, &lab)?;
    drive.all(&mut lab, net, wan.as_ref().map(|w| (w, link)), able, progress)?;
    drive.judge(&lab, setting)
}

struct Drive<'a> {
    plan: &'a Plan,
    start: Instant,
    watch: Watch,
    load: Load,
    phases: Phases,
    happened: Vec<Happened>,
    found: Vec<BTreeMap<u64, String>>,
}

impl<'a> Drive<'a> {
    fn new(plan: &'a Plan, lab: &Lab) -> Result<Drive<'a>, LabError> {
        let start = Instant::now();
        let watch = Watch::start(lab, start);
        std::thread::sleep(Duration::from_millis(1_000)); // what was decided before is seen before
        let load = Load::start(lab, start, plan.seed)?;
        let phases = Phases { load_us: start.elapsed().as_micros() as u64, ..Phases::default() };
        Ok(Drive { plan, start, watch, load, phases, happened: Vec::new(), found: Vec::new() })
    }

    fn us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Faults, healing, rest.
    fn all(
        &mut self,
        lab: &mut Lab,
        net: Option<Arc<Net>>,
        wan: Option<(&Wan, Link)>,
        able: BTreeSet<Needs>,
        progress: Progress<'_>,
    ) -> Result<(), LabError> {
        let mut stage = Stage::new(lab, &self.watch, net, wan, self.start, able);
        let steps = self.plan.steps.iter().enumerate();
        // the time of the plan stands still while a pause waits for healing
        let (mut zero, mut healings) = (Instant::now() + Duration::from_millis(500), Vec::new());
        let mut whole = true;
        for (number, step) in steps {
            let due = zero + Duration::from_millis(step.at_ms);
            while Instant::now() < due {
                stage.tick()?;
                std::thread::sleep(TICK);
            }
            progress(&format!("{:7.1} s  {}", self.start.elapsed().as_secs_f64(), step.fault));
            if step.fault != Fault::Heal {
                stage.begin(number, step)?;
                continue;
            }
            let began = Instant::now();
            let (healed, event) = self.heal(&mut stage)?;
            let (at, took) = (self.start.elapsed().as_secs_f64(), began.elapsed());
            zero += took;
            match &event.trouble {
                None => progress(&format!("{at:7.1} s  healed after {:.1} s", took.as_secs_f64())),
                Some(trouble) => progress(&format!("{at:7.1} s  {trouble}")),
            }
            healings.push(event);
            whole = healed.is_some();
            if !whole {
                break; // what comes after proves nothing
            }
        }
        let end = zero + Duration::from_millis(self.plan.lasts_ms);
        while whole && Instant::now() < end {
            stage.tick()?;
            std::thread::sleep(TICK);
        }
        progress(&format!("{:7.1} s  all faults end", self.start.elapsed().as_secs_f64()));
        let (healed, last) = self.heal(&mut stage)?;
        (self.phases.healed_us, self.phases.calm_us) = (healed, last.from_us);
        stage.rest();
        self.happened = std::mem::take(&mut stage.happened);
        self.happened.extend(healings);
        self.happened.sort_by_key(|h| h.from_us);
        drop(stage);
        self.rest(lab);
        Ok(())
    }

    /// Ends all faults and waits until all is as it was and a write is acknowledged; when that was, and the pause as an
    /// event.
    fn heal(&self, stage: &mut Stage<'_>) -> Result<(Option<u64>, Happened), LabError> {
        let from_us = self.us();
        stage.heal()?;
        let end = Instant::now() + Duration::from_millis(self.plan.heal_within_ms);
        let fresh =
            |missing: Option<String>| match (self.watch.fresh(from_us), self.load.wrote_since(from_us)) {
                (true, true) => missing,
                (false, _) => Some("a node's API has not answered since".into()),
                (true, false) => Some("no write has been acknowledged since".into()),
            };
        let mut missing = fresh(self.missing(stage));
        while missing.is_some() && Instant::now() < end {
            stage.tick()?;
            std::thread::sleep(TICK);
            missing = fresh(self.missing(stage));
        }
        let to_us = self.us();
        let pause = Happened {
            step: usize::MAX,
            text: Fault::Heal.to_string(),
            nodes: Vec::new(),
            blinded: Vec::new(),
            excuses: false,
            hidden: false,
            streams_only: false,
            silent_from_us: None,
            from_us,
            to_us,
            trouble: missing
                .as_ref()
                .map(|m| format!("not healed after {} ms: {m}", self.plan.heal_within_ms)),
        };
        Ok((missing.is_none().then_some(to_us), pause))
    }

    /// What is not as it was before the first fault.
    fn missing(&self, stage: &Stage<'_>) -> Option<String> {
        let last = self.watch.last();
        let first = vec![stage.lab.nodes[0].site.clone()];
        for (i, shown) in last.iter().enumerate() {
            let site = &stage.lab.nodes[i].site;
            if shown.role.is_empty() {
                return Some(format!("{site} shows nothing"));
            }
            if shown.answered != first {
                return Some(format!("{site} holds {:?} for answered", shown.answered));
            }
            if let Some((at, standing)) = shown.standing.iter().find(|(_, s)| s != "up" && s != "unknown") {
                return Some(format!("{site} holds {at} for {standing}"));
            }
            if shown.voters.len() != stage.lab.nodes.len() {
                return Some(format!("{site} knows the voters {:?}", shown.voters));
            }
            if let Some(why) = &shown.abstains {
                return Some(format!("{site} abstains: {why}"));
            }
            if let Some(alarm) = shown.alarms.first() {
                return Some(format!("{site} alarms: {alarm}"));
            }
        }
        if stage.find(Who::Leader).is_none() {
            return Some("nobody leads".into());
        }
        (!self.load.all_answer(stage.lab.nodes[0].ip)).then(|| "DNS answers otherwise".into())
    }

    /// The writers stop, the nodes come to one state, and what they hold is read.
    fn rest(&mut self, lab: &Lab) {
        self.load.pause();
        let settled = lab.wait("all nodes hold one state", Duration::from_secs(20), |lab| {
            let states: BTreeSet<String> = (0..lab.nodes.len())
                .map(|i| {
                    lab.get(i, "/v1/cluster")
                        .map(|c| format!("{} {}", c["generation"], c["data"]["hash"]))
                        .unwrap_or_default()
                })
                .collect();
            states.len() == 1 && !states.contains("")
        });
        if let Err(e) = settled {
            let (from_us, to_us) = (self.us(), self.us());
            self.phases.healed_us = None;
            self.happened.push(Happened {
                step: usize::MAX,
                text: "rest".into(),
                trouble: Some(e.0),
                from_us,
                to_us,
                ..Happened::default()
            });
        }
        self.found = (0..lab.nodes.len()).map(|i| names(lab, i)).collect();
        std::thread::sleep(Duration::from_millis(300)); // the lookers-on see the last state too
        self.phases.end_us = self.us();
    }

    fn judge(self, lab: &Lab, setting: Setting) -> Result<Record, LabError> {
        not_interrupted()?; // it proves nothing
        let seen = self.watch.finish();
        let done = self.load.finish();
        let mut moves: Vec<Move> = seen.moves.into_values().collect();
        moves.retain(|m| m.seen_us > self.phases.load_us && m.family == "v4");
        let mut record = Record {
            format: FORMAT,
            plan: self.plan.clone(),
            setting,
            sites: lab.nodes.iter().map(|n| n.site.clone()).collect(),
            addresses: lab.nodes.iter().map(|n| n.ip.to_string()).collect(),
            happened: self.happened,
            phases: self.phases,
            asked: done.asked,
            shown: seen.shown,
            marks: seen.marks,
            verdicts: seen.verdicts,
            moves,
            ops: done.ops,
            names: done.names,
            found: self.found,
            served: done.served,
            findings: Vec::new(),
            logs: String::new(),
        };
        record.findings = check::all(&record);
        if !record.good() {
            record.logs = lab.tails();
        }
        Ok(record)
    }
}

/// The names `w1`, `w2`, ... that a node holds, page by page.
fn names(lab: &Lab, i: usize) -> BTreeMap<u64, String> {
    let (mut out, mut after) = (BTreeMap::new(), String::new());
    for _ in 0..1000 {
        let path = format!("/v1/zones/example.com/records?type=A{after}");
        let Ok(page) = lab.get(i, &path) else { return out };
        for set in page["data"]["rrsets"].as_array().into_iter().flatten() {
            let name = set["name"].as_str().unwrap_or_default();
            let number = name.strip_prefix('w').and_then(|n| n.split('.').next()?.parse().ok());
            let address = set["records"][0].as_str();
            out.extend(number.zip(address.map(String::from)));
        }
        let Some(next) = page["data"]["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    out
}
