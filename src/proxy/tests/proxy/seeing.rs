//! What a request leaves behind: its identity at the backend, its line in the access log.

use crate::{http2::Client2, support::*};
use std::{
    io::Write,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use tokio::io::AsyncReadExt as _;
use tracing_subscriber::fmt::MakeWriter;
use zonekeeper_core::model::{
    HashKey, Http2, Network, PathMatch, Protocol, RateLimit, Redirect, Respond, Rewrite, Route, Target,
};

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

impl Lines {
    /// All of them, read.
    fn entries(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;
    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// All that this process logs, from the first call on.
fn lines() -> Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    let begin = || {
        let lines = Lines::default();
        tracing_subscriber::fmt().json().with_writer(lines.clone()).init();
        lines
    };
    LINES.get_or_init(begin).clone()
}

#[tokio::test]
async fn a_sampled_request_is_a_line_of_the_access_log() {
    let lines = lines();
    let backend = Server::start("a");
    let world = seeing(&backend, 2);
    let mut client = world.client().await;
    for _ in 0..10 {
        client.get("/seen-here").await;
    }
    let of_these = || {
        let mut all = lines.entries();
        all.retain(|l| l["fields"]["path"] == "/seen-here");
        all
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
async fn the_log_shows_what_was_asked_for_and_not_what_the_backend_got() {
    let lines = lines();
    let backend = Server::start("a");
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| {
        (l.identify, l.access_log) = (true, 1);
        l.routes[0].path = PathMatch::Prefix("/asked-for".into());
        l.routes[0].rewrite =
            Rewrite { path: Some("/got".into()), host: Some("got.example".into()), ..Rewrite::default() };
    });
    let world = World::start(state);
    let text = world.client().await.get("/asked-for/x").await.text();
    let line = || lines.entries().into_iter().find(|l| l["fields"]["path"] == "/asked-for/x");
    eventually("it is written", async || line().is_some()).await;
    let fields = line().unwrap()["fields"].clone();
    assert_eq!(fields["host"], "w.example", "{fields}");
    assert!(text.contains("GET /got/x HTTP/1.1"), "{text}");
    assert_eq!(fields["request_id"], field(&text, "x-request-id").unwrap(), "the backend's");
}

/// As HAProxy's `tcplog`: whose connection it was, where it went, how it ended.
#[tokio::test]
async fn a_sampled_connection_is_a_line_of_the_access_log() {
    let lines = lines();
    let backend = Server::start("a");
    let breaking = Server::with(any(), |mut stream, _| async move {
        let _ = stream.read_u8().await; // before that the proxy would look for another backend
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut state = state(Protocol::Tcp, &[backend.addr]);
    let rare = RateLimit { requests: 1, per_ms: 3_600_000, burst: 1, key: HashKey::Source };
    for (listener, protocol, to, rate_limit) in [
        ("seen-closed", Protocol::Tcp, "web", None),
        ("seen-idle", Protocol::Tcp, "web", None),
        ("seen-broken", Protocol::Tcp, "broken", None),
        ("seen-no-backend", Protocol::Tcp, "none", None),
        ("seen-limited", Protocol::Tcp, "web", Some(rare)),
        ("seen-no-greeting", Protocol::Tls, "web", None),
        ("seen-unknown-name", Protocol::Tls, "web", None),
    ] {
        let mut more = crate::support::listener(protocol);
        (more.routes[0], more.access_log, more.rate_limit) = (route(to), 1, rate_limit);
        match listener {
            "seen-idle" => more.idle_timeout_ms = 200,
            "seen-unknown-name" => more.routes[0].hosts = vec!["w.example".into()],
            _ => {}
        }
        state.listeners.insert(listener_id(listener), Arc::new(more));
    }
    for (name, addr) in [("none", dead()), ("broken", breaking.addr)] {
        state.pools.insert(pool_id(name), Arc::new(pool(&[addr])));
    }
    let world = World::start(state);
    let connect = |listener: &str| Client::connect(world.addr(listener));
    assert_eq!(connect("seen-closed").await.get("/").await.by(), "a");
    let idle = connect("seen-idle").await; // until it is over
    let first = connect("seen-limited").await;
    for listener in ["seen-no-backend", "seen-broken", "seen-limited"] {
        // it may be over before the client has looked at it
        let client = Client::try_connect(world.addr(listener)).await;
        if let Some(mut client) = client {
            client.send("x").await;
            assert!(client.ended().await);
        }
    }
    let mut talk = connect("seen-no-greeting").await;
    talk.send("HELO w.example\r\n").await;
    assert!(talk.ended().await);
    let unknown = world.addr("seen-unknown-name");
    assert!(crate::tls::support::anyone().connect(unknown, "other.example").await.is_err());

    let of = |listener: &str, end: &str| {
        let this = |l: &serde_json::Value| l["fields"]["listener"] == listener && l["fields"]["end"] == end;
        lines.entries().into_iter().find(this).map(|l| l["fields"].clone())
    };
    let (served, broken) = (backend.addr.to_string(), breaking.addr.to_string());
    for (listener, end, pool, backend) in [
        ("seen-closed", "closed", "web", &*served),
        ("seen-idle", "idle", "web", &served),
        ("seen-broken", "broken", "broken", &broken),
        ("seen-no-backend", "no backend", "none", ""),
        ("seen-limited", "limited", "", ""),
        ("seen-no-greeting", "no greeting", "", ""),
        ("seen-unknown-name", "unknown name", "", ""),
    ] {
        eventually(listener, async || of(listener, end).is_some()).await;
        let line = of(listener, end).unwrap();
        for (name, want) in
            [("message", "connection"), ("client", "127.0.0.1"), ("pool", pool), ("backend", backend)]
        {
            assert_eq!(line[name], want, "{line}");
        }
        let counted = line["bytes_in"].as_u64() > Some(20) && line["bytes_out"].as_u64() > Some(20);
        assert_eq!(counted, listener == "seen-closed", "{line}");
    }
    drop((idle, first));
}

/// As nginx and HAProxy have it: who looks for a client's error finds it, whoever answered.
#[tokio::test]
async fn what_no_backend_gets_is_in_the_access_log_too() {
    let lines = lines();
    let backend = Server::start("a");
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| {
        (l.access_log, l.max_body, l.header_timeout_ms, l.http2) = (1, 10, 300, Http2::PriorKnowledge);
        l.trusted = vec![Network { addr: "127.0.0.0".parse().unwrap(), bits: 8 }];
        let fixed =
            |path: &str, target| Route { path: PathMatch::Exact(path.into()), target, ..Route::default() };
        let text = Respond { status: 410, content_type: "text/plain".into(), body: "gone\n".into() };
        let none = RateLimit { requests: 1, per_ms: 3_600_000, burst: 1, key: HashKey::Source };
        l.routes = vec![
            fixed(
                "/own-moved",
                Target::Redirect(Redirect { status: 302, scheme: None, host: None, path: None }),
            ),
            fixed("/own-gone", Target::Respond(text.clone())),
            Route { rate_limit: Some(none), ..fixed("/own-limited", Target::Respond(text)) },
            Route { path: PathMatch::Prefix("/own-body".into()), ..route("web") },
        ];
    });
    let world = World::try_start(state, 1).unwrap();
    let long = format!("/own-long{}", "x".repeat(9000));
    for (path, more, status) in [
        ("/own-moved", "", 302),
        ("/own-gone", "", 410),
        ("/own-limited", "", 410),
        ("/own-limited", "X-Forwarded-For: 127.0.0.1\r\n", 429),
        ("/own-nowhere", "X-Forwarded-For: 192.0.2.7\r\n", 404),
        ("/own-bad", "Host: two\r\n", 400),
        ("/own-body/length", "Content-Length: 11\r\n", 413),
        ("/own-body/chunks", "Transfer-Encoding: chunked\r\n", 400),
        (&long, "", 414),
    ] {
        let answer = world.ask(&format!("GET {path} HTTP/1.1\r\nHost: w.example\r\n{more}\r\nzz\r\n")).await;
        assert_eq!(answer.status, status, "{path}");
    }
    let large = format!("GET /own-fields HTTP/1.1\r\nHost: w.example\r\nX: {}", "x".repeat(40_000));
    assert_eq!(world.ask(&large).await.status, 431);
    assert_eq!(world.ask("GET /own-slow HTTP/1.1\r\nHost: w.ex").await.status, 408);
    assert_eq!(Client2::connect(world.addr("web")).await.get("/own-two").await.status, 404);
    let of_these = || {
        let ours = |l: &serde_json::Value| l["path"].as_str().is_some_and(|p| p.starts_with("/own-"));
        lines.entries().into_iter().map(|l| l["fields"].clone()).filter(ours).collect::<Vec<_>>()
    };
    eventually("they are written", async || of_these().len() >= 12).await;
    let answers = || world.proxy.counters().listeners[0].1.answers;
    eventually("they are counted", async || answers() == [0, 0, 1, 11, 0]).await;
    let all = of_these();
    let got = all.iter().map(|l| (&l["path"].as_str().unwrap()[..8], l["status"].as_u64().unwrap()));
    let want = [
        ("/own-mov", 302),
        ("/own-gon", 410),
        ("/own-lim", 410),
        ("/own-lim", 429),
        ("/own-now", 404),
        ("/own-bad", 400),
        ("/own-bod", 413),
        ("/own-bod", 400),
        ("/own-lon", 414),
        ("/own-fie", 431),
        ("/own-slo", 408),
        ("/own-two", 404),
    ];
    assert_eq!(got.collect::<Vec<_>>(), want);
    assert_eq!((&all[4]["client"], &all[4]["host"]), (&"192.0.2.7".into(), &"w.example".into()));
    assert_eq!(
        (&all[4]["method"], &all[4]["pool"], &all[4]["backend"]),
        (&"GET".into(), &"".into(), &"".into())
    );
    assert!(all[1]["bytes_out"].as_u64().unwrap() > 50, "{}", all[1]);
    assert!(all[10]["took_us"].as_u64().unwrap() > 200_000, "{}", all[10]);
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
