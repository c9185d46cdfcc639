//! Zones and records through the log.

use crate::harness::Node;
use serde_json::json;

const RECORD: &str = "/v1/zones/dyn.example.com/records/host/A";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_put_answered_and_removed() {
    let node = Node::start().await;
    let serial = node.get("/v1/zones/dyn.example.com.").await.data()["serial"].as_u64().unwrap();
    let body = json!({"ttl": 30, "records": ["192.0.2.99", "192.0.2.98"]});
    node.put(RECORD, &node.operate, body).await.ok();
    let listed = node.get("/v1/zones/dyn.example.com/records?name=host.dyn.example.com").await.data();
    assert_eq!(
        listed["rrsets"],
        json!([{"name": "host.dyn.example.com.", "type": "A", "ttl": 30, "records": ["192.0.2.98", "192.0.2.99"]}])
    );
    let answer = node.get("/v1/explain?name=host.dyn.example.com").await.data()["answer"].clone();
    assert_eq!(answer.as_array().unwrap().len(), 2);
    assert_eq!(node.get("/v1/zones/dyn.example.com").await.data()["serial"], serial + 1);
    node.delete(RECORD, &node.operate).await.ok();
    assert_eq!(node.delete(RECORD, &node.operate).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_records_are_relative_to_the_zone() {
    let node = Node::start().await;
    let body = json!({"ttl": 30, "records": ["10 mail", "20 mx.example.net."]});
    node.put("/v1/zones/dyn.example.com/records/@/mx", &node.operate, body).await.ok();
    let listed = node.get("/v1/zones/dyn.example.com/records?type=MX").await.data();
    assert_eq!(listed["rrsets"][0]["records"], json!(["10 mail.dyn.example.com.", "20 mx.example.net."]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_on_an_old_version_is_stale() {
    let node = Node::start().await;
    let version = node.get("/v1/zones/dyn.example.com").await.data()["version"].as_u64().unwrap();
    let path = format!("{RECORD}?version={version}");
    let body = json!({"ttl": 30, "records": ["192.0.2.1"]});
    node.put(&path, &node.operate, body.clone()).await.ok();
    let answer = node.put(&path, &node.operate, body).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "stale"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_zones_are_for_administrators() {
    let node = Node::start().await;
    let path = "/v1/zones/example.com/records/hot/TXT";
    let body = json!({"ttl": 30, "records": ["\"fix\""]});
    assert_eq!(node.put(path, &node.operate, body.clone()).await.status, 403);
    node.put(path, &node.admin, body).await.ok();
    let answer = node.delete("/v1/zones/example.com", &node.admin).await;
    assert!(answer.status == 422 && answer.text.contains("declared in a file"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_would_hide_a_service_are_refused() {
    let node = Node::start().await;
    let served = node.state().services.values().next().unwrap().spec.names[0].clone();
    let zone = node.state().zone_of(&served).unwrap().clone();
    let put = |owner: String, rtype: &'static str, rdata: &'static str| {
        let path = format!("/v1/zones/{zone}/records/{owner}/{rtype}");
        let (node, body) = (&node, json!({"ttl": 30, "records": [rdata]}));
        async move { node.put(&path, &node.admin, body).await }
    };
    for (owner, rtype, rdata) in [
        (served.to_string(), "NS", "ns.elsewhere.test."),
        (served.to_string(), "CNAME", "elsewhere.test."),
        (served.to_string(), "A", "192.0.2.9"),
        (zone.to_string(), "DNAME", "elsewhere.test."),
    ] {
        let answer = put(owner, rtype, rdata).await;
        assert!(
            answer.status == 422 && answer.text.contains("would hide service"),
            "{rtype}: {}",
            answer.text
        );
    }
    put(served.to_string(), "TXT", "\"beside\"").await.ok();
    put(format!("below.{served}"), "NS", "ns.elsewhere.test.").await.ok();
    // a new zone, below the one that the service is in
    let new = |more: &str| {
        let file = format!("$TTL 60\n@ SOA ns h 1 1 1 1 1\n@ NS ns\n{more}");
        let (node, path) = (&node, format!("/v1/zones/{served}"));
        async move { node.put(&path, &node.admin, json!({ "file": file })).await }
    };
    let answer = new("@ A 192.0.2.9\n").await;
    assert!(answer.status == 422 && answer.text.contains("would hide service"), "{}", answer.text);
    new("other A 192.0.2.9\n").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_and_signatures_do_not_stand_in_one_zone() {
    const RRSIG: &str = "SOA 13 3 60 20300101000000 20200101000000 1 dyn.example.com. AAAA";
    let node = Node::start().await;
    let put = |at: &'static str, rdata: &'static str| {
        let (node, path) = (&node, format!("/v1/zones/dyn.example.com/records/{at}"));
        async move { node.put(&path, &node.admin, json!({"ttl": 30, "records": [rdata]})).await }
    };
    put("a/ALIAS", "host.dyn.example.com.").await.ok();
    let answer = put("@/RRSIG", RRSIG).await;
    assert!(answer.status == 422 && answer.text.contains("ALIAS"), "{}", answer.text);
    node.delete("/v1/zones/dyn.example.com/records/a/ALIAS", &node.admin).await.ok();
    put("@/RRSIG", RRSIG).await.ok();
    let answer = put("a/ALIAS", "host.dyn.example.com.").await;
    assert!(answer.status == 422 && answer.text.contains("signed"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_are_told_what_is_wrong() {
    let node = Node::start().await;
    let cases = [
        (RECORD, json!({"ttl": 30, "records": ["192.0.2.300"]})),
        (RECORD, json!({"ttl": 30, "records": []})),
        (RECORD, json!({"ttl": 4_000_000_000u32, "records": ["192.0.2.3"]})),
        ("/v1/zones/dyn.example.com/records/host/NOTYPE", json!({"ttl": 30, "records": ["x"]})),
        (
            "/v1/zones/dyn.example.com/records/other.example.net./A",
            json!({"ttl": 30, "records": ["192.0.2.3"]}),
        ),
    ];
    for (path, body) in cases {
        let answer = node.put(path, &node.operate, body).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{path}: {}", answer.text);
        assert!(answer.json()["error"]["message"].as_str().unwrap().len() > 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_larger_than_an_entry_is_made_at_one_index_and_read_page_by_page() {
    let node = Node::start().await;
    let mut file = String::from(
        "@ 300 SOA ns.example.net. root.example.net. 5 3600 600 86400 60\n@ 300 NS ns.example.net.\n",
    );
    for i in 0..3000 {
        file.push_str(&format!("host{i:05} 300 TXT \"{}\"\n", "x".repeat(60)));
    }
    let first = node.state().generation.index;
    let written = node.put("/v1/zones/big.example", &node.admin, json!({"file": file})).await.ok().json();
    assert!(written["index"].as_u64().unwrap() > first + 2, "it was staged: {written}");
    assert!(node.state().stages.is_empty());
    assert_eq!(node.get("/v1/zones/big.example").await.data()["rrsets"], 3002);
    let (mut after, mut names, mut pages) = (String::new(), 0, 0);
    loop {
        let page = node.get(&format!("/v1/zones/big.example/records?limit=1000{after}")).await.data();
        names += page["rrsets"].as_array().unwrap().len();
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((names, pages), (3002, 4));
    node.delete("/v1/zones/big.example", &node.admin).await.ok();
    assert_eq!(node.get("/v1/zones/big.example").await.status, 404);
}
