//! Any bytes at all: no panic, no answer that is too long, none that is malformed.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Asker, query, read, with_edns};
use proptest::prelude::*;
use std::cell::RefCell;
use zonekeeper_dns::Transport;

const ZONE: &str = include_str!("differential/rules.zone");

thread_local! {
    static ASKER: RefCell<Asker> = RefCell::new(Asker::new(&[("example.", ZONE)]));
}

fn check(q: &[u8]) {
    ASKER.with_borrow_mut(|asker| {
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Some(m) = asker.raw(transport, q) {
                read(&m);
                assert_eq!(m[..2], q[..2]);
                assert!(transport == Transport::Tcp || m.len() <= 1232, "{} bytes", m.len());
                assert!(transport == Transport::Tcp || m[11] > 0 || m.len() <= 512 || q[10..12] != [0, 0]);
            }
        }
    });
}

const NAMES: [&str; 12] = [
    "www.example",
    "example",
    "x.sub.example",
    "q.wild.example",
    "a.moved.example",
    "loop1.example",
    "x.lwild.example",
    "todname.example",
    "mx.example",
    "a.long.example",
    "y.dloop.example",
    "alias2.example",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes(q in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&q);
    }

    #[test]
    fn queries_with_some_bytes_changed(
        i in 0..NAMES.len(), qtype in 0u16..300, edns in any::<Option<u16>>(),
        options in prop::collection::vec(any::<u8>(), 0..40),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(), shorten in any::<bool>(),
    ) {
        let mut q = query(NAMES[i], qtype);
        if let Some(payload) = edns {
            q = with_edns(q, payload, 0, &options);
        }
        for (at, to) in changes {
            let at = at.index(q.len());
            q[at] = to;
        }
        if shorten {
            q.truncate(cut.index(q.len()));
        }
        check(&q);
    }
}
