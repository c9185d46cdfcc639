//! Who a request is, for the logs on its way: `X-Request-Id`, and `traceparent` of W3C Trace Context.

use httparse::Header;
use std::io::Write;

/// Longest request id that is passed on, in bytes.
const MAX_ID: usize = 128;

/// Random numbers for a request that comes without an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(pub [u64; 3]);

impl Identity {
    /// Whether a field is one of identity and not valid: it is left out, and written anew.
    pub(super) fn replaces(field: &Header<'_>) -> bool {
        (is_id(field.name) && !valid_id(field.value)) || (is_trace(field.name) && !valid_trace(field.value))
    }

    /// Appends what the fields lack.
    pub(super) fn write(self, fields: &[Header<'_>], out: &mut Vec<u8>) {
        let Identity([high, low, span]) = self;
        if !fields.iter().any(|f| is_id(f.name) && valid_id(f.value)) {
            let _ = write!(out, "X-Request-Id: {high:016x}{low:016x}\r\n");
        }
        if !fields.iter().any(|f| is_trace(f.name) && valid_trace(f.value)) {
            // Neither id may be all zero; the last byte says that it may be recorded (Trace Context §3.2.2).
            let _ = write!(out, "traceparent: 00-{high:016x}{:016x}-{:016x}-01\r\n", low | 1, span | 1);
        }
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 12 && name.eq_ignore_ascii_case("x-request-id")
}

fn is_trace(name: &str) -> bool {
    name.len() == 11 && name.eq_ignore_ascii_case("traceparent")
}

/// Fit for a log: no white space, quotes or anything that a shell or a page reads.
fn valid_id(value: &[u8]) -> bool {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b);
    (1..=MAX_ID).contains(&value.len()) && value.iter().all(fits)
}

/// `version-trace-span-flags` (Trace Context §3.2): a version that is not known may have more behind it.
fn valid_trace(value: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        value.get(range).is_some_and(|t| t.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let zero = |range: std::ops::Range<usize>| value[range].iter().all(|b| *b == b'0');
    let whole = match value.len() {
        55 => true,
        n => n > 55 && !value.starts_with(b"00") && value[55] == b'-',
    };
    whole
        && hex(0..2)
        && hex(3..35)
        && hex(36..52)
        && hex(53..55)
        && [2, 35, 52].iter().all(|i| value[*i] == b'-')
        && !value.starts_with(b"ff")
        && !zero(3..35)
        && !zero(36..52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_trace_is_passed_on() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(valid_trace(good.as_bytes()));
        assert!(valid_trace(format!("01{}-more", &good[2..]).as_bytes()), "a later version may have more");
        for bad in [
            "",
            "00",
            &good[..54],
            &format!("{good}-more"),
            &good.to_uppercase(),
            &good.replace('-', "_"),
            &format!("ff{}", &good[2..]),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert!(!valid_trace(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_written_and_what_is_valid_stays() {
        let field = |name, value: &'static str| Header { name, value: value.as_bytes() };
        let mut out = Vec::new();
        Identity([1, 0, 0]).write(&[field("x-request-ID", "a b")], &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                "X-Request-Id: 00000000000000010000000000000000\r\n",
                "traceparent: 00-00000000000000010000000000000001-0000000000000001-01\r\n"
            )
        );
        let mut out = Vec::new();
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        Identity([1, 2, 3]).write(&[field("X-Request-Id", "a-1"), field("Traceparent", trace)], &mut out);
        assert!(out.is_empty());
    }
}
