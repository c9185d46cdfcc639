//! HTTP/1.1 as the proxy speaks it (RFC 9110, RFC 9112), over `httparse`: bytes in, bytes out, no sockets.
//!
//! Strict where two readers could disagree: what has more than one reading is refused, and what is forwarded carries
//! framing that is written here and not copied.

mod answer;
mod body;
mod forwarded;
mod identity;
mod request;
mod response;
mod rewrite;
mod scan;

pub use answer::Answer;
pub use body::{BodyError, Decoder, Encoder};
pub use forwarded::Forwarded;
pub use identity::Identity;
pub use request::{Offer, Request};
pub use response::Response;
pub use rewrite::{Edit, ResponseEdit, end_to_end, write_request, write_response};
pub use scan::{Scan, Scanner};

/// Largest head, in bytes: what browsers, HAProxy and nginx agree on, doubled.
pub const MAX_HEAD: usize = 32 * 1024;
/// Largest request target, in bytes (RFC 9112 §3 recommends at least 8000).
pub const MAX_TARGET: usize = 8 * 1024;
/// Most header fields of one head; the usual limit of servers.
pub const MAX_FIELDS: usize = 100;

/// How a message's body is delimited (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the connection ends; responses only.
    Close,
}

/// `1*DIGIT` without sign, list or overflow (RFC 9110 §8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// The members of a comma-separated list (RFC 9110 §5.6.1), without the white space around them.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|m| !m.is_empty())
}

/// Whether a field of authentication names a scheme that authenticates the connection and not the request: what follows on
/// it, be it anyone's, is taken for the same user's (RFC 4559 §6).
fn of_connection(value: &[u8]) -> bool {
    let scheme = |member: &[u8]| {
        let scheme = member.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    };
    list(value).any(scheme)
}

/// The framing that header fields ask for, gathered one field at a time.
#[derive(Debug, Default)]
struct FramingFields {
    length: Option<u64>,
    chunked: bool,
    bad: Option<&'static str>,
}

impl FramingFields {
    fn content_length(&mut self, value: &[u8]) {
        match (content_length(value), self.length) {
            (None, _) => self.bad = Some("content-length is not a number"),
            (_, Some(_)) => self.bad = Some("content-length is repeated"),
            (n, None) => self.length = n,
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            self.bad = Some("transfer-encoding is not exactly \"chunked\"");
        }
        self.chunked = true;
    }

    /// RFC 9112 §6.1 and §6.3: both, or an encoding on HTTP/1.0, is how requests are smuggled.
    fn check(&self, minor: u8) -> Result<(), &'static str> {
        match self.bad {
            Some(why) => Err(why),
            None if self.chunked && self.length.is_some() => {
                Err("both transfer-encoding and content-length are given")
            }
            None if self.chunked && minor == 0 => Err("transfer-encoding on HTTP/1.0"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_a_word_of_its_own() {
        for yes in ["NTLM", "ntlm TlRMTVNT", "Negotiate\tYII=", "Basic realm=\"a\", Negotiate YII="] {
            assert!(of_connection(yes.as_bytes()), "{yes}");
        }
        for no in ["", "Basic bnRsbQ==", "Bearer ntlm", "NTLMv2x", "Digest realm=\"ntlm\""] {
            assert!(!of_connection(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_length_is_digits_only() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"123456789012345678"), Some(123_456_789_012_345_678));
        for bad in ["", "+5", "-1", "5, 5", "0x10", "5 ", "1234567890123456789"] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
