//! The clients that people use: curl, nghttp and h2load.

use super::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::process::Stdio;
use tokio::process::Command;
use zonekeeper_core::model::TlsFiles;

/// Runs a tool; none when it is not installed (CI has them all).
async fn run(command: &str, args: &[&str]) -> Option<String> {
    let child = Command::new(command).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    match timeout(Duration::from_secs(60), child).await.expect("it does not end") {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{command} {args:?}: {output:?}");
            Some(text)
        }
        Err(e) if std::env::var_os("CI").is_none() => {
            eprintln!("{command} did not run: {e}");
            None
        }
        Err(e) => panic!("{command} did not run: {e}"),
    }
}

/// A proxy with a TLS listener and one without, and the folder of its certificate.
async fn both(backend: &Server) -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["w.example".into()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let files = TlsFiles { cert: file("c.pem", cert.pem()), key: file("k.pem", signing_key.serialize_pem()) };
    let mut state = clear(&[backend.addr]);
    let mut tls = listener(Protocol::Http);
    tls.tls = Some(files.into());
    state.listeners.insert(listener_id("tls"), std::sync::Arc::new(tls));
    (World::start(state), folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_every_version_that_it_has() {
    let a = Server::start("a");
    let (world, _folder) = both(&a).await;
    let (clear, tls) = (world.addr("web"), world.addr("tls"));
    let (clear, tls) = (format!("http://{clear}/x"), format!("https://{tls}/x"));
    let show = ["-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"];
    for (args, expected) in [
        (vec!["--http2-prior-knowledge", &clear], "2 200"),
        (vec!["--http1.1", &clear], "1.1 200"),
        (vec!["--http1.0", &clear], "1.1 200"),
        (vec!["-k", "--http2", &tls], "2 200"),
        (vec!["-k", "--http1.1", &tls], "1.1 200"),
        (vec!["-k", "--no-alpn", &tls], "1.1 200"),
        (vec!["--http2-prior-knowledge", "-X", "POST", "-d", "a=b", &clear], "2 200"),
    ] {
        let all: Vec<&str> = show.iter().copied().chain(args).collect();
        if let Some(text) = run("curl", &all).await {
            assert_eq!(text, expected, "{all:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp_gets_what_it_asks_for() {
    let a = Server::start("a");
    let (world, _folder) = both(&a).await;
    for url in [format!("http://{}/large", world.addr("web")), format!("https://{}/large", world.addr("tls"))]
    {
        if let Some(text) = run("nghttp", &["-s", "-n", "-m", "3", &url]).await {
            assert!(text.matches(" 200 ").count() == 3, "{text}");
        }
    }
    let post = format!("http://{}/", world.addr("web"));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    if let Some(text) = run("nghttp", &["-d", manifest, &post]).await {
        assert!(text.contains("zonekeeper-core.workspace"), "the body comes back: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_sees_no_failed_request() {
    let a = Server::start("a");
    let (world, _folder) = both(&a).await;
    for url in [format!("http://{}/", world.addr("web")), format!("https://{}/", world.addr("tls"))] {
        if let Some(text) = run("h2load", &["-n", "5000", "-c", "8", "-m", "32", &url]).await {
            assert!(text.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
        }
    }
}
