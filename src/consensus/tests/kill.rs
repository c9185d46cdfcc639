//! A process that is killed loses nothing that it acknowledged.

use super::child::Writer;
use tempfile::TempDir;

#[test]
fn a_hundred_kills_under_writes_lose_nothing_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut acked = 0;
    for round in 0..100u64 {
        let mut writer = Writer::start("write_for_ever", dir.path(), &[]);
        let found =
            writer.next("FOUND").unwrap_or_else(|| panic!("round {round}: the store did not open again"));
        assert!(found >= acked, "round {round}: {acked} entries were acknowledged, {found} found");
        for _ in 0..(round * 7) % 40 + 1 {
            acked = writer.next("ACKED").unwrap_or_else(|| panic!("round {round}: the writer is stuck"));
        }
        for line in writer.kill() {
            if let Some(count) = line.strip_prefix("ACKED ").and_then(|n| n.parse().ok()) {
                acked = count;
            }
        }
    }
    assert!(acked > 1000, "{acked} entries are too few to mean anything");
}

#[test]
fn a_child_ends_with_its_parent() {
    for name in ["write_for_ever", "write_and_wait"] {
        let dir = TempDir::new().unwrap();
        let mut writer = Writer::start(name, dir.path(), &[]);
        writer.next("ACKED").unwrap();
        // What the kernel does with the pipe of a parent that is killed.
        writer.hang_up();
        assert!(writer.ends_by_itself(), "{name} goes on without its parent");
    }
}
