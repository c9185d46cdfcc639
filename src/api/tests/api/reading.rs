//! What is read, how fresh it is, and what bad requests are told.

use crate::harness::{Node, WITHIN};
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_is_shown_with_generation_and_age() {
    let node = Node::start().await;
    let answer = node.get("/v1/cluster?consistency=linearizable").await.ok().json();
    assert_eq!(answer["age_ms"], 0);
    assert!(answer["generation"]["index"].as_u64().unwrap() >= node.state().revision);
    let cluster = &answer["data"];
    assert_eq!(cluster["id"], format!("{:032x}", 7));
    assert_eq!((&cluster["role"], &cluster["leader"]), (&json!("leader"), &json!(1)));
    assert_eq!(cluster["timing"], "lan");
    assert_eq!(cluster["hash"], format!("{:032x}", node.state().hash()));
    let members = node.get("/v1/members").await.data();
    assert_eq!(members[0]["role"], "voter");
    assert_eq!(members[0]["leader"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_raft_reads_go_on_and_say_so_when_asked_for_more() {
    let node = Node::start().await;
    node.handles.consensus.shutdown().await;
    node.get("/v1/services").await.ok();
    let read = node.get("/v1/services?consistency=linearizable").await;
    assert_eq!(read.status, 503, "{}", read.text);
    let write = node.put("/v1/automation", &node.admin, json!({"on": false})).await;
    assert!([503, 504].contains(&write.status.as_u16()), "{}", write.text);
    assert!(!write.json()["error"]["remedy"].as_str().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_topic_answers_a_reader() {
    let node = Node::start().await;
    for path in
        ["sites", "services", "evidence", "decisions", "overrides", "zones", "pools", "listeners", "config"]
    {
        let data = node.get(&format!("/v1/{path}")).await.data();
        assert!(data.is_array() || data.is_object(), "{path}: {data}");
    }
    let service = node.get("/v1/services/web").await.data();
    assert_eq!(service["lanes"][0]["answered"], json!(["fra"]));
    assert_eq!(service["lanes"][0]["sites"][0]["observed"], "unknown");
    let site = node.get("/v1/sites/fra").await.data();
    assert_eq!((&site["votes"], &site["members"]), (&json!(true), &json!([1])));
    let decisions = node.get("/v1/decisions?service=web&limit=1").await.data();
    assert_eq!(decisions.as_array().unwrap().len(), 1);
    assert_eq!(decisions[0]["to"], json!(["fra"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_explained() {
    let node = Node::start().await;
    let data = node.get("/v1/explain?name=www.example.com&client=198.51.100.7").await.data();
    assert_eq!(data["rcode"], "NOERROR");
    assert_eq!(data["answer"], json!(["www.example.com. 10 A 192.0.2.1"]));
    let why = data["why"].to_string();
    assert!(why.contains("service web") && why.contains("assigned to [fra]"), "{why}");
    let none = node.get("/v1/explain?name=nothing.example.com&type=TXT").await.data();
    assert_eq!(none["rcode"], "NXDOMAIN");
    assert!(none["authority"][0].as_str().unwrap().contains(" SOA "), "{none}");
    let request = node.get("/v1/explain/request?host=www.example.com&path=/api/x").await.data();
    assert_eq!(request[0]["pool"], "api");
    assert_eq!(request[0]["candidates"].as_array().unwrap().len(), 2);
    let canary =
        node.get("/v1/explain/request?host=x.test&header=accept:%20text/html%0AX-Canary:%201").await.data();
    let plain = node.get("/v1/explain/request?host=x.test&header=accept:%20text/html").await.data();
    assert_ne!(canary[0]["target"], plain[0]["target"], "the second header leads elsewhere");
    let bad = node.get("/v1/explain/request?host=x.test&header=x-canary:%201%0Anonsense").await;
    assert!(bad.status == 400 && bad.text.contains("one a line"), "{}", bad.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_request_is_told_what_is_wrong() {
    let node = Node::empty().await;
    let send = |body: String| {
        let request = node.request(Method::PUT, "/v1/automation", &node.admin);
        node.send(request.header("Content-Type", "application/json").body(body))
    };
    let malformed = send("{\"on\": tru".into()).await;
    assert_eq!((malformed.status.as_u16(), malformed.code().as_str()), (400, "bad_request"));
    assert!(malformed.text.contains("line 1 column"), "{}", malformed.text);
    let unknown = send("{\"on\": true, \"off\": 1}".into()).await;
    assert!(unknown.text.contains("unknown field `off`"), "{}", unknown.text);
    let large = send(format!("{{\"on\": {}true}}", " ".repeat(300 << 10))).await;
    assert_eq!((large.status.as_u16(), large.code().as_str()), (413, "too_large"));
    let untyped = node.send(node.request(Method::PUT, "/v1/automation", &node.admin).body("{}")).await;
    assert!(untyped.status == 400 && untyped.text.contains("Content-Type"), "{}", untyped.text);
    let path = node.get("/v1/services/UPPER").await;
    assert_eq!(path.status, 400, "{}", path.text);
    assert_eq!(node.get("/v1/services/none").await.status, 404);
    assert_eq!(node.get("/v1/none").await.status, 404);
    assert_eq!(node.send(node.request(Method::PATCH, "/v1/cluster", &node.read)).await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_no_whole_head_holds_up_nobody() {
    let node = Node::empty().await;
    let addr = node.url.strip_prefix("http://").unwrap().to_owned();
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(&addr).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /v1/cluster HTTP/1.1\r\nHost: x\r\n")
            .await
            .unwrap();
        stuck.push(stream);
    }
    tokio::time::timeout(WITHIN, node.get("/v1/cluster")).await.unwrap().ok();
}
