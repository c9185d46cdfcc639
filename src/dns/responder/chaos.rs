//! What a server says about itself in class CHAOS: `version.bind`, `version.server`, `hostname.bind` and `id.server`
//! (RFC 4892). What it was not told to say it refuses.

use super::Verdict;
use crate::{
    message::{Message, Section},
    wire::{HEADER, Query, qtype, rcode},
};
use zonekeeper_core::zone::{RrView, rtype};

/// Longest text: a TXT record's string.
const MAX: usize = 255;

/// Answers, as TXT records in wire form; empty: refused.
#[derive(Debug, Clone, Default)]
pub(super) struct Chaos {
    pub(super) version: Vec<u8>,
    pub(super) identity: Vec<u8>,
}

/// The record that says `text`.
pub(super) fn record(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(MAX)];
    let mut wire = vec![0xc0, 0x0c, 0, 16, 0, 3, 0, 0, 0, 0];
    wire.extend_from_slice(&(text.len() as u16 + 1).to_be_bytes());
    wire.push(text.len() as u8);
    wire.extend_from_slice(text);
    wire
}

impl Chaos {
    /// Answers for a name in lower case.
    pub(super) fn answer(&self, query: &Query, name: &[u8], message: &mut Message<'_>) -> Verdict {
        let refused = Verdict { error: Some(20), ..Verdict::code(rcode::REFUSED) };
        let wire = match name {
            b"\x07version\x04bind\0" | b"\x07version\x06server\0" => &self.version,
            b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" => &self.identity,
            _ => return refused,
        };
        if wire.is_empty() {
            return refused;
        }
        let mut verdict = Verdict { authoritative: true, ..Verdict::default() };
        if matches!(query.qtype, qtype::TXT | rtype::ANY) {
            verdict.truncated = !message.put(Section::Answer, HEADER, RrView::new(1, wire));
        }
        verdict
    }
}
