//! After the first queries, answering allocates nothing.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;
#[path = "common/mmdb.rs"]
mod mmdb;
#[path = "common/steered.rs"]
mod steered;

use common::{Asker, query, with_edns};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};
use zonekeeper_dns::{Condition, Geo, Transport, View};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counter is a plain thread-local cell.
#[allow(unsafe_code)] // a counting allocator has no safe form
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_answer_allocates() {
    let text = include_str!("differential/rules.zone");
    answers_without_allocation(Asker::new(&[("example.", text)]));
    for chain in [
        "@ NSEC www A NSEC\nwww NSEC @ A NSEC\n",
        "@ NSEC3PARAM 1 0 3 AA\n0p9mhaveqvm6t7vbl5lop2u3t2rp3tom NSEC3 1 0 3 AA 00 A\n",
    ] {
        let signed =
            format!("{text}@ RRSIG SOA 13 1 300 20371202104803 20261122104803 1 example. AAEC\n{chain}");
        answers_without_allocation(Asker::new(&[("example.", &signed)]));
    }
}

#[test]
fn no_steered_answer_allocates() {
    let (mut asker, file) = (Asker::of(&steered::steered()), steered::cities());
    let geo = Geo::open(&[file.path().to_owned()]).unwrap();
    let mut buf = vec![0u8; 4096];
    for last in 0..=255 {
        let table = &asker.table;
        let condition = Condition::default();
        let view = View { table, condition, secrets: None, geo: Some(&geo), transport: Transport::Udp };
        let subnet = [0, 8, 0, 8, 0, 1, 32, 0, 203, 0, 113, last];
        let q = with_edns(query("cdn.example", 1), 1232, 0, &subnet);
        buf[..q.len()].copy_from_slice(&q);
        let before = ALLOCATIONS.get();
        let reply = asker.responder.answer_to(&view, Some(([192, 0, 2, 7], 53).into()), &mut buf, q.len());
        assert_eq!(ALLOCATIONS.get() - before, 0, "203.0.113.{last}");
        assert!(reply.is_some());
    }
}

fn answers_without_allocation(mut asker: Asker) {
    let mut buf = vec![0u8; 4096];
    for qname in [
        "www.example",
        "absent.example",
        "q.wild.example",
        "x.sub.example",
        "alias2.example",
        "a.moved.example",
        "test",
    ] {
        for qtype in [1, 15, 255, 4711] {
            let mut signed = with_edns(query(qname, qtype), 1232, 0, &[]);
            let flags = signed.len() - 4;
            signed[flags] = 0x80; // DO
            for q in [query(qname, qtype), with_edns(query(qname, qtype), 1232, 0, &[0, 3, 0, 0]), signed] {
                buf[..q.len()].copy_from_slice(&q);
                let before = ALLOCATIONS.get();
                let reply =
                    asker.responder.answer(&asker.table, asker.condition, Transport::Udp, &mut buf, q.len());
                assert_eq!(ALLOCATIONS.get() - before, 0, "{qname} {qtype}");
                assert!(reply.is_some());
            }
        }
    }
    let before = ALLOCATIONS.get();
    drop(Box::new([0u8; 8]));
    assert_eq!(ALLOCATIONS.get() - before, 1, "the counter counts");
}
