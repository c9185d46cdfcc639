//! HAProxy and nginx in front of the same backend. One that is not installed is `NOT RUN`, loudly, and fails where `CI`
//! is set.

use std::{
    env, fs,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};
use tokio::net::TcpStream;

/// What a peer is told besides its backends.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub max_body: u64,
    /// Longest wait for a response, in milliseconds.
    pub response_ms: u32,
}

/// A proxy of somebody else, running.
pub struct Peer {
    pub version: String,
    pub addr: SocketAddr,
    /// Where it speaks HTTP/2 by prior knowledge.
    pub http2: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Past the test harness, which swallows what a passing test prints.
pub fn show(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

pub fn installed(program: &str) -> Option<String> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"];
    let found = places.iter().map(|d| format!("{d}/{program}")).find(|p| Path::new(p).exists());
    if found.is_none() {
        show(&format!("NOT RUN: {program} is not installed; what it would show is missing"));
        assert!(env::var_os("CI").is_none(), "{program} must be installed in CI");
    }
    found
}

fn haproxy(addr: SocketAddr, servers: &str, limits: Limits, retry: &str) -> String {
    let Limits { max_body, response_ms } = limits;
    format!(
        "global\n  nbthread 1\n  maxconn 2000\ndefaults\n  mode http\n  timeout client 2s\n  timeout server {response_ms}ms\n  \
         timeout connect 300ms\n  timeout http-request 2s\n  timeout tunnel 2s\n  retries 2\n  option redispatch 1\n  retry-on {retry}\n\
         frontend f\n  bind {addr}\n  http-request deny deny_status 413 if {{ req.body_size gt {max_body} }}\n  \
         default_backend b\nbackend b\n{servers}"
    )
}

fn nginx((addr, http2): (SocketAddr, SocketAddr), servers: &str, limits: Limits, dir: &Path) -> String {
    let Limits { max_body, response_ms } = limits;
    let d = dir.display();
    format!(
        "worker_processes 1; daemon off; master_process off; pid {d}/pid; error_log {d}/err;\n\
         events {{ worker_connections 2000; }}\nhttp {{ access_log off; client_body_temp_path {d}; proxy_temp_path {d};\n\
         fastcgi_temp_path {d}; uwsgi_temp_path {d}; scgi_temp_path {d}; client_max_body_size {max_body};\n\
         client_header_timeout 2s; client_body_timeout 2s; keepalive_timeout 2s; proxy_read_timeout {response_ms}ms;\n\
         proxy_connect_timeout 300ms; large_client_header_buffers 4 32k; client_header_buffer_size 32k;\n\
         map $http_upgrade $up {{ default upgrade; '' ''; }}\n\
         upstream b {{ {servers} keepalive 16; }}\n\
         server {{ listen {addr}; listen {http2} http2; location / {{ proxy_pass http://b; proxy_http_version 1.1;\n\
         proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $up;\n\
         proxy_buffering off; proxy_request_buffering off; }} }} }}\n"
    )
}

/// An address that nobody else takes meanwhile, as a free port of 127.0.0.1 might be: one of this process's own.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let (process, n) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
    let part = |shift: u32| (process >> shift) as u8;
    SocketAddr::from(([127, 64 | (part(14) & 63), part(7) & 127 | 1, part(0) & 127 | 128], 20_000 + n))
}

async fn run(name: &'static str, program: &str, backends: &[SocketAddr], limits: Limits) -> Peer {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    for _ in 0..20 {
        let addr = own_address();
        // nginx has a listener for each, and would take the first's requests for broken ones of the other.
        let http2 = if name == "nginx" { SocketAddr::new(addr.ip(), addr.port() + 10_000) } else { addr };
        let (text, args): (String, Vec<&str>) = if name != "nginx" {
            let line = |(i, b): (usize, &SocketAddr)| format!("  server s{i} {b}\n");
            let servers: String = backends.iter().enumerate().map(line).collect();
            let retry = if name == "haproxy-retry" { "all-retryable-errors" } else { "conn-failure" };
            (haproxy(addr, &servers, limits, retry), vec!["-db", "-f"])
        } else {
            let servers: String = backends.iter().map(|b| format!("server {b} max_fails=0;")).collect();
            (nginx((addr, http2), &servers, limits, dir.path()), vec!["-c"])
        };
        fs::write(&config, text).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new(program)
            .args(args)
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        for _ in 0..400 {
            if TcpStream::connect(addr).await.is_ok() && child.try_wait().unwrap().is_none() {
                let version = version(program);
                return Peer { version, addr, http2, child, _dir: dir };
            }
            if child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("{name} does not start: {}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
}

fn version(program: &str) -> String {
    let out = Command::new(program).arg("-v").output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.split_whitespace().find(|w| w.contains(|c: char| c.is_ascii_digit())).unwrap_or("?").to_string()
}

/// A peer in front of these backends; none when it is not installed.
pub async fn start(name: &'static str, backends: &[SocketAddr], limits: Limits) -> Option<Peer> {
    let program = installed(name.split('-').next().unwrap_or(name))?;
    Some(run(name, &program, backends, limits).await)
}
