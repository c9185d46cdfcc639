//! Session tickets that every node of the cluster can open: a client resumes its session at another site after a
//! failover (RFC 8446 §2.2, RFC 5077).
//!
//! Keys are derived from the cluster's secrets, and from the time, the listener and a random salt in each ticket, so that
//! nothing has to be agreed on and no key seals twice. Whoever has the secrets can open the tickets: the cluster rotates
//! them, and the one before the newest still opens.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use rustls::server::ProducesTickets;
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use zonekeeper_core::entry::Secret;

/// How long a ticket's keys are used, in seconds. A ticket is opened in its period and the next one.
const PERIOD_S: u64 = 12 * 60 * 60;
/// Format, period and salt in front of what is sealed.
const HEADER: usize = 1 + 8 + 16;
const FORMAT: u8 = 1;

/// What keys are derived from, the newest first.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secrets(Vec<[u8; 32]>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Those of the cluster; none where it has none.
    pub(crate) fn of(cluster: &[Secret]) -> Option<Secrets> {
        (!cluster.is_empty()).then(|| Secrets(cluster.iter().map(|s| s.0).collect()))
    }

    /// One of this process alone, where the cluster has none.
    pub(crate) fn own() -> Secrets {
        let mut own = [0; 32];
        match aws_lc_rs::rand::fill(&mut own) {
            Ok(()) => Secrets(vec![own]),
            Err(_) => Secrets(Vec::new()), // without randomness no ticket is made
        }
    }
}

pub(super) struct Tickets {
    secrets: Secrets,
    context: Vec<u8>,
    now_s: fn() -> u64,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tickets of {:?}", self.secrets)
    }
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl Tickets {
    /// Tickets that only the same context opens.
    pub(super) fn new(secrets: &Secrets, context: &[u8]) -> Tickets {
        Tickets { secrets: secrets.clone(), context: context.to_vec(), now_s: wall_clock }
    }

    fn key(&self, secret: &[u8; 32], header: &[u8]) -> Option<LessSafeKey> {
        let pseudorandom = Salt::new(HKDF_SHA256, header).extract(secret);
        let info = [b"zonekeeper session ticket".as_slice(), &self.context];
        Some(LessSafeKey::new(UnboundKey::from(pseudorandom.expand(&info, &AES_256_GCM).ok()?)))
    }
}

/// A key seals one ticket, so its only nonce is this one.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.secrets.0.is_empty()
    }

    fn lifetime(&self) -> u32 {
        PERIOD_S as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut header = [0; HEADER];
        header[0] = FORMAT;
        header[1..9].copy_from_slice(&((self.now_s)() / PERIOD_S).to_be_bytes());
        aws_lc_rs::rand::fill(&mut header[9..]).ok()?;
        let key = self.key(self.secrets.0.first()?, &header)?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(nonce(), Aad::from(&header), &mut sealed).ok()?;
        Some([header.as_slice(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (header, sealed) = ticket.split_at_checked(HEADER)?;
        let (period, now) = (u64::from_be_bytes(header[1..9].try_into().ok()?), (self.now_s)() / PERIOD_S);
        // One ahead: another node's clock may be.
        if header[0] != FORMAT || period > now + 1 || period + 1 < now {
            return None;
        }
        self.secrets.0.iter().find_map(|secret| {
            let mut open = sealed.to_vec();
            let key = self.key(secret, header)?;
            let n = key.open_in_place(nonce(), Aad::from(header), &mut open).ok()?.len();
            open.truncate(n);
            Some(open)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secrets: &[u8], context: &str, now_s: fn() -> u64) -> Tickets {
        let secrets = Secrets(secrets.iter().map(|s| [*s; 32]).collect());
        Tickets { now_s, ..Tickets::new(&secrets, context.as_bytes()) }
    }

    #[test]
    fn another_node_opens_a_ticket_and_a_rotated_secret_still_does() {
        let now = || 10 * PERIOD_S;
        let ticket = tickets(&[1], "web", now).encrypt(b"session").unwrap();
        let open = |secrets: &[u8], context, now| tickets(secrets, context, now).decrypt(&ticket);
        assert_eq!(open(&[1], "web", now).as_deref(), Some(b"session".as_slice()));
        assert_eq!(open(&[2, 1], "web", now).as_deref(), Some(b"session".as_slice()));
        assert_eq!(open(&[1], "web", || 9 * PERIOD_S + 5).as_deref(), Some(b"session".as_slice()));
        assert_eq!(open(&[1], "web", || 12 * PERIOD_S - 1).as_deref(), Some(b"session".as_slice()));
        assert_eq!(open(&[2], "web", now), None, "another cluster");
        assert_eq!(open(&[1], "other", now), None, "another listener");
        assert_eq!(open(&[1], "web", || 12 * PERIOD_S), None, "too old");
        assert_eq!(open(&[1], "web", || 8 * PERIOD_S), None, "not yet made");
        for i in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[i] ^= 1;
            assert_eq!(tickets(&[1], "web", now).decrypt(&changed), None, "byte {i}");
            assert_eq!(tickets(&[1], "web", now).decrypt(&ticket[..i]), None, "{i} bytes");
        }
    }
}
