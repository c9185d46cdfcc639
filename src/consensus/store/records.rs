//! What is stored under which key. One tree, two prefixes, every value in an envelope of its kind.

use crate::types::{LogEntry, LogId, Vote};
use serde::{Deserialize, Serialize};
use zonekeeper_core::{
    codec::{self, CodecError, Kind},
    entry::MAX_ENTRY,
    id::NodeId,
};

/// Prefix of everything that exists once.
pub(crate) const META: u8 = 0x00;
/// Prefix of the log; the index follows, big-endian, so that keys order as indexes do.
pub(crate) const LOG: u8 = 0x01;
/// Largest stored value: an entry with its log id and payload tag. Membership entries are far smaller.
pub(crate) const MAX_RECORD: usize = MAX_ENTRY + 4096;

/// Whose data a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random id of the cluster.
    pub cluster: u128,
    /// The node.
    pub node: NodeId,
    /// Random id of this directory: two directories of one node id differ in it.
    pub uuid: u128,
}

/// Key of a log entry.
pub(crate) fn log_key(index: u64) -> [u8; 9] {
    let mut key = [LOG; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Key of a record that exists once.
pub(crate) fn meta_key(kind: Kind) -> [u8; 2] {
    [META, kind as u8]
}

/// The index in a log key.
pub(crate) fn log_index(key: &[u8]) -> Option<u64> {
    let (prefix, index) = key.split_first()?;
    (*prefix == LOG).then(|| index.try_into().ok().map(u64::from_be_bytes))?
}

pub(crate) fn entry(entry: &LogEntry) -> Vec<u8> {
    codec::encode(Kind::LogEntry, entry)
}

pub(crate) fn vote(vote: &Vote) -> Vec<u8> {
    codec::encode(Kind::Vote, vote)
}

pub(crate) fn purged(id: &LogId) -> Vec<u8> {
    codec::encode(Kind::Purged, id)
}

pub(crate) fn committed(id: &Option<LogId>) -> Vec<u8> {
    codec::encode(Kind::Committed, id)
}

pub(crate) fn watermark(index: u64) -> Vec<u8> {
    codec::encode(Kind::Watermark, &index)
}

pub(crate) fn identity(identity: &Identity) -> Vec<u8> {
    codec::encode(Kind::Identity, identity)
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(kind: Kind, record: &[u8]) -> Result<T, CodecError> {
    codec::decode(kind, record, MAX_RECORD)
}
