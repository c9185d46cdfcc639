//! The one thread that writes: in order, in groups, one durable flush per group, acknowledgements after it.

use super::{
    records,
    witness::{Fact, Witness},
};
use std::{
    io,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use zonekeeper_core::mutant::{self, Mutant};

/// Operations that wait for the writer; senders wait beyond it. Raft has few of them in flight.
const QUEUE: usize = 256;
/// Bytes of one group: a batch lives in memory until it is flushed.
const GROUP_BYTES: usize = 4 << 20;

/// Told when an operation is durable, or never will be.
pub(super) type Ack = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One change of the tree.
pub(super) enum Edit {
    /// Sets a key.
    Put(sled::IVec, sled::IVec),
    /// Removes all pieces of these log entries.
    RemoveLog(RangeInclusive<u64>),
}

impl Edit {
    pub(super) fn put(key: &[u8], value: &[u8]) -> Edit {
        Edit::Put(key.into(), value.into())
    }
}

/// What happens to the tree, all or nothing.
pub(super) struct Op {
    edits: Vec<Edit>,
    /// None: nobody waits, and no flush is needed for it.
    ack: Option<Ack>,
    /// For the witness.
    fact: Option<Fact>,
}

impl Op {
    /// Durable before it is acknowledged.
    pub(super) fn synced(edits: Vec<Edit>, fact: Option<Fact>, ack: Ack) -> Op {
        Op { edits, ack: Some(ack), fact }
    }

    /// Durable with the next synced one.
    pub(super) fn lazy(edits: Vec<Edit>) -> Op {
        Op { edits, ack: None, fact: None }
    }

    fn bytes(&self) -> usize {
        let bytes = |edit: &Edit| match edit {
            Edit::Put(key, value) => key.len() + value.len(),
            Edit::RemoveLog(_) => 0,
        };
        self.edits.iter().map(bytes).sum()
    }

    fn removes(&self) -> bool {
        self.edits.iter().any(|edit| matches!(edit, Edit::RemoveLog(_)))
    }
}

/// Bounds of [`FlushTimes::counts`], in microseconds.
pub const FLUSH_BOUNDS_US: [u64; 15] = [
    500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 2_048_000,
    4_096_000, 8_192_000,
];

/// How long durable writes have taken since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushTimes {
    /// How many lie between the bounds of [`FLUSH_BOUNDS_US`]; the last one beyond them.
    pub counts: [u64; FLUSH_BOUNDS_US.len() + 1],
    /// All together, in microseconds.
    pub sum_us: u64,
}

/// How long durable writes take, the one under way included.
#[derive(Debug)]
pub(super) struct Flushes {
    started: Instant,
    /// When the one under way began, in milliseconds since `started`, and one more; 0: there is none.
    since: AtomicU64,
    /// The longest that has ended, in milliseconds.
    worst: AtomicU64,
    counts: [AtomicU64; FLUSH_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Flushes {
    fn new() -> Flushes {
        Flushes {
            started: Instant::now(),
            since: AtomicU64::new(0),
            worst: AtomicU64::new(0),
            counts: Default::default(),
            sum_us: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn begin(&self) -> Instant {
        self.since.store(self.now() + 1, Relaxed);
        Instant::now()
    }

    fn end(&self, began: Instant) {
        self.worst.fetch_max(self.running(), Relaxed);
        self.since.store(0, Relaxed);
        let took = began.elapsed().as_micros() as u64;
        self.counts[FLUSH_BOUNDS_US.partition_point(|bound| *bound < took)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took, Relaxed);
    }

    pub(super) fn times(&self) -> FlushTimes {
        FlushTimes {
            counts: std::array::from_fn(|i| self.counts[i].load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }

    /// How long the one under way has taken, in milliseconds.
    fn running(&self) -> u64 {
        match self.since.load(Relaxed) {
            0 => 0,
            began => (self.now() + 1).saturating_sub(began),
        }
    }

    /// The longest since this was asked last.
    pub(super) fn slowest(&self) -> Duration {
        let running = self.running();
        Duration::from_millis(self.worst.swap(0, Relaxed).max(running))
    }
}

/// Handle to the thread; dropping it waits until the thread has written everything.
pub(super) struct Writer {
    ops: Option<mpsc::Sender<Op>>,
    failed: watch::Sender<Option<String>>,
    flushes: Arc<Flushes>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn spawn(db: sled::Db, witness: Witness) -> io::Result<Writer> {
        let (ops, queue) = mpsc::channel(QUEUE);
        let failed = watch::Sender::new(None);
        let told = failed.clone();
        let flushes = Arc::new(Flushes::new());
        let mut disk = Disk { db, witness, flushes: flushes.clone() };
        let work = move || {
            let runs = AssertUnwindSafe(|| run(&mut disk, queue, &told));
            if catch_unwind(runs).is_err() {
                fail(&told, &explain("the writer panicked"));
            }
        };
        let thread = std::thread::Builder::new().name("zk-store".into()).spawn(work)?;
        Ok(Writer { ops: Some(ops), failed, flushes, thread: Some(thread) })
    }

    pub(super) fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    pub(super) fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    /// Nothing is written any more.
    pub(super) fn fail(&self, why: &str) {
        fail(&self.failed, &remedy(why));
    }

    pub(super) async fn send(&self, op: Op) -> io::Result<()> {
        self.ops.as_ref().ok_or_else(gone)?.send(op).await.map_err(|_| gone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ops = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}

pub(super) fn gone() -> io::Error {
    io::Error::other("the store's writer has stopped")
}

/// What the thread writes to.
struct Disk {
    db: sled::Db,
    witness: Witness,
    flushes: Arc<Flushes>,
}

fn run(disk: &mut Disk, mut queue: mpsc::Receiver<Op>, failed: &watch::Sender<Option<String>>) {
    let mut held = None;
    while let Some(first) = held.take().or_else(|| queue.blocking_recv()) {
        let mut size = first.bytes();
        let mut group = vec![first];
        while size < GROUP_BYTES
            && let Ok(op) = queue.try_recv()
        {
            // It removes what is in the tree, so what was put before must be there.
            if op.removes() {
                held = Some(op);
                break;
            }
            size += op.bytes();
            group.push(op);
        }
        finish(group, failed, |group| commit(disk, group));
    }
}

fn finish(
    mut group: Vec<Op>,
    failed: &watch::Sender<Option<String>>,
    commit: impl FnOnce(&mut [Op]) -> Result<(), String>,
) {
    let broken = failed.borrow().clone();
    let result = match broken {
        Some(text) => Err(text),
        None => commit(&mut group),
    };
    if let Err(text) = &result {
        fail(failed, text);
    }
    for ack in group.into_iter().filter_map(|op| op.ack) {
        ack(result.clone().map_err(io::Error::other));
    }
}

/// The first reason stays.
fn fail(failed: &watch::Sender<Option<String>>, text: &str) {
    failed.send_if_modified(|slot| {
        let first = slot.is_none();
        slot.get_or_insert_with(|| text.into());
        first
    });
}

/// Never tried again after an error: the kernel may have dropped the pages that it could not write, and a second
/// fsync would then succeed over lost data.
fn commit(disk: &mut Disk, group: &mut [Op]) -> Result<(), String> {
    let sync = group.iter().any(|op| op.ack.is_some());
    let edits: Vec<Edit> = group.iter_mut().flat_map(|op| op.edits.drain(..)).collect();
    let facts: Vec<Fact> = group.iter().filter_map(|op| op.fact).collect();
    let work = || {
        disk.witness.before(&facts)?;
        disk.db.apply_batch(batch(&disk.db, edits)?)?;
        if sync && !mutant::on(Mutant::NoFsync) {
            disk.db.flush()?;
        }
        disk.witness.after(&facts)?;
        sled::Result::Ok(())
    };
    let began = disk.flushes.begin();
    let done = catch_unwind(AssertUnwindSafe(work));
    disk.flushes.end(began);
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(explain(&error.to_string())),
        Err(_) => Err(explain("sled panicked")),
    }
}

fn batch(db: &sled::Db, edits: Vec<Edit>) -> sled::Result<sled::Batch> {
    let mut batch = sled::Batch::default();
    for edit in edits {
        match edit {
            Edit::Put(key, value) => batch.insert(key, value),
            Edit::RemoveLog(range) => {
                let (from, to) =
                    (records::log_key(*range.start(), 0), records::log_key(*range.end(), u8::MAX));
                for key in db.range(from..=to).keys() {
                    batch.remove(key?);
                }
            }
        }
    }
    Ok(batch)
}

fn explain(error: &str) -> String {
    remedy(&format!("the log could not be made durable ({error})"))
}

fn remedy(why: &str) -> String {
    format!(
        "{why}: this node votes and writes no more, and goes on answering from what it has. Free space or repair the \
         disk, then restart it"
    )
}
