//! Certificates that end, with lifetimes of seconds.

#![allow(clippy::unwrap_used)] // tests, with their helpers

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};
use support::*;
use tokio::sync::broadcast::error::TryRecvError;
use zonekeeper_peer::{Lane, LinkChange, Loss, PeerError, Refusal, keys::Credentials};

#[tokio::test]
async fn an_expiry_closes_the_connection_and_a_renewal_brings_it_back() {
    let ca = ca();
    let a = start(config(ca.issue(1, &site(), Duration::from_secs(2)).unwrap()));
    let b = node(&ca, 2);
    let mut events = a.events();
    connect(&[(1, &a), (2, &b)]);
    assert_eq!(soon("the link", events.recv()).await.unwrap().what, LinkChange::Up);
    assert!(a.call(2, Lane::Raft, vec![], PATIENCE).await.is_ok());

    let end = soon("the end of the certificate", events.recv()).await.unwrap();
    assert!(matches!(end.what, LinkChange::Lost(Loss::Expired | Loss::Denied(Refusal::Expired))), "{end:?}");
    assert!(SystemTime::now() > a.expires());
    let refused_now = async {
        loop {
            match a.call(2, Lane::Raft, vec![], PATIENCE).await {
                Err(PeerError::Refused { why, .. }) => return why,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(_) => (), // the Raft lane's connection ends in the same moment, not before
            }
        }
    };
    assert_eq!(soon("the refusal", refused_now).await, Refusal::Expired);

    // The renewal as a node does it: a new key, signed over some other way, set at run time.
    let request = Credentials::request().unwrap();
    let issued = ca.sign(request.csr_pem(), 1, &site(), DAY).unwrap();
    a.set_credentials(&request.finish(&issued.cert_pem, &issued.ca_pem).unwrap()).unwrap();
    until("the link is back", || a.connected() == BTreeSet::from([2])).await;
    until("and so is the way here", || b.connected() == BTreeSet::from([1])).await;
}

#[tokio::test]
async fn a_renewal_in_time_loses_no_call_and_no_link() {
    let ca = ca();
    let first = ca.issue(1, &site(), Duration::from_secs(2)).unwrap();
    let ends = first.expires();
    let a = start(config(first));
    let b = node(&ca, 2);
    let (mut of_a, mut of_b) = (a.events(), b.events());
    connect(&[(1, &a), (2, &b)]);
    assert_eq!(soon("the link", of_a.recv()).await.unwrap().what, LinkChange::Up);
    assert_eq!(soon("the link", of_b.recv()).await.unwrap().what, LinkChange::Up);
    a.set_credentials(&credentials(&ca, 1)).unwrap();
    while SystemTime::now() < ends + Duration::from_millis(1500) {
        for lane in [Lane::Heartbeat, Lane::Raft] {
            a.call(2, lane, vec![], PATIENCE).await.unwrap();
            b.call(1, lane, vec![], PATIENCE).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((of_a.try_recv(), of_b.try_recv()), (Err(TryRecvError::Empty), Err(TryRecvError::Empty)));
    assert_eq!((refused_at_all(&a), refused_at_all(&b)), (0, 0));
}

#[tokio::test]
async fn a_ca_is_replaced_without_a_refusal() {
    let (old, new) = (ca(), ca());
    let both = format!("{}{}", old.cert_pem(), new.cert_pem());
    let (a, b) = (node(&old, 1), node(&old, 2));
    connect(&[(1, &a), (2, &b)]);
    let works = async |step: &str| {
        for lane in Lane::ALL {
            assert!(a.call(2, lane, vec![], PATIENCE).await.is_ok(), "{step}");
            assert!(b.call(1, lane, vec![], PATIENCE).await.is_ok(), "{step}");
        }
    };
    works("before").await;
    for (peers, id) in [(&a, 1), (&b, 2)] {
        peers.set_credentials(&credentials(&old, id).trust(&both).unwrap()).unwrap();
        works("both are trusted").await;
    }
    for (peers, id) in [(&a, 1), (&b, 2)] {
        peers.set_credentials(&credentials(&new, id).trust(&both).unwrap()).unwrap();
        // A node of its own tries the new certificate at once; the links take their time.
        works("new certificates").await;
    }
    for (peers, id) in [(&a, 1), (&b, 2)] {
        peers.set_credentials(&credentials(&new, id)).unwrap();
        works("the old CA is gone").await;
    }
    let late = node(&old, 3);
    late.set_peers([(2, addr(&b))].into());
    assert!(matches!(late.call(2, Lane::Raft, vec![], PATIENCE).await, Err(PeerError::Refused { .. })));
    assert_eq!((refused_at_all(&a), refused_at_all(&b)), (0, 0));
}
