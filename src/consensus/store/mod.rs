//! The log store: what Raft must not forget, on sled, behind one writer thread.
//!
//! Readers are served from memory where they can be: the newest entries stay in a bounded tail, so that an entry is
//! readable at once while its flush is under way, and replication does not touch sled at all.

mod anew;
mod open;
mod reader;
mod records;
mod view;
mod witness;
mod writer;

pub use anew::{Anew, Begun, recover, restore};
pub(crate) use open::open;
pub use records::Identity;
pub use writer::{FLUSH_BOUNDS_US, FlushTimes};
#[cfg(test)]
pub(crate) use {
    open::{LOG_DIR, open_sled},
    records::*,
};

use crate::types::{LogEntry, LogId, TypeConfig, Vote};
use openraft::{
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use std::{
    io,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};
use tokio::sync::{oneshot, watch};
use view::View;
use witness::{Fact, Witness};
use writer::{Edit, Op, Writer};
use zonekeeper_core::{
    codec::Kind,
    id::NodeId,
    mutant::{self, Mutant},
};

/// Bytes of entries that one read returns at most (but always one entry), below what
/// the Raft lane carries in one request (1 MiB).
pub(crate) const READ_BYTES: usize = 768 << 10;

/// Handle to the store; clones share it. The last one to go waits for the writer thread.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    view: RwLock<View>,
    tree: sled::Tree,
    writer: Writer,
    /// The last watermark that was given to the writer.
    watermark: tokio::sync::Mutex<u64>,
}

impl Store {
    /// A store over an open database, with what was loaded from it.
    fn new(db: sled::Db, view: View, witness: Witness) -> io::Result<Store> {
        let tree: sled::Tree = (*db).clone();
        let writer = Writer::spawn(db, witness)?;
        let watermark = tokio::sync::Mutex::new(view.watermark);
        Ok(Store { shared: Arc::new(Shared { view: RwLock::new(view), tree, writer, watermark }) })
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.shared.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.shared.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose data this is.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.view().identity
    }

    /// Neither a vote nor a log nor a trace of one.
    pub(crate) fn is_empty(&self) -> bool {
        let view = self.view();
        view.vote.is_none() && view.last.is_none() && view.watermark == 0
    }

    /// Says why the store writes no more, once it does.
    pub(crate) fn failed(&self) -> watch::Receiver<Option<String>> {
        self.shared.writer.failed()
    }

    /// The longest durable write since this was asked last, the one under way included.
    pub(crate) fn slowest_flush(&self) -> Duration {
        self.shared.writer.flushes().slowest()
    }

    pub(crate) fn flush_times(&self) -> FlushTimes {
        self.shared.writer.flushes().times()
    }

    /// Stops writing: Raft has stopped for a reason that a restart alone may mend.
    pub(crate) fn fail(&self, why: &str) {
        self.shared.writer.fail(why);
    }

    /// Writes the identity of a directory that has none.
    pub(crate) async fn claim(&self, cluster: u128, node: NodeId) -> io::Result<Identity> {
        if let Some(identity) = self.identity() {
            return match (identity.cluster, identity.node) == (cluster, node) {
                true => Ok(identity),
                false => Err(io::Error::other(format!("the directory belongs to node {}", identity.node))),
            };
        }
        let mut uuid = [0; 16];
        getrandom::fill(&mut uuid).map_err(|error| io::Error::other(error.to_string()))?;
        let identity = Identity { cluster, node, uuid: u128::from_le_bytes(uuid) };
        self.write(meta(Kind::Identity, records::identity(&identity)), None).await?;
        self.view_mut().identity = Some(identity);
        Ok(identity)
    }

    /// Makes durable what was published, with everything that was written before it.
    pub(crate) async fn save_watermark(&self, index: u64) -> io::Result<()> {
        if index <= self.view().watermark || mutant::on(Mutant::ForgottenWatermark) {
            return Ok(());
        }
        // Locked until it is in the writer's queue, so that an older one never follows a newer one there.
        let mut queued = self.shared.watermark.lock().await;
        if index <= *queued {
            drop(queued);
            return self.barrier().await;
        }
        let wait = self.submit(meta(Kind::Watermark, records::watermark(index)), None).await?;
        *queued = index;
        drop(queued);
        wait.await.map_err(|_| writer::gone())??;
        let mut view = self.view_mut();
        view.watermark = view.watermark.max(index);
        Ok(())
    }

    /// Waits until everything that was written before is durable.
    pub(crate) async fn barrier(&self) -> io::Result<()> {
        self.write(Vec::new(), None).await
    }

    /// Makes entries readable; what is to be stored, and the last index.
    fn take(&self, entries: Vec<(Arc<LogEntry>, Vec<u8>)>) -> (Vec<Edit>, Option<LogId>) {
        let mut edits = Vec::with_capacity(entries.len());
        let mut view = self.view_mut();
        for (entry, record) in entries {
            let index = entry.log_id.index;
            edits.extend(records::pieces(index, &record).map(|(key, piece)| Edit::put(&key, piece)));
            view.push(entry, record.len());
        }
        (edits, view.last)
    }

    async fn write(&self, edits: Vec<Edit>, fact: Option<Fact>) -> io::Result<()> {
        self.submit(edits, fact).await?.await.map_err(|_| writer::gone())?
    }

    /// Puts something in the writer's queue; the receiver says when it is durable.
    async fn submit(
        &self,
        edits: Vec<Edit>,
        fact: Option<Fact>,
    ) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (done, wait) = oneshot::channel();
        let ack = Box::new(move |result| drop(done.send(result)));
        self.shared.writer.send(Op::synced(edits, fact, ack)).await?;
        Ok(wait)
    }
}

fn meta(kind: Kind, record: Vec<u8>) -> Vec<Edit> {
    vec![Edit::put(&records::meta_key(kind), &record)]
}

fn removed(range: Option<std::ops::RangeInclusive<u64>>) -> Vec<Edit> {
    range.map(Edit::RemoveLog).into_iter().collect()
}

impl RaftLogStorage<TypeConfig> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let view = self.view();
        Ok(LogState { last_purged_log_id: view.purged, last_log_id: view.last })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let edits = match mutant::on(Mutant::ForgottenVote) {
            true => Vec::new(),
            false => meta(Kind::Vote, records::vote(vote)),
        };
        self.write(edits, Some(Fact::Vote(*vote))).await?;
        self.view_mut().vote = Some(*vote);
        Ok(())
    }

    /// Not synced: it is only a hint, and the next synced write carries it along.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let edits = meta(Kind::Committed, records::committed(&committed));
        self.shared.writer.send(Op::lazy(edits)).await?;
        self.view_mut().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let view = self.view();
        Ok(view.committed.min(view.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let entries: Vec<(Arc<LogEntry>, Vec<u8>)> = entries
            .into_iter()
            .map(|e| {
                let record = records::entry(&e);
                (Arc::new(e), record)
            })
            .collect();
        if let Some((entry, record)) = entries.iter().find(|(_, record)| record.len() > records::MAX_RECORD) {
            let text =
                format!("entry {} has {} bytes, more than the store takes", entry.log_id, record.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (edits, last) = self.take(entries);
        let shared = Arc::downgrade(&self.shared);
        let ack = Box::new(move |result: io::Result<()>| {
            if let (Ok(()), Some(shared)) = (&result, shared.upgrade()) {
                let index = last.map_or(0, |l| l.index);
                shared.view.write().unwrap_or_else(PoisonError::into_inner).stored(index);
            }
            callback.io_completed(result);
        });
        self.shared.writer.send(Op::synced(edits, last.map(Fact::Last), ack)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let (gone, last) = {
            let mut view = self.view_mut();
            (view.truncate_after(last), view.last)
        };
        let fact = gone.is_some().then_some(Fact::Cut(last));
        self.write(removed(gone), fact).await?;
        self.view_mut().truncated();
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let (gone, last) = {
            let mut view = self.view_mut();
            (view.purge(upto), view.last.unwrap_or(upto))
        };
        let mut edits = removed(gone);
        edits.extend(meta(Kind::Purged, records::purged(&upto)));
        self.write(edits, Some(Fact::Last(last))).await
    }
}

/// The log id of an entry.
fn id(entry: &LogEntry) -> LogId {
    RaftEntry::log_id(entry)
}
