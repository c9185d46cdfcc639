//! The command line against a real node.
//!
//! `scenarios/*.txt` hold commands and their output; `UPDATE_SCENARIOS=1` writes what comes out now. What differs from
//! run to run (times, log indexes, secrets) is masked.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../../../api/tests/api/harness.rs"]
mod harness;
mod mask;
mod scenario;

use clap::{CommandFactory, Parser};
use harness::Node;
use scenario::Cli;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_and_steering() {
    scenario::play("steering", &Node::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_and_records() {
    scenario::play("zones", &Node::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_from_files_and_back() {
    scenario::play("config", &Node::empty().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_members_and_the_rest() {
    scenario::play("cluster", &Node::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_what_the_api_gave() {
    let node = Node::start().await;
    let text = scenario::run(&node, &node.read, &["service", "show", "web", "--json"]).await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["data"], node.get("/v1/services/web").await.data());
    let text = scenario::run(&node, &node.read, &["status", "--json", "--linearizable"]).await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["cluster"]["age_ms"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_followed() {
    let node = Node::start().await;
    let follow = scenario::run(&node, &node.read, &["events", "--follow", "--count", "1"]);
    let steer = async {
        // the stream says nothing of what was before it, so this goes on until it ends
        for to in ["ams", "iad", "fra"].into_iter().cycle() {
            node.post("/v1/services/web/move", &node.operate, serde_json::json!({"to": to})).await.ok();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    };
    let text = tokio::select! {
        text = tokio::time::timeout(harness::WITHIN, follow) => text.unwrap(),
        () = steer => unreachable!("it goes on"),
    };
    // the first that comes may still be news of the configuration
    let words: Vec<&str> = text.split(' ').collect();
    assert!(words[0].ends_with('Z') && words[1].starts_with("0.") && text.contains(": "), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_the_next_step() {
    let node = Node::empty().await;
    let refused = scenario::run(&node, "", &["status"]).await;
    assert!(refused.starts_with("error: a token is needed\n"), "{refused}");
    let unknown = scenario::run(&node, "zk_1", &["status"]).await;
    assert!(unknown.contains("unknown, removed or expired"), "{unknown}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);
    let text = scenario::run(&node, &node.read, &["status", "--admin", &dead]).await;
    assert!(text.contains(&format!("cannot reach the admin API at http://{dead}: ")), "{text}");
    assert!(text.contains("Connection refused") && text.contains("--admin URL"), "{text}");
    let file = scenario::run(&node, "", &["status", "--token-file", "/nonexistent/token"]).await;
    assert!(file.starts_with("error: /nonexistent/token: "), "{file}");
}

#[test]
fn every_example_in_help_can_be_typed() {
    let mut examples = 0;
    let mut commands = vec![Cli::command()];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().cloned());
        let help = command.get_after_help().map(|h| h.to_string());
        let leaf = command.get_subcommands().next().is_none();
        assert!(!leaf || help.is_some(), "{} has no example", command.get_name());
        for line in help.iter().flat_map(|h| h.lines()).filter_map(|l| l.strip_prefix("  zonekeeper ")) {
            let words = scenario::words(&format!("zonekeeper {line}"));
            Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(line.starts_with(command.get_name()) || line.contains(command.get_name()), "{line}");
            examples += 1;
        }
    }
    assert!(examples > 40, "{examples}");
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}
