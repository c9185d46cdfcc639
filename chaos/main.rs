//! `zonekeeper-chaos`: faults against real processes, judged and reported.

mod cargo;

use cargo::Cargo;
use clap::{Args, Parser, Subcommand};
use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};
use zonekeeper_chaos::{
    bench::{Bench, Kind, Line},
    net, peers,
    plan::Plan,
    process,
    record::Record,
    report, run, scenario, users,
};

/// Inflicts faults on a cluster of real zonekeeper processes, judges what clients saw, and reports
#[derive(Debug, Parser)]
#[command(
    name = "zonekeeper-chaos",
    version,
    after_help = "Examples:
  zonekeeper-chaos list
  zonekeeper-chaos run kill-leader
  zonekeeper-chaos run all
  zonekeeper-chaos soak --minutes 30 --seed 7 --sites 5
  zonekeeper-chaos bench failover --runs 50
  zonekeeper-chaos replay chaos-report/kill-leader-3-sites-1.json

Root is needed for partitions, loss, distance and full disks; without it they are left out, and said to be."
)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Shows the scenarios
    List,
    /// Runs scenarios by name, or `all`
    Run {
        /// Names as `list` shows them
        #[arg(required = true)]
        scenarios: Vec<String>,
        /// Replaces the scenario's number of sites
        #[arg(long, value_parser = clap::value_parser!(u8).range(3..=7))]
        sites: Option<u8>,
        #[command(flatten)]
        common: Common,
    },
    /// Runs faults drawn from a seed
    Soak {
        /// How long, about
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// Everything that is drawn follows from it
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Sites, one node each
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
        sites: u8,
        #[command(flatten)]
        common: Common,
    },
    /// Runs the plan of an earlier run again
    Replay {
        /// The JSON file of the run
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// All scenarios, soaks of three seeds with 3 and 5 sites, the benchmarks near and far, and the simulation: hours
    Whole {
        /// Of each soak
        #[arg(long, default_value_t = 30.0)]
        minutes: f64,
        /// Of each kind of failover
        #[arg(long, default_value_t = 50)]
        runs: u16,
        #[command(flatten)]
        common: Common,
    },
    /// Measures failovers
    Bench {
        #[command(subcommand)]
        what: Measure,
    },
    /// Judges an earlier run again and writes its report anew, without running anything
    Report {
        /// The JSON file of the run
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// From a fault to the changed answer on every survivor, for each kind of fault
    Failover {
        /// Runs of each kind
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        runs: u16,
        /// Only these kinds; without it all
        #[arg(long, value_delimiter = ',', value_parser = kind)]
        kinds: Vec<Kind>,
        /// Sites, one node each
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
        sites: u8,
        /// Round trip between sites in milliseconds; the Raft timing follows
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=200))]
        rtt: u32,
        /// How soon the service's check believes silence
        #[arg(long, default_value = "balanced", value_parser = ["fast", "balanced", "patient"])]
        preset: String,
        #[command(flatten)]
        also: Also,
        #[command(flatten)]
        common: Common,
    },
    /// What users feel when a site is killed, and when a backend is: with a verdict for each
    Users {
        /// Requests a second
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
        rate: u64,
        /// Report as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// A kind by its word in JSON.
fn kind(word: &str) -> Result<Kind, String> {
    let known: Vec<String> =
        Kind::ALL.iter().filter_map(|k| Some(serde_json::to_value(k).ok()?.as_str()?.to_owned())).collect();
    let place =
        known.iter().position(|k| k == word).ok_or_else(|| format!("known are {}", known.join(", ")))?;
    Ok(Kind::ALL[place])
}

#[derive(Debug, Clone, Copy, Args)]
struct Also {
    /// Beside it gdnsd and PowerDNS, at their fastest legal settings and at their defaults; needs root. They are
    /// measured at three sites without distance
    #[arg(long)]
    peers: bool,
    /// Ends with status 1 when it takes longer than asked, too
    #[arg(long)]
    judge: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// The program under test; without it a release build that cargo makes, or the one beside this program where it was
    /// not started by cargo
    #[arg(long, env = "ZONEKEEPER_EXE")]
    exe: Option<PathBuf>,
    /// Where reports go
    #[arg(long, default_value = "chaos-report")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let done = process::mind_signals().map_err(|e| e.to_string()).and_then(|()| Cli::parse().command.run());
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            say(&format!("error: {why}"));
            ExitCode::from(2)
        }
    }
}

/// Progress, apart from the output.
#[allow(clippy::print_stderr, reason = "progress of a long command, apart from its output")]
fn say(text: &str) {
    eprintln!("{text}");
}

impl Sub {
    /// Whether every check held.
    fn run(self) -> Result<bool, String> {
        match self {
            Sub::List => list().map(|()| true).map_err(|e| e.to_string()),
            Sub::Run { scenarios, sites, common } => {
                let mut plans = chosen(&scenarios)?;
                plans.iter_mut().for_each(|p| p.sites = sites.map_or(p.sites, usize::from));
                common.all(&common.exe()?, &plans)
            }
            Sub::Soak { minutes, seed, sites, common } => {
                common.all(&common.exe()?, &[scenario::soak(seed, sites.into(), minutes)])
            }
            Sub::Replay { file, common } => {
                let record = Record::read(&file).map_err(|e| e.to_string())?;
                Ok(common.one(&common.exe()?, &record.plan, &again(&file))? != Some(false))
            }
            Sub::Whole { minutes, runs, common } => whole(minutes, runs, &common),
            Sub::Bench { what: Measure::Failover { runs, kinds, sites, rtt, preset, also, common } } => {
                if also.peers && (sites != 3 || rtt != 0 || !kinds.is_empty()) {
                    return Err(
                        "--peers measures three sites without distance: leave out --sites, --rtt, --kinds"
                            .into(),
                    );
                }
                let kinds = if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds };
                let bench = Bench { runs: runs.into(), kinds, sites: sites.into(), rtt_ms: rtt, preset };
                measure(&bench, &common.exe()?, also)
            }
            Sub::Bench { what: Measure::Users { rate, json, common } } => {
                users(rate, &common.exe()?, json).map_err(|e| e.to_string())
            }
            Sub::Report { file } => {
                let mut record = Record::read(&file).map_err(|e| e.to_string())?;
                record.findings = zonekeeper_chaos::check::all(&record);
                write(&record, &file)
            }
        }
    }
}

fn list() -> io::Result<()> {
    let mut out = io::stdout();
    for plan in scenario::all() {
        writeln!(out, "{:<22} {}", plan.name, plan.about)?;
        for step in &plan.steps {
            let (from, to) = (step.at_ms as f64 / 1e3, (step.at_ms + step.lasts_ms) as f64 / 1e3);
            writeln!(out, "{:22}   {from:.1}-{to:.1} s  {}", "", step.fault)?;
        }
    }
    Ok(())
}

/// Everything, one after the other.
fn whole(minutes: f64, runs: u16, common: &Common) -> Result<bool, String> {
    let exe = common.exe()?;
    let simulation = Cargo::started_us().map(|cargo| cargo.simulation()).transpose()?;
    let mut plans = scenario::all();
    let soaks =
        [3, 5].into_iter().flat_map(|sites| (1..=3).map(move |seed| (10 * sites as u64 + seed, sites)));
    plans.extend(soaks.map(|(seed, sites)| scenario::soak(seed, sites, minutes)));
    let mut good = common.all(&exe, &plans)?;
    let silence = [Kind::Silence, Kind::SilenceLeader];
    for (rtt_ms, preset, kinds) in
        [(0, "balanced", &Kind::ALL[..]), (0, "fast", &silence), (100, "balanced", &Kind::ALL)]
    {
        let (kinds, preset) = (kinds.to_vec(), preset.to_owned());
        let also = Also { peers: rtt_ms == 0 && preset == "balanced", judge: true, json: false };
        good &= measure(&Bench { runs: runs.into(), kinds, sites: 3, rtt_ms, preset }, &exe, also)?;
    }
    good &= users(1_000, &exe, false).map_err(|e| e.to_string())?;
    match simulation {
        Some(built) => good &= cargo::simulate(&built, say)?,
        None => {
            say("NOT RUN: the simulation; `cargo run --release -p zonekeeper-chaos -- whole` runs it too")
        }
    }
    Ok(good)
}

/// What our own lines are called.
const OWN: &str = "zonekeeper";

fn measure(bench: &Bench, exe: &Path, also: Also) -> Result<bool, String> {
    if also.judge && bench.kinds.iter().all(|k| bench.asked(*k).is_none()) {
        return Err("there is nothing to judge by: bounds are for three sites, see chaos/README.md".into());
    }
    let own = bench.run(exe, &mut say).map_err(|e| e.to_string())?;
    let late = |l: &Line| bench.asked(l.kind).is_some_and(|a| !a.holds(l));
    let good = own.iter().all(|l| l.failed == 0 && !(also.judge && late(l)));
    let mut lines: Vec<(String, Line)> = own.into_iter().map(|l| (OWN.into(), l)).collect();
    if also.peers {
        match net::possible() {
            Ok(()) => lines.extend(peers::run(bench.runs, &mut say).map_err(|e| e.to_string())?),
            Err(why) => say(&format!("NOT MEASURED: gdnsd and PowerDNS: {why}")),
        }
    }
    show(bench, &lines, also.json).map_err(|e| e.to_string())?;
    Ok(good)
}

fn users(rate: u64, exe: &Path, json: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let verdicts = users::run(exe, rate, &users::Case::ALL, &mut say)?;
    let mut out = io::stdout();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&verdicts)?)?,
        false => verdicts.iter().try_for_each(|v| writeln!(out, "{v}"))?,
    }
    Ok(verdicts.iter().all(|v| v.good))
}

fn show(bench: &Bench, lines: &[(String, Line)], json: bool) -> io::Result<()> {
    let mut out = io::stdout();
    let asked = |who: &str, l: &Line| bench.asked(l.kind).filter(|_| who == OWN);
    if json {
        let line = |(who, l): &(String, Line)| {
            let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|p| l.percentile(p));
            let asked = asked(who, l);
            serde_json::json!({"program": who, "kind": l.kind, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "failed": l.failed,
                "asked": asked, "good": asked.map_or(l.failed == 0, |a| a.holds(l)),
                "slowest_ms": l.slowest_ms, "times_ms": l.times_ms, "flush_ms": l.flush_ms})
        };
        let all = serde_json::json!({"runs": bench.runs, "sites": bench.sites, "rtt_ms": bench.rtt_ms,
            "preset": bench.preset,
            "kinds": lines.iter().map(line).collect::<Vec<_>>()});
        return writeln!(out, "{all:#}");
    }
    writeln!(
        out,
        "from the fault to the changed answer on every survivor, {} sites, {} ms apart, preset {}:",
        bench.sites, bench.rtt_ms, bench.preset
    )?;
    let head = ["p50", "p90", "p99"].map(|p| format!("{p:>10}")).concat();
    writeln!(out, "{:<24}{:<26}{head}{:>6}{:>8}  asked", "", "", "runs", "failed")?;
    for (who, l) in lines {
        let word = |p| l.percentile(p).map_or("-".into(), |ms| format!("{ms:.0} ms"));
        let times = [50.0, 90.0, 99.0].map(|p| format!("{:>10}", word(p))).concat();
        let asked = asked(who, l).map_or("-".into(), |a| {
            let verdict = if a.holds(l) { "ok" } else { "MISSED" };
            format!("{a}: {verdict}")
        });
        let (kind, runs, failed) = (l.kind, l.slowest_ms.len(), l.failed);
        writeln!(out, "{who:<24}{kind:<26}{times}{runs:>6}{failed:>8}  {asked}")?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Plan>, String> {
    if names == ["all"] {
        return Ok(scenario::all());
    }
    let unknown = |n: &String| format!("there is no scenario {n:?}; `list` shows them");
    names.iter().map(|n| scenario::find(n).ok_or_else(|| unknown(n))).collect()
}

/// Names the report of a run.
fn name(plan: &Plan) -> String {
    format!("{}-{}-sites-{}", plan.name, plan.sites, plan.seed)
}

/// Names the report of a run that is made again, so that it does not take the place of the first.
fn again(file: &Path) -> String {
    format!("{}-again", file.file_stem().unwrap_or_default().to_string_lossy())
}

impl Common {
    /// Runs plans one after the other; whether every check of every run held.
    fn all(&self, exe: &Path, plans: &[Plan]) -> Result<bool, String> {
        let (mut bad, mut not_run) = (Vec::new(), 0);
        for plan in plans {
            let name = name(plan);
            match self.one(exe, plan, &name)? {
                Some(true) => {}
                Some(false) => bad.push(name),
                None => not_run += 1,
            }
        }
        if plans.len() > 1 {
            let good = plans.len() - bad.len() - not_run;
            say(&format!("{good} of {} runs are good, {not_run} NOT RUN", plans.len()));
        }
        if !bad.is_empty() {
            say(&format!("NOT GOOD: {}", bad.join(", ")));
        }
        Ok(bad.is_empty())
    }

    /// Runs a plan; whether every check held, or none where this machine cannot play it.
    fn one(&self, exe: &Path, plan: &Plan, name: &str) -> Result<Option<bool>, String> {
        fs::create_dir_all(&self.out).map_err(|e| format!("{}: {e}", self.out.display()))?;
        say(&format!("== {}: {}", plan.name, plan.about));
        if let Some(why) = run::cannot(plan) {
            say(&format!("   NOT RUN: {why}"));
            return Ok(None);
        }
        match run::run(plan, exe, &mut say) {
            Ok(record) => write(&record, &self.out.join(format!("{name}.json"))).map(Some),
            Err(why) if process::interrupted() => Err(why.to_string()),
            Err(why) => {
                say(&format!("   the run could not be made: {why}"));
                Ok(Some(false))
            }
        }
    }

    /// The program under test.
    fn exe(&self) -> Result<PathBuf, String> {
        if let Some(exe) = &self.exe {
            return exe.canonicalize().map_err(|e| format!("{}: {e}", exe.display()));
        }
        if let Some(cargo) = Cargo::started_us() {
            return cargo.zonekeeper();
        }
        let beside = env::current_exe().map_err(|e| e.to_string())?.with_file_name("zonekeeper");
        beside.exists().then_some(beside).ok_or("give the program under test with --exe".into())
    }
}

/// Writes both forms of a report, and says what was found.
fn write(record: &Record, json: &Path) -> Result<bool, String> {
    let html = json.with_extension("html");
    record.write(json).map_err(|e| format!("{}: {e}", json.display()))?;
    fs::write(&html, report::html(record, &json.to_string_lossy()))
        .map_err(|e| format!("{}: {e}", html.display()))?;
    for finding in &record.findings {
        let verdict = if finding.good { "ok" } else { "BROKEN" };
        say(&format!("   {verdict:<7}{}: {}", finding.check, finding.lines.join("\n             ")));
    }
    say(&format!("   report {}", html.display()));
    Ok(record.good())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_takes_no_other_ones_place() {
        let names = [3, 5].map(|sites| name(&scenario::soak(7, sites, 1.0)));
        assert_eq!(names, ["soak-3-sites-7", "soak-5-sites-7"]);
        let file = |name: &str| PathBuf::from(format!("some/where/{name}.json"));
        assert_eq!(again(&file("soak-3-sites-7")), "soak-3-sites-7-again");
        assert_eq!(again(&file("soak-3-sites-7-again")), "soak-3-sites-7-again-again");
    }
}
