//! The access log of requests that no backend gets: refused, redirected, or answered by their route.

use super::{View, http::Session};
use crate::{
    access::{self, Asked, Entry, Of},
    health::now_us,
    http1::{Forwarded, MAX_FIELDS, Request},
};
use std::{cell::Cell, mem::MaybeUninit, net::IpAddr};

thread_local! {
    /// How many came before on this worker.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// A sampled request that is about to be answered.
pub(crate) struct Unsent {
    asked: Asked,
    client: IpAddr,
    began_us: u64,
    bytes: (u64, u64),
}

impl Unsent {
    /// Of its head, or what came of it in `waited_ms`; none when it is not sampled.
    pub(crate) fn sample(
        session: &Session,
        (view, listener): (&View, usize),
        head: &[u8],
        waited_ms: u64,
    ) -> Option<Box<Unsent>> {
        let table = &view.listener(listener).table;
        let number = COUNT.replace(COUNT.get().wrapping_add(1));
        access::sampled(table.access_log, number).then(|| {
            let peer = session.client.peer.ip();
            let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
            let client = Request::parse(head, &mut room)
                .map_or(peer, |r| Forwarded::of(peer, session.wire.is_tls(), &table.trusted, r.fields).1);
            Box::new(Unsent {
                asked: Asked::of(head),
                client,
                began_us: now_us().saturating_sub(waited_ms * 1000),
                bytes: (session.wire.read(), session.wire.written()),
            })
        })
    }

    /// It was answered.
    pub(crate) fn log(self, session: &Session) {
        session.client.worker.shared.access.push(Entry {
            listener: (*session.client.listener).clone(),
            client: self.client,
            of: Of::Request { asked: self.asked, status: session.seen.0.get() },
            pool: None,
            backend: None,
            bytes: (session.wire.read() - self.bytes.0, session.wire.written() - self.bytes.1),
            took_us: now_us().saturating_sub(self.began_us),
        });
    }
}
