//! One established connection to a peer: calls out, answers in.

use crate::{
    Lane, NodeId, PeerError,
    error::Loss,
    frame::{self, Frame, FrameError, Reader, Type},
    hello,
    link::Stats,
    shared::{Shared, lock},
    tls::Tls,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    io::ReadHalf,
    net::TcpStream,
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

/// Calls under way on one connection at most, on both sides. Bulk chunks are large, so eight of them fill a pipe of
/// 8 MiB; elsewhere a call waits for the oldest to end.
pub(crate) const fn calls(lane: Lane) -> usize {
    match lane {
        Lane::Bulk => 8,
        Lane::Heartbeat | Lane::Raft | Lane::Watch | Lane::Control => 64,
    }
}

/// Frames that wait for the socket at most.
pub(crate) const QUEUE: usize = 16;

/// Time that calls under way have to end on a connection that was replaced.
const DRAIN: Duration = Duration::from_secs(60);

/// What came back for a call.
enum Answer {
    Response(Vec<u8>),
    Failure(String),
    Broken(String),
    Busy,
    Lost(Loss),
}

/// Calls that wait for their answer.
#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    lost: bool,
}

/// The caller's half of a connection.
pub(crate) struct Conn {
    node: NodeId,
    out: mpsc::Sender<Vec<u8>>,
    calls: Mutex<Calls>,
    slots: Semaphore,
    next: AtomicU64,
}

/// Forgets a call whose caller has gone away.
struct Waiting<'a>(&'a Conn, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.calls).waiting.remove(&self.1);
    }
}

impl Conn {
    /// Sends a call and waits for its answer; `None` when the connection was lost before the call was sent.
    pub(crate) async fn call(&self, payload: &[u8]) -> Option<Result<Vec<u8>, PeerError>> {
        let _slot = self.slots.acquire().await.ok()?;
        let id = self.next.fetch_add(1, Relaxed);
        let (tell, told) = oneshot::channel();
        {
            let mut calls = lock(&self.calls);
            if calls.lost {
                return None;
            }
            calls.waiting.insert(id, tell);
        }
        let _waiting = Waiting(self, id);
        self.out.send(frame::encode(Type::Request, id, payload)).await.ok()?;
        let node = self.node;
        Some(match told.await.unwrap_or(Answer::Lost(Loss::Closed)) {
            Answer::Response(body) => Ok(body),
            Answer::Failure(text) => Err(PeerError::Remote { node, text }),
            Answer::Broken(text) => Err(PeerError::Broken { node, text }),
            Answer::Busy => Err(PeerError::Busy(node)),
            Answer::Lost(why) => Err(PeerError::Lost { node, why }),
        })
    }

    fn answer(&self, id: u64, answer: Answer) {
        // No entry: the caller has given up.
        if let Some(tell) = lock(&self.calls).waiting.remove(&id) {
            let _ = tell.send(answer);
        }
    }

    fn lose(&self, why: Loss) {
        let waiting = {
            let mut calls = lock(&self.calls);
            calls.lost = true;
            std::mem::take(&mut calls.waiting)
        };
        waiting.into_values().for_each(|tell| drop(tell.send(Answer::Lost(why))));
    }

    fn idle(&self) -> bool {
        lock(&self.calls).waiting.is_empty()
    }
}

/// Reads a connection and keeps it alive. Dropping it closes the connection.
pub(crate) struct Driver {
    pub(crate) conn: Arc<Conn>,
    /// When the first of the two certificates ends.
    pub(crate) ends: SystemTime,
    /// Our side of the handshake.
    pub(crate) ours: Arc<Tls>,
    lane: Lane,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    reader: Reader<ReadHalf<TlsStream<TcpStream>>>,
    tick: Interval,
    /// The ping under way.
    pinged: Option<(u64, Instant)>,
    /// Since when the peer owes us a sign of life.
    asked: Option<Instant>,
    _writer: AbortOnDropHandle<()>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.conn.lose(Loss::Closed);
    }
}

impl Driver {
    /// Takes over a connection after its handshake. `reader` may hold bytes already.
    pub(crate) fn new(
        (shared, stats): (Arc<Shared>, Arc<Stats>),
        (node, lane): (NodeId, Lane),
        (ours, ends): (Arc<Tls>, SystemTime),
        reader: Reader<ReadHalf<TlsStream<TcpStream>>>,
        mut writer: tokio::io::WriteHalf<TlsStream<TcpStream>>,
    ) -> Driver {
        let (out, mut queue) = mpsc::channel(QUEUE);
        let writer = shared.spawn(async move { frame::write_queue(&mut writer, &mut queue).await });
        let mut tick = interval(shared.ping);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let slots = Semaphore::new(calls(lane));
        let conn = Conn { node, out, calls: Mutex::default(), slots, next: AtomicU64::new(1) };
        Driver {
            conn: Arc::new(conn),
            ends,
            ours,
            lane,
            shared,
            stats,
            reader,
            tick,
            pinged: None,
            asked: None,
            _writer: AbortOnDropHandle::new(writer),
        }
    }

    /// Runs until the connection is lost. May be cancelled and called again.
    pub(crate) async fn run(&mut self) -> Loss {
        loop {
            tokio::select! {
                biased; // bytes that wait in the socket are heard before silence is complained of
                frame = self.reader.next(self.lane.limit()) => {
                    if let Err(loss) = frame.map_err(lost).and_then(|frame| self.take(frame)) {
                        self.conn.lose(loss);
                        return loss;
                    }
                }
                _ = self.tick.tick() => if let Some(loss) = self.check() {
                    self.conn.lose(loss);
                    return loss;
                }
            }
        }
    }

    /// Runs a connection that was replaced until its calls have ended.
    pub(crate) async fn drain(mut self) {
        let conn = self.conn.clone();
        let idle = async {
            let mut look = interval(Duration::from_millis(10));
            while !conn.idle() || Arc::strong_count(&conn) > 2 {
                look.tick().await; // two hold it here; a third is a caller that is about to call
            }
        };
        tokio::select! {
            _ = self.run() => (),
            _ = tokio::time::timeout(DRAIN, idle) => (),
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), Loss> {
        match frame.kind {
            Type::Response => self.conn.answer(frame.id, Answer::Response(frame.body)),
            Type::Failure => self.conn.answer(frame.id, Answer::Failure(text(&frame))),
            Type::Broken => self.conn.answer(frame.id, Answer::Broken(text(&frame))),
            Type::Busy => self.conn.answer(frame.id, Answer::Busy),
            Type::Pong => self.pong(&frame),
            Type::Goodbye => return Err(Loss::Denied(hello::goodbye_reason(&frame))),
            _ => return Err(Loss::Network),
        }
        Ok(())
    }

    fn pong(&mut self, frame: &Frame) {
        if let Some((id, at)) = self.pinged
            && id == frame.id
        {
            self.pinged = None;
            if self.lane == Lane::Heartbeat {
                lock(&self.stats.rtt).add(at.elapsed());
            }
        }
        if let Ok(settings) = frame.body[..].try_into() {
            self.stats.saw_settings(u64::from_le_bytes(settings));
        }
    }

    /// Looks at the clock: is the peer silent, is a certificate over, is a ping due?
    fn check(&mut self) -> Option<Loss> {
        let patience = if self.lane == Lane::Bulk { self.shared.silence * 10 } else { self.shared.silence };
        let heard = self.reader.heard;
        // Silence counts from a question: after a pause of this very process nothing was asked, so nothing is missing.
        self.asked = self.asked.filter(|at| *at >= heard);
        if self.asked.is_some_and(|at| at.elapsed() > patience) {
            return Some(Loss::Timeout);
        }
        if expired(self.ends) {
            return Some(Loss::Expired);
        }
        if self.lane == Lane::Heartbeat || heard.elapsed() >= self.shared.ping {
            self.asked.get_or_insert_with(Instant::now);
            self.ping();
        }
        None
    }

    fn ping(&mut self) {
        if self.pinged.is_none() {
            let id = self.conn.next.fetch_add(1, Relaxed);
            let ping = frame::encode(Type::Ping, id, &self.shared.settings().to_le_bytes());
            // A full queue: then frames are on their way already, and the next tick asks again.
            if self.conn.out.try_send(ping).is_ok() {
                self.pinged = Some((id, Instant::now()));
            }
        }
    }
}

fn text(frame: &Frame) -> String {
    String::from_utf8_lossy(&frame.body).into_owned()
}

/// Whether a certificate has ended; its last second belongs to it (RFC 5280 §4.1.2.5).
pub(crate) fn expired(not_after: SystemTime) -> bool {
    SystemTime::now() >= not_after + Duration::from_secs(1)
}

/// The loss that a failed read stands for.
pub(crate) fn lost(error: FrameError) -> Loss {
    match hello::Failed::from(error) {
        hello::Failed::Loss(loss) => loss,
        hello::Failed::Refused { why, by_peer: true } => Loss::Denied(why),
        hello::Failed::Refused { .. } => Loss::Network,
    }
}
