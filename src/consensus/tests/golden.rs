//! Bytes on disk are for ever: these were written by the first version, and every later one must read them.

use super::support::{entry, log_id, vote};
use crate::{
    store::{self, Identity},
    types::{LogEntry, Payload, SnapshotMeta, StoredMembership},
};
use openraft::{BasicNode, Membership};
use std::collections::{BTreeMap, BTreeSet};
use zonekeeper_core::codec::{self, Kind};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn membership() -> Membership<u64, BasicNode> {
    let nodes =
        BTreeMap::from([(1, BasicNode::new("192.0.2.1:7000")), (2, BasicNode::new("[2001:db8::2]:7000"))]);
    Membership::new(vec![BTreeSet::from([1])], nodes).unwrap()
}

#[test]
fn records_keep_their_bytes() {
    let identity = Identity { cluster: 1, node: 2, uuid: 3 };
    let blank = LogEntry { log_id: log_id(300), payload: Payload::Blank };
    let members = LogEntry { log_id: log_id(0), payload: Payload::Membership(membership()) };
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9)),
        last_membership: StoredMembership::new(Some(log_id(0)), membership()),
    };
    let header = crate::snapshot::Header { meta, len: 70_000, hash: 5 };
    let found = [
        ("vote", store::vote(&vote())),
        ("purged", store::purged(&log_id(300))),
        ("committed", store::committed(&Some(log_id(300)))),
        ("watermark", store::watermark(300)),
        ("identity", store::identity(&identity)),
        ("blank", store::entry(&blank)),
        ("membership", store::entry(&members)),
        ("command", store::entry(&entry(7, 64))),
        ("snapshot header", codec::encode(Kind::SnapshotHeader, &header)),
        ("snapshot chunk", codec::seal(Kind::SnapshotChunk, &[0, 0, 0, 0, 1])),
    ];
    let found: Vec<String> = found.iter().map(|(name, bytes)| format!("{name}: {}", hex(bytes))).collect();
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(found, golden, "\nnow:\n{}\n", found.join("\n"));
}

#[test]
fn records_read_back_as_they_were() {
    let members = LogEntry { log_id: log_id(0), payload: Payload::Membership(membership()) };
    for whole in [members, entry(7, 64), LogEntry { log_id: log_id(300), payload: Payload::Blank }] {
        assert_eq!(store::decode::<LogEntry>(Kind::LogEntry, &store::entry(&whole)).unwrap(), whole);
    }
}
