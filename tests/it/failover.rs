//! A site dies: every survivor answers with the next one, soon, and goes back when it may.

use crate::support::{exe, lab, options, turn, wait};
use std::{process::Command, time::Duration};
use zonekeeper_chaos::failover::{Run, Victim, run};

/// Longest time from a kill to the changed answer on every survivor, in milliseconds: of the release build, and twice as
/// much of a debug build.
fn bounds() -> (f64, f64) {
    match std::env::var_os("ZONEKEEPER_EXE") {
        Some(_) => (1_000.0, 2_000.0),
        None => (2_000.0, 4_000.0),
    }
}

fn judge(run: &Run, bound_ms: f64) {
    assert!(run.wrong.is_empty(), "{run:#?}");
    let slow = |ms: &Option<f64>| ms.is_none_or(|ms| ms > bound_ms);
    assert!(!run.answered_ms.iter().any(slow), "more than {bound_ms} ms: {run:#?}");
    assert!(run.served_ms.is_some(), "{run:#?}");
}

#[test]
fn a_killed_site_is_left_in_time_and_a_standby_is_not_missed() {
    let _turn = turn();
    let mut lab = lab(options());
    let (follower, leader) = bounds();
    for (number, victim, bound) in
        [(1, Victim::Primary, follower), (2, Victim::Leader, leader), (3, Victim::Standby, follower)]
    {
        let run = run(&mut lab, number, victim).unwrap_or_else(|e| panic!("{victim:?}: {e}"));
        eprintln!("{run:?}");
        judge(&run, bound);
    }
}

#[test]
fn a_dead_leader_is_replaced_long_before_its_lease_has_run_out() {
    let _turn = turn();
    let mut lab = lab(options());
    lab.cli(&["timing", "set", "2000"]).unwrap(); // a lease of 10 s, and an election of 6 s or more after it
    wait(&lab, "every node runs it", Duration::from_secs(30), |lab| {
        let of = |i| lab.get(i, "/v1/cluster").unwrap_or_default()["data"]["timing"].clone();
        (0..3).all(|i| of(i) == serde_json::json!({"heartbeat_ms": 2000}))
    });
    let run = run(&mut lab, 1, Victim::Leader).unwrap_or_else(|e| panic!("{e}"));
    eprintln!("{run:?}");
    judge(&run, bounds().1);
}

#[test]
fn the_scripted_demo_exits_with_0_and_reports_as_json() {
    let _turn = turn();
    let done = Command::new(exe()).args(["demo", "--script", "failover", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stdout));
    let runs: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let run = &runs[0];
    assert_eq!(run["victim"], "primary");
    assert_eq!(run["answered_ms"].as_array().unwrap().len(), 2, "two survivors: {run}");
    assert!(
        run["committed_ms"].is_f64() && run["caught_up_ms"].is_f64() && run["failback_ms"].is_f64(),
        "{run}"
    );
}
