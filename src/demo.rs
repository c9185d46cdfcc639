//! `zonekeeper demo`: three sites as three processes on loopback, to try by hand or to script.

use clap::{Args, ValueEnum};
use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};
use zonekeeper_chaos::{
    asker,
    failover::{self, Run, Victim},
    lab::{ADMIN, DNS, HTTP, Lab, NAME, Options},
    process,
};

/// Flags of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zonekeeper demo                                        three sites, until Ctrl-C
  zonekeeper demo --script failover                      kill the primary, show what happens
  zonekeeper demo --script failover --victim leader --runs 10 --json")]
pub(crate) struct Demo {
    /// Do something by itself instead of waiting for you
    #[arg(long, value_enum)]
    script: Option<Script>,
    /// Whose process is killed
    #[arg(long, value_enum, default_value = "primary", requires = "script")]
    victim: VictimArg,
    /// How often
    #[arg(long, default_value_t = 1, requires = "script", value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Report as JSON
    #[arg(long, requires = "script")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Script {
    Failover,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VictimArg {
    /// The site that is answered; it does not lead
    Primary,
    /// The site that is answered; it leads
    Leader,
    /// A site that is neither
    Standby,
}

impl Demo {
    /// Runs the demo; the exit status of a script says whether every run was good.
    pub(crate) fn run(self) -> Result<(), String> {
        let exe = std::env::current_exe().map_err(|e| format!("this program does not find itself: {e}"))?;
        let options = Options::new(exe);
        process::mind_signals().map_err(|e| e.to_string())?;
        let mut progress = |step: &str| say(&format!("starting three sites: {step}"));
        let mut lab = Lab::start(options, &mut progress).map_err(|e| e.to_string())?;
        match self.script {
            None => try_it(&lab),
            Some(Script::Failover) => self.failover(&mut lab),
        }
    }

    fn failover(&self, lab: &mut Lab) -> Result<(), String> {
        let victim = match self.victim {
            VictimArg::Primary => Victim::Primary,
            VictimArg::Leader => Victim::Leader,
            VictimArg::Standby => Victim::Standby,
        };
        let mut runs = Vec::new();
        for number in 1..=usize::from(self.runs) {
            say(&format!(
                "run {number} of {}: killing the {}",
                self.runs,
                format!("{victim:?}").to_lowercase()
            ));
            let run = failover::run(lab, number, victim).map_err(|e| e.to_string())?;
            if !self.json {
                show(&run).map_err(|e| e.to_string())?;
            }
            runs.push(run);
        }
        if self.json {
            let text = serde_json::to_string_pretty(&runs).map_err(|e| e.to_string())?;
            writeln!(io::stdout(), "{text}").map_err(|e| e.to_string())?;
        }
        let bad = runs.iter().filter(|r| !r.wrong.is_empty()).count();
        if bad == 0 { Ok(()) } else { Err(format!("{bad} of {} runs went wrong", runs.len())) }
    }
}

/// Progress, apart from the output.
#[allow(clippy::print_stderr, reason = "progress of a long command, apart from its output")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn try_it(lab: &Lab) -> Result<(), String> {
    let (first, last) = (&lab.nodes[0], &lab.nodes[lab.nodes.len() - 1]);
    let mut out = io::stdout();
    let text = format!(
        "Three sites run. Try, in another terminal:\n\n\
         dig @{ip} -p {DNS} {NAME} +short        what DNS answers\n\
         curl http://{web}/                  a request through the proxy of {site}\n\
         kill -9 {pid}                            {site} dies: ask {last} again\n\n\
         admin API   http://{admin}\n\
         token       export ZONEKEEPER_ADMIN=http://{admin} ZONEKEEPER_TOKEN={token}\n\
         folder      {folder}\n\nCtrl-C ends it.\n",
        ip = last.ip,
        last = last.ip,
        web = first.at(HTTP),
        site = first.site,
        pid = first.pid().unwrap_or_default(),
        admin = last.at(ADMIN),
        token = lab.token(),
        folder = lab.folder().display(),
    );
    writeln!(out, "{text}").map_err(|e| e.to_string())?;
    let terminal = out.is_terminal();
    while !process::interrupted() {
        live_view(lab, terminal).map_err(|e| e.to_string())?;
        for _ in 0..10 {
            if !process::interrupted() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    say("stopping");
    Ok(())
}

/// One line per site: is it there, what does its DNS answer, does it lead. On a terminal the lines stay in place.
fn live_view(lab: &Lab, terminal: bool) -> io::Result<()> {
    let leader = lab.leader();
    let decisions = (0..lab.nodes.len()).find_map(|i| lab.get(i, "/v1/decisions?limit=1").ok());
    let last =
        decisions.as_ref().and_then(|d| d["data"][0]["cause"].as_str()).unwrap_or("none yet").to_owned();
    let mut text = String::new();
    for (i, node) in lab.nodes.iter().enumerate() {
        let answer = asker::ask(node.at(DNS), NAME, asker::A, Duration::from_millis(200)).ok();
        let shown = match &answer {
            Some(a) => a.addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            None => "no answer".into(),
        };
        let role = if leader == Some(i) { "leads" } else { "" };
        text +=
            &format!("{:<5} {:<16} answers {shown:<18} {role:<6}\x1b[K\n", node.site, node.ip.to_string());
    }
    text += &format!("last decision: {last}\x1b[K\n");
    let mut out = io::stdout();
    if terminal {
        write!(out, "{text}\x1b[{}A", lab.nodes.len() + 1)?;
    }
    out.flush()
}

fn show(run: &Run) -> io::Result<()> {
    let ms = |v: Option<f64>| v.map_or("never".into(), |v| format!("{v:.0} ms"));
    let mut out = io::stdout();
    writeln!(out, "run {} ({:?}, {}):", run.run, run.victim, run.site)?;
    writeln!(out, "  kill to first red verdict   {}", ms(run.first_red_ms))?;
    writeln!(out, "  kill to commit              {}", ms(run.committed_ms))?;
    let answers: Vec<String> = run.answered_ms.iter().map(|v| ms(*v)).collect();
    writeln!(out, "  kill to changed answer      {}", answers.join(", "))?;
    writeln!(out, "  kill to first served        {}", ms(run.served_ms))?;
    writeln!(out, "  failed requests             {} of {}", run.failed_requests, run.requests)?;
    let serial = |s: Option<u32>| s.map_or("?".into(), |s| s.to_string());
    writeln!(out, "  serial                      {} -> {}", serial(run.serial.0), serial(run.serial.1))?;
    writeln!(out, "  restart to caught up        {}", ms(run.caught_up_ms))?;
    writeln!(out, "  restart to failback         {}", ms(run.failback_ms))?;
    for wrong in &run.wrong {
        writeln!(out, "  WRONG: {wrong}")?;
    }
    Ok(())
}
