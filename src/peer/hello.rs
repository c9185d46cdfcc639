//! The first frames of a connection: who, which lane, which versions; and the last one: why it ends.

use crate::{
    Lane, NodeId,
    error::Loss,
    frame::{self, Frame, FrameError, Type},
    refusal::Refusal,
    tls,
};
use serde::{Deserialize, Serialize};
use zonekeeper_core::codec;

/// Newest protocol version of this program.
pub(crate) const VERSION_MAX: u16 = 1;
/// Oldest protocol version that it still speaks.
pub(crate) const VERSION_MIN: u16 = 1;

/// What the caller says first. On the wire: append only, by a new frame type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Oldest version spoken.
    pub(crate) min: u16,
    /// Newest version spoken.
    pub(crate) max: u16,
    /// The caller's cluster.
    pub(crate) cluster: u128,
    /// The caller.
    pub(crate) node: NodeId,
    /// What the connection is for.
    pub(crate) lane: Lane,
    /// The caller's settings digest.
    pub(crate) settings: u64,
}

/// What the called answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The version that both will speak.
    pub(crate) version: u16,
    /// The called node's settings digest.
    pub(crate) settings: u64,
}

/// The newest version in both ranges.
pub(crate) fn common_version(min: u16, max: u16) -> Option<u16> {
    let version = max.min(VERSION_MAX);
    (version >= min.max(VERSION_MIN)).then_some(version)
}

/// A goodbye frame.
pub(crate) fn goodbye(why: Refusal) -> Vec<u8> {
    frame::encode(Type::Goodbye, 0, &codec::bytes(&why))
}

/// The reason in a goodbye; one that only a newer version knows counts as a version problem.
pub(crate) fn goodbye_reason(frame: &Frame) -> Refusal {
    codec::from_bytes(&frame.body).unwrap_or(Refusal::Version)
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failed {
    /// No connection.
    Loss(Loss),
    /// Refused by us or by the peer.
    Refused { why: Refusal, by_peer: bool },
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Failed {
        match tls::refusal(&error) {
            Some((why, by_peer)) => Failed::Refused { why, by_peer },
            None => Failed::Loss(Loss::of(&error)),
        }
    }
}

impl From<FrameError> for Failed {
    fn from(error: FrameError) -> Failed {
        match error {
            FrameError::Io(error) => error.into(),
            FrameError::Codec(_) | FrameError::Type(_) => {
                Failed::Refused { why: Refusal::Garbage, by_peer: false }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(common_version(1, 1), Some(1));
        assert_eq!(common_version(1, 9), Some(1));
        assert_eq!(common_version(2, 9), None);
        assert_eq!(common_version(0, 0), None);
    }

    #[test]
    fn golden_bytes_of_the_handshake() {
        let hello = Hello { min: 1, max: 1, cluster: 2, node: 3, lane: Lane::Bulk, settings: 4 };
        assert_eq!(codec::bytes(&hello), [1, 1, 2, 3, 2, 4]);
        assert_eq!(codec::bytes(&Welcome { version: 1, settings: 4 }), [1, 4]);
        assert_eq!(codec::bytes(&Refusal::JoinRate), [10]);
    }

    #[test]
    fn a_reason_from_the_future_is_a_version_problem() {
        let frame = Frame { kind: Type::Goodbye, id: 0, body: vec![99] };
        assert_eq!(goodbye_reason(&frame), Refusal::Version);
    }
}
