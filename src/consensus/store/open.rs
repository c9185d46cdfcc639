//! Opens a data directory: refuses what is foreign or damaged, and replays what was published.

use super::{
    Identity, Store,
    records::{self, Joiner},
    view::View,
    witness::{Memory, Witness},
};
use crate::{
    error::OpenError,
    fsync,
    machine::Machine,
    snapshot::SnapshotDir,
    types::{LogEntry, LogId, SnapshotMeta, Vote},
};
use openraft::entry::RaftEntry;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use zonekeeper_core::{
    State,
    codec::Kind,
    id::NodeId,
    mutant::{self, Mutant},
};

/// sled's directory.
pub(crate) const LOG_DIR: &str = "log";
/// Snapshot files.
pub(crate) const SNAPSHOT_DIR: &str = "snapshots";
/// sled's page cache; its default is 1 GiB.
const CACHE: u64 = 8 << 20;
/// How long to wait for another process (or an earlier handle) to let go of the directory.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Opens `dir` for `node` and replays it up to what was published.
pub(crate) fn open(dir: &Path, node: NodeId, cluster: Option<u128>) -> Result<(Store, Machine), OpenError> {
    let Read { db, view, entries, witness, snapshots, newest } = read(dir, node, cluster)?;
    let io = |source| OpenError::Io { dir: dir.to_path_buf(), source };
    if newest.is_some() && view.identity.is_none() && view.vote.is_none() && view.last.is_none() {
        let what =
            "there is a snapshot and no log, as a restore leaves it that was cut short; restore again".into();
        return Err(OpenError::Damaged { dir: dir.to_path_buf(), node, what });
    }
    let machine = Machine::on_disk(snapshots, newest);
    let known = machine.index_or_none();
    let watermark = if mutant::on(Mutant::StaleStart) { 0 } else { view.watermark };
    machine
        .replay(entries.into_iter().filter(|e| Some(e.log_id.index) > known && e.log_id.index <= watermark));
    Ok((Store::new(db, view, witness).map_err(io)?, machine))
}

/// What a data directory holds, checked.
pub(super) struct Read {
    pub(super) db: sled::Db,
    pub(super) view: View,
    pub(super) entries: Vec<LogEntry>,
    pub(super) witness: Witness,
    pub(super) snapshots: SnapshotDir,
    pub(super) newest: Option<(SnapshotMeta, State)>,
}

/// Reads `dir` and refuses what is foreign or damaged.
pub(super) fn read(dir: &Path, node: NodeId, cluster: Option<u128>) -> Result<Read, OpenError> {
    if !fsync::is_in_place() {
        return Err(OpenError::NotDurable);
    }
    let io = |source| OpenError::Io { dir: dir.to_path_buf(), source };
    let damaged = |what| OpenError::Damaged { dir: dir.to_path_buf(), node, what };
    for path in [dir.to_path_buf(), dir.join(LOG_DIR), dir.join(SNAPSHOT_DIR)] {
        std::fs::create_dir_all(path).map_err(io)?;
    }
    let db = open_sled(&dir.join(LOG_DIR)).map_err(|error| match error {
        Broken::Io(error) if locked(&error) => OpenError::Busy(dir.to_path_buf()),
        Broken::Io(source) => io(source),
        Broken::Damage(what) => damaged(what),
    })?;
    fsync::sync_tree(&dir.join(LOG_DIR)).and_then(|()| fsync::sync_tree(dir)).map_err(io)?;

    let (mut view, mut entries) = load(&db).map_err(damaged)?;
    check_owner(dir, view.identity, node, cluster)?;
    let snapshots = SnapshotDir::new(dir.join(SNAPSHOT_DIR)).map_err(io)?;
    let newest = snapshots.load().map_err(|error| damaged(error.to_string()))?;
    let covered = newest.as_ref().and_then(|(meta, _)| meta.last_log_id);
    if let Some(covered) = covered.filter(|c| interrupted(&view, &entries, c.index)) {
        finish_purge(&db, covered).map_err(io)?;
        (view, entries) = load(&db).map_err(damaged)?;
    }
    check(&view, &entries, covered).map_err(damaged)?;

    let witness = Witness::open(dir).map_err(io)?;
    if !mutant::on(Mutant::BlindWitness) {
        recall(&view, witness.memory()).map_err(damaged)?;
    }
    Ok(Read { db, view, entries, witness, snapshots, newest })
}

pub(crate) enum Broken {
    Io(io::Error),
    Damage(String),
}

pub(crate) fn open_sled(path: &Path) -> Result<sled::Db, Broken> {
    let config = sled::Config::new()
        .path(PathBuf::from(path))
        .cache_capacity(CACHE)
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace)
        .use_compression(false);
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(error))) if locked(&error) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(Err(sled::Error::Io(error))) => return Err(Broken::Io(error)),
            Ok(Err(error)) => return Err(Broken::Damage(format!("the log does not open ({error})"))),
            Err(_) => return Err(Broken::Damage("the log does not open (sled panicked on it)".into())),
        }
    }
}

fn locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

fn check_owner(
    dir: &Path,
    identity: Option<Identity>,
    node: NodeId,
    cluster: Option<u128>,
) -> Result<(), OpenError> {
    let Some(found) = identity else { return Ok(()) };
    if found.node == node && cluster.is_none_or(|c| c == found.cluster) {
        return Ok(());
    }
    let expected = match cluster {
        Some(cluster) => format!("node {node} of cluster {cluster:032x}"),
        None => format!("node {node}"),
    };
    Err(OpenError::Foreign { dir: dir.to_path_buf(), found: found.node, cluster: found.cluster, expected })
}

/// Reads every record; the text says which one does not decode.
fn load(db: &sled::Db) -> Result<(View, Vec<LogEntry>), String> {
    let mut view = View::default();
    let mut entries = Vec::new();
    let mut joiner = Joiner::default();
    for item in db.iter() {
        let (key, value) = item.map_err(|error| format!("the log does not read ({error})"))?;
        match records::log_index(&key) {
            Some(index) => {
                if let Some(record) = joiner.push(index, &value) {
                    entries.push(load_entry(record)?);
                }
            }
            None => {
                load_meta(&mut view, &key, &value).map_err(|error| format!("record {key:02x?}: {error}"))?
            }
        }
    }
    if let Some(record) = joiner.finish() {
        entries.push(load_entry(record)?);
    }
    view.last = entries.last().map(RaftEntry::log_id).or(view.purged);
    view.all_stored();
    Ok((view, entries))
}

fn load_entry((index, record): (u64, Vec<u8>)) -> Result<LogEntry, String> {
    let entry: LogEntry =
        records::decode(Kind::LogEntry, &record).map_err(|e| format!("log entry {index}: {e}"))?;
    match entry.log_id.index == index {
        true => Ok(entry),
        false => Err(format!("log entry {index} holds index {}", entry.log_id.index)),
    }
}

fn load_meta(view: &mut View, key: &[u8], record: &[u8]) -> Result<(), String> {
    let is = |kind| key == records::meta_key(kind);
    let text = |error: zonekeeper_core::codec::CodecError| error.to_string();
    if is(Kind::Vote) {
        view.vote = Some(records::decode::<Vote>(Kind::Vote, record).map_err(text)?);
    } else if is(Kind::Purged) {
        view.purged = Some(records::decode::<LogId>(Kind::Purged, record).map_err(text)?);
    } else if is(Kind::Committed) {
        view.committed = records::decode(Kind::Committed, record).map_err(text)?;
    } else if is(Kind::Watermark) {
        view.watermark = records::decode(Kind::Watermark, record).map_err(text)?;
    } else if is(Kind::Identity) {
        view.identity = Some(records::decode(Kind::Identity, record).map_err(text)?);
    } else {
        return Err("is of no kind that this version knows".into());
    }
    Ok(())
}

/// A node that received a snapshot appends behind it before it purges what the snapshot covers. A crash between the two
/// leaves a hole in the log that the snapshot fills: that is a purge to be finished, not damage.
fn interrupted(view: &View, entries: &[LogEntry], covered: u64) -> bool {
    let first = view.purged.map_or(0, |p| p.index + 1);
    let behind = (first..).zip(entries).find(|(next, entry)| entry.log_id.index != *next);
    behind.is_some_and(|(_, entry)| entry.log_id.index <= covered + 1)
}

fn finish_purge(db: &sled::Db, covered: LogId) -> io::Result<()> {
    let mut batch = sled::Batch::default();
    for key in db.iter().keys() {
        let key = key.map_err(io::Error::other)?;
        if records::log_index(&key).is_some_and(|index| index <= covered.index) {
            batch.remove(key);
        }
    }
    batch.insert(&records::meta_key(Kind::Purged), records::purged(&covered));
    db.apply_batch(batch).and_then(|()| db.flush()).map(drop).map_err(io::Error::other)
}

/// The records must tell one story.
fn check(view: &View, entries: &[LogEntry], snapshot: Option<LogId>) -> Result<(), String> {
    let first = view.purged.map_or(0, |p| p.index + 1);
    for (next, entry) in (first..).zip(entries) {
        if entry.log_id.index != next {
            return Err(format!("log entry {next} is missing (the next one is {})", entry.log_id.index));
        }
    }
    if view.vote.is_none() && view.last.is_some() {
        return Err("there is a log but no vote".into());
    }
    let covered = snapshot.map(|s| s.index);
    if let Some(purged) = view.purged
        && covered < Some(purged.index)
    {
        return Err(format!("the log is purged up to {}, but no snapshot reaches so far", purged.index));
    }
    let end = view.last.map(|l| l.index).max(covered).unwrap_or(0);
    if view.watermark > end {
        return Err(format!("{} was published, but log and snapshot end at {end}", view.watermark));
    }
    Ok(())
}

/// sled must have what the witness remembers.
fn recall(view: &View, memory: Memory) -> Result<(), String> {
    if let Some(vote) = memory.vote
        && !view.vote.is_some_and(|stored| stored >= vote)
    {
        return Err(format!("the vote {vote} was stored, and is gone"));
    }
    if memory.last > view.last {
        let (was, is) = (memory.last.map_or(0, |l| l.index), view.last.map_or(0, |l| l.index));
        return Err(format!("the log reached {was}, and now ends at {is}"));
    }
    Ok(())
}
