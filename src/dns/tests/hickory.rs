//! Every answer, read by an independent decoder: hickory-proto reads the same records that our own reader does.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Asker, Rr, query, read, with_edns};
use hickory_proto::op::Message;
use hickory_proto::rr::Record;
use zonekeeper_dns::Transport;

const ZONE: &str = include_str!("differential/rules.zone");
const TYPES: [u16; 13] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 52, 64, 255];

/// Owner, type and TTL of each record, as hickory has them.
fn theirs(records: &[Record]) -> Vec<(String, u16, u32)> {
    let plain = |r: &Record| (r.name.to_ascii().to_ascii_lowercase(), u16::from(r.record_type()), r.ttl);
    records.iter().map(plain).collect()
}

fn ours(records: &[Rr]) -> Vec<(String, u16, u32)> {
    records.iter().map(|(owner, rtype, ttl, _)| (owner.to_ascii_lowercase(), *rtype, *ttl)).collect()
}

#[test]
fn hickory_reads_the_same_records_in_every_answer() {
    let mut asker = Asker::new(&[("example.", ZONE)]);
    let mut owners: Vec<String> =
        asker.table.zones().next().unwrap().zone().iter().map(|s| s.name.to_string()).collect();
    owners.dedup();
    let missing: Vec<String> =
        owners.iter().map(|o| format!("nothing.{}", o.trim_end_matches('.'))).collect();
    let mut answers = 0;
    for owner in owners.iter().chain(&missing).filter(|o| o.is_ascii() && !o.contains('\\')) {
        for rtype in TYPES {
            let Some(bytes) = asker.raw(Transport::Tcp, &with_edns(query(owner, rtype), 1232, 0, &[])) else {
                continue;
            };
            let (we, they) = (read(&bytes), Message::from_vec(&bytes).unwrap());
            let place = format!("{owner} type {rtype}");
            assert_eq!(u16::from(they.metadata.response_code), we.rcode, "{place}");
            assert_eq!(they.metadata.authoritative, we.aa, "{place}");
            assert_eq!(theirs(&they.answers), ours(&we.answer), "{place}");
            assert_eq!(theirs(&they.authorities), ours(&we.authority), "{place}");
            assert_eq!(theirs(&they.additionals), ours(&we.additional), "{place}");
            assert!(they.edns.is_some(), "{place}");
            answers += 1;
        }
    }
    assert!(answers > 500, "{answers} answers were compared");
}
