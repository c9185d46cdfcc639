//! Calls between real nodes over loopback TLS.

#![allow(clippy::unwrap_used)] // tests, with their helpers

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use support::*;
use tokio::sync::Semaphore;
use zonekeeper_peer::{Lane, LinkChange, Loss, NodeId, PeerConfig, PeerError};

#[tokio::test]
async fn three_nodes_call_each_other_on_every_lane_and_know_who_calls() {
    let ca = ca();
    let (a, b, c) = (node(&ca, 1), node(&ca, 2), node(&ca, 3));
    let nodes = [(1, &a), (2, &b), (3, &c)];
    connect(&nodes);
    for (from, caller) in nodes {
        for to in [1, 2, 3].into_iter().filter(|to| *to != from) {
            for lane in Lane::ALL {
                let answer = caller.call(to, lane, b"hi".to_vec(), PATIENCE).await.unwrap();
                assert_eq!(String::from_utf8(answer).unwrap(), format!("{to}<{from}:{}:hi", lane.name()));
            }
        }
    }
    until("all heartbeat lanes are up", || a.connected() == BTreeSet::from([2, 3])).await;
    until("round trips are measured", || a.rtt(2).is_some_and(|rtt| rtt.samples > 2)).await;
    let rtt = a.rtt(2).unwrap();
    assert!(rtt.min <= rtt.mean && rtt.mean <= rtt.p99 && rtt.p99 < PATIENCE, "{rtt:?}");
    assert_eq!(nodes.map(|(_, peers)| refused_at_all(peers)), [0, 0, 0]);
}

#[tokio::test]
async fn calls_of_one_connection_do_not_wait_for_each_other() {
    let ca = ca();
    let (a, b) = (node(&ca, 1), node(&ca, 2));
    connect(&[(1, &a), (2, &b)]);
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    b.set_handler(
        Lane::Raft,
        Arc::new(move |_: NodeId, _, payload: Vec<u8>| {
            let held = held.clone();
            async move {
                if payload == b"slow" {
                    held.acquire().await.unwrap().forget();
                }
                Ok(payload)
            }
        }),
    );
    let slow = a.call(2, Lane::Raft, b"slow".to_vec(), PATIENCE);
    let fast = async {
        for n in 0..100u8 {
            assert_eq!(a.call(2, Lane::Raft, vec![n], PATIENCE).await, Ok(vec![n]));
        }
        gate.add_permits(1);
    };
    assert_eq!(tokio::join!(slow, fast).0, Ok(b"slow".to_vec()));
}

#[tokio::test]
async fn each_way_to_fail_has_its_own_error() {
    let ca = ca();
    let (a, b) = (node(&ca, 1), node(&ca, 2));
    connect(&[(1, &a), (2, &b)]);
    let call = |lane, payload, ms| a.call(2, lane, payload, Duration::from_millis(ms));

    assert_eq!(a.call(9, Lane::Raft, vec![], PATIENCE).await, Err(PeerError::Unknown(9)));
    let have = Lane::Heartbeat.limit() + 1;
    let limit = Lane::Heartbeat.limit();
    assert_eq!(call(Lane::Heartbeat, vec![0; have], 9000).await, Err(PeerError::TooLarge { have, limit }));

    b.set_handler(Lane::Watch, Arc::new(|_: NodeId, _, _| std::future::pending()));
    let after = Duration::from_millis(100);
    assert_eq!(call(Lane::Watch, vec![], 100).await, Err(PeerError::Timeout { node: 2, after }));

    b.set_handler(Lane::Raft, Arc::new(|_: NodeId, _, _| async { Err("no leader".to_string()) }));
    assert_eq!(
        call(Lane::Raft, vec![], 30_000).await,
        Err(PeerError::Remote { node: 2, text: "no leader".into() })
    );

    b.set_handler(Lane::Raft, Arc::new(|_: NodeId, _, _| async { Ok(vec![0; Lane::Raft.limit() + 1]) }));
    assert!(
        matches!(call(Lane::Raft, vec![], 30_000).await, Err(PeerError::Broken { text, .. }) if text.contains("limit"))
    );

    b.set_handler(Lane::Raft, Arc::new(|_: NodeId, _, _| async { panic!("on purpose") }));
    assert!(
        matches!(call(Lane::Raft, vec![], 30_000).await, Err(PeerError::Broken { text, .. }) if text.contains("panicked"))
    );

    let nobody = addr(&node(&ca, 4)); // gone at once
    a.set_peers(BTreeMap::from([(4, nobody)]));
    let gone = a.call(4, Lane::Raft, vec![], PATIENCE).await;
    assert!(
        matches!(
            gone,
            Err(PeerError::Unreachable { node: 4, why: Loss::Refused | Loss::Reset | Loss::Closed })
        ),
        "{gone:?}"
    );
}

#[tokio::test]
async fn a_caller_that_gives_up_does_not_make_the_peer_grow() {
    let ca = ca();
    let (a, b) = (node(&ca, 1), node(&ca, 2));
    connect(&[(1, &a), (2, &b)]);
    b.set_handler(Lane::Bulk, Arc::new(|_: NodeId, _, _| std::future::pending()));
    let mut busy = 0;
    for _ in 0..20 {
        match a.call(2, Lane::Bulk, vec![], Duration::from_millis(40)).await {
            Err(PeerError::Busy(2)) => busy += 1,
            Err(PeerError::Timeout { .. }) => (),
            other => panic!("{other:?}"),
        }
    }
    assert!(busy > 0, "the ninth call at once is turned away");
}

#[tokio::test]
async fn the_death_of_a_peer_is_announced_though_nothing_is_under_way_and_its_return_too() {
    let ca = ca();
    let a = node(&ca, 1);
    let b = node(&ca, 2);
    let place = addr(&b);
    let mut events = a.events();
    a.set_peers(BTreeMap::from([(2, place)]));
    assert_eq!(soon("the link", events.recv()).await.unwrap().what, LinkChange::Up);
    assert!(a.call(2, Lane::Raft, vec![], PATIENCE).await.is_ok());

    let began = std::time::Instant::now();
    b.shutdown().await;
    let event = soon("the loss", events.recv()).await.unwrap();
    assert!(matches!(event.what, LinkChange::Lost(Loss::Closed | Loss::Reset)), "{event:?}");
    assert_eq!(event.node, 2);
    // Far below the silence of 3 s: it was the connection that told.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let event = soon("the closed port", events.recv()).await.unwrap();
    assert_eq!(event.what, LinkChange::Lost(Loss::Refused));
    assert!(a.connected().is_empty());

    let listen = Some(std::net::TcpListener::bind(place).unwrap());
    let _b = start(PeerConfig { listen, ..config(credentials(&ca, 2)) });
    assert_eq!(soon("the return", events.recv()).await.unwrap().what, LinkChange::Up);
    let answer = async {
        while a.call(2, Lane::Raft, vec![], PATIENCE).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("an answer after the restart", answer).await;
}

#[tokio::test]
async fn a_call_under_way_when_the_peer_dies_has_an_unknown_outcome() {
    let ca = ca();
    let (a, b) = (node(&ca, 1), node(&ca, 2));
    connect(&[(1, &a), (2, &b)]);
    let begun = Arc::new(Semaphore::new(0));
    let tell = begun.clone();
    b.set_handler(
        Lane::Raft,
        Arc::new(move |_: NodeId, _, _| {
            tell.add_permits(1);
            std::future::pending()
        }),
    );
    let die = async {
        let _ = soon("the call", begun.acquire()).await.unwrap();
        b.shutdown().await;
    };
    let (answer, ()) = tokio::join!(a.call(2, Lane::Raft, vec![], PATIENCE), die);
    assert!(
        matches!(answer, Err(PeerError::Lost { node: 2, why: Loss::Closed | Loss::Reset })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_silent_peer_is_lost() {
    let ca = ca();
    let a = start(PeerConfig { silence: Duration::from_millis(400), ..config(credentials(&ca, 1)) });
    let b = node(&ca, 2);
    // A wire that can be cut without telling either end.
    let wire = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = wire.local_addr().unwrap();
    let to = addr(&b);
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    let carry = tokio::spawn(async move {
        let (mut near, _) = wire.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => (),
            _ = is_cut.changed() => (),
        }
        (near, far, wire) // kept open, carries nothing
    });
    let mut events = a.events();
    a.set_peers(BTreeMap::from([(2, place)]));
    assert_eq!(soon("the link", events.recv()).await.unwrap().what, LinkChange::Up);
    cut.send(true).unwrap();
    let _wire = carry.await.unwrap();
    assert_eq!(soon("the loss", events.recv()).await.unwrap().what, LinkChange::Lost(Loss::Timeout));
}

#[tokio::test]
async fn a_difference_of_settings_is_seen_by_both_within_a_ping() {
    let ca = ca();
    let a = start(PeerConfig { settings: 7, ..config(credentials(&ca, 1)) });
    let b = start(PeerConfig { settings: 7, ..config(credentials(&ca, 2)) });
    assert_eq!(a.peer_settings(2), None);
    connect(&[(1, &a), (2, &b)]);
    until("both have said the same", || a.peer_settings(2) == Some(7) && b.peer_settings(1) == Some(7)).await;
    a.set_settings(8);
    until("b sees the new digest", || b.peer_settings(1) == Some(8)).await;
    assert_eq!(a.peer_settings(2), Some(7));
}

#[tokio::test]
async fn a_peer_that_moved_is_called_at_its_new_place() {
    let ca = ca();
    let (a, old, new) = (node(&ca, 1), node(&ca, 2), node(&ca, 2));
    old.set_handler(Lane::Raft, echo(20));
    a.set_peers(BTreeMap::from([(2, addr(&old))]));
    assert!(a.call(2, Lane::Raft, vec![], PATIENCE).await.unwrap().starts_with(b"20<"));
    a.set_peers(BTreeMap::from([(2, addr(&new))]));
    assert!(a.call(2, Lane::Raft, vec![], PATIENCE).await.unwrap().starts_with(b"2<"));
    a.set_peers(BTreeMap::new());
    assert_eq!(a.call(2, Lane::Raft, vec![], PATIENCE).await, Err(PeerError::Unknown(2)));
}

#[tokio::test]
async fn the_last_handle_stops_everything() {
    let ca = ca();
    let a = node(&ca, 1);
    let b = node(&ca, 2);
    connect(&[(1, &a), (2, &b)]);
    until("the link is up", || a.connected().contains(&2)).await;
    drop(b);
    until("the link is down", || a.connected().is_empty()).await;
}

#[tokio::test]
async fn a_pause_of_this_process_is_not_taken_for_silence_of_the_peer() {
    let ca = ca();
    let silence = Duration::from_millis(150);
    let a = start(PeerConfig { silence, ..config(credentials(&ca, 1)) });
    let b = node(&ca, 2);
    let mut events = a.events();
    connect(&[(1, &a), (2, &b)]);
    assert_eq!(soon("the link", events.recv()).await.unwrap().what, LinkChange::Up);
    for n in 0..5 {
        // Both nodes stand still, in another phase of the pings each time.
        tokio::time::sleep(Duration::from_millis(40 + 7 * n)).await;
        std::thread::sleep(silence * 2);
    }
    tokio::time::sleep(silence).await;
    assert!(events.try_recv().is_err(), "the link was lost");
}
