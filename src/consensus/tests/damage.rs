//! Damaged and foreign data: the node does not start, and says why and what to do.

use super::support::{append, entry, filled, log_id, open, runtime, vote};
use crate::{
    Consensus, OpenError,
    snapshot::SnapshotDir,
    store::{self, LOG_DIR},
    types::{SnapshotMeta, StoredMembership, TypeConfig},
};
use openraft::{RaftLogReader, storage::RaftLogStorage, type_config::TypeConfigExt};
use std::path::Path;
use tempfile::TempDir;
use zonekeeper_core::{State, codec::Kind};

/// Changes the stored records behind the store's back.
fn tamper(dir: &Path, change: impl FnOnce(&sled::Db)) {
    let db = store::open_sled(&dir.join(LOG_DIR)).unwrap_or_else(|_| panic!("sled does not open"));
    change(&db);
    db.flush().unwrap();
}

/// What a refused start says.
fn refusal(dir: &Path) -> String {
    match Consensus::open(dir, 1, None) {
        Ok(_) => panic!("the damage was not seen"),
        Err(error @ OpenError::Damaged { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
    }
}

fn written(n: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    runtime().block_on(async { drop(filled(dir.path(), n).await) });
    dir
}

#[test]
fn a_flipped_byte_in_any_record_is_seen_and_the_way_back_is_named() {
    for key in [store::log_key(3, 0).to_vec(), store::meta_key(Kind::Vote).to_vec()] {
        let dir = written(10);
        tamper(dir.path(), |db| {
            let mut record = db.get(&key).unwrap().unwrap().to_vec();
            let last = record.len() - 1;
            record[last] ^= 1;
            db.insert(&key, record).unwrap();
        });
        let text = refusal(dir.path());
        assert!(text.contains("checksum") && text.contains("member remove 1 --yes"), "{text}");
    }
}

#[test]
fn a_hole_in_the_log_is_seen() {
    let dir = written(10);
    tamper(dir.path(), |db| drop(db.remove(store::log_key(5, 0)).unwrap()));
    assert!(refusal(dir.path()).contains("log entry 5 is missing"));
}

#[test]
fn a_hole_that_a_snapshot_fills_is_a_purge_to_be_finished() {
    let dir = written(10);
    let snapshots = SnapshotDir::new(dir.path().join("snapshots")).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(log_id(6)), last_membership: StoredMembership::default() };
    snapshots.write(&meta, &State::default()).unwrap();
    tamper(dir.path(), |db| (4..=6).for_each(|i| drop(db.remove(store::log_key(i, 0)).unwrap())));
    let (mut store, machine) = store::open(dir.path(), 1, None).unwrap();
    let state = runtime().block_on(store.get_log_state()).unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(6)));
    let entries = runtime().block_on(store.try_get_log_entries(0..20)).unwrap();
    assert_eq!(entries.first().map(|e| e.log_id.index), Some(7));
    assert_eq!(machine.index(), 6);
    drop((store, machine));
    tamper(dir.path(), |db| drop(db.remove(store::log_key(8, 0)).unwrap()));
    assert!(refusal(dir.path()).contains("log entry 8 is missing"), "behind the snapshot it is damage");
}

#[test]
fn a_log_without_a_vote_is_seen() {
    let dir = written(10);
    tamper(dir.path(), |db| drop(db.remove(store::meta_key(Kind::Vote)).unwrap()));
    let text = refusal(dir.path());
    assert!(text.contains("no vote"), "{text}");
}

#[test]
fn a_log_that_is_shorter_than_what_was_published_is_seen() {
    let dir = TempDir::new().unwrap();
    runtime().block_on(async { filled(dir.path(), 10).await.save_watermark(9).await.unwrap() });
    tamper(dir.path(), |db| drop(db.remove(store::log_key(9, 0)).unwrap()));
    assert!(refusal(dir.path()).contains("9 was published"));
}

#[test]
fn an_older_publication_never_takes_the_place_of_a_newer_one() {
    let dir = TempDir::new().unwrap();
    runtime().block_on(async {
        let store = filled(dir.path(), 10).await;
        let (newer, older) = tokio::join!(store.save_watermark(9), store.save_watermark(5));
        newer.and(older).unwrap();
    });
    assert_eq!(Consensus::open(dir.path(), 1, None).unwrap().index(), 9);
}

#[test]
fn a_purged_log_without_its_snapshot_is_seen() {
    let dir = TempDir::new().unwrap();
    runtime().block_on(async { filled(dir.path(), 10).await.purge(log_id(5)).await.unwrap() });
    assert!(refusal(dir.path()).contains("no snapshot reaches so far"));
}

#[test]
fn a_flipped_byte_anywhere_in_a_snapshot_is_seen() {
    let dir = written(10);
    let snapshots = SnapshotDir::new(dir.path().join("snapshots")).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(log_id(9)), last_membership: StoredMembership::default() };
    let path = snapshots.write(&meta, &State::default()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(Consensus::open(dir.path(), 1, None).unwrap().index(), 9);
    for at in (0..whole.len()).step_by(whole.len() / 20) {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, bad).unwrap();
        let text = refusal(dir.path());
        assert!(text.contains("snap-") && text.contains("member remove 1 --yes"), "byte {at}: {text}");
    }
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    refusal(dir.path());
}

/// sled takes a damaged record for the end of its log. What is gone then must be missed, and the rest be whole.
#[test]
fn a_flipped_byte_in_the_file_of_sled_loses_nothing_silently() {
    let dir = TempDir::new().unwrap();
    runtime().block_on(async {
        let mut store = filled(dir.path(), 1).await;
        for index in 1..60 {
            append(&mut store, [entry(index, 3000)]).await;
            store.save_watermark(index).await.unwrap();
        }
    });
    let file = dir.path().join(LOG_DIR).join("db");
    let whole = std::fs::read(&file).unwrap();
    let mut refused = 0;
    for at in (64..whole.len().min(190_000)).step_by(9973) {
        let copy = TempDir::new().unwrap();
        copy_dir(dir.path(), copy.path());
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        std::fs::write(copy.path().join(LOG_DIR).join("db"), bad).unwrap();
        match store::open(copy.path(), 1, None) {
            Err(_) => refused += 1,
            Ok((mut store, machine)) => runtime().block_on(async {
                let entries = store.try_get_log_entries(0..60).await.unwrap();
                assert_eq!((entries.len(), machine.index()), (60, 59), "byte {at}");
                assert!(entries.iter().skip(1).all(|e| *e == entry(e.log_id.index, 3000)), "byte {at}");
                assert_eq!(store.read_vote().await.unwrap(), Some(vote()), "byte {at}");
            }),
        }
    }
    assert!(refused > 0, "no damage was seen");
}

fn copy_dir(from: &Path, to: &Path) {
    super::support::run("cp", &["-a", &format!("{}/.", from.display()), to.to_str().unwrap()]);
}

#[test]
fn the_directory_of_another_node_or_cluster_is_refused() {
    let dir = TempDir::new().unwrap();
    let opened = Consensus::open(dir.path(), 1, None).unwrap();
    assert!(opened.is_empty() && opened.identity().is_none());
    let identity = runtime().block_on(opened.claim(0xfeed)).unwrap();
    assert_eq!((identity.cluster, identity.node), (0xfeed, 1));
    drop(opened);
    assert!(matches!(Consensus::open(dir.path(), 2, None), Err(OpenError::Foreign { found: 1, .. })));
    assert!(matches!(
        Consensus::open(dir.path(), 1, Some(0xbeef)),
        Err(OpenError::Foreign { cluster: 0xfeed, .. })
    ));
    assert_eq!(Consensus::open(dir.path(), 1, Some(0xfeed)).unwrap().identity(), Some(identity));
}

#[test]
fn entries_of_the_largest_size_are_stored_and_larger_ones_are_refused() {
    let dir = TempDir::new().unwrap();
    runtime().block_on(async {
        let mut store = open(dir.path());
        let largest = entry(0, zonekeeper_core::entry::MAX_ENTRY);
        append(&mut store, [largest.clone()]).await;
        assert_eq!(store.try_get_log_entries(0..1).await.unwrap(), [largest]);
        let (tx, _rx) = TypeConfig::oneshot();
        let too_large = store.append([entry(1, 70_000)], openraft::storage::IOFlushed::signal(tx)).await;
        assert!(too_large.unwrap_err().to_string().contains("more than the store takes"));
    });
}
