//! Connections that are routed by the name in their greeting and not decrypted.

use super::*;
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zonekeeper_core::model::Route;

/// A proxy that terminates TLS for this name: it stands for a backend that does so itself.
fn terminating(ca: &Ca, name: &str, backend: &Server) -> World {
    with(backend, |_| {}, &[&ca.issue(&[name])])
}

fn by_name(a: &World, b: &World, routes: &[(&str, &str)]) -> World {
    let mut state = state(Protocol::Tls, &[]);
    for (id, world) in [("a", a), ("b", b)] {
        state.pools.insert(pool_id(id), Arc::new(pool(&[world.addr("web")])));
    }
    let route = |(host, to): &(&str, &str)| {
        let hosts = if host.is_empty() { vec![] } else { vec![host.to_string()] };
        Route { hosts, ..Route::to(pool_id(to)) }
    };
    edit_listener(&mut state, |l| {
        (l.routes, l.header_timeout_ms) = (routes.iter().map(route).collect(), 300);
    });
    World::start(state)
}

#[tokio::test]
async fn a_connection_goes_where_its_name_leads_and_stays_encrypted() {
    let (ca, one, two) = (Ca::new(), Server::start("one"), Server::start("two"));
    let (a, b) = (terminating(&ca, "a.example", &one), terminating(&ca, "x.b.example", &two));
    let world = by_name(&a, &b, &[("a.example", "a"), ("*.b.example", "b")]);
    for (name, by) in [("a.example", "one"), ("x.b.example", "two")] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let client = ca.client().with_versions(&[version]);
            let (status, text) = client.connect(world.addr("web"), name).await.unwrap().get("/").await;
            assert!(status == "200" && text.contains(&format!("\r\n\r\n{by}\n")), "{name}: {text}");
        }
    }
    let error = ca.client().connect(world.addr("web"), "c.example").await.err().unwrap();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn a_route_without_hosts_takes_the_rest() {
    let (ca, one, two) = (Ca::new(), Server::start("one"), Server::start("two"));
    let (a, b) = (terminating(&ca, "a.example", &one), terminating(&ca, "c.example", &two));
    let world = by_name(&a, &b, &[("a.example", "a"), ("", "b")]);
    let (_, text) = ca.client().connect(world.addr("web"), "c.example").await.unwrap().get("/").await;
    assert!(text.contains("\r\n\r\ntwo\n"), "{text}");
    // An address is no name in a greeting.
    let shown = anyone().connect(world.addr("web"), "127.0.0.1").await.unwrap().get("/").await.1;
    assert!(shown.contains("\r\n\r\ntwo\n"), "{shown}");
}

#[tokio::test]
async fn a_greeting_in_pieces_is_read_and_what_is_none_ends() {
    let (ca, one) = (Ca::new(), Server::start("one"));
    let a = terminating(&ca, "a.example", &one);
    let world = by_name(&a, &a, &[("a.example", "a")]);
    // A client whose bytes trickle in.
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut proxy = TcpStream::connect(world.addr("web")).await.unwrap();
    proxy.set_nodelay(true).unwrap();
    let trickle = tokio::spawn(async move {
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let (mut read, mut write) = proxy.split();
        let up = async {
            let (mut piece, mut n) = ([0; 1], 0);
            while matches!(far_read.read(&mut piece).await, Ok(1)) && write.write_all(&piece).await.is_ok() {
                n += 1;
                if n < 300 && n % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::join!(up, tokio::io::copy(&mut read, &mut far_write)).1.is_ok()
    });
    let text = ca.client().get_over(near, "a.example").await;
    assert!(text.contains("\r\n\r\none\n"), "{text}");
    trickle.abort();
    for bytes in
        [b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".as_slice(), &[22, 3, 1, 0, 5, 9, 9, 9, 9, 9], b""]
    {
        let mut client = Client::connect(world.addr("web")).await;
        client.send(bytes).await;
        let mut got = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_secs(10), client.stream.read_to_end(&mut got)).await.unwrap();
        assert!(got.is_empty(), "{got:?}");
    }
    assert_eq!(world.proxy.counters().listeners[0].1.refused, 3);
}
