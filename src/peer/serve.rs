//! Serving one verified connection: calls in, answers out.

use crate::{
    Lane, NodeId,
    conn::{QUEUE, calls, expired},
    frame::{self, Frame, FrameError, Type},
    hello::{self, Failed},
    refusal::Refusal,
    server::Accepted,
    shared::Shared,
    socket,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// Time in which the answers that wait are written before a goodbye.
const FLUSH: Duration = Duration::from_secs(1);

/// Serves until the peer goes, misbehaves, or may not stay.
pub(crate) async fn run(shared: &Arc<Shared>, accepted: Accepted) {
    let Accepted { mut stream, mut reader, peer, lane, addr } = accepted;
    let (out, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
    let mut session = Session {
        shared,
        node: peer.node,
        lane,
        out,
        slots: Arc::new(Semaphore::new(calls(lane))),
        tasks: JoinSet::new(),
    };
    let ended = {
        let write = frame::write_queue(&mut stream, &mut queue);
        tokio::pin!(write);
        let mut allowed = shared.allowed.subscribe();
        let mut tick = interval(shared.ping);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                frame = reader.next(lane.limit()) => match frame {
                    Ok(frame) => if let Err(why) = session.take(frame) { break Some(why) },
                    Err(error) => break why(error),
                },
                _ = &mut write => break None,
                _ = allowed.changed() => if !shared.allows(peer.node) { break Some(Refusal::NotAllowed) },
                _ = tick.tick() => {
                    if expired(peer.not_after) { break Some(Refusal::Expired) }
                    if reader.heard.elapsed() > shared.silence * 10 { break None } // its side has given up long ago
                }
            }
        }
    };
    drop(session);
    let Some(why) = ended else { return };
    shared.refusals.count(why, addr, Some(peer.node));
    let _ = timeout(FLUSH, stream.write_all(&hello::goodbye(why))).await;
    socket::linger(reader.into_inner().unsplit(stream)).await;
}

/// The refusal in a failed read, if the peer is to hear one.
fn why(error: FrameError) -> Option<Refusal> {
    match Failed::from(error) {
        Failed::Refused { why, by_peer: false } => Some(why),
        _ => None,
    }
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    node: NodeId,
    lane: Lane,
    out: mpsc::Sender<Vec<u8>>,
    slots: Arc<Semaphore>,
    /// Handlers under way; dropped with the connection.
    tasks: JoinSet<()>,
}

impl Session<'_> {
    fn take(&mut self, frame: Frame) -> Result<(), Refusal> {
        match frame.kind {
            Type::Request => self.request(frame),
            Type::Ping => {
                if let Ok(settings) = frame.body[..].try_into() {
                    self.shared.saw_settings(self.node, u64::from_le_bytes(settings));
                }
                let pong = frame::encode(Type::Pong, frame.id, &self.shared.settings().to_le_bytes());
                let _ = self.out.try_send(pong); // a full queue: the peer hears answers instead
                Ok(())
            }
            _ => Err(Refusal::Garbage),
        }
    }

    fn request(&mut self, frame: Frame) -> Result<(), Refusal> {
        while self.tasks.try_join_next().is_some() {}
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            // Our caller's own bound is as high, so this is one that gave up on calls that still run here.
            let _ = self.out.try_send(frame::encode(Type::Busy, frame.id, &[]));
            return Ok(());
        };
        let reply = Reply { out: self.out.clone(), id: frame.id, slot, done: false };
        let (shared, node, lane) = (self.shared.clone(), self.node, self.lane);
        self.tasks.spawn(async move {
            let answer = match shared.handler(lane) {
                Some(handler) => handler.handle(node, lane, frame.body).await,
                None => Err(format!("the {} lane is not served yet; try again", lane.name())),
            };
            reply.send(answer, lane.limit()).await;
        });
        Ok(())
    }
}

/// The duty to answer a call: also when its handler panics.
struct Reply {
    out: mpsc::Sender<Vec<u8>>,
    id: u64,
    slot: OwnedSemaphorePermit,
    done: bool,
}

impl Reply {
    async fn send(mut self, answer: Result<Vec<u8>, String>, limit: usize) {
        let frame = match answer {
            Ok(body) if body.len() > limit => {
                let text =
                    format!("the answer of {} bytes is larger than the lane's limit of {limit}", body.len());
                frame::encode(Type::Broken, self.id, text.as_bytes())
            }
            Ok(body) => frame::encode(Type::Response, self.id, &body),
            Err(text) => frame::encode(Type::Failure, self.id, &text.as_bytes()[..text.len().min(limit)]),
        };
        self.done = true;
        let _ = self.out.send(frame).await; // the connection is gone: nobody waits
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.done {
            let _ =
                self.out.try_send(frame::encode(Type::Broken, self.id, b"the handler panicked; see its log"));
        }
        let _ = &self.slot; // given back with this
    }
}
