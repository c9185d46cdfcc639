//! After the first queries, answering allocates nothing.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Asker, query, with_edns};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};
use zonekeeper_dns::Transport;

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
    let mut asker = Asker::new(&[("example.", include_str!("differential/rules.zone"))]);
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
            for q in [query(qname, qtype), with_edns(query(qname, qtype), 1232, 0, &[0, 3, 0, 0])] {
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
