//! Reading the log back.

use super::{
    READ_BYTES, Store,
    records::{self, Joiner},
};
use crate::types::{LogEntry, TypeConfig, Vote};
use openraft::{OptionalSend, RaftLogReader};
use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
};
use zonekeeper_core::codec::Kind;

impl Store {
    /// Entries of `range` in order, at most about `limit` bytes of them but at least one.
    async fn read(&self, range: Range<u64>, limit: usize) -> io::Result<Vec<LogEntry>> {
        let (old, new) = self.view().split(range.start, range.end);
        let mut room = limit;
        let mut entries = Vec::new();
        if !old.is_empty() {
            let store = self.clone();
            // sled may touch the disk, so it stays off the runtime's threads.
            let read = tokio::task::spawn_blocking(move || store.read_stored(old, limit)).await;
            let (stored, left) = read.map_err(io::Error::other)??;
            entries = stored;
            match left {
                Some(left) => room = left,
                None => return Ok(entries),
            }
        }
        for (entry, size) in new {
            if size > room && !entries.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            entries.push((*entry).clone());
        }
        Ok(entries)
    }

    /// Entries of `range` that sled has, and how many bytes are left of `limit`; none when it cut them short.
    fn read_stored(&self, range: Range<u64>, limit: usize) -> io::Result<(Vec<LogEntry>, Option<usize>)> {
        let mut room = limit;
        let mut entries = Vec::new();
        let mut take = |entries: &mut Vec<LogEntry>, (index, record): (u64, Vec<u8>)| {
            if record.len() > room && !entries.is_empty() {
                return Ok(false);
            }
            room = room.saturating_sub(record.len());
            entries.push(records::decode(Kind::LogEntry, &record).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index}: {error}"))
            })?);
            io::Result::Ok(true)
        };
        let mut joiner = Joiner::default();
        for item in self.shared.tree.range(records::log_key(range.start, 0)..records::log_key(range.end, 0)) {
            let (key, piece) = item.map_err(io::Error::other)?;
            let index = records::log_index(&key).unwrap_or_default();
            if let Some(record) = joiner.push(index, &piece)
                && !take(&mut entries, record)?
            {
                return Ok((entries, None));
            }
        }
        let whole = match joiner.finish() {
            Some(record) => take(&mut entries, record)?,
            None => true,
        };
        Ok((entries, whole.then_some(room)))
    }
}

impl RaftLogReader<TypeConfig> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start..end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.read(start..end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.view().vote)
    }
}
