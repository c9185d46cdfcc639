//! What a request leaves behind: its identity at the backend, its line in the access log.

use crate::support::*;
use std::{
    io::Write,
    sync::{Arc, Mutex},
};
use tracing_subscriber::fmt::MakeWriter;
use zonekeeper_core::model::Protocol;

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
