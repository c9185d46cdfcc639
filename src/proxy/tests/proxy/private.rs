//! Backends that authenticate a connection and not a request (NTLM, Negotiate; RFC 4559).

use crate::{http2::Client2, support::*};
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::AsyncWriteExt;
use zonekeeper_core::model::{Http2, Protocol};

/// A backend that asks each connection for its user, by NTLM in three steps or by Negotiate in one, and takes all that
/// follows on it for the same. It answers with its name and the user.
fn asking(name: &'static str) -> Server {
    Server::with(any(), move |mut stream, n| async move {
        let (mut pending, mut user, mut challenged) = (Vec::new(), None, false);
        while let Some((head, _)) = read_request(&mut stream, &mut pending).await {
            n.fetch_add(1, Relaxed);
            let said = field(&head, "authorization").and_then(|said| said.split_once(' '));
            match said {
                Some(("NTLM", "hello")) => challenged = true,
                Some(("NTLM", who)) if challenged => user = Some(who.to_owned()),
                Some(("Negotiate", who)) => user = Some(who.to_owned()),
                _ => {}
            }
            let (status, asks) = match (&user, said) {
                (Some(_), _) => ("200 OK", ""),
                (None, Some(("NTLM", "hello"))) => ("401 No", "WWW-Authenticate: NTLM challenge\r\n"),
                (None, _) => ("401 No", "WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n"),
            };
            let body = format!("{name} {}", user.as_deref().unwrap_or("nobody"));
            let answer = format!("HTTP/1.1 {status}\r\n{asks}Content-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() || head.contains("/last") {
                return;
            }
        }
    })
}

/// One worker, so that all share what it keeps.
fn over(backends: &[&Server]) -> World {
    let addrs: Vec<_> = backends.iter().map(|b| b.addr).collect();
    let mut state = state(Protocol::Http, &addrs);
    edit_listener(&mut state, |l| l.http2 = Http2::PriorKnowledge);
    World::try_start(state, 1).unwrap()
}

/// Asks with these credentials.
async fn with(client: &mut Client, credentials: &str) -> Answer {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {credentials}\r\n\r\n")).await;
    client.answer(false).await
}

async fn is_nobody(client: &mut Client) {
    let answer = client.get("/").await;
    assert!(answer.status == 401 && answer.text().ends_with(" nobody"), "{answer:?}");
}

#[tokio::test]
async fn a_handshake_of_ntlm_passes_and_authenticates_its_client_alone() {
    let (a, b) = (asking("a"), asking("b"));
    let world = over(&[&a, &b]);
    let (mut alice, mut other) = (world.client().await, world.client().await);
    is_nobody(&mut alice).await;
    is_nobody(&mut other).await;
    let challenge = with(&mut alice, "NTLM hello").await;
    assert_eq!(field(&challenge.head, "www-authenticate"), Some("NTLM challenge"));
    is_nobody(&mut other).await;
    let welcome = with(&mut alice, "NTLM alice").await;
    assert!(welcome.status == 200 && welcome.text().ends_with(" alice"), "{welcome:?}");
    for _ in 0..5 {
        assert_eq!(alice.get("/").await, welcome, "her next requests go the same way");
        is_nobody(&mut other).await;
        is_nobody(&mut world.client().await).await;
    }
    // A body that is too large to be sent twice goes over it, too.
    let body = format!("40000\r\n{}\r\n0\r\n\r\n", "z".repeat(0x40000));
    alice.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    alice.send(body).await;
    assert_eq!(alice.answer(false).await, welcome);
    assert_eq!(alice.get("/last").await, welcome);
    is_nobody(&mut alice).await; // its backend has ended it
}

#[tokio::test]
async fn credentials_that_are_sent_unasked_authenticate_their_client_alone() {
    let a = asking("a");
    let world = over(&[&a]);
    let (mut alice, mut other) = (world.client().await, world.client().await);
    assert_eq!(with(&mut alice, "Negotiate alice").await.text(), "a alice");
    is_nobody(&mut other).await;
    assert_eq!(
        with(&mut other, "negotiate bob").await.status,
        401,
        "the backend knows the other spelling only"
    );
    for _ in 0..3 {
        assert_eq!(alice.get("/").await.text(), "a alice");
    }
    drop(alice);
    is_nobody(&mut other).await;
}

/// Streams have no connection of their own that one could be kept with.
#[tokio::test]
async fn a_client_of_http2_has_such_a_connection_for_one_request() {
    let a = asking("a");
    let world = over(&[&a]);
    let client = Client2::connect(world.addr("web")).await;
    let asked = http::Request::get("http://w.example/").header("authorization", "Negotiate alice");
    let got = client.ask(asked.body(()).unwrap(), &[]).await;
    assert_eq!((got.status, got.body.as_slice()), (200, b"a alice".as_slice()));
    assert_eq!(client.get("/").await.status, 401);
    is_nobody(&mut world.client().await).await;
}
