//! Entries, stores and waiting.

use crate::{
    store::{self, Store},
    types::{LeaderId, LogEntry, LogId, Payload, Vote},
};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use std::{path::Path, process::Command as Process, time::Duration};
use zonekeeper_core::{
    Command, Entry, Proposal, codec,
    entry::{Cause, MAX_ENTRY},
    time::LogTime,
};

/// Generous: the machine has two cores and other work.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1, node_id: 1 }, index)
}

pub(super) fn vote() -> Vote {
    Vote::new_committed(1, 1)
}

/// A proposal whose entry encodes to `size` bytes (64 at least), or one to three less.
pub(super) fn proposal(index: u64, size: usize) -> Proposal {
    let with = |fill: usize| Proposal {
        reads: Vec::new(),
        cause: Cause::Operator(format!("{index:020}{}", "x".repeat(fill))),
        command: Command::Tick,
    };
    let len = |fill| codec::bytes(&Entry { time: LogTime(index), proposal: with(fill).into() }).len();
    let mut fill = size.saturating_sub(len(0));
    // Lengths are encoded in one, three or five bytes, so not every size can be met.
    while fill > 0 && len(fill) > size {
        fill -= 1;
    }
    with(fill)
}

pub(super) fn entry(index: u64, size: usize) -> LogEntry {
    let proposal = proposal(index, size);
    LogEntry {
        log_id: log_id(index),
        payload: Payload::Normal(Entry { time: LogTime(index), proposal: proposal.into() }),
    }
}

/// Sizes of test entry `index`: small, large, and everything between.
pub(super) fn size_of(index: u64) -> usize {
    (64 + index as usize * 7919) % (MAX_ENTRY - 64) + 64
}

pub(super) fn open(dir: &Path) -> Store {
    store::open(dir, 1, None).unwrap().0
}

pub(super) async fn append(
    store: &mut Store,
    entries: impl IntoIterator<Item = LogEntry, IntoIter: Send> + Send,
) {
    store.blocking_append(entries).await.unwrap();
}

/// A store with a vote and entries 0..n of 100 bytes.
pub(super) async fn filled(dir: &Path, n: u64) -> Store {
    let mut store = open(dir);
    store.save_vote(&vote()).await.unwrap();
    append(&mut store, (0..n).map(|i| entry(i, 100))).await;
    store
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// True when a test that needs root and some tools can run. Otherwise says so loudly; in CI that is a failure.
pub(super) fn can_run(test: &str, tools: &[&str]) -> bool {
    let root = Process::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n");
    let missing: Vec<_> = tools
        .iter()
        .filter(|t| !Process::new("which").arg(t).output().is_ok_and(|o| o.status.success()))
        .collect();
    if root && missing.is_empty() {
        return true;
    }
    println!("NOT RUN: {test}: needs root (have it: {root}) and the tools {missing:?}");
    assert!(std::env::var_os("CI").is_none(), "{test} must run in CI");
    false
}

pub(super) fn run(program: &str, args: &[&str]) {
    let out = Process::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// An ext4 file system in a file, mounted until dropped.
pub(super) struct Mount {
    pub(super) image: std::path::PathBuf,
    pub(super) dir: std::path::PathBuf,
}

impl Mount {
    /// A new file system of some MiB below `base`.
    pub(super) fn create(base: &Path, name: &str, mib: u64) -> Mount {
        let image = base.join(format!("{name}.img"));
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        Mount::of(base, name, image)
    }

    /// A file system that exists in a file; mounting replays its journal.
    pub(super) fn of(base: &Path, name: &str, image: std::path::PathBuf) -> Mount {
        let dir = base.join(format!("{name}.mnt"));
        std::fs::create_dir_all(&dir).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), dir.to_str().unwrap()]);
        Mount { image, dir }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..50 {
            if Process::new("umount").arg(&self.dir).status().is_ok_and(|s| s.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("could not unmount {}", self.dir.display());
    }
}
