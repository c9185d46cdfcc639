//! Whether the data directory's disk has room to start on.
//!
//! sled writes while it opens, and what it leaves behind when those writes fail may not open again, not even when there
//! is room. So a node without room does not begin: its data stays as it was.

use super::NodeError;
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Several segments of sled's log (512 KiB each) and its index, with some to spare for the first entries.
const NEEDED: usize = 8 << 20;

/// Tries to write [`NEEDED`] bytes, which quotas cannot hide from. A directory that does not exist holds nothing to lose.
pub(super) fn check(dir: &Path) -> Result<(), NodeError> {
    if !dir.exists() {
        return Ok(());
    }
    let path = dir.join("room");
    let tried = fill(&path);
    let removed = fs::remove_file(&path);
    match tried.and(removed) {
        Ok(()) => Ok(()),
        Err(error) => Err(NodeError::Room { dir: dir.to_owned(), mib: NEEDED >> 20, error }),
    }
}

fn fill(path: &Path) -> io::Result<()> {
    let (mut file, block) = (File::create(path)?, vec![0; 1 << 20]);
    (0..NEEDED / block.len()).try_for_each(|_| file.write_all(&block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        check(&dir.path().join("not-there-yet")).unwrap();
        assert!(!dir.path().join("not-there-yet").exists());
    }
}
