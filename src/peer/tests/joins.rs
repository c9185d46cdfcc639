//! Joining with a token.

#![allow(clippy::unwrap_used)] // tests, with their helpers

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use support::*;
use zonekeeper_peer::{
    BoxFuture, JoinError, JoinGrant, JoinHandler, JoinRequest, JoinToken, Lane, Peers, Refusal, join,
    keys::Ca,
};

/// Grants each token once, as the replicated state would.
struct Office {
    ca: Ca,
    tokens: Mutex<Vec<[u8; 32]>>,
    asked: Mutex<u32>,
}

impl JoinHandler for Office {
    fn join(&self, _: SocketAddr, request: JoinRequest) -> BoxFuture<'_, Result<JoinGrant, String>> {
        Box::pin(async move {
            *self.asked.lock().unwrap() += 1;
            let mut tokens = self.tokens.lock().unwrap();
            let known =
                tokens.iter().position(|hash| *hash == request.hash).ok_or("unknown or used token")?;
            let issued = self.ca.sign(&request.csr_pem, 7, &site(), DAY).map_err(|e| e.to_string())?;
            tokens.remove(known);
            Ok(JoinGrant {
                cert_pem: issued.cert_pem,
                ca_pem: issued.ca_pem,
                body: [b"hello ", &request.body[..]].concat(),
            })
        })
    }
}

fn office(peers: &Peers, ca: Ca, tokens: &[&JoinToken]) -> Arc<Office> {
    let tokens = Mutex::new(tokens.iter().map(|token| token.hash()).collect());
    let office = Arc::new(Office { ca, tokens, asked: Mutex::new(0) });
    peers.set_join(office.clone());
    office
}

#[tokio::test]
async fn a_joiner_becomes_a_peer_and_its_token_is_used_up() {
    let ca = ca();
    let member = node(&ca, 2);
    let token = JoinToken::generate(credentials(&ca, 2).ca_fingerprint()).unwrap();
    office(&member, ca, &[&token]);
    let typed: JoinToken = token.to_string().parse().unwrap();

    let joined = join(addr(&member), &typed, b"fra".to_vec(), PATIENCE).await.unwrap();
    assert_eq!((joined.credentials.node(), joined.credentials.cluster()), (7, CLUSTER));
    assert_eq!(joined.body, b"hello fra");
    let seven = start(config(joined.credentials));
    connect(&[(2, &member), (7, &seven)]);
    assert_eq!(seven.call(2, Lane::Raft, vec![], PATIENCE).await.unwrap(), b"2<7:raft:");
    assert_eq!(member.call(7, Lane::Raft, vec![], PATIENCE).await.unwrap(), b"7<2:raft:");

    let again = join(addr(&member), &typed, vec![], PATIENCE).await;
    assert!(matches!(again, Err(JoinError::Denied(why)) if why.contains("used")));
    assert_eq!(refused(&member, Refusal::Join), 1);
}

#[tokio::test]
async fn a_member_of_another_ca_hears_nothing_of_the_token() {
    let (mine, other) = (ca(), ca());
    let impostor = node(&other, 2);
    let office = office(&impostor, other, &[]);
    let token = JoinToken::generate(mine.fingerprint()).unwrap();
    let refused = join(addr(&impostor), &token, vec![], PATIENCE).await;
    assert!(matches!(refused, Err(JoinError::Pin(_))), "{refused:?}");
    assert_eq!(*office.asked.lock().unwrap(), 0);
}

#[tokio::test]
async fn after_ten_failures_the_handler_is_left_in_peace() {
    let ca = ca();
    let member = node(&ca, 2);
    let fingerprint = ca.fingerprint();
    let office = office(&member, ca, &[]);
    let limited = async {
        loop {
            let token = JoinToken::generate(fingerprint).unwrap();
            match join(addr(&member), &token, vec![], PATIENCE).await {
                Err(JoinError::Denied(_)) => (),
                Err(JoinError::Refused(Refusal::JoinRate)) => return,
                other => panic!("{other:?}"),
            }
        }
    };
    soon("the limit", limited).await;
    assert!(*office.asked.lock().unwrap() >= 10);
    assert_eq!(refused(&member, Refusal::JoinRate), 1);
}

#[tokio::test]
async fn a_join_without_an_office_an_oversized_one_and_one_to_nowhere_say_so() {
    let ca = ca();
    let token = JoinToken::generate(ca.fingerprint()).unwrap();
    let member = node(&ca, 2);
    let denied = join(addr(&member), &token, vec![], PATIENCE).await;
    assert!(matches!(denied, Err(JoinError::Denied(why)) if why.contains("another member")));
    let large = join(addr(&member), &token, vec![0; 64 << 10], PATIENCE).await;
    assert!(matches!(large, Err(JoinError::Refused(Refusal::Garbage))), "{large:?}");
    let place = addr(&member);
    member.shutdown().await;
    let nowhere = join(place, &token, vec![], Duration::from_secs(10)).await;
    assert!(matches!(nowhere, Err(JoinError::Unreachable(..))), "{nowhere:?}");
}
