//! The declared configuration through the API.

use crate::harness::Node;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zonekeeper_api::wire::Config;
use zonekeeper_config::{ClusterConfig, plan};

fn changed(config: &Config) -> ClusterConfig {
    let mut desired = config.clone().into_cluster();
    let web = desired.services.get_mut(&"web".parse().unwrap()).unwrap();
    web.ttl = 17;
    desired
}

async fn read(node: &Node) -> Config {
    serde_json::from_value(node.get("/v1/config").await.data()).unwrap()
}

fn body(config: &Config) -> Value {
    let changes = plan(&config.clone().into_cluster(), changed(config)).changes;
    assert_eq!(changes.len(), 1);
    json!({"revision": config.revision, "changes": changes})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_what_runs() {
    let node = Node::start().await;
    let config = read(&node).await;
    assert_eq!(config.revision, node.state().revision);
    assert_eq!(config.into_cluster(), ClusterConfig::current(&node.state()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_applied_once() {
    let node = Node::start().await;
    let body = body(&read(&node).await);
    let tried = node.post("/v1/config/plan", &node.admin, body.clone()).await.ok().json();
    assert_eq!(tried, json!({"entries": 1, "moves": []}));
    assert_ne!(node.state().services.values().last().unwrap().spec.ttl, 17);
    node.post("/v1/config/apply", &node.admin, body.clone()).await.ok();
    assert_eq!(read(&node).await.services[&"web".parse().unwrap()].ttl, 17);
    let again = node.post("/v1/config/apply", &node.admin, body).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "stale"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_file_could_say_the_api_refuses_too() {
    let node = Node::start().await;
    let config = read(&node).await;
    let mut web = config.services[&"web".parse().unwrap()].clone();
    web.check.as_mut().unwrap().interval_ms = 1;
    let changes = json!([{"PutService": ["web", web]}]);
    let answer = node
        .post("/v1/config/apply", &node.admin, json!({"revision": config.revision, "changes": changes}))
        .await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "invalid"), "{}", answer.text);
    assert!(answer.text.contains("service.web.check.interval"), "{}", answer.text);
    let changes = json!([{"RemovePool": "web"}]);
    let answer = node
        .post("/v1/config/apply", &node.admin, json!({"revision": config.revision, "changes": changes}))
        .await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "refused"), "{}", answer.text);
    assert_eq!(node.state().revision, config.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_has_a_limit_and_a_message_too() {
    let node = Node::empty().await;
    let send = |body: String| {
        let request = node.request(reqwest::Method::POST, "/v1/config/plan", &node.admin);
        node.send(request.header("Content-Type", "application/json").body(body))
    };
    let malformed = send("{\"revision\": 0, \"changes\": [{\"Fly\": 1}]}".into()).await;
    assert!(
        malformed.status == 400 && malformed.text.contains("unknown variant `Fly`"),
        "{}",
        malformed.text
    );
    let mut stream = tokio::net::TcpStream::connect(node.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /v1/config/plan HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        node.admin,
        257 << 20
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(crate::harness::WITHIN, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413", "no byte of the body was sent");
}
