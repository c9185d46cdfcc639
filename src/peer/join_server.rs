//! The member's side of a join.

use crate::{
    frame::{self, FrameError, Reader, Type},
    hello,
    join::{ASK_LIMIT, Ask},
    refusal::Refusal,
    shared::{Shared, lock},
    socket,
};
use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, split},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_rustls::server::TlsStream;
use zonekeeper_core::codec;

/// Failed joins in a row that are let through to the handler.
const BURST: u32 = 10;
/// After that, one more in this time. Tokens have 256 random bits, so this is not against guessing but against load.
const REFILL: Duration = Duration::from_secs(2);
/// Joins at once.
const AT_ONCE: usize = 8;
/// Time for the joiner's request.
const READ: Duration = Duration::from_secs(5);
/// Time for the handler, which waits for a commit, and for the answer's way back.
const DECIDE: Duration = Duration::from_secs(30);

/// Counts failed joins of late: one number, whoever they came from.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: u32,
    since: Option<Instant>,
}

impl Failures {
    /// Whether another join may be tried now.
    fn may_try(&mut self, now: Instant) -> bool {
        if let Some(since) = self.since {
            let forgiven =
                (now.duration_since(since).as_millis() / REFILL.as_millis()).min(u128::from(BURST)) as u32;
            self.count = self.count.saturating_sub(forgiven);
            self.since = if self.count == 0 { None } else { Some(since + REFILL * forgiven) };
        }
        self.count < BURST
    }

    /// One failed.
    fn failed(&mut self, now: Instant) {
        self.count = (self.count + 1).min(BURST);
        self.since.get_or_insert(now);
    }
}

/// Joins under way and failed of late.
#[derive(Debug)]
pub(crate) struct Joins {
    slots: Semaphore,
    failures: Mutex<Failures>,
}

impl Default for Joins {
    fn default() -> Joins {
        Joins { slots: Semaphore::new(AT_ONCE), failures: Mutex::default() }
    }
}

/// Serves one joiner.
pub(crate) async fn serve(shared: &Shared, stream: TlsStream<TcpStream>, addr: SocketAddr) {
    let (read, mut write) = split(stream);
    let mut reader = Reader::new(read);
    let slot = shared.incoming.joins.slots.try_acquire();
    let decided = if slot.is_ok() { decide(shared, &mut reader, addr).await } else { Err(Refusal::JoinRate) };
    let answer = match decided {
        Ok(frame) => frame,
        Err(why) => {
            shared.refusals.count(why, addr, None);
            hello::goodbye(why)
        }
    };
    let send = async {
        let sent = write.write_all(&answer).await;
        sent.and(write.flush().await)
    };
    if let Ok(Ok(())) = timeout(DECIDE, send).await {
        socket::linger(reader.into_inner().unsplit(write)).await;
    }
}

async fn decide<R>(shared: &Shared, reader: &mut Reader<R>, addr: SocketAddr) -> Result<Vec<u8>, Refusal>
where
    R: tokio::io::AsyncRead + Unpin,
{
    let failures = &shared.incoming.joins.failures;
    if !lock(failures).may_try(Instant::now()) {
        return Err(Refusal::JoinRate);
    }
    let ask = match timeout(READ, reader.next(ASK_LIMIT)).await {
        Ok(Ok(frame)) if frame.kind == Type::Join => {
            codec::from_bytes::<Ask>(&frame.body).map_err(|_| Refusal::Garbage)?
        }
        Ok(Err(FrameError::Io(_))) => return Ok(Vec::new()), // a joiner that does not trust us, or is gone
        Ok(_) => return Err(Refusal::Garbage),
        Err(_) => return Err(Refusal::Limit),
    };
    let handler = shared.join.read().unwrap_or_else(PoisonError::into_inner).clone();
    let decided = match handler {
        Some(handler) => timeout(DECIDE, handler.join(addr, ask.into())).await,
        None => Ok(Err("this node does not take joins now; try another member".into())),
    };
    match decided.unwrap_or_else(|_| {
        Err("the cluster did not decide in time; it may have no quorum; try again".into())
    }) {
        Ok(grant) => {
            tracing::info!(%addr, "a node has joined");
            Ok(frame::encode(Type::Grant, 0, &codec::bytes(&grant)))
        }
        Err(text) => {
            shared.refusals.count(Refusal::Join, addr, None);
            lock(failures).failed(Instant::now());
            Ok(frame::encode(Type::Failure, 0, text.as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgiven_one_by_one() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for _ in 0..BURST {
            assert!(failures.may_try(now));
            failures.failed(now);
        }
        assert!(!failures.may_try(now));
        assert!(!failures.may_try(now + REFILL / 2));
        assert!(failures.may_try(now + REFILL));
        failures.failed(now + REFILL);
        assert!(!failures.may_try(now + REFILL));
        assert!(failures.may_try(now + REFILL * 100));
        assert_eq!((failures.count, failures.since), (0, None));
    }
}
