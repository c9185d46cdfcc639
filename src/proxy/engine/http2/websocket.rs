//! WebSocket on a stream (RFC 8441) becomes an upgrade of HTTP/1.1 (RFC 6455). A client of HTTP/2 sends no key and gets no
//! answer to one, so that both stay between this proxy and the backend.

use crate::{balance::random, http1::Response};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::{HeaderName, Method, StatusCode, header, request};

const ACCEPT: HeaderName = header::SEC_WEBSOCKET_ACCEPT;
/// What a server hashes with the key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Key`: 16 bytes in base64.
pub(super) struct Key([u8; 24]);

/// `Sec-WebSocket-Accept`, as the key wants it: a SHA-1 in base64.
pub(crate) struct Accept([u8; 28]);

impl Key {
    /// A new one, when a request opens a WebSocket (RFC 8441 §5).
    pub(super) fn of(parts: &request::Parts) -> Option<Key> {
        let protocol = parts.extensions.get::<Protocol>()?;
        let asked = parts.method == Method::CONNECT && protocol.as_str().eq_ignore_ascii_case("websocket");
        asked.then(|| {
            let (mut nonce, mut key) = ([0; 16], [0; 24]);
            nonce[..8].copy_from_slice(&random().to_be_bytes());
            nonce[8..].copy_from_slice(&random().to_be_bytes());
            BASE64.encode_mut(&nonce, &mut key);
            Key(key)
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn accept(&self) -> Accept {
        let mut accept = [0; 28];
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[&self.0, GUID].concat());
        BASE64.encode_mut(hash.as_ref(), &mut accept);
        Accept(accept)
    }
}

impl Accept {
    /// Judges what the backend says to the handshake. An answer of its own goes to the client, unless it is one of success:
    /// that would say that the tunnel stands (RFC 9113 §8.5).
    pub(crate) fn judge(&self, response: &Response<'_, '_>) -> Result<(), &'static str> {
        match response.status {
            101 => {
                let is_accept = |name: &str| name.eq_ignore_ascii_case(ACCEPT.as_str());
                let mut said = response.fields.iter().filter(|f| is_accept(f.name));
                match (said.next(), said.next()) {
                    (Some(field), None) if field.value == self.0 => Ok(()),
                    _ => Err("its Sec-WebSocket-Accept does not fit the key"),
                }
            }
            200..=299 => Err("it answers a handshake of WebSocket as any request"),
            _ => Ok(()),
        }
    }
}

/// What the client gets for 101.
pub(crate) fn accepted(mut head: http::Response<()>) -> http::Response<()> {
    *head.status_mut() = StatusCode::OK;
    head.headers_mut().remove(ACCEPT);
    head.headers_mut().remove(header::CONTENT_LENGTH);
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::MAX_FIELDS;
    use std::mem::MaybeUninit;

    #[test]
    fn a_key_is_answered_as_the_rfc_has_it() {
        let key = Key(*b"dGhlIHNhbXBsZSBub25jZQ=="); // RFC 6455 §1.3
        assert_eq!(&key.accept().0, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let judge = |head: &str| {
            let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
            key.accept().judge(&Response::parse(head.as_bytes(), &mut room, false).unwrap())
        };
        let says = |accept: &str| {
            format!("HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{accept}\r\n")
        };
        let right = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert_eq!(judge(&says(right)), Ok(()));
        for wrong in ["", "Sec-WebSocket-Accept: x\r\n", &right.repeat(2)] {
            assert!(judge(&says(wrong)).is_err(), "{wrong}");
        }
        assert!(judge("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err());
        assert_eq!(judge("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), Ok(()));
    }
}
