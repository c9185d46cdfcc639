//! Who may do what.

use crate::harness::Node;
use reqwest::Method;
use serde_json::{Value, json};

/// Every operation of the document, with values in its path.
async fn operations(node: &Node) -> Vec<(Method, String)> {
    let document = node.get("/v1/openapi.json").await.ok().json();
    let mut out = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace(['{', '}'], "");
        for method in item.as_object().unwrap().keys() {
            out.push((Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), path.clone()));
        }
    }
    assert!(out.len() > 40, "{out:?}");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_valid_token_every_path_gives_the_same_answer() {
    let node = Node::empty().await;
    let mut paths = operations(&node).await;
    paths.extend([
        (Method::GET, "/v1/unknown".into()),
        (Method::PATCH, "/v1/cluster".into()),
        (Method::GET, "/".into()),
    ]);
    let mut answers = std::collections::BTreeSet::new();
    for (method, path) in paths.into_iter().filter(|(_, p)| !["/healthz", "/readyz"].contains(&p.as_str())) {
        for token in ["", "wrong", "zk_0000"] {
            let answer = node.send(node.request(method.clone(), &path, token)).await;
            assert_eq!(answer.status, 401, "{method} {path}");
            answers.insert(answer.text);
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_reads_and_changes_nothing() {
    let node = Node::empty().await;
    let index = node.state().generation.index;
    // a stream has no end; it is read in `news`
    for (method, path) in operations(&node).await.into_iter().filter(|(_, p)| p != "/v1/events") {
        let status = node.send(node.request(method.clone(), &path, &node.read)).await.status;
        match (&method, path.as_str()) {
            (&Method::GET, "/v1/tokens" | "/v1/webhooks" | "/v1/backup") => assert_eq!(status, 403, "{path}"),
            (&Method::GET, _) => assert!([200, 400, 404].contains(&status.as_u16()), "{path}: {status}"),
            _ => assert_eq!(status, 403, "{method} {path}"),
        }
    }
    assert_eq!(node.state().generation.index, index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_steers_and_does_not_administer() {
    let node = Node::start().await;
    let token = &node.operate;
    node.put("/v1/automation", token, json!({"on": false})).await.ok();
    let answer = node.post("/v1/tokens", token, json!({"name": "x", "role": "read"})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "forbidden"));
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "this needs a token with the role admin; yours has operate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_shown_once_and_removed() {
    let node = Node::empty().await;
    let made = node
        .post("/v1/tokens", &node.admin, json!({"name": "ci", "role": "operate", "expires_in_s": 60}))
        .await;
    let secret = made.ok().json()["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("zk_") && secret.len() == 67);
    let answer = node.put("/v1/automation", &secret, json!({"on": true})).await;
    assert_eq!(answer.status, 200);
    let list = node.send(node.request(Method::GET, "/v1/tokens", &node.admin)).await;
    let names: Vec<Value> = list.data().as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["admin", "ci", "operate", "read"]);
    assert!(!list.text.contains("hash") && !list.text.contains("secret"), "{}", list.text);
    let again = node.post("/v1/tokens", &node.admin, json!({"name": "ci", "role": "admin"})).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (422, "refused"));
    let own = node.post("/v1/tokens", &node.admin, json!({"name": "automation", "role": "read"})).await;
    assert_eq!((own.status.as_u16(), own.code().as_str()), (422, "refused"));
    node.delete("/v1/tokens/ci", &node.admin).await.ok();
    assert_eq!(node.put("/v1/automation", &secret, json!({"on": true})).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_admin_token_stays() {
    let node = Node::empty().await;
    let answer = node.delete("/v1/tokens/admin", &node.admin).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text.contains("last admin token"), "{}", answer.text);
    assert_eq!(node.delete("/v1/tokens/nobody", &node.admin).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_pins_the_clusters_ca() {
    let node = Node::empty().await;
    let made = node.post("/v1/members/joins", &node.admin, json!({"expires_in_s": 60})).await.ok();
    let token: zonekeeper_peer::JoinToken = made.json()["token"].as_str().unwrap().parse().unwrap();
    assert_eq!(token.fingerprint(), [7; 32]);
    assert!(node.state().joins.contains_key(&token.hash()));
    let answer = node.post("/v1/members/joins", &node.admin, json!({"expires_in_s": 0})).await;
    assert_eq!(answer.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_one_word_and_metrics_need_a_token() {
    let node = Node::empty().await;
    let health = node.send(node.request(Method::GET, "/healthz", "")).await;
    assert_eq!((health.status.as_u16(), health.text.as_str()), (200, "ok"));
    let ready = node.send(node.request(Method::GET, "/readyz", "")).await;
    assert_eq!((ready.status.as_u16(), ready.text.as_str()), (200, "ok"));
    node.handles.local.store(Default::default());
    let ready = node.send(node.request(Method::GET, "/readyz", "")).await;
    assert_eq!((ready.status.as_u16(), ready.text.as_str()), (503, "not ready"));
    let metrics = node.get("/metrics").await.ok().text;
    assert!(metrics.contains("\nzonekeeper_raft_role{role=\"leader\"} 1\n"), "{metrics}");
    assert!(metrics.contains("\nzonekeeper_ready 0\n"), "{metrics}");
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(
            name.starts_with("zonekeeper_") && (value == "+Inf" || value.parse::<f64>().is_ok()),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_open_on_loopback_when_the_node_says_so_and_nothing_else_is() {
    let node = Node::with(|handles| {
        handles.open_metrics = true;
        handles.metrics.push(std::sync::Arc::new(|out| {
            zonekeeper_api::metrics::refusals(out, &[(zonekeeper_peer::Refusal::Stranger, 3)]);
        }));
    })
    .await;
    let metrics = node.send(node.request(Method::GET, "/metrics", "")).await.ok().text;
    assert!(metrics.contains("\nzonekeeper_peer_refused_total{reason=\"stranger\"} 3\n"), "{metrics}");
    assert_eq!(node.send(node.request(Method::GET, "/v1/cluster", "")).await.status, 401);
}

/// A self-signed certificate for this name that ends in this year, and its key, as PEM text.
fn issue(name: &str, year: i32) -> (String, String) {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_judged_held_listed_and_shown_without_their_keys() {
    let node = Node::empty().await;
    let ((cert, key), (other, _), (old, old_key)) =
        (issue("a.example", 4000), issue("b.example", 4000), issue("c", 2001));
    for (name, cert, key, why) in [
        ("Www", &cert, &key, "a-z"),
        ("www", &other, &key, "do not fit together"),
        ("www", &old, &old_key, "ended on"),
        ("www", &key, &key, "no certificate"),
        ("www", &cert, &cert, "no private key"),
    ] {
        let answer = node
            .put(&format!("/v1/certificates/{name}"), &node.admin, json!({"cert": cert, "key": key}))
            .await;
        assert!(answer.status == 422 && answer.text.contains(why), "{why}: {}", answer.text);
    }
    node.put("/v1/certificates/www", &node.admin, json!({"cert": cert, "key": key})).await.ok();
    let both = format!("{key}{cert}");
    node.put("/v1/certificates/one-file", &node.admin, json!({"cert": both})).await.ok();

    let listed = node.get("/v1/certificates").await.ok();
    assert!(!listed.text.contains("PRIVATE"));
    let www = listed.data()[1].clone();
    assert_eq!((&www["name"], &www["names"]), (&json!("www"), &json!(["a.example"])));
    assert_eq!((&www["opens"], &www["known"], &www["listeners"]), (&json!(true), &json!(false), &json!([])));
    assert!(www["sha256"].as_str().unwrap().len() == 64 && www["not_after"].is_string(), "{www}");
    assert_eq!(listed.data()[0]["sha256"], www["sha256"], "the key may stand in the same text");

    node.delete("/v1/certificates/one-file", &node.admin).await.ok();
    assert_eq!(node.delete("/v1/certificates/one-file", &node.admin).await.status, 422);
    assert_eq!(node.get("/v1/certificates").await.ok().data().as_array().unwrap().len(), 1);
}
