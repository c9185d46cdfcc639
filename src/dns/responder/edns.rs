//! The OPT record of an answer (RFC 6891), and the cookie in it.

use super::{Transport, UDP_PAYLOAD, Verdict, View};
use crate::{
    cookie::{CLIENT, COOKIE},
    message::Message,
    wire::{Edns, option},
};
use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

/// OPT without options.
const OPT: usize = 11;
/// An extended error without text.
const ERROR: usize = 6;
/// Answers over encrypted transports are padded to a multiple of so many bytes (RFC 8467 §4.1).
const PAD_TO: usize = 468;
/// What padding is made of.
static ZEROES: [u8; PAD_TO] = [0; PAD_TO];

/// The cookie of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cookie {
    /// The server cookie was ours, made for this address.
    pub(super) valid: bool,
    /// What the client gets.
    pub(super) answer: Option<[u8; COOKIE]>,
}

impl Cookie {
    /// Looks at the cookie of a query, before its buffer becomes the answer's.
    pub(super) fn of(
        view: &View<'_>,
        peer: Option<SocketAddr>,
        edns: Option<Edns>,
        message: &[u8],
    ) -> Cookie {
        let place = edns.and_then(|e| e.cookie);
        let (Some(secrets), Some(ip), Some((at, len))) = (view.secrets, peer.map(|p| p.ip()), place) else {
            return Cookie::default();
        };
        let cookie = message.get(usize::from(at)..usize::from(at) + usize::from(len)).unwrap_or_default();
        let Some(client) = cookie.first_chunk::<CLIENT>() else { return Cookie::default() };
        let ip = ip.to_canonical();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32);
        match secrets.check(cookie, ip, now) {
            Some(answer) => Cookie { valid: true, answer: Some(answer) },
            None => Cookie { valid: false, answer: Some(secrets.make(*client, ip, now)) },
        }
    }
}

/// What an OPT record says.
pub(super) struct Opt<'a> {
    pub(super) edns: Edns,
    pub(super) cookie: Cookie,
    /// The NSID option; empty: none.
    pub(super) nsid: &'a [u8],
    /// Idle time that a connection is granted, in units of 100 ms; none: not said.
    pub(super) keepalive: Option<u16>,
    pub(super) padded: bool,
    /// The largest message over UDP that we take and send.
    pub(super) payload: u16,
    /// Bytes of the record that follows it.
    pub(super) behind: usize,
}

impl<'a> Opt<'a> {
    pub(super) fn new(
        edns: Edns,
        cookie: Cookie,
        transport: Transport,
        nsid: &'a [u8],
        keepalive: Option<u16>,
    ) -> Opt<'a> {
        Opt {
            edns,
            cookie,
            nsid: if edns.nsid { nsid } else { &[] },
            keepalive: keepalive.filter(|_| edns.keepalive && transport.has_connection()),
            padded: edns.padding && transport.is_encrypted(),
            payload: UDP_PAYLOAD,
            behind: 0,
        }
    }

    /// Room that it needs at most.
    pub(super) fn reserve(&self) -> usize {
        let cookie = if self.cookie.answer.is_some() { 4 + COOKIE } else { 0 };
        let keepalive = if self.keepalive.is_some() { 6 } else { 0 };
        let subnet = self.edns.subnet.map_or(0, |s| s.len());
        OPT + ERROR + self.nsid.len() + cookie + keepalive + subnet
    }

    /// Writes it behind the other records.
    pub(super) fn put(&self, message: &mut Message<'_>, limit: usize, verdict: &Verdict) {
        let payload = self.payload.to_be_bytes();
        let dnssec_ok = if self.edns.dnssec_ok { 0x80 } else { 0 };
        let head = [0, 0, 41, payload[0], payload[1], (verdict.rcode >> 4) as u8, 0, dnssec_ok, 0];
        let more = self.cookie.answer.is_some() || self.keepalive.is_some() || self.padded;
        if !more && self.nsid.is_empty() && verdict.error.is_none() && self.edns.subnet.is_none() {
            return message.put_opt(limit, head, &[]); // most of all
        }
        let error = verdict.error.map(|code| tlv(option::ERROR, code.to_be_bytes()));
        let keepalive = self.keepalive.map(|time| tlv(option::KEEPALIVE, time.to_be_bytes()));
        let cookie = [0, option::COOKIE as u8, 0, COOKIE as u8];
        let answer = self.cookie.answer.as_ref();
        let subnet = self.edns.subnet.map(|s| (s.option(verdict.scope), s.len()));
        let mut options: [&[u8]; 8] = [&[]; 8];
        options[0] = self.nsid;
        if let Some(answer) = answer {
            (options[1], options[2]) = (&cookie, answer);
        }
        options[3] = keepalive.as_ref().map_or(&[], |o| o);
        options[4] = error.as_ref().map_or(&[], |o| o);
        options[5] = subnet.as_ref().map_or(&[], |(option, len)| &option[..*len]);
        let head_of_padding;
        if self.padded {
            let len = self.behind + message.len() + OPT + options.iter().map(|o| o.len()).sum::<usize>() + 4;
            let padding = (len.next_multiple_of(PAD_TO)).min(limit).saturating_sub(len);
            head_of_padding = [0, option::PADDING as u8, (padding >> 8) as u8, padding as u8];
            (options[6], options[7]) = (&head_of_padding, &ZEROES[..padding]);
        }
        message.put_opt(limit, head, &options);
    }
}

/// An option of two bytes.
fn tlv(code: u16, data: [u8; 2]) -> [u8; 6] {
    let code = code.to_be_bytes();
    [code[0], code[1], 0, 2, data[0], data[1]]
}
