//! A full disk stops writing, with an explanation, and harms nothing.

use super::support::{Mount, PATIENCE, can_run, entry, open, runtime, vote};
use openraft::{
    RaftLogReader,
    storage::{RaftLogStorage, RaftLogStorageExt},
};
use tempfile::TempDir;

#[test]
fn a_full_disk_stops_the_store_and_freed_space_brings_it_back() {
    if !can_run("full disk", &["mkfs.ext4", "mount", "umount"]) {
        return;
    }
    let base = TempDir::new().unwrap();
    let disk = Mount::create(base.path(), "small", 16);
    let data = disk.dir.join("data");
    let filler = disk.dir.join("filler");
    std::fs::write(&filler, vec![1; 6 << 20]).unwrap();
    let acked = runtime().block_on(async {
        let mut store = open(&data);
        store.save_vote(&vote()).await.unwrap();
        let mut failed = store.failed();
        let mut acked = 0;
        while store.blocking_append([entry(acked, 60_000)]).await.is_ok() {
            acked += 1;
            assert!(acked < 1000, "16 MiB cannot hold so much");
        }
        let told = tokio::time::timeout(PATIENCE, failed.wait_for(Option::is_some)).await.unwrap();
        assert!(told.unwrap().as_deref().is_some_and(|text| text.contains("Free space")));
        // Nothing is acknowledged from now on, not even what would fit.
        assert!(store.save_vote(&vote()).await.is_err());
        acked
    });
    assert!(acked > 10, "{acked}");
    std::fs::remove_file(filler).unwrap();
    runtime().block_on(async {
        let mut store = open(&data);
        let entries = store.try_get_log_entries(0..acked).await.unwrap();
        assert_eq!(entries.len() as u64, acked);
        assert!(entries.iter().enumerate().all(|(i, e)| *e == entry(i as u64, 60_000)));
        let last = store.get_log_state().await.unwrap().last_log_id.unwrap().index;
        store.blocking_append([entry(last + 1, 60_000)]).await.unwrap();
    });
}
