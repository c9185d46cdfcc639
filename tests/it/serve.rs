//! `zonekeeper serve`: one node from flags alone.

use crate::{
    ask::{TOOLS, ask, records},
    support::{Process, address, exe, output, share, tools, turn, until},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{ChildStdout, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use zonekeeper_chaos::{asker, backend::Backend, http};

const ZONE: &str = "\
$ORIGIN example.com.\n$TTL 300\n\
@ SOA ns1 hostmaster ( 2026010100 3600 600 604800 60 )\n@ NS ns1\nns1 A 192.0.2.53\nmail A 192.0.2.25\n";

/// A running `serve`, with its admin API.
pub(crate) struct Serve {
    pub(crate) process: Process,
    /// Its greeting goes on: a pipe that is closed too early would end it.
    _stdout: BufReader<ChildStdout>,
    admin: SocketAddr,
    token: String,
}

impl Serve {
    /// Starts it and reads its greeting: from then on it serves.
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Serve {
        Serve::logging(args, Stdio::inherit())
    }

    /// The same, with another place for what it logs.
    #[track_caller]
    fn logging(args: &[&str], to: Stdio) -> Serve {
        let mut command = Command::new(exe());
        command.arg("serve").args(args).stdout(Stdio::piped()).stderr(to);
        let mut process = Process::start(&mut command);
        let mut stdout = BufReader::new(process.0.stdout.take().unwrap());
        let (mut said, mut from) = (String::new(), 0);
        while stdout.read_line(&mut said).unwrap() > 0 {
            let line = said[from..].trim_end();
            from = said.len();
            let Some(rest) = line.strip_prefix("admin  http://") else { continue };
            let (admin, token) = rest.split_once("  token in ").unwrap();
            let token = fs::read_to_string(token).unwrap().trim().to_owned();
            return Serve { process, _stdout: stdout, admin: admin.parse().unwrap(), token };
        }
        panic!("serve {args:?} ended without a greeting: {said}");
    }

    /// One call of its admin API.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let within = Duration::from_secs(20);
        let answer = http::request(self.admin, method, path, Some(&self.token), body, within).unwrap();
        let text = String::from_utf8_lossy(&answer.body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {text}", answer.status);
        answer.json().unwrap()
    }

    /// What it says on stderr, from a run that is ended at once.
    fn said(args: &[&str], log: &Path) -> String {
        Serve::logging(args, fs::File::create(log).unwrap().into()).stop();
        fs::read_to_string(log).unwrap()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.process.stop();
    }
}

fn serial(dns: SocketAddr) -> u32 {
    asker::ask(dns, "example.com", asker::SOA, Duration::from_secs(5)).unwrap().serial.unwrap()
}

#[test]
fn a_zone_file_is_answered_at_once_and_its_edits_outlive_a_restart() {
    if !tools(&TOOLS) {
        return;
    }
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("example.com.zone"), ZONE).unwrap();
    let dns = SocketAddr::new(address(), 5300);
    let (listen, zone, dir) =
        (dns.to_string(), format!("example.com={}", path("example.com.zone")), path("state"));
    let args = ["--dir", &dir, "--dns", &listen, "--zone", &zone, "--workers", "1"];

    let mut serve = Serve::start(&args);
    assert_eq!(ask(dns, "mail.example.com", "A").answer, records(&["mail.example.com. A 192.0.2.25"]));
    assert_eq!(serial(dns), 2026010100);
    serve.call(
        "PUT",
        "/v1/zones/example.com/records/new/A",
        Some(&json!({"ttl": 60, "records": ["192.0.2.80"]})),
    );
    let edited = records(&["new.example.com. A 192.0.2.80"]);
    assert_eq!(ask(dns, "new.example.com", "A").answer, edited);
    let before = serial(dns);
    serve.stop();

    let mut serve = Serve::start(&args);
    assert_eq!(ask(dns, "new.example.com", "A").answer, edited, "an edit outlives a restart");
    assert!(serial(dns) >= before);
    let killed = serial(dns);
    serve.process.0.kill().unwrap();
    serve.process.0.wait().unwrap();

    let mut serve = Serve::start(&args);
    assert_eq!(ask(dns, "new.example.com", "A").answer, edited, "an edit outlives SIGKILL");
    assert!(serial(dns) >= killed);
    serve.stop();
}

/// Whoever has read the greeting may end it: the signal meets a process that minds it, and is not lost.
#[test]
fn a_signal_right_after_the_greeting_is_an_orderly_end() {
    let _turn = share();
    // several at once, so that a process may lose its core right after the greeting
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let forward = format!("{0}:8080={0}:9001", address());
            scope.spawn(move || {
                for _ in 0..20 {
                    let dir = tempfile::tempdir().unwrap();
                    let dir = dir.path().to_string_lossy();
                    Serve::start(&["--http", &forward, "--workers", "1", "--dir", &dir]).stop();
                }
            });
        }
    });
}

#[test]
fn a_file_that_is_not_taken_any_more_is_named() {
    let _turn = share();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (file, dns) = (path("example.com.zone"), SocketAddr::new(address(), 5300).to_string());
    let (zone, dir, log) = (format!("example.com={file}"), path("state"), folder.path().join("log"));
    let args = ["--dir", &dir, "--dns", &dns, "--zone", &zone, "--workers", "1"];
    let run = |text: &str| {
        fs::write(&file, text).unwrap();
        Serve::said(&args, &log)
    };
    for text in [ZONE.to_owned(), ZONE.replace("2026010100", "2026010101")] {
        let said = run(&text);
        assert!(!said.contains("example.com"), "nothing differs: {said}");
    }
    let said = run(&format!("{ZONE}www A 192.0.2.80\n"));
    assert!(said.contains("zonekeeper zone delete example.com. --yes") && said.contains(&file), "{said}");
    let said = run(&format!("{ZONE}www A nowhere\n"));
    assert!(said.contains("zone example.com. is served as the folder") && said.contains(":7"), "{said}");
}

/// One JSON object a line, also where the log's level is `warn`, as it is here.
#[test]
fn the_access_log_is_json_lines_at_any_level() {
    let _turn = share();
    let folder = tempfile::tempdir().unwrap();
    let (ip, log) = (address(), folder.path().join("log"));
    let at = |port: u16| SocketAddr::new(ip, port);
    let _backend = Backend::start(at(9001), "backend").unwrap();
    let http = format!("{}={}", at(8080), at(9001));
    let mut serve = Serve::logging(&["--http", &http], fs::File::create(&log).unwrap().into());
    let mut config = serve.call("GET", "/v1/config", None)["data"].take();
    let mut listener = config["listeners"]["serve-http-1"].take();
    listener["access_log"] = json!(1);
    let put = json!({"PutListener": ["serve-http-1", listener]});
    let change = json!({"revision": config["revision"], "changes": [put]});
    serve.call("POST", "/v1/config/apply", Some(&change));
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap();
        let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        whole.map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    };
    until("a request is logged", Duration::from_secs(10), || {
        assert_eq!(http::get(at(8080), "/a%20b?c", Duration::from_secs(5)).unwrap().status, 200);
        !lines().is_empty()
    });
    let asked = || http::get(at(8080), "/last", Duration::from_secs(5)).unwrap().status;
    assert_eq!(asked(), 200);
    serve.stop();
    let lines = lines();
    assert_eq!(lines.last().unwrap()["path"], "/last", "what waits at the end is written");
    let first = &lines[0];
    for (field, value) in [("target", "access"), ("listener", "serve-http-1"), ("path", "/a%20b?c")] {
        assert_eq!(first[field], value, "{first}");
    }
    assert_eq!((&first["status"], &first["backend"]), (&json!(200), &json!(at(9001).to_string())));
}

/// The node file of a node at an address, with the state that `serve` keeps in a folder.
fn node_file(ip: IpAddr, id: u64, site: &str) -> String {
    format!(
        "id = {id}\nsite = {site:?}\ndata_dir = \"state/data\"\nkeys_dir = \"state/keys\"\n\n[peer]\n\
         listen = \"{ip}:8054\"\n\n[admin]\nlisten = \"{ip}:8053\"\n\n[dns]\nlisten = [\"{ip}:5300\"]\n"
    )
}

#[test]
fn what_serve_began_grows_into_a_cluster() {
    let _turn = share();
    let folders = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let path = |node: usize, name: &str| folders[node].path().join(name).to_string_lossy().into_owned();
    let at = [(), ()].map(|()| address());
    fs::write(path(0, "example.com.zone"), ZONE).unwrap();
    let (dns, zone) =
        (SocketAddr::new(at[0], 5300).to_string(), format!("example.com={}", path(0, "example.com.zone")));
    let args = ["--dir", &path(0, "state"), "--dns", &dns, "--zone", &zone, "--workers", "1"];
    let mut serve = Serve::start(&args);
    let token = serve.token.clone();
    serve.stop();

    for (node, site) in [(0, "local"), (1, "ams")] {
        fs::write(path(node, "node.toml"), node_file(at[node], 1 + node as u64, site)).unwrap();
    }
    let run = |node: usize| {
        let mut command = Command::new(exe());
        Process::start(command.args(["run", "--config", &path(node, "node.toml")]).stderr(Stdio::null()))
    };
    let call = |method: &str, path: &str, body: Option<&Value>| {
        let admin = SocketAddr::new(at[0], 8053);
        http::request(admin, method, path, Some(&token), body, Duration::from_secs(5))
            .and_then(|answer| answer.json())
            .unwrap_or_default()
    };
    let _first = run(0);
    until("the first node says where it is now", Duration::from_secs(60), || {
        let member = &call("GET", "/v1/members", None)["data"][0];
        member["peer"] == format!("{}:8054", at[0]) && member["version"] == zonekeeper_core::VERSION
    });
    let join = call("POST", "/v1/members/joins", Some(&json!({"expires_in_s": 600})));
    let via = format!("{}:8054", at[0]);
    let joined = output(
        &exe().to_string_lossy(),
        &[
            "join",
            "--config",
            &path(1, "node.toml"),
            "--via",
            &via,
            "--token",
            join["token"].as_str().unwrap(),
        ],
    );
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let _second = run(1);
    until("both vote", Duration::from_secs(60), || {
        call("GET", "/v1/cluster", None)["data"]["voters"] == json!([1, 2])
    });
    let mail =
        || asker::ask(SocketAddr::new(at[1], 5300), "mail.example.com", asker::A, Duration::from_secs(5));
    until("the second node answers for the zone", Duration::from_secs(60), || {
        mail().is_ok_and(|a| a.addrs == ["192.0.2.25".parse().unwrap()].into())
    });
    let members = call("GET", "/v1/members", None);
    let link = |m: &Value| m["id"] == 1 || m["link"]["up"] == true;
    assert!(members["data"].as_array().unwrap().iter().all(link), "{members}");
    // every program in it knows no newer version than this one
    let refused = call("POST", "/v1/cluster/upgrade", Some(&json!({})));
    assert!(refused.to_string().contains(&format!("knows up to {}", zonekeeper_core::VERSION)), "{refused}");
}

/// Who answers, of 60 requests.
fn who(to: SocketAddr) -> BTreeSet<String> {
    let one =
        |n| http::get(to, "/", Duration::from_secs(5)).unwrap_or_else(|e| panic!("request {n} to {to}: {e}"));
    (0..60).map(one).map(|a| String::from_utf8_lossy(&a.body).trim().to_owned()).collect()
}

#[test]
fn http_tcp_and_tls_are_balanced_over_all_backends() {
    if !tools(&["openssl", "curl"]) {
        return;
    }
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(folder.path());
    let ip = address();
    let at = |port: u16| SocketAddr::new(ip, port);
    let backends = [9001, 9002].map(|p| Backend::start(at(p), &format!("backend {p}")).unwrap());
    let both = BTreeSet::from(["backend 9001".to_owned(), "backend 9002".to_owned()]);
    let to = |port: u16| format!("{}={},{}", at(port), at(9001), at(9002));
    let (http, tcp, tls) = (to(8080), to(8081), to(8443));
    for balance in ["least-connections", "round-robin", "response-time"] {
        let mut serve = Serve::start(&[
            "--http",
            &http,
            "--tcp",
            &tcp,
            "--tls",
            &tls,
            "--cert",
            &cert,
            "--key",
            &key,
            "--balance",
            balance,
            "--workers",
            "1",
        ]);
        assert_eq!(who(at(8080)), both, "--http, {balance}");
        assert_eq!(who(at(8081)), both, "--tcp, {balance}");
        let url = format!("https://{}/", at(8443));
        let body = |_| output("curl", &["-sSk", "--max-time", "5", &url]);
        let bodies: BTreeSet<String> =
            (0..12).map(body).map(|d| String::from_utf8_lossy(&d.stdout).trim().to_owned()).collect();
        assert_eq!(bodies, both, "--tls, {balance}");
        serve.stop();
    }
    drop(backends);
    let _serve = Serve::start(&["--http", &http, "--workers", "1"]);
    let status = || http::get(at(8080), "/", Duration::from_secs(5)).map(|a| a.status).unwrap_or(0);
    until("without backends a request is answered with 502", Duration::from_secs(5), || status() == 502);
}

/// What needs a person, but serves, is no reason not to start.
#[test]
fn a_certificate_whose_end_is_near_is_told_and_serves() {
    if !tools(&["curl"]) {
        return;
    }
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let mut params = rcgen::CertificateParams::new(vec!["example.com".into()]).unwrap();
    let soon = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(3600);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + soon;
    let pair = rcgen::KeyPair::generate().unwrap();
    fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    let ip = address();
    let at = |port: u16| SocketAddr::new(ip, port);
    let _backend = Backend::start(at(9001), "backend").unwrap();
    let serve =
        Serve::start(&["--tls", &format!("{}={}", at(8443), at(9001)), "--cert", &cert, "--key", &key]);
    let done = output("curl", &["-sSk", "--max-time", "5", &format!("https://{}/", at(8443))]);
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "backend");
    until("its end is told", Duration::from_secs(5), || {
        let problems = serve.call("GET", "/v1/cluster", None)["data"]["problems"].to_string();
        problems.contains(&cert) && problems.contains(" ends at ")
    });
}

/// A certificate and its key for `example.com`, as paths.
pub(crate) fn certificate(folder: &Path) -> (String, String) {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let made = output(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=example.com",
            "-keyout",
            &key,
            "-out",
            &cert,
        ],
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (cert, key)
}

/// A backend that takes so long for each request.
fn slow(addr: SocketAddr, takes: Duration) {
    let listener = TcpListener::bind(addr).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                // a check of its health connects and says nothing
                if stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {
                    std::thread::sleep(takes);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
                }
            });
        }
    });
}

/// Everything that comes of one request.
fn request(to: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got); // a cut may be a reset
    got
}

#[test]
fn sigterm_takes_nothing_new_and_finishes_what_runs_within_the_drain_time() {
    let _turn = share();
    for (takes, whole) in [(Duration::from_millis(2500), true), (Duration::from_secs(60), false)] {
        let ip = address();
        let at = move |port| SocketAddr::new(ip, port);
        slow(at(9001), takes);
        let mut serve = Serve::start(&["--http", &format!("{}={}", at(8080), at(9001))]);
        let asked = std::thread::spawn(move || request(at(8080)));
        std::thread::sleep(Duration::from_millis(500)); // the backend has it
        let began = Instant::now();
        serve.process.terminate();
        until("nothing new is taken", Duration::from_secs(2), || TcpStream::connect(at(8080)).is_err());
        let answer = String::from_utf8_lossy(&asked.join().unwrap()).into_owned();
        serve.process.ended();
        assert_eq!(answer.ends_with("\r\n\r\nslow"), whole, "after {:?}: {answer:?}", began.elapsed());
        // the drain time of five seconds, and the end of everything else on a busy machine
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
}

#[test]
fn open_connections_are_told() {
    let _turn = share();
    let ip = address();
    let at = |port: u16| SocketAddr::new(ip, port);
    let _backend = Backend::start(at(9001), "backend").unwrap();
    let serve = Serve::start(&["--tcp", &format!("{}={}", at(8080), at(9001)), "--workers", "1"]);
    let open = |n: u64| {
        until(&format!("{n} connections are told"), Duration::from_secs(20), || {
            serve.call("GET", "/v1/listeners", None)["data"][0]["connections"] == json!(n)
        });
    };
    open(0);
    let clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(at(8080)).unwrap()).collect();
    open(3);
    assert_eq!(serve.call("GET", "/v1/pools", None)["data"][0]["waiting"], json!(0));
    drop(clients);
    open(0);
}

/// A process that had no descriptor left for the very first connection serves when it has some again.
#[test]
fn a_listener_serves_after_its_first_connection_found_no_descriptor() {
    if !tools(&["prlimit"]) {
        return;
    }
    let _turn = turn();
    let ip = address();
    let at = |port: u16| SocketAddr::new(ip, port);
    let _backend = Backend::start(at(9001), "backend").unwrap();
    let serve = Serve::start(&["--http", &format!("{}={}", at(8080), at(9001)), "--workers", "1"]);
    let limit = |soft: &str| {
        let done = output("prlimit", &["--pid", &serve.pid().to_string(), &format!("--nofile={soft}:")]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    limit("3");
    let get = |within| http::get(at(8080), "/", within).map(|a| a.status).unwrap_or(0);
    assert_eq!(get(Duration::from_millis(500)), 0, "nothing is accepted");
    limit("1024");
    assert_eq!(get(Duration::from_secs(20)), 200);
}

#[test]
fn flags_that_make_no_sense_are_refused_with_what_to_do() {
    let dns = SocketAddr::new(address(), 5300).to_string();
    for (args, says) in [
        (&["serve"][..], "nothing to serve"),
        (&["serve", "--dns", &dns, "--zone", "example.com=/nowhere/x.zone"], "/nowhere/x.zone"),
        (&["serve", "--dns", &dns, "--zone", "example.com"], "ORIGIN=FILE"),
        (&["serve", "--http", "127.0.0.1:8080"], "LISTEN=BACKEND"),
        (&["serve", "--tls", "127.0.0.1:8443=127.0.0.1:9001"], "--cert"),
    ] {
        let done = Command::new(exe()).args(args).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains(says), "{args:?}: {said}");
    }
}
