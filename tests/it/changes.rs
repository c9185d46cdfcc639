//! Ten changes a second through the admin API of a real process, under load: no failed request, no dropped tunnel. Ten
//! seconds here, a minute with `ZONEKEEPER_LONG=1`.

use crate::{
    memory::nginx,
    serve::{Serve, certificate},
    support::{address, output, tools, turn},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// From one change to the next.
const EVERY: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(10);

/// Takes an upgrade on each connection, and echoes from then on.
fn echo(listen: SocketAddr) {
    let listener = TcpListener::bind(listen).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                head(&mut stream);
                let switch =
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                if to.write_all(switch).is_ok() {
                    let _ = std::io::copy(&mut from, &mut to); // until the client goes
                }
            });
        }
    });
}

/// Reads up to the empty line.
fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A tunnel that asks for an echo all the time; how many it got.
fn tunnel(to: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<Result<u32, String>> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LATE)).unwrap();
    let upgrade =
        "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).unwrap();
    let answer = head(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer:?}");
    std::thread::spawn(move || {
        let mut echoes = 0u32;
        while !stop.load(Relaxed) {
            let (said, mut heard) = (echoes.to_be_bytes(), [0; 4]);
            stream
                .write_all(&said)
                .and_then(|()| stream.read_exact(&mut heard))
                .map_err(|e| format!("after {echoes} echoes: {e}"))?;
            if said != heard {
                return Err(format!("{said:?} came back as {heard:?}"));
            }
            echoes += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(echoes)
    })
}

/// What runs, as the API shows it, and what is changed in it.
struct Config {
    revision: u64,
    pools: Value,
    listeners: Value,
}

impl Config {
    /// One change of each kind in turn.
    fn change(&mut self, n: usize, backends: &[SocketAddr], certificates: &[Value; 2]) -> Value {
        let backend = |i: usize| json!({"site": null, "addr": backends[i], "weight": 1 + (n + i) % 7});
        match n % 5 {
            0 => self.pool("serve-http-1", |p| p["backends"] = (0..3).map(backend).collect()),
            1 => {
                // one goes, and comes back with the next weights
                let stay = (0..3).filter(|i| *i != n / 5 % 3);
                self.pool("serve-http-1", |p| p["backends"] = stay.map(backend).collect())
            }
            2 => self.listener("serve-http-1", |l| {
                let route = l["routes"].as_array().unwrap().last().unwrap().clone();
                let mut other = route.clone();
                other["path"] = json!({"Prefix": format!("/{n}")});
                l["routes"] = json!([other, route]);
            }),
            3 => self.listener("serve-tls-1", |l| l["tls"] = certificates[n / 5 % 2].clone()),
            _ => self.listener("serve-http-2", |l| l["max_body"] = json!((1 << 20) + n)),
        }
    }

    fn pool(&mut self, id: &str, edit: impl FnOnce(&mut Value)) -> Value {
        edit(&mut self.pools[id]);
        json!({"PutPool": [id, self.pools[id]]})
    }

    fn listener(&mut self, id: &str, edit: impl FnOnce(&mut Value)) -> Value {
        edit(&mut self.listeners[id]);
        json!({"PutListener": [id, self.listeners[id]]})
    }
}

/// Changes until the time is over; how many.
fn change(serve: &Serve, seconds: u64, backends: &[SocketAddr], certificates: &[Value; 2]) -> usize {
    let mut all = serve.call("GET", "/v1/config", None)["data"].take();
    let revision = all["revision"].as_u64().unwrap();
    let mut config = Config { revision, pools: all["pools"].take(), listeners: all["listeners"].take() };
    let (begun, mut changes) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let change = config.change(changes, backends, certificates);
        let body = json!({"revision": config.revision, "changes": [change]});
        let written = serve.call("POST", "/v1/config/apply", Some(&body));
        config.revision = written["index"].as_u64().unwrap();
        changes += 1;
        std::thread::sleep((EVERY * changes as u32).saturating_sub(begun.elapsed()));
    }
    changes
}

#[test]
fn ten_changes_a_second_fail_no_request_and_drop_no_tunnel() {
    if !tools(&["nginx", "wrk", "h2load", "openssl"]) {
        return;
    }
    let _turn = turn();
    let seconds: u64 = if std::env::var_os("ZONEKEEPER_LONG").is_some() { 60 } else { 10 };
    let folder = tempfile::tempdir().unwrap();
    let pairs = ["one", "two"].map(|name| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        certificate(&folder)
    });
    let ip = address();
    let at = |port| SocketAddr::new(ip, port);
    let backends = [at(9001), at(9002), at(9003)];
    let _nginx = nginx(folder.path(), &backends);
    echo(at(9004));
    let to = |port| format!("{}={}", at(port), backends.map(|b| b.to_string()).join(","));
    let (http, tls, tunnels) = (to(8080), to(8443), format!("{}={}", at(8081), at(9004)));
    let (cert, key) = &pairs[0];
    let serve =
        Serve::start(&["--http", &http, "--http", &tunnels, "--tls", &tls, "--cert", cert, "--key", key]);
    let shown = serve.call("GET", "/v1/config", None)["data"]["listeners"]["serve-tls-1"]["tls"].take();
    let other = shown.to_string().replace(&pairs[0].0, &pairs[1].0).replace(&pairs[0].1, &pairs[1].1);
    let certificates = [serde_json::from_str(&other).unwrap(), shown];
    assert_ne!(certificates[0], certificates[1]);

    let stop = Arc::new(AtomicBool::new(false));
    let tunnels: Vec<_> = (0..8).map(|_| tunnel(at(8081), stop.clone())).collect();
    let time = (seconds + 1).to_string();
    let loads = [
        ("wrk", vec!["-t1", "-c8", "-d", &time], format!("http://{}/", at(8080))),
        ("wrk", vec!["-t1", "-c2", "-d", &time, "-H", "Connection: close"], format!("https://{}/", at(8443))),
        ("h2load", vec!["-c2", "-m4", "-D", &time], format!("https://{}/", at(8443))),
    ];
    let (changes, reports) = std::thread::scope(|scope| {
        let running = loads.map(|(tool, args, url)| {
            scope.spawn(move || {
                let args = [&args[..], &[&url]].concat();
                format!("{tool} {args:?}\n{}", String::from_utf8_lossy(&output(tool, &args).stdout))
            })
        });
        let changes = change(&serve, seconds, &backends, &certificates);
        (changes, running.map(|load| load.join().unwrap()))
    });
    stop.store(true, Relaxed);
    let echoes: Result<Vec<u32>, String> = tunnels.into_iter().map(|t| t.join().unwrap()).collect();
    let echoes = echoes.unwrap_or_else(|e| panic!("a tunnel broke {e}"));
    eprintln!("{changes} changes in {seconds} s; echoes {echoes:?}");
    for report in &reports {
        assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
        let good = match report.starts_with("wrk") {
            true => report.contains(" requests in ") && !report.contains("\n  0 requests in"),
            false => report.contains(" 0 failed, 0 errored, 0 timeout") && !report.contains(" 0 succeeded"),
        };
        assert!(good, "{report}");
    }
    assert!(changes >= 8 * seconds as usize, "only {changes} changes in {seconds} s");
    assert!(
        echoes.iter().all(|n| u64::from(*n) > 5 * seconds),
        "tunnels that wait prove nothing: {echoes:?}"
    );
}
