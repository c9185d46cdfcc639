use super::*;
use crate::{
    entry::Override,
    model::{Backend, Balance, Bind, Network, Redirect, Rewrite, Target},
};
use alloc::vec;

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn route(pool: &str) -> Route {
    Route::to(pool.parse().unwrap())
}

fn state(routes: Vec<Route>) -> State {
    let backend = |site: Option<&str>, port| Backend {
        site: site.map(|s| s.parse().unwrap()),
        addr: addr(port),
        weight: 1,
    };
    let pool = Pool {
        backends: vec![backend(Some("fra"), 1), backend(None, 2), backend(Some("ams"), 3)],
        balance: Balance::RoundRobin,
        check: None,
        connect_timeout_ms: 1,
        response_timeout_ms: 2,
        max_connections: 3,
        retries: 4,
        eject_ms: 5,
        ..Pool::default()
    };
    let bind = |site: Option<&str>, port| Bind { site: site.map(|s| s.parse().unwrap()), addr: addr(port) };
    let listener = Listener {
        binds: vec![bind(Some("fra"), 80), bind(Some("ams"), 81)],
        protocol: Protocol::Http,
        tls: None,
        routes,
        max_connections: 0,
        header_timeout_ms: 1,
        idle_timeout_ms: 1,
        max_body: 0,
        ..Listener::default()
    };
    let mut state = State::default();
    state.pools.insert("web".parse().unwrap(), Arc::new(pool));
    state.listeners.insert("front".parse().unwrap(), Arc::new(listener));
    state
}

fn build(state: &State, site: &str) -> ProxyTable {
    ProxyTable::build(state, &site.parse().unwrap())
}

fn ask(host: &str, path: &str, headers: &[(&str, &str)]) -> Sample {
    let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    Sample { host: host.into(), target: path.into(), headers, ..Sample::default() }
}

fn mismatch(route: &Route, request: &Sample) -> Option<Mismatch> {
    RouteTable::build(route, &BTreeMap::new()).mismatch(request)
}

#[test]
fn a_site_binds_its_own_addresses_and_uses_its_own_backends() {
    let state = state(vec![route("web")]);
    let table = build(&state, "fra");
    let listener = &table.listeners.values().next().unwrap();
    assert_eq!(listener.binds, [addr(80)]);
    let ports: Vec<u16> = listener.routes[0].pools[0].0.backends.iter().map(|b| b.addr.port()).collect();
    assert_eq!(ports, [1, 2]);
    assert!(build(&state, "lon").listeners.is_empty(), "a site without a bind has no listener");
    assert_eq!(build(&state, "lon").pools.len(), 1, "but it checks what it could use");
}

#[test]
fn an_operators_word_on_a_backend_is_in_the_table() {
    let mut state = state(vec![route("web")]);
    for (port, force) in [(1, Force::Drain), (2, Force::Up)] {
        let scope = Scope::Backend("web".parse().unwrap(), addr(port));
        let word =
            Override { scope: scope.clone(), force, author: "me".into(), reason: "".into(), expires: None };
        state.overrides.insert(scope, Arc::new(word));
    }
    let table = build(&state, "fra");
    let backends = &table.pools.values().next().unwrap().backends;
    assert_eq!(
        backends.iter().map(|b| (b.force, b.closed())).collect::<Vec<_>>(),
        [(Some(Force::Drain), true), (Some(Force::Up), false)]
    );
}

#[test]
fn a_route_to_an_unknown_pool_leads_to_an_empty_one() {
    let table = build(&state(vec![route("nowhere")]), "fra");
    assert!(table.listeners.values().next().unwrap().routes[0].pools[0].0.backends.is_empty());
}

#[test]
fn hosts_match_exactly_or_by_wildcard_without_port_and_case() {
    for (pattern, host, want) in [
        ("w.example", "W.Example:8080", true),
        ("w.example", "w.example.", true),
        ("w.example", "x.w.example", false),
        ("*.example", "a.b.example", true),
        ("*.example", "example", false),
        ("*.example", ".example", false),
        ("*.example", "badexample", false),
        ("[2001:db8::1]", "[2001:DB8::1]:443", true),
        ("[2001:db8::1]", "[2001:db8::1]", true),
        ("w.example", "", false),
    ] {
        let route = Route { hosts: vec![pattern.into()], ..route("web") };
        assert_eq!(mismatch(&route, &ask(host, "/", &[])).is_none(), want, "{pattern} {host}");
    }
}

#[test]
fn a_path_prefix_ends_at_a_segment() {
    for (prefix, path, want) in [
        ("", "/x", true),
        ("", "*", true),
        ("/", "/x", true),
        ("/api", "/api", true),
        ("/api", "/api/x", true),
        ("/api", "/apix", false),
        ("/api/", "/api/x", true),
        ("/api/", "/api", false),
        ("/api", "/API", false),
    ] {
        let route = Route { path: PathMatch::Prefix(prefix.into()), ..route("web") };
        assert_eq!(mismatch(&route, &ask("w", path, &[])).is_none(), want, "{prefix} {path}");
    }
}

#[test]
fn headers_and_cookies_match_by_value_or_presence() {
    let by_header = |v: &str| Route { header: Some(("x-env".into(), v.into())), ..route("web") };
    let by_cookie = |v: &str| Route { cookie: Some(("beta".into(), v.into())), ..route("web") };
    for (route, headers, want) in [
        (by_header("eu"), vec![("X-Env", "us"), ("x-env", "eu")], true),
        (by_header("eu"), vec![("X-Env", "EU")], false),
        (by_header(""), vec![("X-Env", "")], true),
        (by_header(""), vec![], false),
        (by_cookie("1"), vec![("Cookie", "a=b; beta=1")], true),
        (by_cookie("1"), vec![("Cookie", "a=b"), ("cookie", "beta=1")], true),
        (by_cookie("1"), vec![("Cookie", "xbeta=1; beta=12; Beta=1")], false),
        (by_cookie(""), vec![("Cookie", "beta=")], true),
        (by_cookie(""), vec![("Cookie", "beta")], false),
    ] {
        assert_eq!(mismatch(&route, &ask("w", "/", &headers)).is_none(), want, "{route:?} {headers:?}");
    }
}

#[test]
fn the_first_match_wins_and_explain_says_why() {
    let api = Route { path: PathMatch::Prefix("/api".into()), ..route("web") };
    let beta = Route { cookie: Some(("beta".into(), "1".into())), ..route("web") };
    let table = build(&state(vec![beta, api, route("web")]), "fra");
    let listener = table.listeners.values().next().unwrap();
    let request = ask("w.example", "/api/x", &[]);
    assert_eq!(listener.match_route(&request), Some(1));
    assert_eq!(
        listener.explain(&request),
        [
            "route 1 to pool web: cookie: no beta with value \"1\"",
            "route 2 to pool web: takes the request",
            "route 3 to pool web: would take it, but route 2 comes first",
        ]
    );
    let only = build(&state(vec![Route { hosts: vec!["a.example".into()], ..route("web") }]), "fra");
    let lines = only.listeners.values().next().unwrap().explain(&request);
    assert_eq!(
        lines,
        [
            "route 1 to pool web: host \"w.example\" is none of [\"a.example\"]",
            "no route takes the request: it is answered 404",
        ]
    );
}

#[test]
fn methods_queries_and_clients_match() {
    let by = |r: Route| Route { target: route("web").target, ..r };
    let pair = |n: &str, v: &str| Some((n.to_string(), v.to_string()));
    let net = |addr: &str, bits| {
        by(Route { sources: vec![Network { addr: addr.parse().unwrap(), bits }], ..Route::default() })
    };
    for (route, method, target, source, want) in [
        (
            by(Route { methods: vec!["POST".into(), "PUT".into()], ..Route::default() }),
            "PUT",
            "/",
            "::1",
            true,
        ),
        (by(Route { methods: vec!["POST".into()], ..Route::default() }), "post", "/", "::1", false),
        (by(Route { query: pair("v", "2"), ..Route::default() }), "GET", "/a?x=1&v=2", "::1", true),
        (by(Route { query: pair("v", "2"), ..Route::default() }), "GET", "/v=2", "::1", false),
        (by(Route { query: pair("v", ""), ..Route::default() }), "GET", "/?v", "::1", true),
        (by(Route { query: pair("v", ""), ..Route::default() }), "GET", "/?vv=1", "::1", false),
        (net("192.0.2.0", 24), "GET", "/", "192.0.2.9", true),
        (net("192.0.2.0", 24), "GET", "/", "::ffff:192.0.2.9", true),
        (net("192.0.2.0", 24), "GET", "/", "192.0.3.9", false),
        (net("192.0.2.0", 24), "GET", "/", "::1", false),
        (net("0.0.0.0", 0), "GET", "/", "203.0.113.1", true),
        (net("192.0.2.1", 32), "GET", "/", "192.0.2.2", false),
        (net("2001:db8::", 32), "GET", "/", "2001:db8:1::1", true),
        (net("2001:db8::", 32), "GET", "/", "2001:db9::1", false),
        (net("::", 0), "GET", "/", "2001:db9::1", true),
    ] {
        let request = Sample {
            method: method.into(),
            target: target.into(),
            source: Some(source.parse().unwrap()),
            ..Sample::default()
        };
        assert_eq!(mismatch(&route, &request).is_none(), want, "{route:?} {method} {target} {source}");
    }
    let unknown = Sample::default();
    assert_eq!(
        mismatch(&net("0.0.0.0", 0), &unknown),
        Some(Mismatch::Source),
        "who is not known is in no network"
    );
}

#[test]
fn an_exact_path_and_a_regular_expression_match_all_of_it() {
    let exact = Route { path: PathMatch::Exact("/a".into()), ..route("web") };
    let regex = Route { path: PathMatch::Regex("/u/[0-9]+|/x".into()), ..route("web") };
    for (route, path, want) in [
        (&exact, "/a", true),
        (&exact, "/a?b", true),
        (&exact, "/a/", false),
        (&regex, "/u/12", true),
        (&regex, "/u/12?q", true),
        (&regex, "/u/12/", false),
        (&regex, "/y/x", false),
        (&regex, "/x", true),
    ] {
        assert_eq!(mismatch(route, &ask("w", path, &[])).is_none(), want, "{path}");
    }
    assert!(pattern("(").is_err() && pattern("(a{1000}){1000}").is_err(), "bounded and explained");
}

#[test]
fn a_path_is_rewritten_by_what_matched() {
    let of = |path: PathMatch, to: &str| Route {
        path,
        rewrite: Rewrite { path: Some(to.into()), ..Rewrite::default() },
        ..route("web")
    };
    let prefix = |p: &str| PathMatch::Prefix(p.into());
    for (route, target, want) in [
        (of(prefix("/api"), "/v2"), "/api/x?y", "/v2/x?y"),
        (of(prefix("/api"), "/v2/"), "/api/x", "/v2/x"),
        (of(prefix("/api/"), "/v2"), "/api/x", "/v2/x"),
        (of(prefix("/api"), "/"), "/api", "/"),
        (of(prefix("/api"), "/"), "/api/x", "/x"),
        (of(prefix("/api"), "/"), "/api/", "/"),
        (of(prefix("/api"), "/v2"), "/api/", "/v2/"),
        (of(PathMatch::Exact("/a".into()), "/b"), "/a?q", "/b?q"),
        (of(PathMatch::Any, "/site"), "/a?q", "/site/a?q"),
        (of(PathMatch::Regex("/u/([a-z]+)".into()), "/users/$1/home"), "/u/bob?q", "/users/bob/home?q"),
        (of(PathMatch::Regex("/(.*)".into()), "$1"), "/x", "/x"),
    ] {
        let got = RouteTable::build(&route, &BTreeMap::new()).rewritten(target);
        assert_eq!(got.as_deref(), Some(want), "{route:?} {target}");
    }
    assert_eq!(RouteTable::build(&route("web"), &BTreeMap::new()).rewritten("/a"), None);
}

#[test]
fn a_route_that_answers_leads_to_no_pool_and_says_so() {
    let away = Redirect { status: 308, scheme: Some("https".into()), host: None, path: None };
    let redirect = Route { target: Target::Redirect(away), ..Route::default() };
    let split = Route {
        target: Target::Pools(vec![("web".parse().unwrap(), 9), ("new".parse().unwrap(), 1)]),
        ..Route::default()
    };
    let table = build(&state(vec![redirect, split]), "fra");
    let listener = table.listeners.values().next().unwrap();
    assert_eq!(listener.routes.iter().map(|r| r.pools.len()).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(
        listener.explain(&ask("w", "/", &[])),
        [
            "route 1 redirects with 308: takes the request",
            "route 2 to pools web (9), new (1): would take it, but route 1 comes first",
        ]
    );
}
