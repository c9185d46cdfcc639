//! Webhooks.

use crate::{
    harness::{Node, WITHIN},
    many,
};
use hmac::{Hmac, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use std::{collections::BTreeSet, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use zonekeeper_api::LocalView;
use zonekeeper_core::{
    decide::{Alarm, Note},
    evidence::Target,
    model::Family,
};

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

/// A webhook of this node; its key.
async fn hook(node: &Node, listener: &TcpListener) -> String {
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let made = node.put("/v1/webhooks", &node.admin, json!({"url": url})).await.ok().json();
    made["secret"].as_str().unwrap().to_owned()
}

/// Takes announcements until this says that it has seen enough.
async fn until(listener: &TcpListener, mut enough: impl FnMut(&str, &Value) -> bool) {
    let taken = async {
        loop {
            let (head, body) = take(listener, 200).await;
            if enough(header(&head, "zonekeeper-delivery"), &serde_json::from_str(&body).unwrap()) {
                return;
            }
        }
    };
    tokio::time::timeout(WITHIN, taken).await.expect("not announced in time");
}

fn signature(secret: &str, head: &str, body: &str) -> (String, String) {
    let (time, signature) = header(head, "zonekeeper-signature").split_once(",v1=").unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{}.{body}", time.strip_prefix("t=").unwrap()).as_bytes());
    (signature.to_owned(), zonekeeper_api::wire::hex(&mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_signed_and_repeated_until_it_is_taken() {
    let node = Node::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secret = hook(&node, &listener).await;
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
    let (signed, expected) = signature(&secret, &head, &body);
    assert_eq!(signed, expected);
    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&event["kind"], &event["subject"]), (&json!("decision"), &json!("service web")));
    let list = node.send(node.request(Method::GET, "/v1/webhooks", &node.admin)).await;
    assert!(!list.text.contains(&secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_cannot_work_are_refused() {
    let node = Node::empty().await;
    for url in ["ftp://x/", "http://", "https://", "http:///x"] {
        let answer = node.put("/v1/webhooks", &node.admin, json!({"url": url})).await;
        assert_eq!(answer.status, 422, "{url}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_signs_what_waits_and_nothing_is_dropped() {
    let node = Node::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let old = hook(&node, &listener).await;
    node.post("/v1/services/web/move", &node.operate, json!({"to": "ams"})).await.ok();
    let deliveries = async {
        let (head, body) = take(&listener, 401).await; // the receiver knows another key
        let (signed, expected) = signature(&old, &head, &body);
        assert_eq!(signed, expected);
        let (new, waited) = (hook(&node, &listener).await, body);
        loop {
            let (head, body) = take(&listener, 401).await;
            let (signed, expected) = signature(&new, &head, &body);
            if signed == expected {
                assert_eq!(body, waited);
                return;
            }
        }
    };
    tokio::time::timeout(WITHIN, deliveries).await.expect("what waited was dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_families_of_a_service_are_announced_apart() {
    let node = Node::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    hook(&node, &listener).await;
    let drain = json!({"scope": {"site": "fra"}, "force": "drain", "reason": "power work"});
    node.put("/v1/overrides", &node.operate, drain).await.ok();
    let mut ids = BTreeSet::new();
    until(&listener, |id, event| {
        let text = event["text"].as_str().unwrap();
        if event["subject"] == "service web" && text.contains("drained by") {
            assert_eq!(id, event["id"]);
            assert!(ids.insert(id.to_owned()), "{id} comes twice, for another announcement: {event}");
        }
        ids.len() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_decisions_at_once_are_all_announced() {
    let node = many::node(700).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    hook(&node, &listener).await;
    let drain = json!({"scope": {"site": "a"}, "force": "drain", "reason": "power work"});
    node.put("/v1/overrides", &node.operate, drain).await.ok();
    let mut ids = BTreeSet::new();
    until(&listener, |id, event| {
        if event["text"].as_str().unwrap().contains("drained by") {
            ids.insert(id.to_owned());
        }
        ids.len() == 1400
    })
    .await;
}

/// What the node's decider says from now on.
fn says(node: &Node, alarm: Option<Alarm>) {
    let (service, site) = ("web".parse().unwrap(), "ams".parse().unwrap());
    let target = Target { service, site, family: Family::V4 };
    let note = |alarm| Note { target: target.clone(), text: "this is the alarm".into(), alarm: Some(alarm) };
    let notes = alarm.map(note).into_iter().collect();
    node.handles.local.store(Arc::new(LocalView { ready: true, notes, ..LocalView::default() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_their_ends_and_a_lost_quorum_are_announced() {
    let node = Node::empty().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    hook(&node, &listener).await;
    let mut ids = BTreeSet::new();
    let mut hear = async |kind: &str| {
        until(&listener, |id, event| event["kind"] == kind && ids.insert(id.to_owned())).await;
    };
    // twice the same, at an unchanged generation: no receiver may take the second for a repetition
    for _ in 0..2 {
        says(&node, Some(Alarm::Degraded));
        hear("degraded").await;
        says(&node, None);
        hear("cleared").await;
    }
    says(&node, Some(Alarm::Disarmed));
    hear("disarmed").await;
    node.handles.consensus.shutdown().await;
    hear("quorum_lost").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_was_raised_while_another_node_led_is_announced_by_the_new_leader() {
    let node = Node::empty().await;
    let second = node.second().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    hook(&node, &listener).await;
    second.consensus.transfer_leader(2, WITHIN).await.unwrap();
    node.handles.consensus.watch_status().wait_for(|s| s.leader == Some(2)).await.unwrap();
    let mut stream = node.request(Method::GET, "/v1/events", &node.read).send().await.unwrap();
    says(&node, Some(Alarm::Disarmed));
    let told = async {
        let mut text = String::new();
        while !text.contains("event: disarmed") {
            text += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
        }
    };
    tokio::time::timeout(WITHIN, told).await.expect("this node sees the alarm, and does not lead");
    second.consensus.transfer_leader(1, WITHIN).await.unwrap();
    until(&listener, |_, event| event["kind"] == "disarmed").await;
}
