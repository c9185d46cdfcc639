//! The cluster's Raft timing is changed while it runs.

use crate::{
    load::{Askers, Writer, nothing_acknowledged_is_lost},
    support::{lab, options, share, wait},
};
use serde_json::json;
use std::time::{Duration, Instant};
use zonekeeper_chaos::lab::{ADMIN, Lab};

const WITHIN: Duration = Duration::from_secs(30);

#[test]
fn the_timing_changes_under_load_without_a_lost_write_or_a_move() {
    let _turn = share();
    let lab = lab(options());
    let askers = Askers::of(&lab, &[0, 1, 2]);
    let writer = Writer::start((0..3).map(|i| lab.nodes[i].at(ADMIN)).collect(), lab.token().to_owned());
    writer.goes_on(20);
    for (timing, shown) in
        [("wan", json!("wan")), ("320", json!({"heartbeat_ms": 320})), ("lan", json!("lan"))]
    {
        let begun = Instant::now();
        let said = lab.cli(&["timing", "set", timing]).unwrap();
        assert!(!said.contains("unstable"), "loopback is near enough for any timing: {said}");
        wait(&lab, "every node runs it, and sees that its peers do", WITHIN, |lab| {
            (0..3).all(|i| {
                let cluster = lab.get(i, "/v1/cluster").unwrap_or_default();
                let problems = cluster["data"]["problems"].as_array().is_some_and(Vec::is_empty);
                cluster["data"]["timing"] == shown && problems
            })
        });
        eprintln!("{timing} runs everywhere after {:?}", begun.elapsed());
        writer.goes_on(30);
    }
    let refused = lab.cli(&["timing", "set", "20"]).unwrap_err().to_string();
    assert!(refused.contains("50"), "out of range, with the range: {refused}");
    wait(&lab, "everything is as before", WITHIN, Lab::settled);
    nothing_acknowledged_is_lost(&lab, writer.finish(), &[0, 1, 2]);
    askers.nothing_moved(&lab, 0);
}
