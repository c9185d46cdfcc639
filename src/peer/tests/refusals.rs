//! A stranger, a wrong cluster, an expired or removed node: refused, counted, explained to it.

#![allow(clippy::unwrap_used)] // tests, with their helpers

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use support::*;
use zonekeeper_peer::{
    Lane, LinkChange, Loss, NodeId, PeerConfig, PeerError, Peers, Refusal, StartError, keys::Ca,
};

/// `caller` calls node 2 at `member`; the refusal that it hears.
async fn refusal(caller: &Peers, member: &Peers) -> (Refusal, bool) {
    caller.set_peers(BTreeMap::from([(2, addr(member))]));
    match caller.call(2, Lane::Raft, vec![], PATIENCE).await {
        Err(PeerError::Refused { node: 2, why, by_peer }) => (why, by_peer),
        other => panic!("not refused: {other:?}"),
    }
}

/// A caller whose own check of the server is satisfied, so that the server's is tested: it trusts the member's CA too.
fn caller(issuer: &Ca, trusted: &Ca, node: NodeId, lifetime: Duration) -> Result<Peers, StartError> {
    let both = format!("{}{}", issuer.cert_pem(), trusted.cert_pem());
    let credentials = issuer.issue(node, &site(), lifetime).unwrap().trust(&both)?;
    Peers::start(PeerConfig::new(credentials, None))
}

#[tokio::test]
async fn a_stranger_is_refused_counted_and_told_why() {
    let ca = ca();
    let member = node(&ca, 2);
    let stranger = caller(&Ca::create(CLUSTER).unwrap(), &ca, 1, DAY).unwrap();
    assert_eq!(refusal(&stranger, &member).await, (Refusal::Stranger, true));
    until("it is counted", || refused(&member, Refusal::Stranger) >= 1).await;
}

#[tokio::test]
async fn a_caller_refuses_a_strange_server_before_it_says_anything() {
    let member = node(&ca(), 2);
    let me = node(&ca(), 1);
    assert_eq!(refusal(&me, &member).await, (Refusal::Stranger, false));
    assert!(refused(&me, Refusal::Stranger) >= 1);
    assert_eq!(refused_at_all(&member), 0);
}

#[tokio::test]
async fn a_node_of_another_cluster_is_told_that_it_is_of_another_cluster() {
    let (here, there) = (ca(), Ca::create(CLUSTER + 1).unwrap());
    let member = node(&here, 2);
    // The other side looks at the server first, so the caller finds out.
    let lost = Peers::start(PeerConfig::new(there.issue(1, &site(), DAY).unwrap(), None)).unwrap();
    assert_eq!(refusal(&lost, &member).await, (Refusal::WrongCluster, false));
    assert!(refused(&lost, Refusal::WrongCluster) >= 1);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_both_sides() {
    let ca = ca();
    let member = node(&ca, 2);
    let late = caller(&ca, &ca, 1, Duration::ZERO).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await; // the certificate's last second
    assert_eq!(refusal(&late, &member).await, (Refusal::Expired, true));
    until("it is counted", || refused(&member, Refusal::Expired) >= 1).await;

    let stale = start(config(ca.issue(2, &site(), Duration::ZERO).unwrap()));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let fresh = node(&ca, 3);
    assert_eq!(refusal(&fresh, &stale).await, (Refusal::Expired, false));
}

#[tokio::test]
async fn a_removed_member_is_refused_and_its_connections_are_closed() {
    let ca = ca();
    let (a, b) = (node(&ca, 1), node(&ca, 2));
    let mut events = a.events();
    connect(&[(1, &a), (2, &b)]);
    assert_eq!(soon("the link", events.recv()).await.unwrap().what, LinkChange::Up);
    assert!(a.call(2, Lane::Raft, vec![], PATIENCE).await.is_ok());

    b.set_allowed(Some(BTreeSet::from([2, 3])));
    let event = soon("the goodbye", events.recv()).await.unwrap();
    assert_eq!(event.what, LinkChange::Lost(Loss::Denied(Refusal::NotAllowed)));
    let refused_now = async {
        loop {
            match a.call(2, Lane::Raft, vec![], PATIENCE).await {
                Err(PeerError::Refused { why, by_peer: true, .. }) => return why,
                Err(PeerError::Lost { .. }) => (), // it was under way as the goodbye came
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(soon("the refusal", refused_now).await, Refusal::NotAllowed);
    assert!(refused(&b, Refusal::NotAllowed) >= 1);

    b.set_allowed(None);
    until("it is back", || a.connected().contains(&2)).await;
}

#[tokio::test]
async fn another_node_at_the_address_is_not_taken_for_the_one_that_is_called() {
    let ca = ca();
    let (a, three) = (node(&ca, 1), node(&ca, 3));
    assert_eq!(refusal(&a, &three).await, (Refusal::Identity, false));
}

#[tokio::test]
async fn credentials_of_another_node_do_not_start_a_node() {
    let ca = ca();
    let wrong = PeerConfig { node: 2, ..config(credentials(&ca, 1)) };
    assert!(matches!(Peers::start(wrong), Err(StartError::Identity { node: 2, have_node: 1, .. })));
    let a = node(&ca, 1);
    assert!(matches!(a.set_credentials(&credentials(&ca, 2)), Err(StartError::Identity { .. })));
}
