//! What the proxy's connections cost in memory: idle ones beside HAProxy's, and that a mixed load leaves nothing behind.
//! Twenty seconds of load here, five minutes with `ZONEKEEPER_LONG=1`.

use crate::{
    serve::{Serve, certificate},
    support::{Process, address, not_run, output, resident, tools, turn, until},
};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Idle connections.
const MANY: usize = 10_000;
/// Open before memory is looked at for the first time: what is made once is there.
const FEW: usize = 100;
const LONG: Duration = Duration::from_secs(30);

/// Whether there is room for the sockets, here and in the programs that this process starts.
fn room() -> bool {
    let (pid, limit) = (std::process::id().to_string(), format!("--nofile={}:", MANY + 2_000));
    let done = output("prlimit", &["--pid", &pid, &limit]);
    done.status.success() || not_run(&format!("descriptors: {}", String::from_utf8_lossy(&done.stderr)))
}

/// nginx as the backend: `/` and `/big`, of 4 MiB.
pub(crate) fn nginx(folder: &Path, listen: &[SocketAddr]) -> Process {
    let www = folder.join("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("index.html"), "hello\n").unwrap();
    fs::write(www.join("big"), vec![7; 4 << 20]).unwrap();
    let dir = folder.display();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what}; "))
        .concat();
    let listens: String = listen.iter().map(|a| format!("listen {a}; ")).collect();
    let text = format!(
        "worker_processes 1; daemon off; master_process off; user root; pid {dir}/pid; error_log {dir}/error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000; {paths}\nserver {{ {listens}root {dir}/www; }} }}\n"
    );
    let conf = folder.join("nginx.conf");
    fs::write(&conf, text).unwrap();
    let mut command = Command::new("nginx");
    let process = Process::start(command.arg("-c").arg(&conf).stdout(Stdio::null()).stderr(Stdio::null()));
    listens_at(listen);
    process
}

fn haproxy(folder: &Path, listen: SocketAddr, backends: &[SocketAddr]) -> Process {
    let servers: String = backends.iter().map(|b| format!("  server s{} {b}\n", b.port())).collect();
    let text = format!(
        "global\n  nbthread 1\n  maxconn {}\n  no strict-limits\n\
         defaults\n  mode http\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\n  http-reuse always\n\
         frontend f\n  bind {listen} backlog 4096\n  default_backend b\nbackend b\n  balance leastconn\n{servers}",
        MANY + FEW
    );
    let conf = folder.join("haproxy.cfg");
    fs::write(&conf, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&conf).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::start(&mut command);
    listens_at(&[listen]);
    process
}

fn listens_at(addrs: &[SocketAddr]) {
    until("it listens", LONG, || addrs.iter().all(|a| TcpStream::connect(a).is_ok()));
}

/// A connection that has been served a request, and is kept.
fn served(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: w.example\r\n\r\n").unwrap();
    let (mut answer, mut some) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"hello\n") {
        let n = stream.read(&mut some).unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..n]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// Bytes of memory that one more idle connection takes in a proxy's process; all of them still serve.
fn idle(to: SocketAddr, pid: u32) -> u64 {
    let mut open: Vec<TcpStream> = (0..FEW).map(|_| served(to)).collect();
    std::thread::sleep(Duration::from_secs(1));
    let before = resident(pid);
    open.extend((FEW..MANY).map(|_| served(to)));
    std::thread::sleep(Duration::from_secs(1));
    let grown = resident(pid).saturating_sub(before);
    for stream in open.iter_mut().step_by(499) {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: w.example\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0, "an idle connection still serves");
    }
    grown * 1024 / (MANY - FEW) as u64
}

#[test]
fn ten_thousand_idle_connections_take_no_more_memory_than_haproxys() {
    if !tools(&["haproxy", "nginx", "prlimit"]) || !room() {
        return;
    }
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let ip = address();
    let at = |port| SocketAddr::new(ip, port);
    let backends = [at(9001), at(9002), at(9003)];
    let _nginx = nginx(folder.path(), &backends);
    let theirs = {
        let process = haproxy(folder.path(), at(8082), &backends);
        idle(at(8082), process.0.id())
    };
    let to = backends.map(|b| b.to_string()).join(",");
    let serve = Serve::start(&["--http", &format!("{}={to}", at(8080)), "--workers", "1"]);
    let ours = idle(at(8080), serve.pid());
    eprintln!("an idle connection takes {ours} bytes, HAProxy's {theirs}");
    assert!(ours <= theirs, "{ours} bytes for an idle connection, HAProxy takes {theirs}");
}

/// Clients that go away: in the middle of a response, of a request, of nothing.
fn leave(to: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut left = 0;
        while !stop.load(Relaxed) {
            let request: &[u8] = match left % 3 {
                0 => b"GET /big HTTP/1.1\r\nHost: w.example\r\n\r\n",
                1 => b"POST / HTTP/1.1\r\nHost: w.example\r\nContent-Length: 100000\r\n\r\nsome",
                _ => b"GET / HTTP/1.1\r\nHost: w.exam",
            };
            let Ok(mut stream) = TcpStream::connect(to) else { continue };
            let _ = stream.write_all(request);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
            let _ = stream.read(&mut [0; 2000]);
            left += 1;
        }
        left
    })
}

#[test]
fn a_mixed_load_leaves_memory_flat() {
    if !tools(&["nginx", "wrk", "h2load", "openssl"]) {
        return;
    }
    let _turn = turn();
    let seconds: u64 = if std::env::var_os("ZONEKEEPER_LONG").is_some() { 300 } else { 20 };
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(folder.path());
    let ip = address();
    let at = |port| SocketAddr::new(ip, port);
    let backends = [at(9001), at(9002), at(9003)];
    let _nginx = nginx(folder.path(), &backends);
    let to = |port| format!("{}={}", at(port), backends.map(|b| b.to_string()).join(","));
    let (http, tcp, tls) = (to(8080), to(8081), to(8443));
    let ends = ["--tls", &tls, "--cert", &cert, "--key", &key, "--workers", "1"];
    let serve = Serve::start(&[&["--http", &http, "--tcp", &tcp][..], &ends].concat());

    let time = format!("{seconds}s");
    let wrk = |url: String, more: &[&str]| {
        let mut args = vec!["-t1", "-c16", "--timeout", "30s", "-d", &time];
        args.extend(more);
        args.push(&url);
        let args: Vec<String> = args.into_iter().map(String::from).collect();
        ("wrk", args)
    };
    let h2load = ["-c4", "-m8", "-D", &seconds.to_string()].map(String::from).to_vec();
    let loads = [
        wrk(format!("http://{}/", at(8080)), &[]),
        wrk(format!("http://{}/big", at(8080)), &["-c2"]),
        wrk(format!("http://{}/", at(8080)), &["-H", "Connection: close"]),
        wrk(format!("http://{}/", at(8081)), &[]),
        wrk(format!("http://{}/big", at(8081)), &["-c2"]),
        wrk(format!("https://{}/", at(8443)), &["-H", "Connection: close"]),
        wrk(format!("https://{}/big", at(8443)), &["-c2"]),
        ("h2load", [h2load, vec![format!("https://{}/", at(8443))]].concat()),
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let leavers = [at(8080), at(8081)].map(|to| leave(to, stop.clone()));
    let running = loads.map(|(tool, args)| {
        std::thread::spawn(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let done = output(tool, &args);
            format!("{tool} {args:?}\n{}", String::from_utf8_lossy(&done.stdout))
        })
    });
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds / 4)); // buffers and pools fill once
    let before = resident(serve.pid());
    let mut peak = before;
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(200));
        peak = peak.max(resident(serve.pid()));
    }
    stop.store(true, Relaxed);
    let left: u64 = leavers.map(|l| l.join().unwrap()).iter().sum();
    for load in running {
        let report = load.join().unwrap();
        assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
        let none = report.contains("\n  0 requests in") || report.contains(" 0 succeeded");
        assert!(!none && (report.contains("requests in") || report.contains("succeeded")), "{report}");
    }
    eprintln!("{seconds} s: {left} clients left, {before} KiB after a quarter, {peak} KiB at most");
    assert!(left > 10 * seconds, "only {left} clients left");
    assert!(peak < before + before / 10 + 2048, "memory grew from {before} to {peak} KiB");
}
