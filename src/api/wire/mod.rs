//! What goes over HTTP, shared by the server and the command line. JSON; every type is in the OpenAPI document.
//!
//! Times are RFC 3339 in UTC, taken from log time, and durations say their unit in their name.

mod access;
mod cluster;
mod config;
mod event;
mod evidence;
mod explain;
mod proxy;
mod steer;
mod zone;

pub use access::{
    Certificate, CommonSecret, CommonSecrets, JoinSecret, NewCertificate, NewJoin, NewToken, NewWebhook,
    Token, TokenSecret, Webhook, WebhookSecret,
};
pub use cluster::{Cluster, Link, Log, Member, NewMember, Origin, Problem, TimingSetting, TimingWritten};
pub use config::{Config, ConfigChanges, DryRun, Zone as ConfigZone};
pub use event::{Event, EventKind};
pub use evidence::{Evidence, Observer, OwnWord, Path, Target};
pub use explain::{DnsExplanation, RequestExplanation};
pub use proxy::{Backend, Bind, Listener, Pool, RouteRule};
pub use steer::{
    Decision, Lane, LaneSite, Move, NewOverride, Override, Row, Scope, Service, Site, SiteService, Switch,
    Vote,
};
pub use zone::{NewZone, RecordText, Records, RrSet, Zone};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zonekeeper_core::{state, time::LogTime};

/// Header of a backup: the generation that it holds.
pub const GENERATION_HEADER: &str = "x-zonekeeper-generation";

/// Version of the whole replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Counts restores.
    pub incarnation: u32,
    /// Log index.
    pub index: u64,
}

impl From<state::Generation> for Generation {
    fn from(g: state::Generation) -> Generation {
        Generation { incarnation: g.incarnation, index: g.index }
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.index)
    }
}

/// What was read, and how fresh it is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Seen<T> {
    /// Version of the state that this was read from.
    pub generation: Generation,
    /// Milliseconds since a quorum is known to have stood behind this state; absent when that never was since the
    /// node's start. With `?consistency=linearizable` it is 0.
    pub age_ms: Option<u64>,
    /// What was asked for.
    pub data: T,
}

/// A write that was applied.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// Its log index.
    pub index: u64,
    /// Version of the state that holds it.
    pub generation: Generation,
    /// Whether the node that answered has published it already: a read there sees it.
    pub published: bool,
}

/// Every error has this shape.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable word for programs, as `stale` or `not_found`.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    #[serde(default)]
    pub remedy: String,
}

/// Log time as RFC 3339 in UTC with milliseconds.
pub fn stamp(time: LogTime) -> String {
    let ms = i64::try_from(time.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(t) => format!("{t:.3}"),
        Err(_) => format!("{ms} ms"),
    }
}

/// Hexadecimal, lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        use std::fmt::Write;
        let _ = write!(s, "{b:02x}"); // writing to a string cannot fail
        s
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_reads_as_a_date_in_utc() {
        assert_eq!(stamp(LogTime(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
        assert_eq!(stamp(LogTime(u64::MAX)), format!("{} ms", i64::MAX));
    }

    #[test]
    fn bytes_read_as_hexadecimal() {
        assert_eq!(hex(&[0, 0xab, 7]), "00ab07");
    }
}
