//! Node files, and how a node fits its cluster.
#![allow(clippy::unwrap_used)] // a helper of a test may panic as the test may

mod common;

use common::small;
use std::{fs, time::Duration};
use zonekeeper_config::{LogLevel, NodeConfig, OnStale, Problems};
use zonekeeper_core::entry::Duty;

/// Loads a node file from a folder of its own.
fn load(text: &str) -> (tempfile::TempDir, Result<NodeConfig, Problems>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, text).unwrap();
    let node = NodeConfig::load(&file);
    (dir, node)
}

const LEAST: &str = "id = 7\nsite = \"fra\"\ndata_dir = \"data\"\nkeys_dir = \"/keys\"\n[peer]\nlisten = \"192.0.2.1:8054\"\n";

#[test]
fn the_smallest_node_file_has_defaults_for_the_rest() {
    let (dir, node) = load(LEAST);
    let node = node.unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(
        (node.id, node.site.as_str(), node.duty, node.log_level),
        (7, "fra", Duty::Full, LogLevel::Info)
    );
    assert_eq!(node.data_dir, dir.path().join("data"));
    assert_eq!(node.keys_dir, std::path::Path::new("/keys"));
    assert_eq!(node.peer.advertise, node.peer.listen);
    assert_eq!(node.admin.listen, "127.0.0.1:8053".parse().unwrap());
    assert_eq!((node.admin.advertise, node.admin.allow_remote), (None, false));
    assert!(!node.admin.open_metrics, "metrics need a token unless the node file says otherwise");
    assert_eq!(node.dns.listen, ["0.0.0.0:53".parse().unwrap(), "[::]:53".parse().unwrap()]);
    assert_eq!((node.dns.workers, node.proxy.workers), (cores, cores));
    assert_eq!((node.dns.max_stale, node.dns.on_stale, node.dns.nsid), (None, OnStale::Keep, None));
}

#[test]
fn what_is_given_is_taken() {
    let more = "[admin]\nlisten = \"[::]:9000\"\nallow_remote = true\nadvertise = \"192.0.2.1:9000\"\nopen_metrics = true\n\
                [dns]\nlisten = []\nworkers = 3\nnsid = \"fra-1\"\nmax_stale = \"90s\"\non_stale = \"servfail\"\n\
                [proxy]\nworkers = 2\n";
    let node = load(&format!("{LEAST}{more}")).1.unwrap();
    assert_eq!(node.admin.listen, "[::]:9000".parse().unwrap());
    assert_eq!(node.admin.advertise, Some("192.0.2.1:9000".parse().unwrap()));
    assert!(node.admin.open_metrics);
    assert!(node.dns.listen.is_empty());
    assert_eq!((node.dns.workers, node.dns.nsid.as_deref(), node.proxy.workers), (3, Some("fra-1"), 2));
    assert_eq!((node.dns.max_stale, node.dns.on_stale), (Some(Duration::from_secs(90)), OnStale::ServFail));
}

#[test]
fn a_witness_answers_no_dns() {
    let node = load(&format!("duty = \"witness\"\n{LEAST}")).1.unwrap();
    assert_eq!((node.duty, node.dns.listen.len()), (Duty::Witness, 0));
}

#[test]
fn a_listener_on_a_port_of_the_node_itself_is_reported() {
    let node = |site: &str, port: u16| {
        let text = LEAST.replace("fra", site) + &format!("[dns]\nlisten = [\"127.0.0.1:{port}\"]\n");
        load(&text).1.unwrap().against(&small()).to_string()
    };
    assert_eq!(node("fra", 53), "");
    let overlap =
        "dns.listen[0]: 127.0.0.1:80 overlaps 0.0.0.0:80 of listener http; use another port or address";
    assert_eq!(node("fra", 80), overlap);
    assert_eq!(node("muc", 53), "site: \"muc\" is not declared; declared are ams, fra, iad");
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let error = NodeConfig::load(std::path::Path::new("/nonexistent/node.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/node.toml: cannot be read: "), "{error}");
}
