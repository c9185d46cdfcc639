//! Bodies: what delimits them is taken off on one side and put on anew on the other.

use super::Framing;
use std::{io::Write, ops::Range};

/// Longest chunk-size line with its extensions, in bytes; extensions are dropped (RFC 9112 §7.1.1).
const MAX_SIZE_LINE: u32 = 256;
/// Longest trailer section, in bytes; trailers are dropped (RFC 9110 §6.5.1).
const MAX_TRAILERS: u32 = 8 * 1024;

/// The body's framing is broken: what follows cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub &'static str);

/// Takes framing off a body, piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoder {
    /// All of it was read.
    Done,
    /// So many bytes are to come.
    Length(u64),
    /// Somewhere in a chunk.
    Chunked(Chunk),
    /// Everything until the connection ends.
    Close,
}

/// Where in the chunked coding the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// In the hexadecimal size: its value and digits so far.
    Size(u64, u32),
    /// In the extensions: the size and the bytes so far.
    Extension(u64, u32),
    /// At the LF of the size line.
    SizeLf(u64),
    /// In the data: bytes to come.
    Data(u64),
    /// At the CR after the data.
    DataCr,
    /// At the LF after the data.
    DataLf,
    /// At the start of a trailer line: bytes of trailers so far.
    TrailerStart(u32),
    /// In a trailer line.
    Trailer(u32),
    /// At the LF of a trailer line.
    TrailerLf(u32),
    /// At the last LF.
    EndLf,
}

/// One step: so many bytes were read, of which these are data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// The data among them.
    pub data: Range<usize>,
}

impl Decoder {
    /// At the start of a body.
    pub fn new(framing: Framing) -> Decoder {
        match framing {
            Framing::None | Framing::Length(0) => Decoder::Done,
            Framing::Length(n) => Decoder::Length(n),
            Framing::Chunked => Decoder::Chunked(Chunk::Size(0, 0)),
            Framing::Close => Decoder::Close,
        }
    }

    /// The whole body was read.
    pub fn done(&self) -> bool {
        *self == Decoder::Done
    }

    /// The next piece: framing, then at most one run of data.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, BodyError> {
        match self {
            Decoder::Done => Ok(Piece { consumed: 0, data: 0..0 }),
            Decoder::Close => Ok(Piece { consumed: input.len(), data: 0..input.len() }),
            Decoder::Length(left) => {
                let n = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                if *left == 0 {
                    *self = Decoder::Done;
                }
                Ok(Piece { consumed: n, data: 0..n })
            }
            Decoder::Chunked(_) => self.next_chunked(input),
        }
    }

    /// So many bytes of a body without chunks went by unseen.
    pub fn skip(&mut self, n: u64) {
        if let Decoder::Length(left) = self {
            *left = left.saturating_sub(n);
            if *left == 0 {
                *self = Decoder::Done;
            }
        }
    }

    fn next_chunked(&mut self, input: &[u8]) -> Result<Piece, BodyError> {
        let mut i = 0;
        while i < input.len() {
            let Decoder::Chunked(state) = self else { break };
            if let Chunk::Data(left) = *state {
                let n = (input.len() - i).min(usize::try_from(left).unwrap_or(usize::MAX));
                let rest = left - n as u64;
                *state = if rest == 0 { Chunk::DataCr } else { Chunk::Data(rest) };
                return Ok(Piece { consumed: i + n, data: i..i + n });
            }
            *self = state.step(input[i])?;
            i += 1;
        }
        Ok(Piece { consumed: i, data: i..i })
    }

    /// Re-frames what the input holds: reads from it, appends to `out`, and returns the bytes done with and the bytes
    /// of data among them. The end of the body is appended once, when it is reached here.
    pub fn transfer(
        &mut self,
        encoder: Encoder,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, usize), BodyError> {
        let (mut done, mut data) = (0, 0);
        if self.done() {
            return Ok((0, 0));
        }
        while done < input.len() && !self.done() {
            let piece = self.next(&input[done..])?;
            data += piece.data.len();
            encoder.data(&input[done..][piece.data], out);
            done += piece.consumed;
        }
        if self.done() {
            encoder.end(out);
        }
        Ok((done, data))
    }
}

impl Chunk {
    fn step(self, byte: u8) -> Result<Decoder, BodyError> {
        let next = match (self, byte) {
            (Chunk::Size(n, digits), b) if b.is_ascii_hexdigit() => {
                if digits == 15 {
                    return Err(BodyError("a chunk size is too large"));
                }
                let digit = (b as char).to_digit(16).unwrap_or_default();
                Chunk::Size(n * 16 + u64::from(digit), digits + 1)
            }
            (Chunk::Size(_, 0), _) => return Err(BodyError("a chunk size is not hexadecimal")),
            (Chunk::Size(n, _), b'\r') => Chunk::SizeLf(n),
            (Chunk::Size(n, _), b';') => Chunk::Extension(n, 0),
            (Chunk::Size(..), _) => return Err(BodyError("a chunk size is not hexadecimal")),
            (Chunk::Extension(n, _), b'\r') => Chunk::SizeLf(n),
            (Chunk::Extension(n, len), b'\t' | 0x20..=0x7e | 0x80..) if len < MAX_SIZE_LINE => {
                Chunk::Extension(n, len + 1)
            }
            (Chunk::Extension(..), _) => return Err(BodyError("a chunk extension is too long or not valid")),
            (Chunk::SizeLf(0), b'\n') => Chunk::TrailerStart(0),
            (Chunk::SizeLf(n), b'\n') => Chunk::Data(n),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size(0, 0),
            (Chunk::TrailerStart(_), b'\r') => Chunk::EndLf,
            (Chunk::Trailer(n), b'\r') => Chunk::TrailerLf(n),
            (Chunk::TrailerStart(n) | Chunk::Trailer(n), b'\t' | 0x20..=0x7e | 0x80..)
                if n < MAX_TRAILERS =>
            {
                Chunk::Trailer(n + 1)
            }
            (Chunk::TrailerLf(n), b'\n') => Chunk::TrailerStart(n),
            (Chunk::EndLf, b'\n') => return Ok(Decoder::Done),
            _ => return Err(BodyError("the chunks are not delimited properly")),
        };
        Ok(Decoder::Chunked(next))
    }
}

/// Puts framing on a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// The bytes as they are: the head has their number, or the connection's end ends them.
    Raw,
    /// In chunks.
    Chunked,
}

impl Encoder {
    /// Appends data; none is no chunk, since an empty chunk would end the body.
    pub fn data(self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            _ if data.is_empty() => {}
            Encoder::Raw => out.extend_from_slice(data),
            Encoder::Chunked => {
                let _ = write!(out, "{:x}\r\n", data.len());
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Appends the end of a complete body.
    pub fn end(self, out: &mut Vec<u8>) {
        if self == Encoder::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, bool), BodyError> {
        let (mut decoder, mut out) = (Decoder::new(Framing::Chunked), Vec::new());
        for part in parts {
            let (n, _) = decoder.transfer(Encoder::Raw, part, &mut out)?;
            assert!(n == part.len() || decoder.done());
        }
        Ok((out, decoder.done()))
    }

    #[test]
    fn chunks_are_read_however_they_are_cut() {
        let body = b"5;a=\"b\"\r\nhello\r\n00A\r\n, worlds!!\r\n0\r\nX-Sum: 1\r\n\r\n";
        for cut in 0..=body.len() {
            assert_eq!(
                decode(&[&body[..cut], &body[cut..]]),
                Ok((b"hello, worlds!!".to_vec(), true)),
                "{cut}"
            );
        }
        assert_eq!(decode(&[&body[..body.len() - 1]]).map(|r| r.1), Ok(false), "a cut body is not complete");
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "-5\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n0\r\n\r\n",
            "5;\n\r\n",
            "5;a\x00\r\n",
            "1000000000000000\r\n",
            "0\r\nX\n\r\n",
            "0\r\n\rX",
            "5\rX",
        ] {
            assert!(decode(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_follows_the_body_is_left() {
        let mut decoder = Decoder::new(Framing::Length(3));
        let mut out = Vec::new();
        assert_eq!(decoder.transfer(Encoder::Chunked, b"abcGET /", &mut out), Ok((3, 3)));
        assert_eq!(out, b"3\r\nabc\r\n0\r\n\r\n");
    }
}
