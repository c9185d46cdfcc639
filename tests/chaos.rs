//! A part of the chaos scenarios on the binary of this build: a minute of them by default, five where `CI` is set. The
//! whole is one command: see `chaos/README.md`.

#![allow(clippy::unwrap_used, reason = "a test: what cannot be read is a failure")]

use std::path::{Path, PathBuf};
use zonekeeper_chaos::{
    net,
    plan::{Expect, Plan},
    report, run, scenario,
    users::{self, Case},
};

/// A few seconds each; they cover death, silence, evidence and calm.
const MINUTE: [&str; 3] = ["kill-leader", "cut-primary", "backends-die"];

/// What CI runs beside them.
const MORE: [&str; 16] = [
    "kill-minority",
    "kill-all",
    "restart-storm",
    "pause-short",
    "cut-leader-one-way",
    "node-path-cut",
    "client-path-cut",
    "burst-loss",
    "clock-jump",
    "full-disk",
    "failing-fsync",
    "sick-observer",
    "starved-observer",
    "hidden",
    "power-cut",
    "import",
];

/// Seconds of drawn faults in CI.
const SOAK_MINUTES: f64 = 1.0;

fn judge(mut plan: Plan) {
    if let Expect::Moves { within_ms } = &mut plan.expect {
        *within_ms *= 5; // how fast it is, is measured elsewhere: this machine may be busy
    }
    if let Some(why) = run::cannot(&plan) {
        assert!(std::env::var_os("CI").is_none(), "{} NOT RUN, and CI is set: {why}", plan.name);
        return eprintln!("{} NOT RUN: {why}", plan.name);
    }
    let mut say = |text: &str| eprintln!("{}: {text}", plan.name);
    let record = run::run(&plan, &exe(), &mut say).unwrap_or_else(|e| panic!("{}: {e}", plan.name));
    if record.good() {
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let json = dir.join(format!("chaos-{}.json", plan.name));
    record.write(&json).unwrap();
    std::fs::write(json.with_extension("html"), report::html(&record, &json.to_string_lossy())).unwrap();
    let broken: Vec<_> = record.findings.iter().filter(|f| !f.good).collect();
    panic!("{}: {broken:#?}\nsee {}{}", plan.name, json.with_extension("html").display(), record.logs);
}

/// At a fifth of the rate of `bench users`: this build is a debug build.
fn no_user_of_a_service_with_other_addresses_notices() {
    let mut say = |text: &str| eprintln!("users: {text}");
    let verdicts = users::run(&exe(), 200, &[Case::SiteOfAll, Case::Backend], &mut say).unwrap();
    assert!(verdicts.iter().all(|v| v.good && v.requests > 1_000), "{verdicts:?}");
}

fn exe() -> PathBuf {
    let exe = std::env::var_os("ZONEKEEPER_EXE");
    exe.map_or_else(|| env!("CARGO_BIN_EXE_zonekeeper").into(), PathBuf::from)
}

#[test]
fn scenarios_keep_every_invariant() {
    let ci = std::env::var_os("CI").is_some();
    if let Err(why) = net::possible() {
        assert!(!ci, "NOT RUN, and CI is set: {why}");
        eprintln!("NOT RUN in part: {why}");
    }
    for name in MINUTE.iter().chain(MORE.iter().filter(|_| ci)) {
        judge(scenario::find(name).unwrap());
    }
    if ci {
        judge(scenario::soak(1, 3, SOAK_MINUTES));
        no_user_of_a_service_with_other_addresses_notices();
    }
}
