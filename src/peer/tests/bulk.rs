//! A snapshot never delays a heartbeat.

#![allow(clippy::unwrap_used)] // tests, with their helpers

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use support::*;
use zonekeeper_peer::{Lane, NodeId};

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_pass_while_64_mib_are_on_their_way() {
    let ca = ca();
    let (a, b) = (node(&ca, 1), node(&ca, 2));
    connect(&[(1, &a), (2, &b)]);
    b.set_handler(Lane::Bulk, Arc::new(|_: NodeId, _, _| async { Ok(vec![7; CHUNK]) }));
    until("the heartbeat lane is up", || a.connected().contains(&2)).await;

    let began = Instant::now();
    let puller = a.clone();
    let bulk = tokio::spawn(async move {
        // Four chunks at once, as a snapshot is pulled.
        let pulls = (0..4).map(|_| {
            let a = puller.clone();
            tokio::spawn(async move {
                for _ in 0..CHUNKS / 4 {
                    assert_eq!(a.call(2, Lane::Bulk, vec![], PATIENCE).await.unwrap().len(), CHUNK);
                }
            })
        });
        for pull in pulls.collect::<Vec<_>>() {
            pull.await.unwrap();
        }
        began.elapsed()
    });
    let mut beats = Vec::new();
    while !bulk.is_finished() {
        let sent = Instant::now();
        a.call(2, Lane::Heartbeat, b"beat".to_vec(), PATIENCE).await.unwrap();
        beats.push(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let whole = bulk.await.unwrap();
    beats.sort();
    let p99 = beats[beats.len() * 99 / 100];
    eprintln!(
        "64 MiB in {whole:?}; {} heartbeats, median {:?}, p99 {p99:?}",
        beats.len(),
        beats[beats.len() / 2]
    );
    // On one connection a heartbeat would wait for the four chunks before it, every time: a sixteenth of the whole.
    assert!(beats.len() > 4, "{} heartbeats", beats.len());
    assert!(beats[beats.len() / 2] < whole / 32, "median {:?} of {whole:?}", beats[beats.len() / 2]);
}
