//! Bytes both ways: L4 connections, and tunnels after an upgrade.

use super::{
    View,
    accept::Client,
    buffer::Buffer,
    timer::{Side, Timer},
    upstream::Lease,
    wire::{Trouble, Wire},
};
use crate::counters;
use std::{future::poll_fn, pin::pin, rc::Rc, sync::atomic::Ordering::Relaxed, task::Poll};

/// Serves an L4 connection.
pub(crate) async fn serve(client: Client, wire: Wire, view: Rc<View>, index: usize) {
    let listener = view.listener(index);
    let cell = listener.cells.of(client.worker.index);
    let connected = match listener.pools.first() {
        Some(pool) => connect(&client, &view, *pool).await,
        None => None,
    };
    let Some((lease, backend)) = connected else {
        counters::add(&cell.failed, 1);
        return wire.reset_on_close();
    };
    let end = (Buffer::default(), Buffer::default());
    let ok = relay(&client.timer, listener.table.idle_timeout_ms, &wire, &backend, end).await;
    counters::add(&cell.bytes_in, wire.read());
    counters::add(&cell.bytes_out, wire.written());
    let totals = &lease.health().totals;
    totals.bytes_in.fetch_add(backend.written(), Relaxed);
    totals.bytes_out.fetch_add(backend.read(), Relaxed);
    if !ok {
        // The other end shall see the cut that this one made (RFC 9293 §3.10.7.4), not an orderly end.
        wire.reset_on_close();
        backend.reset_on_close();
    }
}

/// A connection to a backend of the pool; another one is tried when it fails.
async fn connect(client: &Client, view: &Rc<View>, pool: usize) -> Option<(Lease, Wire)> {
    let table = &view.pool(pool).table;
    let mut exclude = Vec::new();
    for attempt in 0..=table.retries {
        let lease = Lease::take(view, pool, &exclude)?;
        let totals = &lease.health().totals;
        totals.requests.fetch_add(1, Relaxed);
        if attempt > 0 {
            totals.retries.fetch_add(1, Relaxed);
        }
        if let Some(backend) = lease.connect(&client.timer).await {
            return Some((lease, backend));
        }
        totals.errors.fetch_add(1, Relaxed);
        client.worker.shared.health.eject(lease.health(), table.eject_ms);
        exclude.push(lease.index());
    }
    None
}

/// Relays until both directions ended, each by itself (half-close). False when one broke or was quiet for too long.
pub(crate) async fn relay(
    timer: &Timer,
    idle_ms: u32,
    client: &Wire,
    backend: &Wire,
    read: (Buffer, Buffer),
) -> bool {
    let mut up = pin!(copy(client, backend, read.0, timer, idle_ms));
    let mut down = pin!(copy(backend, client, read.1, timer, idle_ms));
    let (mut up_ended, mut down_ended) = (false, false);
    timer.arm(Side::Client, idle_ms);
    poll_fn(|cx| {
        for (ended, direction) in [
            (&mut up_ended, up.as_mut() as std::pin::Pin<&mut dyn Future<Output = _>>),
            (&mut down_ended, down.as_mut()),
        ] {
            if *ended {
                continue;
            }
            match direction.poll(cx) {
                Poll::Ready(Ok(())) => *ended = true,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {}
            }
        }
        if up_ended && down_ended { Poll::Ready(true) } else { Poll::Pending }
    })
    .await
}

async fn copy(
    from: &Wire,
    to: &Wire,
    mut buffer: Buffer,
    timer: &Timer,
    idle_ms: u32,
) -> Result<(), Trouble> {
    loop {
        if !buffer.is_empty() {
            to.write_all(buffer.bytes(), timer, Side::Client).await?;
            buffer.consume(buffer.bytes().len());
        }
        timer.arm(Side::Client, idle_ms);
        match from.fill(&mut buffer, timer, Side::Client).await {
            Ok(_) => {}
            Err(Trouble::Closed) => return to.shutdown(timer, Side::Client).await,
            Err(e) => return Err(e),
        }
    }
}
