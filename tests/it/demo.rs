//! The demo is interrupted: nothing of it stays behind.

use crate::support::{Process, exe, output, share, until};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const WITHIN: Duration = Duration::from_secs(60);

/// Processes that a process has started and not waited for.
fn children(pid: u32) -> BTreeSet<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|l| l.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>()).collect()
}

#[test]
fn ctrl_c_ends_the_demo_in_the_middle_of_a_run_and_its_processes_with_it() {
    let _turn = share();
    interrupted_at(&["demo"], 1); // while it starts
    interrupted_at(&["demo", "--script", "failover", "--runs", "9", "--json"], 3); // while a node is dead
}

/// Interrupts the demo when it has had so many children; after all three, when one of them is gone.
fn interrupted_at(args: &[&str], nodes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(exe());
    command.args(args).env("TMPDIR", folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut demo = Process::start(&mut command);
    let pid = demo.0.id();
    let mut seen = BTreeSet::new();
    let nodes_of = |pid: u32| -> BTreeSet<u32> {
        let node = |p: &u32| {
            let line = fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("node-")
        };
        children(pid).into_iter().filter(node).collect()
    };
    until("its nodes run", WITHIN, || {
        seen.extend(nodes_of(pid));
        seen.len() >= nodes && (nodes == 1 || nodes_of(pid).len() < nodes)
    });
    let at = Instant::now();
    assert!(output("kill", &["-INT", &pid.to_string()]).status.success());
    until("it ends", Duration::from_secs(20), || {
        seen.extend(nodes_of(pid));
        demo.0.try_wait().unwrap().is_some()
    });
    eprintln!("{args:?} ended {:?} after Ctrl-C", at.elapsed());
    assert!(seen.len() <= 3, "it went on and started the dead node again: {seen:?}");
    let alive: Vec<&u32> = seen.iter().filter(|p| ours(**p, folder.path())).collect();
    assert!(alive.is_empty(), "{alive:?} of {seen:?} outlived it");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?} stayed behind");
}

/// Whether a process is (still) a node in this folder: its id may be another's by now.
fn ours(pid: u32, folder: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy())
}
