//! The event stream.

use crate::{
    harness::{Node, WITHIN},
    many,
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};
use zonekeeper_api::LocalView;

/// Reads the stream until an event of this kind came whose text holds this.
async fn until(stream: &mut Response, kind: &str, holds: &str) -> Value {
    let mut rest = String::new();
    let read = async {
        loop {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            rest.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((block, behind)) = rest.split_once("\n\n") {
                if block.contains(&format!("event: {kind}\n")) && block.contains(holds) {
                    let data = block.lines().find_map(|l| l.strip_prefix("data: ")).unwrap();
                    let id = block.lines().find_map(|l| l.strip_prefix("id: ")).unwrap();
                    let event: Value = serde_json::from_str(data).unwrap();
                    assert_eq!(event["generation"]["index"].to_string(), id);
                    return event;
                }
                rest = behind.to_owned();
            }
        }
    };
    tokio::time::timeout(WITHIN, read).await.unwrap_or_else(|_| panic!("no {kind} in {WITHIN:?}"))
}

/// A stream that has told everything of before.
async fn settled(node: &Node) -> Response {
    let mut stream = subscribe(node, None).await;
    for (on, text) in [(false, "switched off"), (true, "switched on")] {
        node.put("/v1/automation", &node.operate, json!({"on": on})).await.ok();
        until(&mut stream, "automation", text).await;
    }
    stream
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

/// The next events of a stream, as many as are wanted.
async fn take(stream: &mut Response, wanted: usize) -> Vec<Value> {
    let (mut rest, mut events) = (String::new(), Vec::new());
    let read = async {
        while events.len() < wanted {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            rest.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((block, behind)) = rest.split_once("\n\n") {
                let data = block.lines().find_map(|l| l.strip_prefix("data: "));
                events.extend(data.map(|d| serde_json::from_str::<Value>(d).unwrap()));
                rest = behind.to_owned();
            }
        }
    };
    let done = tokio::time::timeout(WITHIN, read).await;
    assert!(done.is_ok(), "{} of {wanted} events in {WITHIN:?}", events.len());
    events
}

fn drain(site: &str) -> Value {
    json!({"scope": {"site": site}, "force": "drain", "reason": "power work"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_come_before_what_else_is_new_and_a_reader_loses_none_of_an_entry() {
    let node = Node::start().await;
    let mut stream = settled(&node).await;
    node.put("/v1/overrides", &node.operate, drain("fra")).await.ok();
    let index = node.state().generation.index;
    let decided = node.state().history.iter().filter(|d| d.epoch.index == index).count();
    assert!(decided > 1, "the drain moves several services");
    let told = take(&mut stream, decided + 1).await;
    let kinds: Vec<_> = told.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, [vec!["decision"; decided], vec!["override"]].concat());
    // cut off after the first of them
    let mut again = subscribe(&node, Some(&index.to_string())).await;
    let ids = |events: &[Value]| events.iter().map(|e| e["id"].clone()).collect::<Vec<_>>();
    let repeated = ids(&take(&mut again, decided).await);
    assert_eq!(repeated, ids(&told[..decided]), "the same in each repetition");
    let each: BTreeSet<_> = repeated.iter().map(Value::to_string).collect();
    assert_eq!(each.len(), decided, "and each its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_with_a_thousand_services_is_told_whole() {
    let node = many::node(700).await;
    let mut stream = settled(&node).await;
    node.put("/v1/overrides", &node.operate, drain("a")).await.ok();
    let told = take(&mut stream, 1401).await;
    let decisions = told.iter().filter(|e| e["kind"] == "decision");
    let each: BTreeSet<_> = decisions.map(|e| e["id"].to_string()).collect();
    assert_eq!(each.len(), 1400);
    let kept = node.get("/v1/decisions").await.data();
    assert_eq!(kept.as_array().unwrap().len(), 1400, "the newest entry is kept whole");
}

/// The stream has ended; None: it goes on.
async fn ended(stream: &mut Response) -> Option<()> {
    let end = async { while stream.chunk().await.ok().flatten().is_some() {} };
    tokio::time::timeout(WITHIN, end).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_token() {
    let node = Node::empty().await;
    let local = LocalView { ready: true, log_now: node.state().time, ..LocalView::default() };
    node.handles.local.store(Arc::new(local)); // log time goes on
    let open = async |life: Option<u64>| {
        let new = json!({"name": "ana", "role": "read", "expires_in_s": life});
        let made = node.post("/v1/tokens", &node.admin, new).await.ok().json();
        let secret = made["secret"].as_str().unwrap();
        node.request(Method::GET, "/v1/events", secret).timeout(3 * WITHIN).send().await.unwrap()
    };
    let mut removed = open(None).await;
    assert_eq!(removed.status(), 200);
    node.delete("/v1/tokens/ana", &node.admin).await.ok();
    assert!(ended(&mut removed).await.is_some(), "it goes on without its token");
    let mut expired = open(Some(2)).await;
    assert_eq!(expired.status(), 200);
    assert!(ended(&mut expired).await.is_some(), "it goes on after its token's end");
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
