//! The one codec for disk and wire: bincode inside an envelope that names its format, kind and length and carries a
//! CRC-32C, so that damage and a foreign version are seen and not guessed at.
//!
//! ```text
//! magic u16 | format u8 | kind u8 | length u32 | payload | crc32c of all before it u32     (little endian)
//! ```
//!
//! bincode is not self-describing: enum variants are append-only, a changed struct is a new variant or a new kind, and
//! each kind has golden bytes in the tests.

use crate::mutant::{self, Mutant};
use alloc::vec::Vec;
use bincode::{
    enc::write::{SizeWriter, Writer},
    error::EncodeError,
};
use crc::{CRC_32_ISCSI, Crc, Table};
use serde::{Serialize, de::DeserializeOwned};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// First bytes of every record.
pub const MAGIC: u16 = 0x4b5a;
/// Version of the envelope and of the payload encoding.
pub const FORMAT: u8 = 1;
/// Bytes before the payload.
pub const HEADER: usize = 8;
/// Bytes around the payload.
pub const OVERHEAD: usize = HEADER + 4;

/// What a record holds. Numbers are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One log entry on disk.
    LogEntry = 1,
    /// Raft's vote.
    Vote = 2,
    /// Last purged log id.
    Purged = 3,
    /// Last committed log id.
    Committed = 4,
    /// The published watermark.
    Watermark = 5,
    /// A node's identity on disk.
    Identity = 6,
    /// Header of a snapshot file.
    SnapshotHeader = 7,
    /// One chunk of a snapshot file.
    SnapshotChunk = 8,
    /// A frame between nodes.
    Frame = 9,
    /// The second memory of a node's last vote and last log id.
    Witness = 10,
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Fewer bytes than the header promises.
    #[error("record is cut short: {have} bytes of {want}")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// Not one of our records.
    #[error("record does not begin with the magic number")]
    Magic,
    /// Written by another version.
    #[error("record has format {0}, this version reads format {FORMAT}")]
    Format(u8),
    /// Another kind of record.
    #[error("record has kind {have}, expected {want:?}")]
    Kind {
        /// The number found.
        have: u8,
        /// The kind that belongs here.
        want: Kind,
    },
    /// Larger than the caller allows.
    #[error("record of {have} bytes is larger than the limit of {limit}")]
    Large {
        /// Payload length.
        have: usize,
        /// The caller's limit.
        limit: usize,
    },
    /// The checksum does not fit.
    #[error("checksum mismatch: the record is damaged")]
    Checksum,
    /// The payload does not decode.
    #[error("payload does not decode")]
    Payload,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ 64 << 20 }>()
}

/// Encodes a value without an envelope.
pub fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    // Our types have no map with unknown length and no failing Serialize, so encoding cannot fail.
    bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap_or_default()
}

/// How many bytes [`bytes`] would write, without writing them.
pub fn size<T: Serialize>(value: &T) -> usize {
    let mut counted = SizeWriter::default();
    // As above: it cannot fail.
    let _ = bincode::serde::encode_into_writer(value, &mut counted, bincode::config::standard());
    counted.bytes_written
}

/// Decodes what [`bytes`] wrote; trailing bytes are an error.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bincode::serde::decode_from_slice(bytes, config()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(CodecError::Payload),
    }
}

/// Decodes what [`bytes`] wrote without a size limit; only for bytes of our own whose checksum was verified.
pub fn from_trusted<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bincode::serde::decode_from_slice(bytes, bincode::config::standard()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(CodecError::Payload),
    }
}

/// Encodes a value in its envelope.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let mut out = Record(head(kind));
    // As above: it cannot fail.
    let _ = bincode::serde::encode_into_writer(value, &mut out, bincode::config::standard());
    close(out.0)
}

/// Puts raw bytes into an envelope.
pub fn seal(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = head(kind);
    out.reserve_exact(payload.len() + OVERHEAD - HEADER);
    out.extend_from_slice(payload);
    close(out)
}

/// A header whose length is not known yet.
fn head(kind: Kind) -> Vec<u8> {
    let [m0, m1] = MAGIC.to_le_bytes();
    Vec::from([m0, m1, FORMAT, kind as u8, 0, 0, 0, 0])
}

/// Writes the length of what follows the header, and the checksum.
fn close(mut out: Vec<u8>) -> Vec<u8> {
    let len = (out.len() - HEADER) as u32;
    out[4..HEADER].copy_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&CRC32C.checksum(&out).to_le_bytes());
    out
}

/// What a record is written into.
struct Record(Vec<u8>);

impl Writer for Record {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The payload length that a header of [`HEADER`] bytes promises, refused when above `limit`.
pub fn payload_len(kind: Kind, header: &[u8], limit: usize) -> Result<usize, CodecError> {
    let [m0, m1, format, k, l0, l1, l2, l3, ..] = *header else {
        return Err(CodecError::Short { have: header.len(), want: HEADER });
    };
    if u16::from_le_bytes([m0, m1]) != MAGIC {
        return Err(CodecError::Magic);
    }
    if format != FORMAT {
        return Err(CodecError::Format(format));
    }
    if k != kind as u8 {
        return Err(CodecError::Kind { have: k, want: kind });
    }
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > limit {
        return Err(CodecError::Large { have: len, limit });
    }
    Ok(len)
}

/// The payload inside one whole envelope.
pub fn open(kind: Kind, record: &[u8], limit: usize) -> Result<&[u8], CodecError> {
    let len = payload_len(kind, record, limit)?;
    if record.len() != len + OVERHEAD {
        return Err(CodecError::Short { have: record.len(), want: len + OVERHEAD });
    }
    let (body, sum) = record.split_at(HEADER + len);
    if CRC32C.checksum(body).to_le_bytes() != sum && !mutant::on(Mutant::NoChecksum) {
        return Err(CodecError::Checksum);
    }
    Ok(&body[HEADER..])
}

/// Decodes one whole envelope.
pub fn decode<T: DeserializeOwned>(kind: Kind, record: &[u8], limit: usize) -> Result<T, CodecError> {
    from_bytes(open(kind, record, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_an_envelope() {
        let record = encode(Kind::Vote, &(7u64, true));
        assert_eq!(record, [0x5a, 0x4b, 1, 2, 2, 0, 0, 0, 7, 1, 0x51, 0xf0, 0x53, 0x3c]);
        assert_eq!(decode::<(u64, bool)>(Kind::Vote, &record, 16), Ok((7, true)));
    }

    #[test]
    fn a_size_is_that_of_the_bytes() {
        let name = crate::name::Name::parse("a\\.b.\\000.example").unwrap();
        let value = (7u64, u64::MAX, "text", Vec::from([Some(name), None]), [1u8; 300].to_vec());
        assert_eq!(size(&value), bytes(&value).len());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let record = encode(Kind::LogEntry, &(1u64, "site"));
        for i in 0..record.len() * 8 {
            let mut bad = record.clone();
            bad[i / 8] ^= 1 << (i % 8);
            assert!(decode::<(u64, alloc::string::String)>(Kind::LogEntry, &bad, 64).is_err(), "bit {i}");
        }
        for cut in 0..record.len() {
            assert!(open(Kind::LogEntry, &record[..cut], 64).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_it_is_read() {
        let record = seal(Kind::Frame, &[0; 100]);
        assert_eq!(payload_len(Kind::Frame, &record, 99), Err(CodecError::Large { have: 100, limit: 99 }));
    }
}
