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
/// Prefix of the log; index and piece follow, big-endian, so that keys order as the log does.
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

/// Bytes of a log record under one key. sled keeps up to 17 keys in one page whatever their size, and a page above
/// 128 KiB (a quarter of its segment) goes to a file of its own that it never syncs: with records of 64 KiB under one
/// key, power cuts lost acknowledged entries. 17 pieces and their keys stay well below.
pub(crate) const PIECE: usize = 4096;

/// Key of a piece of a log entry.
pub(crate) fn log_key(index: u64, piece: u8) -> [u8; 10] {
    let mut key = [LOG; 10];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9] = piece;
    key
}

/// The pieces of a record, with their keys.
pub(crate) fn pieces(index: u64, record: &[u8]) -> impl Iterator<Item = ([u8; 10], &[u8])> {
    (0..=u8::MAX).zip(record.chunks(PIECE)).map(move |(number, piece)| (log_key(index, number), piece))
}

/// Puts pieces, in key order, together to records again.
#[derive(Default)]
pub(crate) struct Joiner {
    open: Option<(u64, Vec<u8>)>,
}

impl Joiner {
    /// Takes the next piece; the record before it, when this piece begins another one.
    pub(crate) fn push(&mut self, index: u64, piece: &[u8]) -> Option<(u64, Vec<u8>)> {
        match &mut self.open {
            Some((current, record)) if *current == index => {
                record.extend_from_slice(piece);
                None
            }
            open => open.replace((index, piece.to_vec())),
        }
    }

    /// The last record.
    pub(crate) fn finish(self) -> Option<(u64, Vec<u8>)> {
        self.open
    }
}

/// Key of a record that exists once.
pub(crate) fn meta_key(kind: Kind) -> [u8; 2] {
    [META, kind as u8]
}

/// The index in a log key.
pub(crate) fn log_index(key: &[u8]) -> Option<u64> {
    match key {
        [LOG, index @ .., _piece] => index.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
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
