//! The PROXY protocol on the sockets: read before anything else, sent before anything else.

use super::{
    accept::Client,
    stream::Stream,
    timer::{Side, Timer},
    wire::Wire,
};
use crate::{
    live::LivePool,
    preamble::{self, Ends, MAX, Preamble},
};
use std::{future::poll_fn, task::Poll};

/// Reads the header and not a byte more: what follows may be TLS. An error when it is none, or does not come in time.
pub(crate) async fn read(stream: &Stream, timer: &Timer) -> Result<Option<Ends>, ()> {
    poll_fn(|_| {
        let mut room = [0; MAX];
        let seen = match stream.poll_peek(&mut room) {
            Poll::Ready(Ok(n)) if n > 0 => preamble::parse(&room[..n]),
            Poll::Ready(_) => return Poll::Ready(Err(())),
            Poll::Pending => Preamble::More,
        };
        match seen {
            Preamble::Header(len, ends) => match stream.poll_read(&mut room[..len]) {
                Poll::Ready(Ok(n)) if n == len => Poll::Ready(Ok(ends)),
                _ => Poll::Ready(Err(())),
            },
            Preamble::Bad(_) => Poll::Ready(Err(())),
            Preamble::More if timer.expired(Side::Client) => Poll::Ready(Err(())),
            // What was seen is no reason to look again; what comes next is.
            Preamble::More => stream.poll_more().map(|()| Err(())),
        }
    })
    .await
}

/// What a backend of the pool is told of a client; none where it is told nothing.
pub(crate) fn ends(client: &Client, wire: &Wire, pool: &LivePool) -> Option<Ends> {
    pool.table.send_proxy?;
    let destination = match &client.destination {
        Some(said) => **said,
        None => wire.local_addr()?,
    };
    Some(Ends { source: client.peer, destination })
}
