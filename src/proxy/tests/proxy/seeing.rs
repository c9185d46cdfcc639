//! What a request leaves behind: its identity at the backend, its line in the access log.

use crate::support::*;
use std::{
    io::Write,
    sync::{Arc, Mutex},
};
use tracing_subscriber::fmt::MakeWriter;
use zonekeeper_core::model::{PathMatch, Protocol, Rewrite, Route};

fn seeing(backend: &Server, access_log: u32) -> World {
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| (l.identify, l.access_log) = (true, access_log));
    World::start(state)
}

#[tokio::test]
async fn a_request_without_an_identity_is_given_one_and_a_valid_one_stays() {
    let backend = Server::start("a");
    let world = seeing(&backend, 0);
    let mut client = world.client().await;
    let (first, second) = (client.get("/").await.text(), client.get("/").await.text());
    let id = |text: &str| field(text, "x-request-id").unwrap().to_string();
    assert!(id(&first).len() == 32 && id(&first) != id(&second), "{first}");
    assert_eq!(field(&first, "traceparent").map(str::len), Some(55));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client
        .send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\ntraceparent: {trace}\r\n\r\n"))
        .await;
    let text = client.answer(false).await.text();
    assert_eq!((id(&text).as_str(), field(&text, "traceparent")), ("mine", Some(trace)));
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: a b\r\ntraceparent: 00\r\n\r\n").await;
    let text = client.answer(false).await.text().to_ascii_lowercase();
    assert!(
        text.matches("x-request-id:").count() == 1 && text.matches("traceparent:").count() == 1,
        "{text}"
    );
    assert_eq!(id(&text).len(), 32);
}

/// What this process logs.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;
    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

#[tokio::test]
async fn a_sampled_request_is_a_line_of_the_access_log() {
    let lines = Lines::default();
    tracing_subscriber::fmt().json().with_writer(lines.clone()).init();
    let backend = Server::start("a");
    let world = seeing(&backend, 2);
    let mut client = world.client().await;
    for _ in 0..10 {
        client.get("/seen-here").await;
    }
    let of_these = || {
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap();
        let all = text.lines().map(line).filter(|l| l["fields"]["path"] == "/seen-here");
        all.collect::<Vec<_>>()
    };
    eventually("they are written", async || of_these().len() >= 5).await;
    let entries = of_these();
    assert_eq!(entries.len(), 5, "every second one");
    let fields = &entries[0]["fields"];
    assert_eq!(entries[0]["target"], "access");
    for (name, want) in [("listener", "web"), ("method", "GET"), ("host", "w.example"), ("pool", "web")] {
        assert_eq!(fields[name], want, "{fields}");
    }
    assert_eq!((&fields["status"], &fields["backend"]), (&200.into(), &backend.addr.to_string().into()));
    assert!(
        fields["bytes_out"].as_u64().unwrap() > 100 && fields["request_id"].as_str().unwrap().len() == 32
    );
}

#[tokio::test]
async fn times_go_on_with_their_route_and_sums_never_fall() {
    let to = |path: &str| Route { path: PathMatch::Prefix(path.into()), ..route("web") };
    let (a, b) = (Server::start("a"), Server::start("b"));
    let mut start = state(Protocol::Http, &[a.addr, b.addr]);
    edit_listener(&mut start, |l| l.routes = vec![to("/one"), to("/two")]);
    let mut world = World::start(start);
    let mut client = world.client().await;
    for path in ["/one", "/two", "/one", "/one"] {
        assert_eq!(client.get(path).await.status, 200);
    }
    let counts = |world: &World| {
        let counters = world.proxy.counters();
        let n = |t: &zonekeeper_proxy::Times| t.counts.iter().sum::<u64>();
        let routes: Vec<u64> = counters.routes.iter().map(|(_, _, t)| n(t)).collect();
        let backends: Vec<u64> = counters.backends.iter().map(|b| n(&b.2.times)).collect();
        let sum = |t: &zonekeeper_proxy::Times| (n(t), t.sum_us);
        (routes, backends, sum(&counters.listeners[0].1.times), sum(&counters.pools[0].1.times))
    };
    eventually("all are counted", async || counts(&world).2.0 == 4).await;
    let (_, _, listener, pool) = counts(&world);
    assert_eq!((listener.0, pool.0), (4, 4));
    assert!(listener.1 > 0 && pool.1 > 0);
    world.change(|s| {
        let other = Route { rewrite: Rewrite { host: Some("h".into()), ..Rewrite::default() }, ..to("/one") };
        edit_listener(s, |l| l.routes = vec![to("/new"), other]);
        edit_pool(s, |p| p.backends.truncate(1));
    });
    eventually("one backend is left", async || counts(&world).1.len() == 1).await;
    assert_eq!(counts(&world), (vec![0, 3], vec![2], listener, pool));
}
