//! Overrides, moves, automation, timing, members.

use crate::harness::Node;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_site_is_left_and_the_override_is_shown_as_such() {
    let node = Node::start().await;
    let new =
        json!({"scope": {"site": "fra"}, "force": "drain", "reason": "power work", "expires_in_s": 3600});
    let written = node.put("/v1/overrides", &node.operate, new).await.ok().json();
    assert_eq!(written["published"], true);
    let lane = &node.get("/v1/services/web").await.data()["lanes"][0];
    assert_eq!(lane["answered"], json!(["ams"]));
    let fra = &lane["sites"][0];
    assert_eq!((&fra["observed"], &fra["class"]), (&json!("unknown"), &json!("drained")));
    assert_eq!(
        (&fra["forced"]["author"], &fra["forced"]["reason"]),
        (&json!("operate"), &json!("power work"))
    );
    let listed = node.get("/v1/overrides").await.data();
    assert!(listed[0]["expires"].as_str().unwrap().ends_with('Z'), "{listed}");
    let decision = &node.get("/v1/decisions?service=web&limit=1").await.data()[0];
    assert_eq!(decision["cause"], "drained by operate: power work");
    node.delete("/v1/overrides?site=fra", &node.operate).await.ok();
    assert_eq!(node.get("/v1/overrides").await.data(), json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_ends_by_itself() {
    let node = Node::start().await;
    let new = json!({"scope": {"service": "web", "site": "ams"}, "force": "down", "reason": "x", "expires_in_s": 1});
    node.put("/v1/overrides", &node.operate, new).await.ok();
    let began = std::time::Instant::now();
    while !node.state().overrides.is_empty() {
        assert!(began.elapsed() < crate::harness::WITHIN);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        // what the leader's decider does when something is due
        node.propose(zonekeeper_core::Proposal::by("test", zonekeeper_core::Command::Tick)).await;
    }
    assert!(began.elapsed() > std::time::Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_overrides_are_refused_with_the_rule() {
    let node = Node::start().await;
    let cases = [
        (json!({"scope": {"site": "xxx"}, "force": "drain", "reason": "r"}), 422, "site xxx is not declared"),
        (
            json!({"scope": {"site": "fra"}, "force": "drain", "reason": " "}),
            422,
            "a reason of 1 to 500 bytes",
        ),
        (json!({"scope": {"service": "web"}, "force": "drain", "reason": "r"}), 400, "give a site"),
        (json!({"scope": {"site": "fra"}, "force": "fly", "reason": "r"}), 400, "unknown variant `fly`"),
        (
            json!({"scope": {"site": "fra"}, "force": "up", "reason": "r", "expires_in_s": 0}),
            422,
            "1 s to 366 days",
        ),
    ];
    for (body, status, text) in cases {
        let answer = node.put("/v1/overrides", &node.operate, body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.text.contains(text), "{}", answer.text);
    }
    assert_eq!(node.delete("/v1/overrides?site=fra", &node.operate).await.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_moved_by_hand_and_back() {
    let node = Node::start().await;
    let answered = async || node.get("/v1/services/web").await.data()["lanes"][0]["answered"].clone();
    node.post("/v1/services/web/move", &node.operate, json!({"to": "iad"})).await.ok();
    assert_eq!(answered().await, json!(["iad"]));
    assert_eq!(node.get("/v1/services/web").await.data()["pinned"], "iad");
    node.post("/v1/services/web/failback", &node.operate, json!({})).await.ok();
    assert_eq!(answered().await, json!(["fra"]));
    node.post("/v1/services/web/failover", &node.operate, json!({})).await.ok();
    assert_eq!(answered().await, json!(["ams"]));
    let unknown = node.post("/v1/services/none/failover", &node.operate, json!({})).await;
    assert_eq!(unknown.status, 404);
    let nowhere = node.post("/v1/services/web/move", &node.operate, json!({"to": "nowhere"})).await;
    assert_eq!(nowhere.status, 422, "{}", nowhere.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn automation_is_switched_for_all_and_for_one() {
    let node = Node::start().await;
    node.put("/v1/services/web/automation", &node.operate, json!({"on": false})).await.ok();
    assert_eq!(node.get("/v1/services/web").await.data()["automation"], false);
    assert_eq!(node.get("/v1/services/api").await.data()["automation"], true);
    node.put("/v1/automation", &node.operate, json!({"on": false})).await.ok();
    assert_eq!(node.get("/v1/services/api").await.data()["automation"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timing_warns_when_the_round_trips_do_not_allow_it() {
    let node = Node::start().await;
    let link = zonekeeper_api::wire::Link { up: true, rtt_us: Some(120_000) };
    let local = zonekeeper_api::LocalView { ready: true, links: vec![(2, link)], ..Default::default() };
    node.handles.local.store(std::sync::Arc::new(local));
    let answer = node.put("/v1/timing", &node.admin, json!({"heartbeat_ms": 49})).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let answer = node.put("/v1/timing", &node.admin, json!("wan")).await.ok().json();
    assert!(answer["warning"].as_str().unwrap().contains("240 ms or more"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_do_not_exist_are_not_found() {
    let node = Node::start().await;
    for action in ["promote", "demote", "lead"] {
        let answer = node.post(&format!("/v1/members/9/{action}"), &node.admin, json!({})).await;
        assert_eq!(answer.status, 404, "{action}: {}", answer.text);
    }
    assert_eq!(node.delete("/v1/members/9", &node.admin).await.status, 404);
    let zero =
        node.post("/v1/members", &node.admin, json!({"id": 0, "site": "fra", "peer": "127.0.0.1:1"})).await;
    assert_eq!(zero.status, 422, "{}", zero.text);
    let last = node.delete("/v1/members/1", &node.admin).await;
    assert_eq!(last.status, 422, "{}", last.text);
}
