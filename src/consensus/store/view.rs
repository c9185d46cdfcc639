//! What the store knows without asking sled.

use super::{Identity, id};
use crate::types::{LogEntry, LogId, Vote};
use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

/// Entries kept in memory, when they are stored already.
const TAIL_ENTRIES: usize = 2048;
/// Their bytes as they are stored; in memory, record by record, they take about five times as much. A follower that is
/// further behind is served from sled.
const TAIL_BYTES: usize = 1 << 20;

/// The records that exist once, the ends of the log, and its newest part.
#[derive(Default)]
pub(super) struct View {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) watermark: u64,
    pub(super) identity: Option<Identity>,
    /// The newest entries with their stored size: everything that sled does not have yet, and some more.
    tail: BTreeMap<u64, (Arc<LogEntry>, usize)>,
    tail_bytes: usize,
    /// Entries up to this index are in sled.
    stored: Option<u64>,
}

impl View {
    /// The tail starts empty behind what was loaded.
    pub(super) fn all_stored(&mut self) {
        self.stored = self.last.map(|l| l.index);
    }

    pub(super) fn push(&mut self, entry: Arc<LogEntry>, size: usize) {
        let log_id = id(&entry);
        self.last = Some(log_id);
        if let Some((_, old)) = self.tail.insert(log_id.index, (entry, size)) {
            self.tail_bytes -= old;
        }
        self.tail_bytes += size;
    }

    /// Everything up to `index` is in sled: the tail may shrink.
    pub(super) fn stored(&mut self, index: u64) {
        self.stored = self.stored.max(Some(index));
        while self.tail.len() > TAIL_ENTRIES || self.tail_bytes > TAIL_BYTES {
            match self.tail.first_key_value() {
                Some((first, _)) if Some(*first) <= self.stored => self.forget_first(),
                _ => return,
            }
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, (_, size))) = self.tail.pop_first() {
            self.tail_bytes -= size;
        }
    }

    /// Forgets what comes after `last`; the indexes that sled must forget.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) -> Option<RangeInclusive<u64>> {
        let first = last.map_or(0, |l| l.index + 1);
        let end = self.last?.index;
        for (_, size) in self.tail.split_off(&first).values() {
            self.tail_bytes -= size;
        }
        // Only ever shorter: a cut behind the end removes nothing.
        if first <= end {
            self.last = last.max(self.purged);
        }
        (first <= end).then_some(first..=end)
    }

    /// What [`View::truncate_after`] cut off has left sled too.
    pub(super) fn truncated(&mut self) {
        self.stored = self.stored.min(self.last.map(|l| l.index));
    }

    /// Forgets what comes up to `upto`; the indexes that sled must forget.
    pub(super) fn purge(&mut self, upto: LogId) -> Option<RangeInclusive<u64>> {
        let first = self.purged.map_or(0, |l| l.index + 1);
        let end = self.last.map(|last| last.index.min(upto.index));
        while self.tail.first_key_value().is_some_and(|(index, _)| *index <= upto.index) {
            self.forget_first();
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
            self.stored = Some(upto.index);
        }
        let end = end?;
        (first <= end).then_some(first..=end)
    }

    /// The part of `from..to` that only sled has, and the rest.
    pub(super) fn split(&self, from: u64, to: u64) -> (std::ops::Range<u64>, Vec<(Arc<LogEntry>, usize)>) {
        let tail_first = self.tail.first_key_value().map_or(u64::MAX, |(index, _)| *index);
        let after_last = self.last.map_or(0, |l| l.index + 1);
        let old = from..to.min(tail_first).min(after_last);
        let new = match from.max(tail_first) < to {
            true => self.tail.range(from.max(tail_first)..to).map(|(_, e)| e.clone()).collect(),
            false => Vec::new(),
        };
        (old, new)
    }
}
