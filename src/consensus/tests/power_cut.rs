//! A power cut: everything that the disk has at the moment of an acknowledgement, and nothing else.
//!
//! The store lies on ext4 on a loop device. When the writer says that entries are acknowledged, or at any moment, the
//! file behind the device is copied; the copy is mounted (which replays its journal, as after a power cut) and opened.
//!
//! A cut at any moment stops the writer for the copy: a disk that changes while it is copied gives a copy with an old
//! beginning and a new end, which no power cut leaves. Stopped is it wherever it happens to be, between any two system
//! calls of its threads.

use super::{
    child::{IMPORT_PARTS, Writer, small},
    import,
    support::{Mount, can_run, entry, open, run, runtime, size_of},
};
use crate::{
    Consensus, store,
    types::{LogEntry, LogId},
};
use openraft::{RaftLogReader, storage::RaftLogStorage};
use std::{path::Path, process::Command};
use tempfile::TempDir;

const TOOLS: [&str; 6] = ["mkfs.ext4", "mount", "umount", "losetup", "cp", "cmp"];
/// Acknowledgements at which the power is cut; ten entries lie between two of them.
const CUTS: u64 = 12;

/// Runs a writer on a disk and cuts the power each time that it waits: what it had said, and what was recovered then.
fn cut<T>(
    writer: &str,
    env: &[(&str, &str)],
    cuts: u64,
    recover: impl Fn(&Path) -> Option<T>,
) -> Vec<(u64, Option<T>)> {
    let base = TempDir::new().unwrap();
    let disk = Mount::create(base.path(), "disk", 64);
    let mut writer = Writer::start(writer, &disk.dir.join("data"), env);
    let mut seen = Vec::new();
    for _ in 0..cuts {
        let acked = writer.next("ACKED").unwrap() + 1;
        let copy = base.path().join("copy.img");
        run("cp", &["--sparse=always", disk.image.to_str().unwrap(), copy.to_str().unwrap()]);
        let after = Mount::of(base.path(), "copy", copy);
        seen.push((acked, recover(&after.dir.join("data"))));
        drop(after);
        writer.go_on();
    }
    writer.kill().for_each(drop);
    seen
}

/// All entries in a directory; none when it does not open, or the log has no vote.
fn entries(dir: &Path) -> Option<Vec<LogEntry>> {
    store::open(dir, 1, None).ok()?;
    runtime().block_on(async {
        let mut store = open(dir);
        let LogId { index, .. } = store.get_log_state().await.unwrap().last_log_id?;
        store.read_vote().await.unwrap()?;
        Some(store.try_get_log_entries(0..=index).await.unwrap())
    })
}

/// How many entries there are, when each is what entry `index` has to be.
fn recovered(dir: &Path, size: impl Fn(u64) -> usize) -> Option<u64> {
    let found = entries(dir)?;
    let whole = found.iter().zip(0..).all(|(found, index)| *found == entry(index, size(index)));
    whole.then_some(found.len() as u64)
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    if !can_run("power cut", &TOOLS) {
        return;
    }
    for (acked, found) in cut("write_and_wait", &[], CUTS, |dir| recovered(dir, size_of)) {
        assert!(found >= Some(acked), "{acked} entries were acknowledged, {found:?} survived");
    }
}

#[test]
fn without_the_remedy_a_power_cut_loses_acknowledged_entries() {
    if !can_run("power cut without the remedy", &TOOLS) {
        return;
    }
    let broken = [("ZK_TEST_REAL_SYNC_FILE_RANGE", "1")];
    let cuts = cut("write_and_wait", &broken, CUTS, |dir| recovered(dir, size_of));
    assert!(
        cuts.iter().any(|(acked, found)| *found < Some(*acked)),
        "the test sees no loss at all: {cuts:?}"
    );
}

#[test]
fn a_power_cut_leaves_all_of_an_import_or_nothing() {
    if !can_run("power cut in an import", &TOOLS) {
        return;
    }
    let log: Vec<LogEntry> = import::log(IMPORT_PARTS).collect();
    let recover = |dir: &Path| {
        let published = Consensus::open(dir, 1, None).ok()?.state();
        let found = entries(dir)?;
        assert!(found.len() <= log.len() && found == log[..found.len()], "the log is another one");
        let (_store, machine) = store::open(dir, 1, None).ok()?;
        machine.replay(found.iter().skip(machine.index_or_none().map_or(0, |i| i as usize + 1)).cloned());
        Some((found.len() as u64, published, machine.state()))
    };
    // Four parts lie between two cuts; the last one is after the commit.
    let cuts = cut("import_and_wait", &[], log.len() as u64 / 4, recover);
    for (acked, after) in cuts {
        let (found, published, state) = after.expect("the store does not open");
        assert!(found >= acked, "{acked} entries were acknowledged, {found} survived");
        assert_eq!(state.hash(), import::state_after(found, IMPORT_PARTS).hash());
        let whole = if found == log.len() as u64 { import::whole(IMPORT_PARTS) } else { 0 };
        assert_eq!(import::visible(&state), whole, "after {found} entries");
        // The writer made durable that it publishes what it had acknowledged.
        assert!(published.generation.index + 1 >= acked);
        assert_eq!(import::visible(&published) > 0, acked == log.len() as u64);
    }
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_acknowledged() {
    if !can_run("power cut at any moment", &TOOLS) {
        return;
    }
    let base = TempDir::new().unwrap();
    let disk = Mount::create(base.path(), "disk", 64);
    let mut writer = Writer::start("write_for_ever", &disk.dir.join("data"), &[]);
    writer.next("ACKED").unwrap();
    for _ in 0..8 {
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        for _ in 0..random[0] % 32 {
            writer.next("ACKED").unwrap();
        }
        std::thread::sleep(std::time::Duration::from_micros(u64::from(random[1]) * 50));
        let copy = base.path().join("copy.img");
        let acked = writer.stopped(|| copy_quiet(&disk.image, &copy)).unwrap_or(1);
        let after = Mount::of(base.path(), "copy", copy);
        let found = recovered(&after.dir.join("data"), small);
        assert!(found >= Some(acked), "{acked} entries were acknowledged, {found:?} survived");
    }
    writer.kill().for_each(drop);
}

/// Copies a disk that nobody writes to but, now and then, the kernel: again, until nothing changed meanwhile.
fn copy_quiet(image: &Path, copy: &Path) {
    let (image, copy) = (image.to_str().unwrap(), copy.to_str().unwrap());
    for _ in 0..20 {
        run("cp", &["--sparse=always", image, copy]);
        if Command::new("cmp").args(["-s", image, copy]).status().unwrap().success() {
            return;
        }
    }
    panic!("the disk is never quiet");
}
