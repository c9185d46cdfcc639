//! A power cut: everything that the disk has at the moment of an acknowledgement, and nothing else.
//!
//! The store lies on ext4 on a loop device. When the writer says that entries are acknowledged, the file behind the
//! device is copied; the copy is mounted (which replays its journal, as after a power cut) and opened.

use super::{
    child::Writer,
    support::{Mount, can_run, entry, open, run, runtime, size_of},
};
use openraft::{RaftLogReader, storage::RaftLogStorage};
use std::path::Path;
use tempfile::TempDir;

const TOOLS: [&str; 4] = ["mkfs.ext4", "mount", "umount", "losetup"];
/// Acknowledgements at which the power is cut; ten entries lie between two of them.
const CUTS: u64 = 12;

/// How many entries of those acknowledged a copy of the disk has, at each cut; none where it does not open.
fn cut(env: &[(&str, &str)]) -> Vec<(u64, Option<u64>)> {
    let base = TempDir::new().unwrap();
    let disk = Mount::create(base.path(), "disk", 64);
    let mut writer = Writer::start("write_and_wait", &disk.dir.join("data"), env);
    let mut seen = Vec::new();
    for _ in 0..CUTS {
        let acked = writer.next("ACKED").unwrap() + 1;
        let copy = base.path().join("copy.img");
        run("cp", &["--sparse=always", disk.image.to_str().unwrap(), copy.to_str().unwrap()]);
        let after = Mount::of(base.path(), "copy", copy);
        seen.push((acked, recovered(&after.dir.join("data"))));
        drop(after);
        writer.go_on();
    }
    writer.kill().for_each(drop);
    seen
}

fn recovered(dir: &Path) -> Option<u64> {
    crate::store::open(dir, 1, None).ok()?;
    runtime().block_on(async {
        let mut store = open(dir);
        let last = store.get_log_state().await.unwrap().last_log_id?;
        let entries = store.try_get_log_entries(0..=last.index).await.unwrap();
        let whole = entries.iter().enumerate().all(|(i, e)| *e == entry(i as u64, size_of(i as u64)));
        (whole && store.read_vote().await.unwrap().is_some()).then_some(entries.len() as u64)
    })
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    if !can_run("power cut", &TOOLS) {
        return;
    }
    for (acked, found) in cut(&[]) {
        assert!(found >= Some(acked), "{acked} entries were acknowledged, {found:?} survived");
    }
}

#[test]
fn without_the_remedy_a_power_cut_loses_acknowledged_entries() {
    if !can_run("power cut without the remedy", &TOOLS) {
        return;
    }
    let cuts = cut(&[("ZK_TEST_REAL_SYNC_FILE_RANGE", "1")]);
    assert!(
        cuts.iter().any(|(acked, found)| *found < Some(*acked)),
        "the test sees no loss at all: {cuts:?}"
    );
}
