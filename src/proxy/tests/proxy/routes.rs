//! What routes do besides leading to a pool: conditions, splits, rewrites, redirects, answers, limits.

use crate::{http2::Client2, support::*};
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::io::AsyncWriteExt as _;
use zonekeeper_core::model::{
    Http2, Network, PathMatch, Protocol, Redirect, Respond, ResponseRewrite, Rewrite, Route, RouteLimits,
    Target,
};

fn world(backends: &[(&str, &Server)], routes: Vec<Route>) -> World {
    let mut state = state(Protocol::Http, &[backends[0].1.addr]);
    for (name, server) in backends {
        state.pools.insert(pool_id(name), Arc::new(pool(&[server.addr])));
    }
    edit_listener(&mut state, |l| l.routes = routes);
    World::start(state)
}

fn pair(name: &str, value: &str) -> Option<(String, String)> {
    Some((name.into(), value.into()))
}

fn answer(status: u16, body: &str) -> Target {
    Target::Respond(Respond { status, content_type: "text/html".into(), body: body.into() })
}

#[tokio::test]
async fn the_first_route_whose_conditions_all_hold_takes_the_request() {
    let rest = Server::start("rest");
    let say = |body: &str, route: Route| Route { target: answer(200, body), ..route };
    let net = |addr: &str, bits| Network { addr: addr.parse().unwrap(), bits };
    let routes = vec![
        say("outside", Route { sources: vec![net("203.0.113.0", 24)], ..Route::default() }),
        say("write", Route { methods: vec!["POST".into(), "PUT".into()], ..Route::default() }),
        say("exact", Route { path: PathMatch::Exact("/a".into()), ..Route::default() }),
        say("user", Route { path: PathMatch::Regex("/u/[0-9]+".into()), ..Route::default() }),
        say("two", Route { query: pair("v", "2"), ..Route::default() }),
        say(
            "here",
            Route {
                path: PathMatch::Prefix("/here".into()),
                sources: vec![net("127.0.0.0", 8)],
                ..Route::default()
            },
        ),
        route("web"),
    ];
    let world = world(&[("web", &rest)], routes);
    let mut client = world.client().await;
    for (request, want) in [
        ("POST /a", "write"),
        ("GET /a", "exact"),
        ("GET /a?v=2", "exact"),
        ("GET /a/", "rest"),
        ("GET /u/12", "user"),
        ("GET /u/12x", "rest"),
        ("GET /b?x=1&v=2", "two"),
        ("GET /here/x", "here"),
    ] {
        client.send(format!("{request} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(client.answer(false).await.by(), want, "{request}");
    }
}

#[tokio::test]
async fn a_split_follows_its_weights() {
    let (old, new) = (Server::start("old"), Server::start("new"));
    let split = Target::Pools(vec![(pool_id("old"), 9), (pool_id("new"), 1)]);
    let world = world(&[("old", &old), ("new", &new)], vec![Route { target: split, ..Route::default() }]);
    let mut client = world.client().await;
    for _ in 0..200 {
        client.get("/").await;
    }
    assert!((18..=22).contains(&new.count()), "{} of 200", new.count());
}

#[tokio::test]
async fn what_is_rewritten_reaches_the_backend() {
    let backend = Server::start("a");
    let rewrite = Rewrite {
        path: Some("/users/$1".into()),
        host: Some("inside.example:81".into()),
        set: vec![("x-env".into(), "eu".into())],
        remove: vec!["x-secret".into()],
    };
    let routes = vec![Route { path: PathMatch::Regex("/u/(.*)".into()), rewrite, ..route("web") }];
    let world = world(&[("web", &backend)], routes);
    let request = "GET /u/bob?q HTTP/1.1\r\nHost: w.example\r\nX-Env: us\r\nX-Secret: 1\r\nA: b\r\n\r\n";
    let text = world.ask(request).await.text();
    assert!(
        text.contains("GET /users/bob?q HTTP/1.1\r\nHost: inside.example:81\r\nA: b\r\nx-env: eu\r\n"),
        "{text}"
    );
    assert!(text.contains("X-Forwarded-Host: w.example\r\n") && !text.contains("Secret"), "{text}");
}

/// What a backend says of itself goes, and what browsers are to know comes, whoever answers and in which protocol.
#[tokio::test]
async fn what_is_rewritten_of_a_response_reaches_the_client() {
    const SAID: &str = "HTTP/1.1 200 OK\r\nServer: old/1.0\r\nX-A: 1\r\nx-frame: backend\r\nX-FRAME: twice\r\n\
                        Content-Length: 2\r\n\r\nok";
    let backend = Server::with(any(), |mut stream, _| async move {
        let mut pending = Vec::new();
        while read_request(&mut stream, &mut pending).await.is_some() {
            stream.write_all(SAID.as_bytes()).await.unwrap();
        }
    });
    let response = ResponseRewrite {
        set: vec![("x-frame".into(), "DENY".into()), ("content-type".into(), "text/x".into())],
        remove: vec!["server".into(), "location".into()],
    };
    let at = |path: &str, target| Route { path: PathMatch::Exact(path.into()), target, ..Route::default() };
    let elsewhere = Redirect { status: 308, scheme: None, host: None, path: Some("/new".into()) };
    let mut routes =
        vec![at("/fixed", answer(403, "no")), at("/old", Target::Redirect(elsewhere)), route("web")];
    routes.iter_mut().for_each(|r| r.response = response.clone());
    routes.insert(0, Route { path: PathMatch::Exact("/plain".into()), ..route("web") });
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_listener(&mut state, |l| (l.routes, l.http2) = (routes, Http2::PriorKnowledge));
    let world = World::start(state);

    let (mut one, two) = (world.client().await, Client2::connect(world.addr("web")).await);
    for (path, status, others) in [
        ("/", 200, &["content-length: 2", "x-a: 1"][..]),
        ("/fixed", 403, &["content-length: 2"]),
        ("/old", 308, &["content-length: 0"]),
    ] {
        let want = ["x-frame: DENY", "content-type: text/x"].iter().chain(others);
        let mut want: Vec<String> = want.map(|line| line.to_string()).collect();
        let old = one.get(path).await;
        let mut lines: Vec<String> = old.head.lines().skip(1).filter(|l| !l.is_empty()).map(lower).collect();
        let new = two.get(path).await;
        let mut fields: Vec<String> =
            new.fields.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!((old.status, new.status), (status, status), "{path}");
        for all in [&mut want, &mut lines, &mut fields] {
            all.sort();
        }
        assert_eq!((&lines, &fields), (&want, &want), "{path}");
    }
    assert!(
        one.get("/plain")
            .await
            .head
            .contains("Server: old/1.0\r\nX-A: 1\r\nx-frame: backend\r\nX-FRAME: twice")
    );
}

/// A line of a head with its name in lower case.
fn lower(line: &str) -> String {
    let (name, value) = line.split_once(": ").unwrap();
    format!("{}: {value}", name.to_ascii_lowercase())
}

#[tokio::test]
async fn redirects_and_answers_keep_the_connection() {
    let backend = Server::start("a");
    let to = |path: &str, scheme: Option<&str>, host: Option<&str>, place: Option<&str>| Route {
        path: PathMatch::Prefix(path.into()),
        target: Target::Redirect(Redirect {
            status: 308,
            scheme: scheme.map(Into::into),
            host: host.map(Into::into),
            path: place.map(Into::into),
        }),
        ..Route::default()
    };
    let routes = vec![
        to("/tls", Some("https"), None, None),
        to("/host", None, Some("new.example:81"), None),
        to("/path", None, None, Some("/there?x")),
        Route {
            path: PathMatch::Exact("/gone".into()),
            target: answer(410, "<p>gone\n"),
            ..Route::default()
        },
        Route { path: PathMatch::Exact("/none".into()), target: answer(204, ""), ..Route::default() },
        route("web"),
    ];
    let world = world(&[("web", &backend)], routes);
    let mut client = world.client().await;
    for (path, status, location) in [
        ("/tls/a?b", 308, Some("https://w.example/tls/a?b")),
        ("/host/a", 308, Some("http://new.example:81/host/a")),
        ("/path", 308, Some("http://w.example:8080/there?x")),
        ("/gone", 410, None),
        ("/none", 204, None),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: w.example:8080\r\n\r\n")).await;
        let answer = client.answer(false).await;
        assert_eq!((answer.status, field(&answer.head, "location")), (status, location), "{path}");
        assert!(answer.complete);
        if path == "/gone" {
            assert_eq!(
                (answer.text().as_str(), field(&answer.head, "content-type")),
                ("<p>gone\n", Some("text/html"))
            );
        }
    }
    client.send("HEAD /gone HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer(true).await.status, 410);
    assert_eq!(client.get("/").await.by(), "a", "the connection went on");
    client.send("POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.answer(false).await.status, 410);
    assert!(client.ended().await, "a body that nobody read ends it");
}

#[tokio::test]
async fn a_routes_own_limits_hold() {
    let slow = Server::with(any(), |mut stream, _| async move {
        read_request(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    });
    let limits = RouteLimits {
        response_timeout_ms: Some(200),
        retries: Some(0),
        max_body: Some(4),
        ..RouteLimits::default()
    };
    let routes =
        vec![Route { path: PathMatch::Prefix("/tight".into()), limits, ..route("web") }, route("web")];
    let mut world = world(&[("web", &slow)], routes);
    world.change(|s| edit_pool(s, |p| p.eject_ms = 0));
    assert_eq!(world.ask("GET /tight HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 504);
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(world.ask(&post("/tight")).await.status, 413);
    let mut other = world.client().await;
    other.send(post("/loose")).await;
    let wait = std::time::Duration::from_millis(400);
    assert!(
        tokio::time::timeout(wait, other.answer(false)).await.is_err(),
        "the pool's own timeout is longer"
    );
}

#[tokio::test]
async fn a_route_that_says_so_is_tried_again_with_any_method() {
    let dies = || {
        Server::with(any(), |mut stream, requests| async move {
            read_request(&mut stream, &mut Vec::new()).await;
            requests.fetch_add(1, Relaxed);
        })
    };
    let (a, b, c) = (dies(), dies(), Server::start("c"));
    let mut start = state(Protocol::Http, &[a.addr, b.addr, c.addr]);
    let target = Target::Idempotent(vec![(pool_id("web"), 1)]);
    let marked = Route { path: PathMatch::Prefix("/twice".into()), target, ..Route::default() };
    edit_listener(&mut start, |l| l.routes.insert(0, marked));
    edit_pool(&mut start, |p| p.eject_ms = 0);
    let world = World::start(start);
    let post = |path| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    for _ in 0..3 {
        let answer = world.ask(&post("/twice")).await;
        assert!(answer.status == 200 && answer.text().ends_with("hello"), "{answer:?}");
    }
    assert!(a.count() + b.count() >= 3, "they had read it");
    let mut once = Vec::new();
    for _ in 0..6 {
        once.push(world.ask(&post("/")).await.status);
    }
    assert!(once.contains(&502), "without the mark it is sent once: {once:?}");
}
