//! A response head, parsed and judged.

use super::{Framing, FramingFields, Offer, list, of_connection, request::Fields};
use httparse::Header;

/// A backend's response head. Borrows the bytes that it was parsed from.
#[derive(Debug)]
pub struct Response<'h, 'b> {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: &'b str,
    /// All header fields.
    pub fields: &'h [Header<'b>],
    /// How the body is delimited.
    pub framing: Framing,
    /// `Content-Length` as given, which may come without a body (HEAD, 304).
    pub length: Option<u64>,
    /// The backend keeps the connection after this response.
    pub keep_alive: bool,
    /// `Upgrade`.
    pub upgrade: Option<&'b [u8]>,
    /// It authenticates the connection (NTLM, Negotiate).
    pub authenticates: bool,
}

impl<'h, 'b> Response<'h, 'b> {
    /// Parses a whole head; the error says what is wrong with it.
    pub fn parse(
        head: &'b [u8],
        room: &'h mut Fields<'b>,
        to_head: bool,
    ) -> Result<Response<'h, 'b>, &'static str> {
        let mut raw = httparse::Response::new(&mut []);
        match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut raw, head, room) {
            Ok(httparse::Status::Complete(n)) if n == head.len() => {}
            Ok(_) => return Err("the head does not end where its empty line is"),
            Err(_) => return Err("the head is not valid"),
        }
        let (Some(status), Some(minor)) = (raw.code, raw.version) else {
            return Err("the status line is not complete");
        };
        if !(100..=599).contains(&status) {
            return Err("the status code is out of range");
        }
        let mut response = Response {
            status,
            reason: raw.reason.unwrap_or_default(),
            fields: raw.headers,
            framing: Framing::None,
            length: None,
            keep_alive: minor == 1,
            upgrade: None,
            authenticates: false,
        };
        response.read_fields(minor, to_head)?;
        Ok(response)
    }

    /// 1xx but 101: the final response is still to come.
    pub fn interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// RFC 9110 §7.8: it changes to what was asked for, and to nothing else.
    pub fn switches_to(&self, asked: Option<Offer>) -> bool {
        asked.is_some() && self.upgrade.map(Offer::of) == asked
    }

    fn read_fields(&mut self, minor: u8, to_head: bool) -> Result<(), &'static str> {
        let mut framing = FramingFields::default();
        for field in self.fields {
            let name = field.name;
            match name.len() {
                7 if name.eq_ignore_ascii_case("upgrade") => self.upgrade = Some(field.value),
                10 if name.eq_ignore_ascii_case("connection") => {
                    for token in list(field.value) {
                        if token.eq_ignore_ascii_case(b"close") {
                            self.keep_alive = false;
                        } else if token.eq_ignore_ascii_case(b"keep-alive") {
                            self.keep_alive |= minor == 0;
                        }
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => framing.content_length(field.value),
                16 if name.eq_ignore_ascii_case("www-authenticate") => {
                    self.authenticates |= of_connection(field.value);
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    framing.transfer_encoding(field.value)
                }
                _ => {}
            }
        }
        framing.check(minor)?;
        self.length = framing.length;
        // RFC 9112 §6.3, in its order.
        self.framing = match framing.length {
            _ if to_head || self.status < 200 || matches!(self.status, 204 | 304) => Framing::None,
            _ if framing.chunked => Framing::Chunked,
            Some(0) => Framing::None,
            Some(n) => Framing::Length(n),
            None => Framing::Close,
        };
        self.keep_alive &= self.framing != Framing::Close;
        Ok(())
    }
}
