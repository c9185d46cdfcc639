//! Events and webhooks.

use crate::harness::{Node, WITHIN};
use hmac::{Hmac, Mac};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Reads the stream until an event of this kind came whose text holds this.
async fn until(stream: &mut Response, kind: &str, holds: &str) -> Value {
    let mut text = String::new();
    let read = async {
        loop {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            for block in text.split("\n\n") {
                if block.contains(&format!("event: {kind}\n"))
                    && block.contains(holds)
                    && text.ends_with("\n\n")
                {
                    let data = block.lines().find_map(|l| l.strip_prefix("data: ")).unwrap();
                    let id = block.lines().find_map(|l| l.strip_prefix("id: ")).unwrap();
                    let event: Value = serde_json::from_str(data).unwrap();
                    assert_eq!(event["generation"]["index"].to_string(), id);
                    return event;
                }
            }
        }
    };
    tokio::time::timeout(WITHIN, read).await.unwrap_or_else(|_| panic!("no {kind} in {WITHIN:?}"))
}

async fn subscribe(node: &Node, last: Option<&str>) -> Response {
    let mut request = node.request(Method::GET, "/v1/events", &node.read);
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_arrives_in_the_stream() {
    let node = Node::start().await;
    let mut stream = subscribe(&node, None).await;
    node.post("/v1/services/web/move", &node.operate, json!({"to": "ams"})).await.ok();
    let event = until(&mut stream, "decision", "moved by").await;
    assert_eq!(event["subject"], "service web");
    assert_eq!(event["text"], "IPv4: fra -> ams (moved by operate)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_comes_back_gets_the_decisions_it_missed() {
    let node = Node::start().await;
    let before = node.state().generation.index.to_string();
    node.post("/v1/services/web/move", &node.operate, json!({"to": "iad"})).await.ok();
    let mut stream = subscribe(&node, Some(&before)).await;
    assert_eq!(
        until(&mut stream, "decision", "moved by").await["text"],
        "IPv4: fra -> iad (moved by operate)"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_quorum_is_news() {
    let node = Node::start().await;
    let mut stream = subscribe(&node, None).await;
    node.handles.consensus.shutdown().await;
    until(&mut stream, "quorum_lost", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded() {
    let node = Node::empty().await;
    let mut open = Vec::new();
    let refused = loop {
        let response = node.request(Method::GET, "/v1/events", &node.read).send().await.unwrap();
        if response.status() != 200 {
            break response.status();
        }
        open.push(response);
        assert!(open.len() < 100);
    };
    assert_eq!((refused.as_u16(), open.len()), (503, 32));
    drop(open);
    node.get("/v1/cluster").await.ok();
}

/// Takes one request and gives its head and body; answers with this status.
async fn take(listener: &TcpListener, status: u16) -> (String, String) {
    let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
    let (mut text, mut buf) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buf).await.unwrap();
        text.extend_from_slice(&buf[..n]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .split("content-length: ")
                .nth(1)
                .unwrap()
                .lines()
                .next()
                .unwrap()
                .to_owned();
            if body.len() >= length.trim().parse().unwrap() {
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                return (head.to_lowercase(), body.to_owned());
            }
        }
        assert!(n > 0, "the request was cut short");
    }
}

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    head.lines().find_map(|l| l.strip_prefix(&format!("{name}: "))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_signed_and_repeated_until_it_is_taken() {
    let node = Node::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let made = node.put("/v1/webhooks", &node.admin, json!({"url": url})).await.ok().json();
    let secret = made["secret"].as_str().unwrap();
    // The reference configuration has just been decided on, so a leader announces those decisions when it sees the hook;
    // the move is among what comes.
    node.post("/v1/services/web/move", &node.operate, json!({"to": "ams"})).await.ok();
    let deliveries = async {
        let (mut first, mut body) = take(&listener, 500).await;
        let (again, same) = take(&listener, 200).await;
        assert_eq!(header(&first, "zonekeeper-delivery"), header(&again, "zonekeeper-delivery"));
        assert_eq!(body, same);
        while !body.contains("moved by operate") {
            (first, body) = take(&listener, 200).await;
        }
        (first, body)
    };
    let (head, body) = tokio::time::timeout(WITHIN, deliveries).await.unwrap();
    let (time, signature) = header(&head, "zonekeeper-signature").split_once(",v1=").unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{}.{body}", time.strip_prefix("t=").unwrap()).as_bytes());
    assert_eq!(zonekeeper_api::wire::hex(&mac.finalize().into_bytes()), signature);
    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&event["kind"], &event["subject"]), (&json!("decision"), &json!("service web")));
    let list = node.send(node.request(Method::GET, "/v1/webhooks", &node.admin)).await;
    assert!(!list.text.contains(secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_cannot_work_are_refused() {
    let node = Node::empty().await;
    for url in ["ftp://x/", "http://", "https://", "http:///x"] {
        let answer = node.put("/v1/webhooks", &node.admin, json!({"url": url})).await;
        assert_eq!(answer.status, 422, "{url}: {}", answer.text);
    }
}
