//! DNS cookies (RFC 7873) in the interoperable form of RFC 9018, so that all servers of a name that share the secret
//! accept each other's.
//!
//! A client that brings back a server cookie has received it at its address: its source is not forged, and response rate
//! limiting leaves it alone. Everybody else is answered as before, with a fresh server cookie when they sent a client
//! cookie; `BADCOOKIE` is sent only in place of an answer that the rate limit would have held back.

use std::net::IpAddr;

/// Bytes of a client cookie.
pub(crate) const CLIENT: usize = 8;
/// Bytes of a server cookie as we make it (RFC 9018 §4).
const SERVER: usize = 16;
/// Bytes of both.
pub(crate) const COOKIE: usize = CLIENT + SERVER;
/// Oldest cookie that is accepted, in seconds (RFC 9018 §4.3).
const MAX_AGE: i32 = 3600;
/// Furthest into the future, for clocks that disagree (RFC 9018 §4.3).
const MAX_AHEAD: i32 = 300;
/// From this age on the client gets a new one (RFC 9018 §4.3).
const RENEW: i32 = 1800;

/// A secret of 128 bits.
pub type CookieSecret = [u8; 16];

/// The secrets of a group of servers.
///
/// A rollover has three steps (RFC 9018 §5), each on all servers before the next: the new secret is accepted beside the
/// active one; it becomes the active one and the old one is accepted; after an hour the old one goes.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecrets {
    active: CookieSecret,
    accepted: Vec<CookieSecret>,
}

impl CookieSecrets {
    /// Cookies are made with `active`; those made with one of `accepted` are valid too (two are enough for a rollover;
    /// only the first two are used).
    pub fn new(active: CookieSecret, accepted: &[CookieSecret]) -> CookieSecrets {
        CookieSecrets { active, accepted: accepted.iter().take(2).copied().collect() }
    }

    /// A secret of this process alone. None when the system has no randomness.
    pub fn random() -> Option<CookieSecrets> {
        let mut active = [0; 16];
        getrandom::fill(&mut active).ok()?;
        Some(CookieSecrets::new(active, &[]))
    }

    /// The cookie for a client at an address, at a time in seconds since 1970 (RFC 9018 §4).
    pub(crate) fn make(&self, client: [u8; CLIENT], from: IpAddr, now: u32) -> [u8; COOKIE] {
        let mut cookie = [0; COOKIE];
        cookie[..CLIENT].copy_from_slice(&client);
        cookie[CLIENT] = 1;
        cookie[12..16].copy_from_slice(&now.to_be_bytes());
        let hash = hash(&self.active, &cookie, from);
        cookie[16..].copy_from_slice(&hash);
        cookie
    }

    /// The cookie that the client gets back when the one that it sent is valid: its own, or a new one when that ages.
    pub(crate) fn check(&self, cookie: &[u8], from: IpAddr, now: u32) -> Option<[u8; COOKIE]> {
        let cookie: [u8; COOKIE] = cookie.try_into().ok()?;
        let client: [u8; CLIENT] = *cookie.first_chunk()?;
        if cookie[CLIENT] != 1 {
            return None;
        }
        let made = u32::from_be_bytes([cookie[12], cookie[13], cookie[14], cookie[15]]);
        let age = now.wrapping_sub(made) as i32; // RFC 1982 arithmetic, as RFC 9018 §4.3 asks
        if !(-MAX_AHEAD..=MAX_AGE).contains(&age) {
            return None;
        }
        let is = |secret: &CookieSecret| same(&hash(secret, &cookie, from), &cookie[16..]);
        if is(&self.active) {
            return Some(if age > RENEW { self.make(client, from, now) } else { cookie });
        }
        self.accepted.iter().any(is).then(|| self.make(client, from, now))
    }
}

impl std::fmt::Debug for CookieSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieSecrets(..)") // never in a log
    }
}

/// Compares without saying by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

/// RFC 9018 §4.4: over the client cookie, version, reserved bytes, time and the client's address.
fn hash(secret: &CookieSecret, cookie: &[u8; COOKIE], from: IpAddr) -> [u8; 8] {
    let mut input = [0; 32];
    input[..16].copy_from_slice(&cookie[..16]);
    let len = match from {
        IpAddr::V4(ip) => {
            input[16..20].copy_from_slice(&ip.octets());
            20
        }
        IpAddr::V6(ip) => {
            input[16..].copy_from_slice(&ip.octets());
            32
        }
    };
    siphash(secret, &input[..len]).to_le_bytes()
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012).
pub(crate) fn siphash(key: &[u8; 16], data: &[u8]) -> u64 {
    let word = |b: &[u8]| b.iter().rev().fold(0u64, |w, b| (w << 8) | u64::from(*b));
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let chunks = data.chunks_exact(8);
    let last = word(chunks.remainder()) | ((data.len() as u64) << 56);
    for m in chunks.map(word).chain([last]) {
        v[3] ^= m;
        (0..2).for_each(|_| round(&mut v));
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let bytes: Vec<u8> =
            (0..N).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn siphash_is_the_one_of_its_paper() {
        let bytes: Vec<u8> = (0..16).collect();
        assert_eq!(siphash(&hex("000102030405060708090a0b0c0d0e0f"), &bytes[..15]), 0xa129_ca61_49be_45e5);
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    /// RFC 9018 appendix A.1: a new cookie; A.2: renewed after more than half an hour.
    #[test]
    fn rfc_9018_appendix_a1_and_a2() {
        let secrets = CookieSecrets::new(hex(SECRET), &[]);
        let ip = "198.51.100.100".parse().unwrap();
        let first: [u8; 24] = hex("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        assert_eq!(secrets.make(hex("2464c4abcf10c957"), ip, 1_559_731_985), first);
        assert_eq!(secrets.check(&first, ip, 1_559_731_985 + 1800), Some(first));
        let renewed = hex("2464c4abcf10c957010000005cf7a871d4a564a1442aca77");
        assert_eq!(secrets.check(&first, ip, 1_559_734_385), Some(renewed));
    }

    /// RFC 9018 appendix A.3: the reserved bytes of another implementation are no reason to refuse. (The example's reply
    /// comes almost two hours after the cookie was made, so by §4.3 it is a new cookie and not a renewed one.)
    #[test]
    fn rfc_9018_appendix_a3() {
        let secrets = CookieSecrets::new(hex(SECRET), &[]);
        let ip = "203.0.113.203".parse().unwrap();
        let sent: [u8; 24] = hex("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5");
        let new: [u8; 24] = hex("fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e");
        assert_eq!(secrets.check(&sent, ip, 1_559_727_985 + 60), Some(sent));
        assert_eq!(secrets.check(&sent, ip, 1_559_734_700), None);
        assert_eq!(secrets.make(hex("fc93fc62807ddb86"), ip, 1_559_734_700), new);
    }

    /// RFC 9018 appendix A.4: IPv6, and a secret that is being replaced.
    #[test]
    fn rfc_9018_appendix_a4() {
        let (old, new) = (hex("dd3bdf9344b678b185a6f5cb60fca715"), hex("445536bcd2513298075a5d379663c962"));
        let ip = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        let sent: [u8; 24] = hex("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        assert_eq!(CookieSecrets::new(old, &[new]).check(&sent, ip, 1_559_741_961), Some(sent));
        let renewed = hex("22681ab97d52c298010000005cf7c609a6bb79d16625507a");
        assert_eq!(CookieSecrets::new(new, &[old]).check(&sent, ip, 1_559_741_961), Some(renewed));
        assert_eq!(CookieSecrets::new(new, &[]).check(&sent, ip, 1_559_741_961), None, "the old one is gone");
    }

    #[test]
    fn a_cookie_is_for_one_address_and_one_hour() {
        let secrets = CookieSecrets::random().unwrap();
        let (ip, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let cookie = secrets.make([7; 8], ip, 10_000);
        for (from, now, valid) in [
            (ip, 10_000, true),
            (ip, 13_600, true),
            (ip, 13_601, false),
            (ip, 9_700, true),
            (ip, 9_699, false),
            (other, 10_000, false),
        ] {
            assert_eq!(secrets.check(&cookie, from, now).is_some(), valid, "{from} at {now}");
        }
        for i in 0..COOKIE {
            let mut forged = cookie;
            forged[i] ^= 1;
            assert!(secrets.check(&forged, ip, 10_000).is_none(), "byte {i}");
        }
        assert!(secrets.check(&cookie[..16], ip, 10_000).is_none());
    }

    #[test]
    fn times_wrap_around() {
        let secrets = CookieSecrets::new([1; 16], &[]);
        let ip = "192.0.2.1".parse().unwrap();
        assert!(secrets.check(&secrets.make([7; 8], ip, u32::MAX - 10), ip, 20).is_some());
    }
}
